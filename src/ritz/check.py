"""`ritz.check`: does a model hang together, before anything is fitted?"""

import dataclasses
from typing import Any

import jax
import numpy as np

from ritz._compile import compile
from ritz._errors import RitzError
from ritz._models import make_target
from ritz.target import LOG_DET, term_name


@dataclasses.dataclass(frozen=True)
class Check:
    """What the preflight found; print it.

    Attributes:
        rows: a dict for each site: name, kind, shape, support, dims, log_density.
        problems: what has to be mended, a line each; empty where nothing has.
        start: how the starting point was found.
    """

    rows: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]
    start: str

    @property
    def ok(self) -> bool:
        """Whether the model can be fitted."""
        return not self.problems

    def __str__(self) -> str:
        columns = ("site", "kind", "shape", "support", "dims", "log density")
        cells = [columns] + [
            (
                row["name"],
                row["kind"],
                str(row["shape"]),
                row["support"],
                ", ".join(row["dims"]),
                "" if row["log_density"] is None else f"{row['log_density']:.6g}",
            )
            for row in self.rows
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines = [
            "  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        if not self.rows:
            lines = []
        if self.ok:
            lines.append(f"ok: finite log density and gradient at {self.start}")
        return "\n".join(lines + [f"problem: {problem}" for problem in self.problems])

    __repr__ = __str__


def check(model: Any, data: Any = None, seed: int = 0) -> Check:
    """Look a model over before fitting it.

    Names every site with its shape, support and log density at the starting point. For a model
    that cannot be fitted it names the site, the dimension and the fix instead of failing.

    Args:
        model: as for `ritz.fit`.
        data: as for `ritz.fit`.
        seed: for the starting point.

    Returns:
        a `Check`.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("rows", 4):
    ...         numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> check(model, (np.zeros(3),)).ok
    False
    """
    try:
        target: Any = make_target(model, data)
    except RitzError as error:
        return Check((), (str(error),), "")
    problems, where = [], ""
    try:
        x, where = target.start(jax.random.key(seed))
        look = lambda target, x: target.terms(x)
        terms = jax.tree.map(np.asarray, compile(look, target, x)(target, x))
    except RitzError as error:
        problems, terms = [str(error)], {}
    rows = [_row(site, "latent", site.support, terms) for site in target.sites]
    rows += [_row(q, "observed", "", terms) for q in target.observed]
    rows += [_row(q, "deterministic", "", {}) for q in target.deterministic]
    shown = {row["name"] for row in rows}
    for name, value in terms.items():
        if name not in shown and not name.endswith(LOG_DET):
            kind = "factor" if target.has_model else "function"
            rows.append(
                {"name": name, "kind": kind, "shape": (), "support": "", "dims": ()}
                | {"log_density": float(value)}
            )
    bad = [term_name(name) for name, value in terms.items() if not np.isfinite(value)]
    return Check(tuple(rows), (*problems, *(f"{name} is not finite" for name in bad)), where)


def _row(quantity: Any, kind: str, support: str, terms: dict[str, Any]) -> dict[str, Any]:
    value = terms.get(quantity.name)
    return {
        "name": quantity.name,
        "kind": kind,
        "shape": quantity.shape,
        "support": support,
        "dims": quantity.dims,
        "log_density": None if value is None else float(value),
    }
