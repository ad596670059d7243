"""Fits as files: a directory of NPZ arrays and JSON, which never executes code.

`fit.json` says how the fit was made, what its sites are and which file holds its arrays. A save
writes new arrays beside the old ones and then replaces `fit.json`, which is one step, so that the
directory holds the old fit or the new one at every moment, whole.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ritz import family as _family
from ritz._container import damaged, read_arrays, write_synced
from ritz._errors import RitzError
from ritz._fit_file import Parsed, parse
from ritz._mesh import mesh_of, writes
from ritz._models import targeted as make_target
from ritz._precision import precision_of
from ritz._result import Fit
from ritz.target import AbstractTarget, SavedTarget, float_dtype
from ritz.target._centring import centred, fits

FORMAT = 1
_JSON, _SUM = "fit.json", "sha256"
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}\.npz")
_OURS = re.compile(rf"{_ARRAYS.pattern}|fit-[0-9a-f]{{16}}\.tmp")


def save(fit: Fit, path: str | os.PathLike[str]) -> Path:
    """Write a fit into a directory, replacing the fit that is there.

    The directory holds `fit.json` (how the fit was made, its sites and verdict) and one file of
    arrays (the family's parameters, the history, 4,000 draws in the model's own parameters). A
    save that is interrupted, even by the machine, leaves the old fit.

    Args:
        fit: the fit.
        path: the directory.

    Returns:
        the directory's path.

    Raises:
        RitzError: if the place is taken by something else, or cannot be written.
    """
    path = Path(os.path.expanduser(path))
    meta, arrays = _contents(fit)  # to which all processes of a mesh contribute
    if not writes(mesh_of(fit.target)):
        return path
    check_place(path)
    stamp = secrets.token_hex(8)
    file, draft = path / f"arrays-{stamp}.npz", path / f"fit-{stamp}.tmp"
    plain = json.loads(json.dumps(meta | {"arrays": file.name}, default=_plain))
    text = json.dumps(signed(plain), indent=1) + "\n"
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_synced(file, lambda handle: np.savez(handle, **arrays))  # pyright: ignore
        write_synced(draft, lambda handle: handle.write(text.encode()))
        stale = _stale(path)
        os.replace(draft, path / _JSON)
    except BaseException as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
            if _peek(path).get("arrays") != file.name:  # an interrupt may follow the replacement
                file.unlink(missing_ok=True)
        if isinstance(error, OSError | ValueError):
            reason = getattr(error, "strerror", None) or error
            raise RitzError(f"cannot save the fit to {path}: {reason}") from error
        raise
    for old in stale - {file}:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a place that a fit cannot be saved in; `ritz fit --out` asks before it fits.

    Raises:
        RitzError: if the place is taken by something else, or cannot be written.
    """
    path = Path(os.path.expanduser(path))
    try:
        free = not path.exists() and not path.is_symlink()
        if path.is_dir():  # empty, a fit, or what a first save left that did not end
            free = bool(_peek(path)) or all(_OURS.fullmatch(f.name) for f in path.iterdir())
        near = next(place for place in (path, *path.absolute().parents) if place.exists())
        usable = near.is_dir() and os.access(near, os.W_OK | os.X_OK)
    except OSError as error:
        raise RitzError(f"cannot save a fit to {path}: {error.strerror or error}") from error
    if not free:
        raise RitzError(f"{path} exists and is not a saved fit; give another path or remove it")
    if not usable:
        raise RitzError(f"cannot save a fit to {path}: {near} is no directory that can be written")


