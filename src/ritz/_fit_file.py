"""What the files of a fit say, believed only where it hangs together."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._posterior import DRAWS
from ritz.solver import History
from ritz.target import Quantity, SavedTarget, Site, float_dtype

# As many axes as NumPy gives an array.
_DEPTH = 64
# What a summary reads of `Fit.info`.
_INFO = {"model": str, "family": str, "solver": str, "start": str, "steps": int}
_INFO |= dict.fromkeys(("compile_seconds", "run_seconds", "total_seconds"), (int, float))
_INFO |= {"evaluations": (int, float, type(None))}


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
        options: what its builder must be told.
        leaves: its family's arrays.
        correction: of its draws, if any.
        centring: how far sites of a hierarchy are centred.
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
    options: dict[str, Any]
    leaves: list[np.ndarray]
    correction: str | None
    centring: dict[str, Any]


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
    saved = _saved_target(meta, arrays)
    key = jax.random.wrap_key_data(jnp.asarray(arrays["key"]), impl=_text(meta["key"]))
    _need(key.shape == (), "it has several keys")
    info, name = dict(meta["info"]), meta["family"]["name"]
    for item, kind in _INFO.items():
        _need(isinstance(info[item], kind), f"{item} is {info[item]!r:.40}")
    correction = meta.get("correction")
    _need(correction in (None, "importance", "nuts"), f"its correction is {correction!r:.40}")
    if correction == "nuts":
        for count in ("diverged", "transitions", "gradients"):
            _need(type(info["nuts"][count]) is int, f"{count} is {info['nuts'][count]!r:.40}")
    return Parsed(
        target=saved,
        stored=_stored(arrays, saved, correction is not None),
        history=_history(meta, arrays),
        key=key,
        info=info,
        stop_reason=_text(meta["stop_reason"]),
        message=_text(meta["message"]),
        family=None if name is None else _text(name),
        kind=_text(meta["family"]["kind"]),
        options=_options(meta["family"]["options"]),
        leaves=[arrays[f"family/{i}"] for i in range(sum(k[:7] == "family/" for k in arrays))],
        correction=correction,
        centring=_centring(arrays, saved),
    )


def _centring(arrays: dict[str, np.ndarray], saved: SavedTarget) -> dict[str, Any]:
    """Shares between 0 and 1, of the shapes of the sites."""
    found = {name[9:]: v for name, v in arrays.items() if name[:9] == "centring/"}
    shapes = {site.name: site.unconstrained_shape for site in saved.sites}
    for name, v in found.items():
        fine = v.dtype.kind == "f" and v.shape == shapes[name] and ((v >= 0) & (v <= 1)).all()
        _need(fine, f"the centring of {name} is not that of its site")
    return {name: jnp.asarray(v) for name, v in found.items()}


def _options(options: Any) -> dict[str, Any]:
    """Of a family's builder: words, truth values and numbers of a size that a builder can bear.

    Also lists of pairs of indices, whose length is that of the file.
    """
    whole = lambda i, most: type(i) is int and i in range(most)
    for name, value in options.items():
        fine = isinstance(value, str | bool | float) or whole(value, 1 << 12)
        fine |= isinstance(value, list) and all(
            isinstance(pair, list) and len(pair) == 2 and all(whole(i, 1 << 31) for i in pair)
            for pair in value
        )
        _need(isinstance(name, str) and fine, f"the family's {name} is {value!r:.40}")
    return dict(options)


def _saved_target(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> SavedTarget:
    """The sites, which must tile the vector and differ in name."""
    sites = tuple(_site(entry) for entry in meta["sites"])
    observed = tuple(_quantity(entry) for entry in meta["observed"])
    deterministic = tuple(_quantity(entry) for entry in meta["deterministic"])
    _need(sites and [0, *(s.stop for s in sites)][:-1] == [s.start for s in sites], "sites overlap")
    names = [quantity.name for quantity in (*sites, *observed, *deterministic)]
    _need(len(set(names)) == len(names), "two sites share a name")
    values = {name[8:]: v for name, v in arrays.items() if name[:8] == "trained/"}
    theta = tuple(arrays[f"theta/{i}"] for i in range(sum(k[:6] == "theta/" for k in arrays)))
    for v in (*theta, *values.values()):
        _need(v.dtype.kind == "f" and np.isfinite(v).all(), "a trained parameter is no number")
    theta, values = jax.tree.map(jnp.asarray, (theta, values))
    return SavedTarget(sites, observed, deterministic, theta, values)


def _site(entry: Any) -> Site:
    q, spec = _quantity(entry), entry["constraint"]
    free = tuple(_size(n) for n in entry["unconstrained_shape"])
    spec = None if spec is None else _tuples(spec)
    return Site(q.name, q.shape, free, _size(entry["start"]), _text(entry["support"]), spec, q.dims)


def _quantity(entry: Any) -> Quantity:
    shape, dims = tuple(map(_size, entry["shape"])), tuple(map(_text, entry["dims"]))
    _need(len(shape) == len(dims) == len(set(dims)), f"axes {dims} for shape {shape}")
    return Quantity(_text(entry["name"]), shape, dims)


def _stored(arrays: dict[str, np.ndarray], saved: SavedTarget, corrected: bool) -> dict[str, Any]:
    """The stored draws, which must have the shapes of the sites and of their transforms."""
    shapes = {f"draws/{q.name}": q.shape for q in (*saved.sites, *saved.deterministic)}
    shapes["x"] = (saved.dim,)
    shapes |= {"log_weights": ()} if "log_weights" in arrays else {}
    floats = {"x", "log_weights", *(f"draws/{s.name}" for s in saved.sites if s.values is None)}
    for name, shape in shapes.items():
        array = arrays[name]
        n = len(array) if corrected and name == "log_weights" and array.ndim else DRAWS
        _need(array.shape == (n, *shape) and n >= DRAWS, f"{name} has shape {array.shape}")
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


def _tuples(spec: Any, depth: int = 0) -> Any:
    """Lists as tuples; nested as deep as axes can be, whatever depth the interpreter allows."""
    _need(depth <= _DEPTH, "a constraint is nested too deep")
    return tuple(_tuples(v, depth + 1) for v in spec) if isinstance(spec, list) else spec
