r"""Kernels of the distance between rows, in units of a length for each column."""

import math
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError
from ritz.gp._kernel import AbstractKernel, positives

Name = Literal["rbf", "0.5", "1.5", "2.5"]
# A root has no finite slope at 0, where rows meet.
_LEAST = 1e-20


class Stationary(AbstractKernel):
    """See `rbf` and `matern`.

    Attributes:
        lengthscale: one, or one a column.
        variance: at distance 0.
        shape: "rbf", or the order of a Matérn kernel.
    """

    lengthscale: Float[Array, "..."]
    variance: Float[Array, ""]
    shape: Name = eqx.field(static=True)

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        square = squared_distances(x, z, self.lengthscale)
        if self.shape == "rbf":
            return self.variance * jnp.exp(-0.5 * square)
        r = jnp.sqrt(jnp.maximum(square, _LEAST)) * math.sqrt(2.0 * float(self.shape))
        rise = {"0.5": 1.0, "1.5": 1.0 + r, "2.5": 1.0 + r + r**2 / 3.0}[self.shape]
        return self.variance * rise * jnp.exp(-r)

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jnp.broadcast_to(self.variance, x.shape[:1])


class RationalQuadratic(AbstractKernel):
    """See `rational_quadratic`.

    Attributes:
        lengthscale: one, or one a column.
        variance: at distance 0.
        alpha: how alike the lengths are that it mixes.
    """

    lengthscale: Float[Array, "..."]
    variance: Float[Array, ""]
    alpha: Float[Array, ""]

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        square = squared_distances(x, z, self.lengthscale)
        return self.variance * jnp.exp(-self.alpha * jnp.log1p(0.5 * square / self.alpha))

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jnp.broadcast_to(self.variance, x.shape[:1])


class Periodic(AbstractKernel):
    """See `periodic`.

    Attributes:
        period: one, or one a column.
        lengthscale: one, or one a column.
        variance: at distance 0.
    """

    period: Float[Array, "..."]
    lengthscale: Float[Array, "..."]
    variance: Float[Array, ""]

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        for_columns("period", self.period, x)
        for_columns("lengthscale", self.lengthscale, x)
        lag = x[:, None] - z[None]
        sines = jnp.sin(math.pi * lag / self.period) / self.lengthscale
        return self.variance * jnp.exp(-2.0 * (sines**2).sum(axis=-1))

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jnp.broadcast_to(self.variance, x.shape[:1])


