"""The radial flow."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float

from ritz.family._flow import Flow
from ritz.family._flow_parts import check_options, flow, stack


class Radial(AbstractBijection):
    r"""Draws space towards a point, or pushes it away.

    .. math:: f(z) = z + \beta h\,(z - z_0), \quad h = \frac{1}{\alpha + r}, \quad r = |z - z_0|,
        \quad \beta \ge -\alpha,

    .. math:: \log|\det| = (d - 1) \log(1 + \beta h) + \log(1 + \beta h - \beta h^2 r).

    The distance of f(z) from the centre is :math:`\rho = r (1 + \beta h)`, a quadratic equation
    for r. Rezende and Mohamed 2015 (equation 14 and appendix A.2).

    Attributes:
        centre: :math:`z_0`.
        width: :math:`\alpha`, before softplus.
        push: :math:`\alpha + \beta`, before softplus.
    """

    cond_shape: ClassVar[None] = None
    centre: Float[Array, " d"]
    width: Float[Array, ""]
    push: Float[Array, ""]

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.centre.shape[-1:]

    def _coefficients(self) -> tuple[Array, Array]:
        alpha = jax.nn.softplus(self.width)
        return alpha, jax.nn.softplus(self.push) - alpha

    def _log_det(self, r: Array, alpha: Array, beta: Array) -> Array:
        h = 1.0 / (alpha + r)
        # 1 + beta h - beta h^2 r = 1 + alpha beta h^2
        return (self.shape[0] - 1) * jnp.log1p(beta * h) + jnp.log1p(alpha * beta * h**2)

    def transform_and_log_det(self, x: Any, condition: Any = None) -> tuple[Array, Array]:
        alpha, beta = self._coefficients()
        away = x - self.centre
        r = _norm(away)
        return x + beta / (alpha + r) * away, self._log_det(r, alpha, beta)

    def inverse_and_log_det(self, y: Any, condition: Any = None) -> tuple[Array, Array]:
        alpha, beta = self._coefficients()
        away = y - self.centre
        rho = _norm(away)
        # r^2 + (alpha + beta - rho) r - alpha rho = 0, by the root that loses no digits
        half = 0.5 * (alpha + beta - rho)
        root = jnp.sqrt(half**2 + alpha * rho)
        r = jnp.where(half > 0, alpha * rho / (half + root), root - half)
        return self.centre + away / (1.0 + beta / (alpha + r)), -self._log_det(r, alpha, beta)


def radial(
    target: Any, start: Float[Array, " d"], scale: Any = 0.1, layers: Any = 16, seed: Any = 0
) -> Flow:
    r"""Layers that draw space towards a point or push it away from one: see `Radial`.

    A layer costs O(d), in both directions, and moves everything about one centre alone, so that it
    is weak above a few dimensions. It starts as the Gaussian of `mean_field`.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.
        layers: K.
        seed: of the initial centres.

    Raises:
        RitzError: for a scale that is not positive, or no layer.

    >>> import jax.numpy as jnp
    >>> radial(None, jnp.zeros(3), layers=4).dim
    3
    """
    check_options("radial", scale, seed, layers=layers)

    def layer(key: Array) -> Radial:
        centre = jax.random.normal(key, start.shape)
        # softplus(0.54) is 1; the two are equal at first, so that nothing moves
        return Radial(centre, jnp.asarray(0.54), jnp.asarray(0.54))  # pyright: ignore

    return flow("radial", stack(layer, layers, seed), start, scale=scale, layers=layers, seed=seed)


def _norm(x: Array) -> Array:
    """The length, whose derivative at 0 is 0."""
    square = x @ x
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)
