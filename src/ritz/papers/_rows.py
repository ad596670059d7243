"""The catalogue: which papers there are, and where the file of each is. Light: no JAX."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path

from ritz._errors import RitzError, listed, suggest

PAPERS = Path(__file__).resolve().parent
TIERS = {
    "A": "a variational method at the heart of the library",
    "B": "composes A parts or takes them to a domain",
    "C": "a neighbour that is not variational itself",
    "D": "theory, survey or benchmark study",
}
MINUTES = {"S": 1, "M": 10, "L": 60, "XL": None}  # on 2 CPU cores; XL is for a GPU


@dataclasses.dataclass(frozen=True)
class Row:
    """A paper of the catalogue.

    Attributes:
        id: its number there.
        slug: the name that a user types.
        title: the paper's.
        module: the package it belongs to.
        tier: A to D, see `TIERS`.
        compute: S, M, L or XL, see `MINUTES`.
        system: what has to be built.
        check: the claim that must hold.
        data: what the check runs on.
    """

    id: str
    slug: str
    title: str
    module: str
    tier: str
    compute: str
    system: str
    check: str
    data: str

    @property
    def stem(self) -> str:
        """The slug as a module's name; one that begins with a digit gets an underscore first."""
        name = self.slug.replace("-", "_")
        return f"_{name}" if name[0].isdigit() else name

    @property
    def file(self) -> Path:
        """Where its file is, or would be."""
        return PAPERS / self.module / f"{self.stem}.py"

    @property
    def place(self) -> str:
        """Its file as one names it in the repository."""
        return f"src/ritz/papers/{self.module}/{self.stem}.py"

    @property
    def import_name(self) -> str:
        """Its module."""
        return f"ritz.papers.{self.module}.{self.stem}"

    @property
    def source_sha256(self) -> str:
        """The hash of its file, the same where Git writes other line ends."""
        return hashlib.sha256(self.file.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


@functools.lru_cache(maxsize=1)
def rows() -> tuple[Row, ...]:
    """All rows, by module, tier and slug.

    Returns:
        the catalogue.

    >>> len(rows())
    334
    """
    text = (Path(__file__).parent / "catalogue.json").read_text(encoding="utf-8")
    return tuple(Row(**row) for row in json.loads(text))


def find(name: str) -> Row:
    """The row that a slug, a module's file name or a number stands for.

    Args:
        name: such as `fb-gvi`, `fb_gvi` or `S014`.

    Returns:
        the row.

    Raises:
        RitzError: where there is none, with slugs that are close.

    >>> find("fb_gvi").id
    'S014'
    """
    asked = name.strip().lower().removesuffix(".py")
    for row in rows():
        if asked in (row.slug, row.stem, row.id.lower()):
            return row
    near = suggest(asked.replace("_", "-"), [row.slug for row in rows()])
    if not near.startswith("did you mean"):
        near = "see: ritz papers list"
    raise RitzError(f"no paper is called {name!r}; {near}")


def select(module: str | None = None, tier: str | None = None) -> list[Row]:
    """The rows of a module and a tier.

    Args:
        module: one of the catalogue's; all by default.
        tier: A to D; all by default.

    Returns:
        rows, in the catalogue's order.

    Raises:
        RitzError: for a module or tier that there is not.

    >>> len(select("gp", "a")) < len(select("gp"))
    True
    """
    known = sorted({row.module for row in rows()})
    if module is not None and module not in known:
        close = suggest(module, known, limit=len(known))
        raise RitzError(f"--module {module!r} is not in the catalogue; {close}")
    if tier is not None and tier.upper() not in TIERS:
        raise RitzError(f"--tier {tier!r} arrived; choose from {listed(TIERS)}")
    return [
        row
        for row in rows()
        if module in (None, row.module) and (tier is None or tier.upper() == row.tier)
    ]


def results() -> Path:
    """Where records are: `docs/papers/results` of a checkout, else what the package ships.

    Returns:
        a directory, which need not exist.
    """
    checkout = checkout_results()
    return PAPERS / "results" if checkout is None else checkout


def checkout_results() -> Path | None:
    """Where a checkout keeps its records; None where Ritz is installed without one."""
    root = PAPERS.parents[2]
    if PAPERS.parent.parent.name == "src" and (root / "pyproject.toml").is_file():
        return root / "docs" / "papers" / "results"
    return None
