r"""Kernels of rows themselves, not of the distance between them: lines, polynomials, networks."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number
from ritz.gp._kernel import AbstractKernel, positives

# A share by which cosines stay below one, as their arc has no finite slope there.
_INSIDE = 1e-6


class Polynomial(AbstractKernel):
    """See `polynomial`.

    Attributes:
        offset: of the inner product.
        scale: of it.
        degree: of the polynomials.
    """

    offset: Float[Array, ""]
    scale: Float[Array, "..."]
    degree: int = eqx.field(static=True)

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return (self.offset + (x * self.scale) @ z.T) ** self.degree

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return (self.offset + (x * self.scale * x).sum(axis=1)) ** self.degree


class AbstractNetwork(AbstractKernel):
    """Of a network with one layer of infinitely many units whose weights are normal.

    Attributes:
        weight: the variance of weights of inputs.
        bias: that of the bias.
        variance: of the output's weights.
    """

    weight: eqx.AbstractVar[Float[Array, "..."]]
    bias: eqx.AbstractVar[Float[Array, ""]]
    variance: eqx.AbstractVar[Float[Array, ""]]

    def _inner(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.bias + (x * self.weight) @ z.T

    def _squares(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return self.bias + (x * self.weight * x).sum(axis=1)


class ArcCosine(AbstractNetwork):
    """See `arc_cosine`.

    Attributes:
        weight: the variance of weights of inputs.
        bias: that of the bias.
        variance: of the output's weights.
        order: of the units.
    """

    weight: Float[Array, "..."]
    bias: Float[Array, ""]
    variance: Float[Array, ""]
    order: int = eqx.field(static=True)

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        size = jnp.sqrt(self._squares(x)[:, None] * self._squares(z))
        cosine = jnp.clip(self._inner(x, z) / size, -1.0 + _INSIDE, 1.0 - _INSIDE)
        angle, sine = jnp.arccos(cosine), jnp.sqrt(1.0 - cosine**2)
        if self.order == 0:
            return self.variance * (1.0 - angle / math.pi)
        return self.variance * size * (sine + (math.pi - angle) * cosine) / math.pi

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        found = self._squares(x) if self.order == 1 else jnp.ones(x.shape[:1], x.dtype)
        return self.variance * found


class ErrorFunction(AbstractNetwork):
    """See `neural_network`.

    Attributes:
        weight: the variance of weights of inputs.
        bias: that of the bias.
        variance: of the output's weights.
    """

    weight: Float[Array, "..."]
    bias: Float[Array, ""]
    variance: Float[Array, ""]

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        size = (1.0 + 2.0 * self._squares(x))[:, None] * (1.0 + 2.0 * self._squares(z))
        share = 2.0 * self._inner(x, z) / jnp.sqrt(size)
        return self.variance * 2.0 / math.pi * jnp.arcsin(share)

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        square = 2.0 * self._squares(x)
        return self.variance * 2.0 / math.pi * jnp.arcsin(square / (1.0 + square))


def polynomial(degree: Any = 2, offset: Any = 1.0, scale: Any = 1.0) -> Polynomial:
    r"""Of polynomials of some degree.

    .. math:: k(x, z) = \Big(c + \sum_j s_j x_j z_j\Big)^p.

    Args:
        degree: p.
        offset: c.
        scale: s, one for all columns or one for each.

    Raises:
        RitzError: for numbers that are not positive.

    >>> float(polynomial(2).matrix(jnp.ones((1, 1)), jnp.ones((1, 1)))[0, 0])
    4.0
    """
    degree = whole_number("polynomial: degree", degree, 1)
    c = positives("polynomial: offset", offset, (0,))
    return Polynomial(c, positives("polynomial: scale", scale), degree)


def linear(offset: Any = 1.0, scale: Any = 1.0) -> Polynomial:
    r"""Of lines: Bayesian linear regression, :math:`k(x, z) = c + \sum_j s_j x_j z_j`.

    Args:
        offset: c, the variance of the intercept.
        scale: s, that of slopes, one for all columns or one for each.

    Raises:
        RitzError: for numbers that are not positive.

    >>> float(linear(1.0, 2.0).matrix(jnp.ones((1, 1)), jnp.ones((1, 1)))[0, 0])
    3.0
    """
    return polynomial(1, offset, scale)


def arc_cosine(
    order: Any = 1, weight: Any = 1.0, bias: Any = 1.0, variance: Any = 1.0
) -> ArcCosine:
    r"""Of networks with one layer of infinitely many steps (order 0) or rectifiers (order 1).

    .. math:: k_0 = \sigma^2 \Big(1 - \frac\theta\pi\Big), \qquad
        k_1 = \frac{\sigma^2}\pi \|\tilde x\|\|\tilde z\|
        \big(\sin\theta + (\pi - \theta)\cos\theta\big),

    with :math:`\theta` the angle between :math:`\tilde x = (\sqrt b, \sqrt{w_1} x_1, \ldots)` and
    :math:`\tilde z`: :math:`2\sigma^2\,\mathbb{E}[h(a^\top\tilde x)\,h(a^\top\tilde z)]` over
    standard normal a. Cho and Saul, "Kernel methods for deep learning", 2009.

    Args:
        order: 0 or 1.
        weight: w, one for all columns or one for each.
        bias: b.
        variance: :math:`\sigma^2`.

    Raises:
        RitzError: for another order, or numbers that are not positive.

    >>> round(float(arc_cosine().matrix(jnp.ones((1, 1)), jnp.ones((1, 1)))[0, 0]), 3)
    2.0
    """
    if order not in (0, 1):
        raise RitzError(f"arc_cosine: order {order!r} arrived, expected 0 or 1")
    return ArcCosine(*_network("arc_cosine", weight, bias, variance), int(order))


def neural_network(weight: Any = 1.0, bias: Any = 1.0, variance: Any = 1.0) -> ErrorFunction:
    r"""Of networks with one layer of infinitely many sigmoid units.

    .. math:: k(x, z) = \frac{2\sigma^2}\pi \arcsin
        \frac{2\tilde x^\top\tilde z}{\sqrt{1 + 2\|\tilde x\|^2}\,\sqrt{1 + 2\|\tilde z\|^2}},

    with :math:`\tilde x` as for `arc_cosine`, and the error function as the unit. Williams,
    "Computation with infinite neural networks", 1998.

    Args:
        weight: of inputs, one for all columns or one for each.
        bias: of the bias.
        variance: :math:`\sigma^2`.

    Raises:
        RitzError: for numbers that are not positive.

    >>> round(float(neural_network().diagonal(jnp.zeros((1, 1)))[0]), 4)
    0.4646
    """
    return ErrorFunction(*_network("neural_network", weight, bias, variance))


def _network(name: str, weight: Any, bias: Any, variance: Any) -> tuple[Any, Any, Any]:
    return (
        positives(f"{name}: weight", weight),
        positives(f"{name}: bias", bias, (0,)),
        positives(f"{name}: variance", variance, (0,)),
    )
