"""What families that move samples to samples have in common: the samples and their units."""

import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np

from ritz._errors import RitzError, described
from ritz.target import samples_of


def cloud(name: str, x: Any) -> np.ndarray:
    """Samples of shape (N, d), of finite numbers.

    Raises:
        RitzError: for anything else.
    """
    try:
        found = np.asarray(x, np.float64)
    except (TypeError, ValueError):
        raise RitzError(
            f"{name}: {described(x)} arrived, expected numbers of shape (N, d)"
        ) from None
    if found.ndim != 2 or len(found) < 1 or found.shape[1] < 1:
        raise RitzError(f"{name} of shape {found.shape} arrived, expected (N, d)")
    if not np.isfinite(found).all():
        raise RitzError(f"{name} holds values that are not finite; leave those rows out")
    return found


def positive(name: str, value: Any) -> float:
    """A positive, finite number.

    Raises:
        RitzError: for anything else.
    """
    fine = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not fine or not 0 < float(value) < np.inf:
        raise RitzError(f"{name}={value!r} arrived, expected a positive number such as 0.1")
    return float(value)


def samples_for(x0: np.ndarray, target: Any, what: str) -> np.ndarray:
    """The target's samples, of the dimension of the source's.

    Raises:
        RitzError: where the target is known otherwise, or has another dimension.
    """
    x1 = np.asarray(samples_of(target, what).samples, np.float64)
    if x1.shape[1] != x0.shape[1]:
        raise RitzError(
            f"{what}: source samples of {x0.shape[1]} coordinates arrived, but the target's have "
            f"{x1.shape[1]}; both must be of one space"
        )
    return x1


def units(x0: np.ndarray, x1: np.ndarray) -> tuple[Any, Any, Any]:
    """Both means, and one scale for all coordinates: the root of the target's mean variance."""
    scale = float(np.sqrt(x1.var(axis=0).mean())) or 1.0
    return jnp.asarray(x0.mean(axis=0)), jnp.asarray(x1.mean(axis=0)), jnp.asarray(scale)
