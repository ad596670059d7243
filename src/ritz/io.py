"""Fits as files: a directory of NPZ arrays and JSON, which never executes code."""

import dataclasses
import json
import os
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ritz import family as _family
from ritz._errors import RitzError
from ritz._result import Fit
from ritz.fit import make_target
from ritz.solver import History
from ritz.target import Quantity, SavedTarget, Site, float_dtype

FORMAT = 1
_JSON, _NPZ = "fit.json", "arrays.npz"


def save(fit: Fit, path: str | os.PathLike[str]) -> Path:
    """Write a fit into a directory, replacing the fit that is there.

    The directory holds `fit.json` (how the fit was made, its sites and verdict) and `arrays.npz`
    (the family's parameters, the history, 4,000 draws in the model's own parameters). It is
    written beside its place and then moved there, so that an interrupted save leaves the old one.

    Args:
        fit: the fit.
        path: the directory.

    Returns:
        the directory's path.

    Raises:
        RitzError: if the place is taken by something else, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not (
        path.is_dir() and ((path / _JSON).exists() or not any(path.iterdir()))
    ):
        raise RitzError(f"{path} exists and is not a saved fit; give another path or remove it")
    leaves = jax.tree.leaves(eqx.filter(fit.q, eqx.is_array))
    stored = fit.stored()
    arrays = {f"family/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays |= {f"draws/{name}": value for name, value in stored["values"].items()}
    arrays |= {k: stored[k] for k in ("x", "log_weights") if k in stored}
    arrays |= {f"history/{name}": value for name, value in fit.history.columns.items()}
    arrays["key"] = np.asarray(jax.random.key_data(fit.key))
    target = fit.target
    meta = {
        "format": FORMAT,
        "info": fit.info,
        "stop_reason": fit.stop_reason,
        "message": fit.message,
        "family": {"name": _family.name_of(fit.q), "kind": type(fit.q).__name__},
        "history_every": fit.history.every,
        "sites": [dataclasses.asdict(site) for site in target.sites],
        "observed": [dataclasses.asdict(q) for q in target.observed],
        "deterministic": [dataclasses.asdict(q) for q in target.deterministic],
        "summary": {
            k: v for k, v in fit.summary().to_dict().items() if k in ("verdict", "reasons")
        },
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as work:
            fresh, old = Path(work) / "new", Path(work) / "old"
            fresh.mkdir()
            with (fresh / _NPZ).open("wb") as handle:
                np.savez_compressed(handle, **arrays)  # pyright: ignore[reportArgumentType]
            (fresh / _JSON).write_text(json.dumps(meta, indent=1, default=str) + "\n")
            if path.exists():
                path.rename(old)
            fresh.rename(path)
    except OSError as error:
        raise RitzError(f"cannot save the fit to {path}: {error.strerror or error}") from error
    return path


def load(
    path: str | os.PathLike[str], model: Any = None, data: Any = None, *, family: Any = None
) -> Fit:
    """Read a fit that `save` wrote.

    Without the model, `sample`, `mean`, `summary`, `to_arviz` and, where the transforms are known
    by name, `log_prob` work; with it, everything does.

    Args:
        path: the directory.
        model: the model or target, to predict and to weigh.
        data: its data, as for `ritz.fit`.
        family: for a family that is not registered: an instance of the same structure, or a
            function `(target, start)` that makes one.

    Returns:
        the fit.

    Raises:
        RitzError: if the files are missing, damaged, of another version, or do not fit the model
            or family.
    """
    path = Path(path)
    meta, arrays = _read_meta(path), _read_arrays(path)
    try:
        sites = tuple(_site(entry) for entry in meta["sites"])
        saved = SavedTarget(
            sites=sites,
            observed=tuple(_quantity(entry) for entry in meta["observed"]),
            deterministic=tuple(_quantity(entry) for entry in meta["deterministic"]),
        )
        values = {name: arrays[f"draws/{name}"] for name in _names(saved)}
        stored = {"values": values, "x": arrays["x"]}
        if "log_weights" in arrays:
            stored["log_weights"] = arrays["log_weights"]
        key = jax.random.wrap_key_data(jnp.asarray(arrays["key"]))
        columns = {n[8:]: v for n, v in arrays.items() if n.startswith("history/")}
        history = History(columns, int(meta["history_every"]))
        parts = (meta["info"], meta["stop_reason"], meta["message"], meta["family"]["name"])
        info, stop_reason, message, name = dict(parts[0]), str(parts[1]), str(parts[2]), parts[3]
    except RitzError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    target: Any = saved
    if model is not None:
        target = make_target(model, data)
        if [(s.name, s.shape) for s in target.sites] != [(s.name, s.shape) for s in sites]:
            raise RitzError(
                f"the fit in {path} has {saved.describe()}, but the model has {target.describe()}"
            )
    q = _load_family(path, name, meta["family"].get("kind"), family, saved, arrays)
    fit = Fit(q, target, history, stop_reason, message, key, info)
    fit.restore(stored)
    return fit


def _load_family(
    path: Path, name: Any, kind: Any, given: Any, target: SavedTarget, arrays: dict[str, Any]
) -> Any:
    if given is None and name not in _family.registered():
        raise RitzError(
            f"the family of {path} is {kind}, which is not registered; give ritz.load(path, "
            "family=...) an instance of the same structure, or register it"
        )
    start = jnp.zeros(target.dim, float_dtype())
    skeleton = _family.build(name if given is None else given, target, start)
    dynamic, static = eqx.partition(skeleton, eqx.is_array)
    old, treedef = jax.tree.flatten(dynamic)
    new = [arrays[f"family/{i}"] for i in range(sum(k.startswith("family/") for k in arrays))]
    if [v.shape for v in new] != [v.shape for v in old]:
        raise RitzError(
            f"the parameters in {path} have shapes {[v.shape for v in new]}, but "
            f"{type(skeleton).__name__} has {[v.shape for v in old]}"
        )
    leaves = [jnp.asarray(v, o.dtype) for v, o in zip(new, old, strict=True)]
    return eqx.combine(jax.tree.unflatten(treedef, leaves), static)


def _names(target: SavedTarget) -> list[str]:
    return [q.name for q in (*target.sites, *target.deterministic)]


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise RitzError(
            f"no fit at {path}: expected a directory made by fit.save or `ritz fit --out`"
        )
    try:
        meta = json.loads((path / _JSON).read_text())
    except FileNotFoundError:
        raise RitzError(f"no fit at {path}: it has no {_JSON}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path / _JSON, str(error)) from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise RitzError(f"{path / _JSON} has format {found!r}; this Ritz reads format {FORMAT}")
    return meta


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path / _NPZ, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise RitzError(f"no fit at {path}: it has no {_NPZ}") from None
    except (
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error,
        NotImplementedError, MemoryError, RuntimeError, SyntaxError, TypeError,
    ) as error:  # fmt: skip
        raise _damaged(path / _NPZ, str(error)) from error


def _site(entry: dict[str, Any]) -> Site:
    spec = entry["constraint"]
    return Site(
        str(entry["name"]),
        tuple(int(n) for n in entry["shape"]),
        tuple(int(n) for n in entry["unconstrained_shape"]),
        int(entry["start"]),
        str(entry["support"]),
        None if spec is None else _tuples(spec),
        tuple(str(d) for d in entry["dims"]),
    )


def _quantity(entry: dict[str, Any]) -> Quantity:
    shape = tuple(int(n) for n in entry["shape"])
    return Quantity(str(entry["name"]), shape, tuple(str(d) for d in entry["dims"]))


def _tuples(spec: Any) -> Any:
    return tuple(_tuples(v) for v in spec) if isinstance(spec, list) else spec


def _damaged(path: Path, reason: str) -> RitzError:
    short = " ".join(reason.split())[:120]
    return RitzError(f"{path} is damaged or not from Ritz ({short}); restore it or fit again")