class SpectralMixture(AbstractKernel):
    """See `spectral_mixture`.

    Attributes:
        weights: of Q components.
        frequencies: their means, a row each.
        widths: their sds.
    """

    weights: Float[Array, " q"]
    frequencies: Float[Array, "q d"]
    widths: Float[Array, "q d"]

    def matrix(self, x: Float[Array, "n d"], z: Float[Array, "m d"]) -> Float[Array, "n m"]:
        for_columns("frequencies", self.frequencies[0], x)
        lag = 2.0 * math.pi * (x[:, None] - z[None])
        total = jnp.zeros(lag.shape[:2], lag.dtype)
        for weight, middle, wide in zip(self.weights, self.frequencies, self.widths, strict=True):
            fall = jnp.exp(-0.5 * ((lag * wide) ** 2).sum(axis=-1))
            total = total + weight * fall * jnp.cos(lag @ middle)
        return total

    def diagonal(self, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        return jnp.broadcast_to(self.weights.sum(), x.shape[:1])


def squared_distances(
    x: Float[Array, "n d"], z: Float[Array, "m d"], lengthscale: Float[Array, "..."]
) -> Float[Array, "n m"]:
    """Of rows, in units of lengths; by products of matrices, about the middle of z."""
    for_columns("lengthscale", lengthscale, x)
    middle = z.mean(axis=0)
    x, z = (x - middle) / lengthscale, (z - middle) / lengthscale
    square = (x**2).sum(axis=1)[:, None] + (z**2).sum(axis=1) - 2.0 * x @ z.T
    return jnp.maximum(square, 0.0)


def for_columns(name: str, value: Array, x: Float[Array, "n d"]) -> None:
    """Refuse a hyperparameter of another number of columns than the inputs have.

    Raises:
        RitzError: naming both.
    """
    if value.ndim == 1 and value.shape[0] not in (1, x.shape[1]):
        raise RitzError(
            f"{name} of {value.shape[0]} columns arrived, but the inputs have {x.shape[1]}; give "
            "one number, or one for each column"
        )


def rbf(lengthscale: Any = 1.0, variance: Any = 1.0) -> Stationary:
    r"""The squared-exponential kernel, of functions with all derivatives.

    .. math:: k(x, z) = \sigma^2 \exp(-\tfrac12 r^2), \qquad
        r^2 = \sum_j (x_j - z_j)^2 / \ell_j^2.

    Args:
        lengthscale: :math:`\ell`, one for all columns or one for each.
        variance: :math:`\sigma^2`.

    Raises:
        RitzError: for numbers that are not positive.

    >>> float(rbf(2.0).matrix(jnp.zeros((1, 1)), jnp.full((1, 1), 2.0))[0, 0]) == math.exp(-0.5)
    False
    >>> round(float(rbf(2.0).matrix(jnp.zeros((1, 1)), jnp.full((1, 1), 2.0))[0, 0]), 4)
    0.6065
    """
    return Stationary(*_scales("rbf", lengthscale, variance), "rbf")


def matern(order: Any = 2.5, lengthscale: Any = 1.0, variance: Any = 1.0) -> Stationary:
    r"""Matérn's kernel of order 1/2, 3/2 or 5/2, of functions with 0, 1 or 2 derivatives.

    .. math:: k_{1/2} = \sigma^2 e^{-r}, \quad k_{3/2} = \sigma^2 (1 + \sqrt3 r) e^{-\sqrt3 r},
        \quad k_{5/2} = \sigma^2 (1 + \sqrt5 r + \tfrac53 r^2) e^{-\sqrt5 r},

    with r as for `rbf`. Rasmussen and Williams, "Gaussian processes for machine learning", 2006,
    section 4.2.

    Args:
        order: 0.5, 1.5 or 2.5.
        lengthscale: one for all columns or one for each.
        variance: :math:`\sigma^2`.

    Raises:
        RitzError: for another order, or numbers that are not positive.

    >>> round(float(matern(0.5).matrix(jnp.zeros((1, 1)), jnp.ones((1, 1)))[0, 0]), 4)
    0.3679
    """
    shapes: dict[Any, Name] = {0.5: "0.5", 1.5: "1.5", 2.5: "2.5"}
    if order not in shapes:
        raise RitzError(f"matern: order {order!r} arrived, expected 0.5, 1.5 or 2.5")
    return Stationary(*_scales("matern", lengthscale, variance), shapes[order])


def rational_quadratic(
    alpha: Any = 1.0, lengthscale: Any = 1.0, variance: Any = 1.0
) -> RationalQuadratic:
    r"""A mixture of squared-exponential kernels over lengths.

    .. math:: k(x, z) = \sigma^2 \Big(1 + \frac{r^2}{2\alpha}\Big)^{-\alpha}.

    Args:
        alpha: how alike they are; `rbf` as it grows.
        lengthscale: one for all columns or one for each.
        variance: :math:`\sigma^2`.

    Raises:
        RitzError: for numbers that are not positive.

    >>> round(float(rational_quadratic().matrix(jnp.zeros((1, 1)), jnp.ones((1, 1)))[0, 0]), 4)
    0.6667
    """
    scales = _scales("rational_quadratic", lengthscale, variance)
    return RationalQuadratic(*scales, positives("rational_quadratic: alpha", alpha, (0,)))


def periodic(period: Any = 1.0, lengthscale: Any = 1.0, variance: Any = 1.0) -> Periodic:
    r"""Of functions that repeat (MacKay 1998).

    .. math:: k(x, z) = \sigma^2 \exp\Big(-2 \sum_j
        \frac{\sin^2(\pi (x_j - z_j) / p_j)}{\ell_j^2}\Big).

    Args:
        period: p, one for all columns or one for each.
        lengthscale: :math:`\ell`, without unit: how much of a period is alike.
        variance: :math:`\sigma^2`.

    Raises:
        RitzError: for numbers that are not positive.

    >>> round(float(periodic(3.0).matrix(jnp.zeros((1, 1)), jnp.full((1, 1), 3.0))[0, 0]), 4)
    1.0
    """
    scales = _scales("periodic", lengthscale, variance)
    return Periodic(positives("periodic: period", period), *scales)


def spectral_mixture(weights: Any, frequencies: Any, widths: Any) -> SpectralMixture:
    r"""Of functions whose spectrum is a mixture of Gaussians.

    .. math:: k(x, z) = \sum_q w_q \cos(2\pi \mu_q^\top \tau)
        \exp\big(-2\pi^2 \textstyle\sum_j s_{qj}^2 \tau_j^2\big), \qquad \tau = x - z.

    Wilson and Adams, "Gaussian process kernels for pattern discovery and extrapolation", 2013.

    Args:
        weights: w, shape (Q,).
        frequencies: :math:`\mu`, cycles a unit, shape (Q, d).
        widths: s, shape (Q, d).

    Raises:
        RitzError: for numbers that are not positive, or shapes that do not fit.

    >>> wave = spectral_mixture([1.0], [[0.5]], [[1e-3]])
    >>> round(float(wave.matrix(jnp.zeros((1, 1)), jnp.ones((1, 1)))[0, 0]), 3)
    -1.0
    """
    w = positives("spectral_mixture: weights", weights, (1,))
    middle = positives("spectral_mixture: frequencies", frequencies, (2,))
    wide = positives("spectral_mixture: widths", widths, (2,))
    if not len(w) == len(middle) or middle.shape != wide.shape:
        raise RitzError(
            f"spectral_mixture: weights, frequencies and widths of shapes {w.shape}, "
            f"{middle.shape} and {wide.shape} arrived, expected (Q,), (Q, d) and (Q, d)"
        )
    return SpectralMixture(w, middle, wide)


def _scales(name: str, lengthscale: Any, variance: Any) -> tuple[Any, Any]:
    return (
        positives(f"{name}: lengthscale", lengthscale),
        positives(f"{name}: variance", variance, (0,)),
    )
