"""Bounded domains, given by the sign of a function, and how a path is kept inside."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ritz._errors import RitzError, described

_NEWTON = 8  # steps onto the boundary
_INSIDE = 1e-5  # where a projection ends: at this level below zero


class Domain(eqx.Module):
    """See `domain`.

    Attributes:
        level: zero or less inside.
    """

    level: Callable[..., Any] = eqx.field(static=True)

    def inside(self, x: Float[Array, " d"]) -> Bool[Array, ""]:
        """Whether a point is in the domain."""
        return self.level(x) <= 0.0

    def normal(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""The inward normal of the level through x, :math:`-\nabla g / |\nabla g|`."""
        slope = jax.grad(self.level)(x)
        return -slope / jnp.sqrt(slope @ slope + 1e-12)

    def project(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The boundary's point that Newton's steps along the normal lead to; inside, x itself."""

        def one(y: Array, _: Any) -> tuple[Array, None]:
            value, slope = jax.value_and_grad(self.level)(y)
            return y - (value + _INSIDE) * slope / (slope @ slope), None

        found = jax.lax.scan(one, x, None, length=_NEWTON)[0]
        return jnp.where(self.inside(x), x, found)

    def reflect(self, x: Float[Array, " d"], before: Float[Array, " d"]) -> Float[Array, " d"]:
        """Where a step from `before`, which is inside, to x ends.

        Outside, x is mirrored at its projection. Where that is outside too, as in a narrow corner,
        the step ends at the projection, and where Newton's steps have failed it is not made.
        """
        wall = self.project(x)
        mirrored = 2.0 * wall - x
        kept = jnp.where(self.inside(wall), wall, before)
        return jnp.where(
            self.inside(x), x, jnp.where(self.inside(mirrored) & self.inside(wall), mirrored, kept)
        )


def domain(level: Any) -> Domain:
    r"""The domain :math:`\{x : g(x) \le 0\}`, whose boundary has an inward normal.

    Args:
        level: g, a differentiable function of a point of shape (d,) whose gradient does not vanish
            at the boundary, best a distance from it. Give a function of a module, not one made
            anew: a fit compiles again for another one.

    Returns:
        a `Domain`, with `inside`, `project`, `normal` and `reflect`.

    Raises:
        RitzError: for what is no function.

    >>> disc = domain(lambda x: jnp.linalg.norm(x) - 1.0)
    >>> disc.project(jnp.array([0.0, 3.0])).round(3).tolist()
    [0.0, 1.0]
    >>> [f"{v:.2f}" for v in disc.reflect(jnp.array([0.0, 1.2]), jnp.zeros(2))]
    ['0.00', '0.80']
    """
    if not callable(level):
        raise RitzError(
            f"domain: level: {described(level)} arrived, expected a function that is zero or less "
            "inside, such as lambda x: jnp.linalg.norm(x) - 1.0"
        )
    return Domain(level)
