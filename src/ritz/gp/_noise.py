r"""Likelihoods of numbers and of counts."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from jaxtyping import Array, Float
from scipy.stats import gamma

from ritz.family._mean_field import LOG_2PI
from ritz.gp._kernel import positives
from ritz.gp._likelihood import NODES, AbstractLikelihood
from ritz.gp._rows import counts, responses

_NOISE = math.sqrt(0.1)  # where that of standardised outputs starts


class _Noisy(AbstractLikelihood):
    """Numbers that are the first function plus noise."""

    standardised: ClassVar[bool] = True

    def mean(self, f: Float[Array, " c"]) -> Float[Array, ""]:
        return f[0]

    def outputs(self, y: Any, known: Any = None) -> tuple[np.ndarray, Any]:
        return responses(y, least=2 if known is None else 1), True


class Gaussian(_Noisy):
    """See `gaussian`.

    Attributes:
        noise: its sd.
    """

    noise: Float[Array, ""]

    def log_prob(self, f: Float[Array, " c"], y: Any) -> Float[Array, ""]:
        return -0.5 * ((y - f[0]) / self.noise) ** 2 - jnp.log(self.noise) - 0.5 * LOG_2PI

    def expected(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        return self.log_prob(mean, y) - 0.5 * var[0] / self.noise**2

    def log_mean(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        total = var[0] + self.noise**2
        return -0.5 * ((y - mean[0]) ** 2 / total + jnp.log(total) + LOG_2PI)


class StudentT(_Noisy):
    """See `student_t`.

    Attributes:
        noise: its scale.
        df: degrees of freedom.
    """

    noise: Float[Array, ""]
    df: float = eqx.field(static=True)

    def log_prob(self, f: Float[Array, " c"], y: Any) -> Float[Array, ""]:
        df, off = self.df, (y - f[0]) / self.noise
        level = math.lgamma(0.5 * (df + 1.0)) - math.lgamma(0.5 * df) - 0.5 * math.log(math.pi * df)
        return level - jnp.log(self.noise) - 0.5 * (df + 1.0) * jnp.log1p(off**2 / df)

    def log_mean(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        """Over precisions, which are gamma, given which the noise is normal."""
        nodes, weights = np.polynomial.legendre.leggauss(2 * NODES)
        precision = gamma.ppf(0.5 * (nodes + 1.0), 0.5 * self.df, scale=2.0 / self.df)
        total = var[0] + self.noise**2 / jnp.asarray(precision, mean.dtype)
        each = -0.5 * ((y - mean[0]) ** 2 / total + jnp.log(total) + LOG_2PI)
        return jax.nn.logsumexp(each, b=jnp.asarray(0.5 * weights, mean.dtype))


class Heteroscedastic(_Noisy):
    """See `heteroscedastic`."""

    latents: ClassVar[int] = 2

    def log_prob(self, f: Float[Array, " c"], y: Any) -> Float[Array, ""]:
        level = f[1] + math.log(_NOISE)
        return -0.5 * ((y - f[0]) * jnp.exp(-level)) ** 2 - level - 0.5 * LOG_2PI

    def expected(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        level = mean[1] + math.log(_NOISE)
        square = ((y - mean[0]) ** 2 + var[0]) * jnp.exp(2.0 * (var[1] - level))
        return -0.5 * square - level - 0.5 * LOG_2PI

    def log_mean(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        """Over the noise's sd by Gauss and Hermite's rule, given that in closed form."""
        points, weights = super().points(mean[1:], var[1:])
        total = var[0] + _NOISE**2 * jnp.exp(2.0 * points[:, 0])
        each = -0.5 * ((y - mean[0]) ** 2 / total + jnp.log(total) + LOG_2PI)
        return jax.nn.logsumexp(each, b=weights)

    def response(self, mean: Float[Array, " c"], var: Float[Array, " c"]) -> Float[Array, ""]:
        return mean[0]


class Poisson(AbstractLikelihood):
    """See `poisson`."""

    def log_prob(self, f: Float[Array, " c"], y: Any) -> Float[Array, ""]:
        return y * f[0] - jnp.exp(f[0]) - gammaln(y + 1.0)

    def mean(self, f: Float[Array, " c"]) -> Float[Array, ""]:
        return jnp.exp(f[0])

    def outputs(self, y: Any, known: Any = None) -> tuple[np.ndarray, Any]:
        return counts(y), True

    def expected(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        return y * mean[0] - jnp.exp(mean[0] + 0.5 * var[0]) - gammaln(y + 1.0)

    def response(self, mean: Float[Array, " c"], var: Float[Array, " c"]) -> Float[Array, ""]:
        return jnp.exp(mean[0] + 0.5 * var[0])


def gaussian(noise: Any = _NOISE) -> Gaussian:
    r"""Outputs with normal noise, :math:`y = f + \sigma\epsilon`.

    Args:
        noise: :math:`\sigma`, in sds of the outputs, where it starts.

    Raises:
        RitzError: for noise that is not positive.

    >>> float(gaussian(1.0).log_prob(jnp.zeros(1), 0.0)).__round__(4)
    -0.9189
    """
    return Gaussian(positives("gaussian: noise", noise, (0,)))


def student_t(df: Any = 4.0, noise: Any = _NOISE) -> StudentT:
    r"""Outputs with outliers, :math:`y = f + \sigma t_\nu`.

    Args:
        df: :math:`\nu`, fixed.
        noise: :math:`\sigma`, in sds of the outputs, where it starts.

    Raises:
        RitzError: for numbers that are not positive.

    >>> float(student_t(1.0, 1.0).log_prob(jnp.zeros(1), 0.0)).__round__(4)
    -1.1447
    """
    found = float(positives("student_t: df", df, (0,)))
    return StudentT(positives("student_t: noise", noise, (0,)), found)


def heteroscedastic() -> Heteroscedastic:
    r"""Normal noise whose sd is a function too, :math:`y = f + \sqrt{0.1}\,e^{g}\epsilon`.

    Both functions have a kernel and a mean of their own, which start alike; outputs are
    standardised. Lázaro-Gredilla and Titsias, "Variational heteroscedastic Gaussian process
    regression", 2011.

    >>> float(heteroscedastic().log_prob(jnp.zeros(2), 0.0)).__round__(4)
    0.2324
    """
    return Heteroscedastic()


def poisson() -> Poisson:
    r"""Counts, :math:`y \sim \mathrm{Poisson}(e^f)`.

    >>> round(float(poisson().log_prob(jnp.zeros(1), 0.0)), 4)
    -1.0
    """
    return Poisson()
