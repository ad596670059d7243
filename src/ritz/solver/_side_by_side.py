"""How many evaluations of a log density fit side by side."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params
from jaxtyping import Array

# Numbers of data at most, and numbers on the way where these are many more than the data: beyond
# the processor's cache, arrays side by side are slower than one after another.
SIDE_BY_SIDE, _CACHED, _MANY = 1 << 28, 1 << 21, 4


def held(target: Any) -> int:
    """How many numbers a target holds: its data, of which each gradient looks at all."""
    return sum(np.size(v) for v in jax.tree.leaves(target) if hasattr(v, "shape"))


def side_by_side(of: Callable[..., Any], points: Array, target: Any) -> int:
    """How many of some points a function of the target is computed at side by side, at least one.

    Args:
        of: the function, of one point.
        points: a row each.
        target: whose data it looks at.
    """
    numbers = max(held(target), 1)
    fit = SIDE_BY_SIDE // numbers
    largest = _largest(jax.make_jaxpr(of)(points[0]).jaxpr)
    if largest > _MANY * numbers:
        fit = min(fit, _CACHED // largest)
    return max(1, min(fit, len(points)))


def _largest(jaxpr: Any) -> int:
    """How many numbers the largest array holds that is computed on the way."""
    found = 0
    for eqn in jaxpr.eqns:
        inner = map(_largest, jaxprs_in_params(eqn.params))
        sizes = (math.prod(getattr(v.aval, "shape", ())) for v in eqn.outvars)
        found = max(found, *inner, *sizes, 0)
    return found
