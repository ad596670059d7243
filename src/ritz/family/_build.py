"""From what a user names as a family to the family itself."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ritz._errors import RitzError, suggest
from ritz.family._base import AbstractFamily, registered
from ritz.family._finite import Finite
from ritz.family._flow import from_flowjax, is_flowjax
from ritz.family._product import Product
from ritz.family._size import check_size


def build(family: Any, target: Any, start: Any) -> AbstractFamily:
    """A family for a target: from a name, a function `(target, start)`, or a finished one.

    A target's discrete coordinates come last. The family is built for the continuous ones, whose
    part of `start` it is given; beside it stand independent choices for the others, uniform at
    first. A finished family may also span all coordinates.

    Raises:
        RitzError: for an unknown name, another type, or a family of the wrong dimension.
    """
    parts = [
        Finite(jnp.zeros((s.stop - s.start, s.values[1] - s.values[0] + 1)), s.values[0], s.name)
        for s in target.sites
        if s.values is not None
    ]
    if parts and target.continuous_dim == 0 and family is None:
        return parts[0] if len(parts) == 1 else Product(tuple(parts))
    found = _continuous(family, target, start[: target.continuous_dim])
    if found.dim == target.continuous_dim and parts:
        found = Product((found, *parts))
    if found.dim != target.dim:
        raise RitzError(
            f"the family {type(found).__name__} has {found.dim} dimensions, but the target has "
            f"{target.describe()}; build it with dim={target.continuous_dim}"
        )
    return found


def _continuous(family: Any, target: Any, start: Any) -> AbstractFamily:
    if isinstance(family, str):
        if family not in registered():
            raise RitzError(f"no family {family!r}; {suggest(family, registered())}")
        family = registered()[family].build
    if callable(family) and not isinstance(family, eqx.Module | type):
        name = getattr(family, "__name__", "function")
        check_size(name, family, target, start)
        try:
            family = family(target, start)
        except RitzError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise RitzError(
                f"the family {name!r} failed for {target.describe()}: {type(error).__name__}: "
                f"{error}"
            ) from error
    if is_flowjax(family):
        family = from_flowjax(family)
    if not isinstance(family, AbstractFamily):
        raise RitzError(
            f"a family arrived as {type(family).__name__}; expected a name "
            f"({', '.join(registered())}), a function (target, start) -> family, an "
            "AbstractFamily, or a FlowJAX distribution"
        )
    return family.for_target(target)


def name_of(family: AbstractFamily) -> str | None:
    """The name under which a family's builder is registered.

    Of a continuous family with discrete coordinates beside it, the former's.
    """
    own = continuous_part(family).registered_as
    return own if own in registered() else None


def continuous_part(family: AbstractFamily) -> AbstractFamily:
    """A family without the discrete coordinates beside it."""
    if isinstance(family, Product) and all(isinstance(q, Finite) for q in family.parts[1:]):
        return family.parts[0]
    return family