def _contents(fit: Fit) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `fit.json` says, and the arrays."""
    leaves = jax.tree.leaves(eqx.filter(fit.q, eqx.is_array, is_leaf=_is_target))
    stored, summary, target = fit.stored(), fit.summary(), fit.target
    arrays = {f"family/{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays |= {f"theta/{i}": np.asarray(v) for i, v in enumerate(jax.tree.leaves(target.params))}
    arrays |= {f"trained/{name}": np.asarray(v) for name, v in target.trained.items()}
    centring = getattr(target, "centring", {})
    arrays |= {f"centring/{name}": np.asarray(v) for name, v in centring.items()}
    arrays |= {f"draws/{name}": value for name, value in stored["values"].items()}
    arrays |= {k: stored[k] for k in ("x", "log_weights") if k in stored}
    arrays |= {f"history/{name}": value for name, value in fit.history.columns.items()}
    arrays["key"] = np.asarray(jax.random.key_data(fit.key))
    meta = {
        "format": FORMAT,
        "info": fit.info,
        "stop_reason": fit.stop_reason,
        "message": fit.message,
        "correction": fit.correction,
        "verdict": {"status": summary.verdict, "reasons": summary.reasons},
        "family": _family_of(fit.q),
        "key": str(jax.random.key_impl(fit.key)),
        "history_every": fit.history.every,
        "sites": [dataclasses.asdict(site) for site in target.sites],
        "observed": [dataclasses.asdict(quantity) for quantity in target.observed],
        "deterministic": [dataclasses.asdict(quantity) for quantity in target.deterministic],
    }
    return meta, arrays


def _family_of(q: Any) -> dict[str, Any]:
    own = _family.continuous_part(q)
    return {"name": _family.name_of(q), "kind": type(q).__name__, "options": own.options}


def signed(meta: dict[str, Any]) -> dict[str, Any]:
    """What JSON says, with a checksum of it: a digit that was damaged would still be a digit."""
    told = {name: value for name, value in meta.items() if name != _SUM}
    content = json.dumps(told, sort_keys=True).encode()
    return told | {_SUM: hashlib.sha256(content).hexdigest()}


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def _peek(path: Path) -> dict[str, Any]:
    """What a directory's `fit.json` says; nothing where it is not a fit's."""
    try:
        return _read_meta(path)
    except RitzError:
        return {}


def _stale(path: Path) -> set[Path]:
    """The files of the fit that is there, and of older saves that did not end."""
    with contextlib.suppress(OSError):
        limit = (path / _JSON).stat().st_mtime_ns
        ours = [file for file in path.iterdir() if _OURS.fullmatch(file.name)]
        return {file for file in ours if file.stat().st_mtime_ns <= limit}
    return set()


def load(
    path: str | os.PathLike[str], model: Any = None, data: Any = None, *, family: Any = None
) -> Fit:
    """Read a fit that `save` wrote.

    Without the model, `sample`, `mean`, `summary`, `to_arviz` and, where the transforms are known
    by name, `log_prob` work, by site name; with it, everything does.

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
    path = Path(os.path.expanduser(path))
    meta, arrays = _read(path)
    with precision_of(meta.get("info")):
        return _assembled(path, meta, arrays, model, data, family)


def _assembled(
    path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray], model: Any, data: Any, own: Any
) -> Fit:
    try:
        found = parse(meta, arrays)
    except Exception as error:  # a damaged file may hold anything
        raise damaged(path, error) from error
    target, binding = found.target, None
    if model is not None:
        drawn = {s.name: "score" for s in found.target.sites if s.values is not None}
        given = isinstance(model, AbstractTarget)
        target, _, binding = make_target(model, data, None if given else drawn or None)
        _check_same(path, found.target, target)
        target = _load_trained(path, found, target)
    q = _load_family(path, found, target, own)
    fit = Fit(
        q=q,
        target=target,
        history=found.history,
        stop_reason=found.stop_reason,
        message=found.message,
        key=found.key,
        info=found.info,
        binding=binding,
        correction=found.correction,
    )
    fit.restore(found.stored)
    return fit


def _check_same(path: Path, saved: SavedTarget, target: Any) -> None:
    """Refuse a model whose sites are not those of the fit."""
    ours, theirs = [[(s.name, s.shape) for s in t.sites] for t in (saved, target)]
    if ours != theirs:
        raise RitzError(
            f"the fit in {path} has {saved.describe()}, but the model has {target.describe()}"
        )
    for old, new in zip(saved.sites, target.sites, strict=True):
        known = old.constraint is not None and new.constraint is not None
        if known and old.support != new.support:
            raise RitzError(
                f"site {old.name!r} has support {old.support} in {path}, but {new.support} in the "
                "model; give the model that was fitted"
            )


