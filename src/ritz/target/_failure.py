"""From a traceback inside a model to one line that names the site, the dimension and the fix."""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ritz._errors import RitzError
from ritz.target._base import FREE

_CONCRETISED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class NeedsValues(RitzError):
    """A model needs the value of an array that is being traced.

    Args:
        model: the model.
        error: what JAX raised.
        what: to call it.
    """

    def __init__(self, model: Callable[..., Any], error: Exception, what: str = "model") -> None:
        where = _locate(error, model)
        super().__init__(
            f"{what} {label(model)!r}{where.line} needs the value of a traced array (if, int(), "
            "float(), a shape, a boolean index); use jax.numpy.where for a choice, and pass sizes "
            "as Python integers"
        )


def needs_values(error: Exception) -> bool:
    """Whether JAX raised this because a program needs the value of a traced array."""
    shapes = isinstance(error, TypeError) and "concrete values" in str(error)
    return shapes or isinstance(error, _CONCRETISED)


def explain(error: Exception, model: Callable[..., Any]) -> RitzError:
    """The error of a model's run as one line.

    The traceback is walked for the model's own line and for the `numpyro.sample` call that
    failed; plates around that call tell which size does not fit.
    """
    if isinstance(error, RitzError):
        return error
    if needs_values(error):
        return NeedsValues(model, error)
    at = _locate(error, model)
    reason = " ".join(str(error).split()).replace(FREE, "")[:240] or type(error).__name__
    if at.site is None:
        return RitzError(
            f"model {label(model)!r} failed{at.line}: {type(error).__name__}: {reason}"
        )
    if isinstance(error, NotImplementedError):
        kind = type(at.fn).__name__
        return RitzError(
            f"site {at.site!r}{at.line}: {kind} cannot be sampled; give it a proper prior"
        )
    return RitzError(f"site {at.site!r}{at.line}: {_mismatch(at) or reason}")


def label(model: Any) -> str:
    """A model's name."""
    inner = _inner(model)
    return getattr(inner, "__name__", type(inner).__name__)


class _Place:
    """Where in a model an error arose."""

    line: str = ""
    site: str | None = None
    fn: Any = None
    obs: Any = None
    plates: tuple[Any, ...] = ()


def _locate(error: Exception, model: Callable[..., Any]) -> _Place:
    at = _Place()
    inner = _inner(model)
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    file = getattr(code, "co_filename", None)
    tb: types.TracebackType | None = error.__traceback__
    while tb is not None:
        frame = tb.tb_frame
        if frame.f_code.co_filename == file:
            at.line = f" (line {tb.tb_lineno} of {frame.f_code.co_filename.rsplit('/', 1)[-1]})"
        if frame.f_code.co_name == "sample" and "obs" in frame.f_locals:
            at.site = frame.f_locals.get("name")
            at.fn, at.obs = frame.f_locals.get("fn"), frame.f_locals.get("obs")
        if frame.f_code.co_name == "process_message" and "cond_indep_stack" in frame.f_locals:
            at.plates = tuple(frame.f_locals["cond_indep_stack"])
        tb = tb.tb_next
    return at


def _inner(model: Any) -> Any:
    """The function inside handlers and `functools.partial`."""
    while True:
        inner = inspect.unwrap(model)
        if isinstance(inner, functools.partial):
            model = inner.func
        else:
            return inner


def _mismatch(at: _Place) -> str | None:
    shape = tuple(getattr(at.fn, "batch_shape", ()))
    data = "" if at.obs is None else f" and its data shape {np.shape(at.obs)}"
    for plate in at.plates:
        if len(shape) >= -plate.dim and shape[plate.dim] not in (1, plate.size):
            return (
                f"plate {plate.name!r} has size {plate.size} at dim {plate.dim}, but the "
                f"distribution has batch shape {shape}{data}; make the plate's size "
                f"{shape[plate.dim]}, or move extra axes into the event with .to_event()"
            )
    return None
