"""From a traceback inside a model to one line that names the site, the dimension and the fix."""

import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ritz._errors import RitzError


def concretised() -> tuple[type[Exception], ...]:
    """What JAX raises where a program needs the value of an array that is being traced."""
    return (
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerArrayConversionError,
        jax.errors.TracerBoolConversionError,
        jax.errors.TracerIntegerConversionError,
        jax.errors.NonConcreteBooleanIndexError,
    )


def explain(error: Exception, model: Callable[..., Any]) -> RitzError:
    """The error of a model's run as one line.

    The traceback is walked for the model's own line and for the `numpyro.sample` call that
    failed; plates around that call tell which size does not fit.
    """
    name, fn, obs, plates, line = None, None, None, [], ""
    tb: types.TracebackType | None = error.__traceback__
    files = {getattr(getattr(model, "__code__", None), "co_filename", None)}
    while tb is not None:
        frame = tb.tb_frame
        if frame.f_code.co_filename in files:
            line = f" (line {tb.tb_lineno} of {frame.f_code.co_filename.rsplit('/', 1)[-1]})"
        if frame.f_code.co_name == "sample" and "obs" in frame.f_locals:
            name = frame.f_locals.get("name")
            fn, obs = frame.f_locals.get("fn"), frame.f_locals.get("obs")
        if frame.f_code.co_name == "process_message" and "cond_indep_stack" in frame.f_locals:
            plates = list(frame.f_locals["cond_indep_stack"])
        tb = tb.tb_next
    reason = " ".join(str(error).split())[:240] or type(error).__name__
    if name is None:
        label = getattr(model, "__name__", "model")
        return RitzError(f"model {label!r} failed{line}: {type(error).__name__}: {reason}")
    if isinstance(error, NotImplementedError):
        kind = type(fn).__name__
        return RitzError(f"site {name!r}{line}: {kind} cannot be sampled; give it a proper prior")
    return RitzError(f"site {name!r}{line}: {_mismatch(fn, obs, plates) or reason}")


def _mismatch(fn: Any, obs: Any, plates: list[Any]) -> str | None:
    shape = tuple(getattr(fn, "batch_shape", ()))
    data = "" if obs is None else f" and its data shape {np.shape(obs)}"
    for plate in plates:
        if len(shape) >= -plate.dim and shape[plate.dim] not in (1, plate.size):
            return (
                f"plate {plate.name!r} has size {plate.size} at dim {plate.dim}, but the "
                f"distribution has batch shape {shape}{data}; make the plate's size "
                f"{shape[plate.dim]}, or move extra axes into the event with .to_event()"
            )
    return None
