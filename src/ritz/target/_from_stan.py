"""From a Stan program to its target, through BridgeStan."""

import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ritz._errors import RitzError
from ritz.target._base import Quantity, Site
from ritz.target._stan import Host, StanTarget

_TOOLS = "BridgeStan needs make, a C++ compiler and its own sources"


def from_stan(program: Any, data: Any = None) -> StanTarget:
    r"""The posterior of a Stan program (`pip install 'ritz[stan]'`).

    BridgeStan compiles the program, for which it needs `make` and a C++ compiler, and downloads
    its sources where `BRIDGESTAN` does not name a copy of them. The log density

    .. math:: \log\tilde p_x(x) = \log p(y, T(x)) + \log|\det \partial T/\partial x|

    has its constants, and T is Stan's own transform. Each block's parameter is a site; transformed
    parameters come with the draws, generated quantities do not. Values and gradients are computed
    on the host, in float64, point by point, and cast to JAX's precision. There are no second
    derivatives: solvers that need them refuse.

    Args:
        program: the path of a `.stan` file, or of a `.so` that BridgeStan has made of one, or a
            program's text.
        data: by name; or JSON as Stan's, or the path of a `.json` file. None where there are none.

    Returns:
        the target. A site of `vector[3] theta` has shape (3,), one of `matrix[2, 3]` (2, 3).

    Raises:
        RitzError: where BridgeStan or its tools are missing, and for a program or data that Stan
            refuses.

    Roualdes, Ward, Carpenter, Seyboldt and Axen, "BridgeStan: efficient in-memory access to the
    methods of a Stan model", 2023.

    >>> # fit = ritz.fit(ritz.target.from_stan("schools.stan", {"J": 8, "y": y, "sigma": sigma}))
    """
    try:
        import bridgestan
    except ImportError:
        raise RitzError(
            "from_stan needs BridgeStan, which is not installed; pip install 'ritz[stan]'"
        ) from None
    path, text = _path(program)
    library = path if path.suffix == ".so" else _compiled(bridgestan, path)
    given = _json(data)
    try:
        # A library of a text is named after it, so that one that is loaded already is the same.
        model = bridgestan.StanModel(library, given, warn=text is None)
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise RitzError(f"Stan refuses {path.name} with these data: {_line(error)}") from error
    told = hashlib.sha256(path.read_bytes() if text is None else text.encode())
    told.update(str(getattr(model, "data", given)).encode())
    return _target(model, Host(model, f"Stan {told.hexdigest()}"), path.stem)


def _path(program: Any) -> tuple[Path, str | None]:
    """The file of a program, and its text where that is what arrived."""
    if isinstance(program, str) and ("{" in program or "\n" in program):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = Path(cache) / "ritz" / "stan"
        path = base / f"program_{hashlib.sha256(program.encode()).hexdigest()[:16]}.stan"
        try:
            base.mkdir(parents=True, exist_ok=True)
            if not path.exists():  # written anew it would be compiled anew
                draft = path.with_suffix(f".{os.getpid()}")
                draft.write_text(program)
                draft.replace(path)
        except OSError as error:
            raise RitzError(
                f"from_stan: cannot write the program to {base}: {error.strerror or error}; set "
                "XDG_CACHE_HOME to a directory that can be written"
            ) from error
        return path, program
    if not isinstance(program, str | os.PathLike):
        raise RitzError(
            f"from_stan: a {type(program).__name__} arrived, expected the path of a .stan file or "
            "a program's text"
        )
    path = Path(program).expanduser()
    if path.suffix not in (".stan", ".so"):
        raise RitzError(f"from_stan: {str(path)!r} arrived, expected the path of a .stan file")
    if not path.is_file():
        raise RitzError(f"from_stan: there is no file {str(path)!r}")
    return path, None


def _compiled(bridgestan: Any, path: Path) -> Path:
    make = os.environ.get("MAKE", "make")
    if shutil.which(make) is None:
        raise RitzError(f"there is no {make!r} to compile {path.name} with: {_TOOLS}; install them")
    try:
        return Path(bridgestan.compile_model(path))
    except ValueError as error:
        raise RitzError(
            f"BridgeStan's sources are not here: {_line(error)}; set BRIDGESTAN to a copy of them "
            "(github.com/roualdes/bridgestan/releases)"
        ) from error
    except (OSError, RuntimeError) as error:
        raise RitzError(
            f"{path.name} could not be compiled: {_line(error)}; mend the program, or the tools: "
            f"{_TOOLS}"
        ) from error


def _line(error: Exception) -> str:
    """The telling part of what a compiler says."""
    text = str(error).rpartition("stderr:")[2]
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    at = next((i for i, line in enumerate(lines) if "error" in line.lower()), 0)
    return " ".join(lines[at:])[:240] or type(error).__name__


def _json(data: Any) -> Any:
    """Data as BridgeStan takes them."""
    if data is None or isinstance(data, str | os.PathLike):
        return data
    if not isinstance(data, Mapping):
        raise RitzError(
            f"data arrived as {type(data).__name__}, expected a mapping from the names of the "
            "program's data block to values"
        )
    return {name: np.asarray(v) if hasattr(v, "__array__") else v for name, v in data.items()}


def _target(model: Any, host: Host, name: str) -> StanTarget:
    names = model.param_names(include_tp=True)
    count = len(model.param_names()) if model.param_unc_num() else 0
    if count == 0:
        raise RitzError(f"the Stan program {name!r} has no parameters: nothing to infer")
    own, made = _arrays(names[:count], 0), _arrays(names[count:], count)
    free: dict[str, int] = {}
    for label in model.param_unc_names():
        free[_split(label)[0]] = free.get(_split(label)[0], 0) + 1
    # Where values are the unconstrained ones everywhere, nothing constrains them.
    x = np.random.default_rng(0).normal(size=model.param_unc_num())
    values, sites, start = np.asarray(host.constrained(x)), [], 0
    for label, (shape, place) in own.items():
        size = free.get(label, 0)
        here = x[start : start + size]
        real = size == len(place) and np.array_equal(values[sorted(place)], here)
        spec = ("real",) if real and len(shape) < 2 else None
        flat = (size,) if shape else ()
        words = "real" if real else "constrained by the program"
        sites.append(Site(label, shape, flat, start, words, spec, _dims(label, shape)))
        start += size
    return StanTarget(
        sites=tuple(sites),
        observed=(),
        deterministic=tuple(Quantity(n, shape, _dims(n, shape)) for n, (shape, _) in made.items()),
        host=host,
        name=name,
        places=tuple(place for _, place in (*own.values(), *made.values())),
    )


def _split(label: str) -> tuple[str, tuple[int, ...]]:
    """A name such as `B.2.3`, and the indices in it."""
    parts = label.split(".")
    index = tuple(int(part) - 1 for part in parts if part.isdigit())
    return ".".join(part for part in parts if not part.isdigit()), index


def _arrays(names: list[str], offset: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """By name, the shape of an array and where its entries are, row by row."""
    found: dict[str, dict[tuple[int, ...], int]] = {}
    for i, label in enumerate(names):
        name, index = _split(label)
        found.setdefault(name, {})[index] = offset + i
    out = {}
    for name, entries in found.items():
        shape = tuple(max(axis) + 1 for axis in zip(*entries, strict=True))
        assert len(entries) == math.prod(shape)
        out[name] = shape, tuple(entries[index] for index in sorted(entries))
    return out


def _dims(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{name}_dim_{axis}" for axis in range(len(shape)))