def _load_trained(path: Path, found: Parsed, target: Any) -> Any:
    """The target with the coordinates, and the parameters of its own, that were saved."""
    if not fits(target, found.centring):
        raise RitzError(
            f"the fit in {path} has coordinates of its own for {', '.join(found.centring)}, whose "
            "prior in the model depends on no other site; give the model that was fitted"
        )
    if found.centring:
        target = centred(target, found.centring)
    old, treedef = jax.tree.flatten(target.params)
    saved = found.target.theta
    if [v.shape for v in old] != [v.shape for v in saved]:
        raise RitzError(
            f"the fit in {path} has trained {list(found.target.trained) or 'no'} parameters of "
            f"shapes {[v.shape for v in saved]}, but the model has {list(target.trained)} of "
            f"{[v.shape for v in old]}; give the model that was fitted"
        )
    if not old:
        return target
    new = [jnp.asarray(v, o.dtype) for v, o in zip(saved, old, strict=True)]
    return target.with_params(jax.tree.unflatten(treedef, new))


def _is_target(leaf: Any) -> bool:
    """A family may hold a target, which is no part of its parameters."""
    return isinstance(leaf, AbstractTarget)


def _load_family(path: Path, found: Parsed, target: AbstractTarget, given: Any) -> Any:
    name, kind, new = found.family, found.kind, found.leaves
    if given is None and name not in _family.registered():
        raise RitzError(
            f"the family of {path} is {kind}, which is not registered; give ritz.load(path, "
            "family=...) an instance of the same structure, or register it"
        )
    start = jnp.zeros(target.dim, float_dtype())
    if given is None:
        builder = _family.registered()[str(name)].build
        given = lambda target, start: builder(target, start, **found.options)
    skeleton = _family.build(given, target, start)
    if type(skeleton).__name__ != kind:
        raise RitzError(f"the family of {path} is {kind}, but {type(skeleton).__name__} was given")
    dynamic, static = eqx.partition(skeleton, eqx.is_array, is_leaf=_is_target)
    old, treedef = jax.tree.flatten(dynamic)
    if [(v.shape, v.dtype.kind) for v in new] != [(v.shape, v.dtype.kind) for v in old]:
        raise RitzError(
            f"the parameters in {path} have shapes {[v.shape for v in new]}, but this {kind} has "
            f"{[v.shape for v in old]}; give the family that was fitted"
        )
    leaves = [jnp.asarray(v, o.dtype) for v, o in zip(new, old, strict=True)]
    return eqx.combine(jax.tree.unflatten(treedef, leaves), static)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The two files. A save may replace them between one and the other: then both again."""
    for _ in range(5):
        meta = _read_meta(path)
        with contextlib.suppress(FileNotFoundError):
            return meta, read_arrays(path / meta["arrays"])
    raise RitzError(f"no fit at {path}: one of its files is missing; restore it or fit again")


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads((path / _JSON).read_text())
        whole = isinstance(meta, dict) and signed(meta) == meta
    except (FileNotFoundError, NotADirectoryError):
        made = f"expected a directory with {_JSON}, made by fit.save or `ritz fit --out`"
        raise RitzError(f"no fit at {path}: {made}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
    if found != FORMAT:
        raise RitzError(f"{path / _JSON} has format {found!r:.40}; this Ritz reads format {FORMAT}")
    if not whole:
        raise damaged(path / _JSON, ValueError("it does not have its checksum"))
    if not _ARRAYS.fullmatch(str(meta.get("arrays"))):  # above all, no path to somewhere else
        raise damaged(path, ValueError(f"its arrays are in {meta.get('arrays')!r:.40}"))
    return meta
