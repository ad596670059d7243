"""Constraints by name, so that a fit file can hold them as data."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpyro.distributions.transforms import IdentityTransform, biject_to

from ritz._errors import RitzError

_SINGLETONS = (
    "real",
    "real_vector",
    "real_matrix",
    "positive",
    "nonnegative",
    "unit_interval",
    "simplex",
    "ordered_vector",
    "positive_ordered_vector",
    "corr_cholesky",
    "corr_matrix",
    "lower_cholesky",
    "scaled_unit_lower_cholesky",
    "positive_definite",
    "softplus_positive",
    "softplus_lower_cholesky",
    "positive_semidefinite",
    "l1_ball",
    "circular",
)
_BOUNDED = {
    "interval": ("lower_bound", "upper_bound"),
    "open_interval": ("lower_bound", "upper_bound"),
    "greater_than": ("lower_bound",),
    "greater_than_eq": ("lower_bound",),
    "less_than": ("upper_bound",),
    "less_than_eq": ("upper_bound",),
}


def describe(constraint: Any) -> tuple[str, tuple[Any, ...] | None]:
    """A constraint in words, and a specification that `constraint` reads back.

    The specification is None where bounds are being traced: they depend on other sites.
    """
    from numpyro.distributions import constraints

    if isinstance(constraint, constraints.independent):
        words, spec = describe(constraint.base_constraint)
        n = int(constraint.reinterpreted_batch_ndims)
        return words, None if spec is None else ("independent", n, spec)
    if type(constraint) is type(constraints.integer_interval(0, 1)):
        bounds: Any = constraint
        least, greatest = int(bounds.lower_bound), int(bounds.upper_bound)
        return f"integers from {least} to {greatest}", ("integers", least, greatest)
    if isinstance(constraint, constraints.zero_sum):
        return "zero sum", ("zero_sum", int(constraint.event_dim))
    for name in _SINGLETONS:
        if constraint is getattr(constraints, name, None):
            return name.replace("_", " "), (name,)
    for name, bounds in _BOUNDED.items():
        kind = getattr(constraints, name)
        kind = kind if isinstance(kind, type) else type(kind)
        if type(constraint) is kind:
            values = [_concrete(getattr(constraint, bound)) for bound in bounds]
            shown = ", ".join("…" if v is None else f"{v:g}" for v in values)
            word = name.replace("_eq", "").replace("_", " ")
            return f"{word}({shown})", None if None in values else (name, *values)
    name = type(constraint).__name__.removeprefix("_")
    return re.sub("(?<=[a-z])(?=[A-Z])", " ", name).lower(), None


def constraint(spec: tuple[Any, ...]) -> Any:
    """The NumPyro constraint that a specification from `describe` names.

    Raises:
        RitzError: for a name that is not a constraint.
    """
    from numpyro.distributions import constraints

    name, *rest = spec
    if name == "independent":
        return constraints.independent(constraint(tuple(rest[1])), int(rest[0]))
    if name == "integers":
        return constraints.integer_interval(int(rest[0]), int(rest[1]))
    if name == "zero_sum":
        return constraints.zero_sum(int(rest[0]))
    if name in _SINGLETONS:
        return getattr(constraints, name)
    if name in _BOUNDED:
        return getattr(constraints, name)(*(float(v) for v in rest))
    raise RitzError(f"no constraint named {name!r}: this file needs a newer Ritz")


def bijection(constraint: Any) -> Any:
    """The map from unconstrained values to a support; of integers, that from numbers to them."""
    if getattr(constraint, "is_discrete", False):
        return Rounding()
    return biject_to(constraint)


class Rounding(IdentityTransform):
    """Floats that stand for integers, as integers."""

    def __call__(self, x: Any) -> Any:
        return jnp.round(x).astype(int)

    def _inverse(self, y: Any) -> Any:
        return jnp.asarray(y, jax.dtypes.canonicalize_dtype(float))


def _concrete(bound: Any) -> float | None:
    if isinstance(bound, Tracer):
        return None
    values = np.unique(np.asarray(bound))
    return float(values[0]) if values.size == 1 else None
