"""What the files of a fit say, believed only where it hangs together."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._result import DRAWS
from ritz.solver import History
from ritz.target import Quantity, SavedTarget, Site, float_dtype

# What a summary reads of `Fit.info`.
_INFO = {"model": str, "family": str, "solver": str, "start": str, "steps": int}
_INFO |= dict.fromkeys(("compile_seconds", "run_seconds", "total_seconds"), (int, float))


@dataclasses.dataclass(frozen=True)
class Parsed:
    """The parts of a saved fit.

    Attributes:
        target: the sites and their transforms.
        stored: the draws, as `Fit.restore` takes them.
        history: the loss by step.
        key: the fit's key.
        info: how it was made.
        stop_reason: why the run ended.
        message: the same in a line.
        family: the name under which its family is registered, if it is.
        kind: its family's class.
        leaves: its family's arrays.
    """

    target: SavedTarget
    stored: dict[str, Any]
    history: History
    key: jax.Array
    info: dict[str, Any]
    stop_reason: str
    message: str
    family: str | None
    kind: str
    leaves: list[np.ndarray]


def parse(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Parsed:
    """Read the parts of a fit from what its files hold, whatever that is.

    Args:
        meta: what `fit.json` holds.
        arrays: what the arrays' file holds.

    Returns:
        the parts.

    Raises:
        Exception: of any kind, where something is missing or of another kind, shape or size.
    """
    saved = _saved_target(meta)
    key = jax.random.wrap_key_data(jnp.asarray(arrays["key"]), impl=_text(meta["key"]))
    _need(key.shape == (), "it has several keys")
    info, name = dict(meta["info"]), meta["family"]["name"]
    for item, kind in _INFO.items():
        _need(isinstance(info[item], kind), f"{item} is {info[item]!r:.40}")
    return Parsed(
        target=saved,
        stored=_stored(arrays, saved),
        history=_history(meta, arrays),
        key=key,
        info=info,
        stop_reason=_text(meta["stop_reason"]),
        message=_text(meta["message"]),
        family=None if name is None else _text(name),
        kind=_text(meta["family"]["kind"]),
        leaves=[arrays[f"family/{i}"] for i in range(sum(k[:7] == "family/" for k in arrays))],
    )


def _saved_target(meta: dict[str, Any]) -> SavedTarget:
    """The sites, which must tile the vector and differ in name."""
    sites = tuple(_site(entry) for entry in meta["sites"])
    observed = tuple(_quantity(entry) for entry in meta["observed"])
    deterministic = tuple(_quantity(entry) for entry in meta["deterministic"])
    _need(sites and [0, *(s.stop for s in sites)][:-1] == [s.start for s in sites], "sites overlap")
    names = [quantity.name for quantity in (*sites, *observed, *deterministic)]
    _need(len(set(names)) == len(names), "two sites share a name")
    return SavedTarget(sites=sites, observed=observed, deterministic=deterministic)


def _site(entry: Any) -> Site:
    q, spec = _quantity(entry), entry["constraint"]
    free = tuple(_size(n) for n in entry["unconstrained_shape"])
    spec = None if spec is None else _tuples(spec)
    return Site(q.name, q.shape, free, _size(entry["start"]), _text(entry["support"]), spec, q.dims)


def _quantity(entry: Any) -> Quantity:
    shape, dims = tuple(map(_size, entry["shape"])), tuple(map(_text, entry["dims"]))
    _need(len(shape) == len(dims) == len(set(dims)), f"axes {dims} for shape {shape}")
    return Quantity(_text(entry["name"]), shape, dims)


def _stored(arrays: dict[str, np.ndarray], saved: SavedTarget) -> dict[str, Any]:
    """The stored draws, which must have the shapes of the sites and of their transforms."""
    shapes = {f"draws/{q.name}": q.shape for q in (*saved.sites, *saved.deterministic)}
    shapes["x"] = (saved.dim,)
    shapes |= {"log_weights": ()} if "log_weights" in arrays else {}
    floats = {"x", "log_weights", *(f"draws/{s.name}" for s in saved.sites if s.values is None)}
    for name, shape in shapes.items():
        array = arrays[name]
        _need(array.shape == (DRAWS, *shape), f"{name} has shape {array.shape}")
        _need(array.dtype.kind in ("f" if name in floats else "biufc"), f"{name} is {array.dtype}")
    if saved.has_transforms:
        x = jax.ShapeDtypeStruct((saved.dim,), float_dtype())
        values, _ = jax.eval_shape(saved.constrain, x), jax.eval_shape(saved.log_det, x)
        for s in saved.sites:
            _need(values[s.name].shape == s.shape, f"{s.name!r} is not {s.support}")
    values = {name[6:]: arrays[name] for name in shapes if name.startswith("draws/")}
    return {"values": values} | {k: arrays[k] for k in ("x", "log_weights") if k in shapes}


def _history(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> History:
    columns = {name[8:]: v for name, v in arrays.items() if name.startswith("history/")}
    _need("loss" in columns or not columns, "its history has no loss")
    _need(len({v.shape for v in columns.values()}) < 2, "its history is ragged")
    _need(all(v.ndim == 1 and v.dtype.kind in "biuf" for v in columns.values()), "its history")
    return History(columns, _size(meta["history_every"], 1))


def _need(condition: Any, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def _size(value: Any, least: int = 0) -> int:
    _need(type(value) is int and value >= least, f"a size is {value!r:.40}")
    return value


def _text(value: Any) -> str:
    _need(type(value) is str, f"a name is {value!r:.40}")
    value.encode()  # half a surrogate pair could not be printed
    return value


def _tuples(spec: Any) -> Any:
    return tuple(_tuples(v) for v in spec) if isinstance(spec, list) else spec
