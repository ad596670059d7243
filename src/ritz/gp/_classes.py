r"""Likelihoods of classes."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, ndtr, ndtri
from jaxtyping import Array, Float
from scipy.special import ndtri as quantile
from scipy.stats import qmc

from ritz._errors import RitzError, whole_number
from ritz.family._mean_field import LOG_2PI
from ritz.gp._likelihood import LEAST, NODES, AbstractLikelihood
from ritz.gp._rows import classes

_WIDE = 9.0  # a variance over which a logistic curve looks like a step
_DRAWS = 128  # for an expectation over several classes


class Bernoulli(AbstractLikelihood):
    """See `bernoulli`.

    Attributes:
        link: "logit" or "probit".
        has_mean: whether there is a mean to learn.
    """

    classifies: ClassVar[bool] = True
    link: str = eqx.field(static=True, default="logit")
    has_mean: bool = eqx.field(static=True, default=True)  # type: ignore[misc]

    def log_prob(self, f: Float[Array, " c"], y: Any) -> Float[Array, ""]:
        signed = jnp.where(y > 0, f[0], -f[0])
        return jax.nn.log_sigmoid(signed) if self.link == "logit" else log_ndtr(signed)

    def mean(self, f: Float[Array, " c"]) -> Float[Array, " 2"]:
        return jnp.exp(jnp.stack([self.log_prob(f, 0), self.log_prob(f, 1)]))

    def outputs(self, y: Any, known: Any = None) -> tuple[np.ndarray, Any]:
        return classes(y, known, most=2)

    def expected(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        near = super().expected(mean, var, y)
        if self.link == "probit":
            return near
        # log σ(f) = -E max(t - f, 0) for a logistic t.
        t, weights = _logistic(mean.dtype)
        sd = jnp.sqrt(jnp.maximum(var[0], _WIDE))
        z = (t - jnp.where(y > 0, mean[0], -mean[0])) / sd
        rest = weights @ (z * ndtr(z) + jnp.exp(-0.5 * z**2 - 0.5 * LOG_2PI))
        return jnp.where(var[0] < _WIDE, near, -sd * rest)

    def log_mean(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        if self.link == "probit":
            return self.log_prob(mean / jnp.sqrt(1.0 + var), y)
        # σ(f) = E 1(t < f).
        t, weights = _logistic(mean.dtype)
        z = (jnp.where(y > 0, mean[0], -mean[0]) - t) / jnp.sqrt(jnp.maximum(var[0], _WIDE))
        far = jax.nn.logsumexp(log_ndtr(z), b=weights)
        return jnp.where(var[0] < _WIDE, super().log_mean(mean, var, y), far)


class Ordinal(AbstractLikelihood):
    """See `ordinal`.

    Attributes:
        gaps: between the thresholds, of which the first is at 0.
    """

    classifies: ClassVar[bool] = True
    gaps: Float[Array, " k"]

    def log_prob(self, f: Float[Array, " c"], y: Any) -> Float[Array, ""]:
        return self._log_prob(f[0], jnp.ones_like(f[0]), y)

    def _log_prob(self, f: Float[Array, ""], sd: Float[Array, ""], y: Any) -> Float[Array, ""]:
        cuts = jnp.concatenate([jnp.zeros(1, self.gaps.dtype), jnp.cumsum(self.gaps)])
        y = jnp.asarray(y, int)
        above, below = jnp.minimum(y, len(cuts) - 1), jnp.maximum(y - 1, 0)
        return _log_between(
            jnp.where(y > 0, (cuts[below] - f) / sd, -jnp.inf),
            jnp.where(y < len(cuts), (cuts[above] - f) / sd, jnp.inf),
        )

    def mean(self, f: Float[Array, " c"]) -> Float[Array, " k"]:
        return jnp.exp(jax.vmap(lambda y: self.log_prob(f, y))(jnp.arange(len(self.gaps) + 2)))

    def log_mean(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        return self._log_prob(mean[0], jnp.sqrt(1.0 + var[0]), y)

    def outputs(self, y: Any, known: Any = None) -> tuple[np.ndarray, Any]:
        return classes(y, known, many=len(self.gaps) + 2)


class Softmax(AbstractLikelihood):
    """See `softmax`.

    Attributes:
        latents: how many classes.
    """

    classifies: ClassVar[bool] = True
    has_mean: ClassVar[bool] = False
    latents: int = eqx.field(static=True)  # type: ignore[misc]

    def log_prob(self, f: Float[Array, " c"], y: Any) -> Float[Array, ""]:
        return jax.nn.log_softmax(f)[jnp.asarray(y, int)]

    def mean(self, f: Float[Array, " c"]) -> Float[Array, " c"]:
        return jax.nn.softmax(f)

    def outputs(self, y: Any, known: Any = None) -> tuple[np.ndarray, Any]:
        return classes(y, known, many=self.latents)

    def points(
        self, mean: Float[Array, " c"], var: Float[Array, " c"]
    ) -> tuple[Float[Array, "k c"], Float[Array, " k"]]:
        # Sobol's points, scrambled once and for all, so that a bound has no noise.
        sobol = qmc.Sobol(len(mean), rng=np.random.default_rng(0)).random(_DRAWS // 2)
        half = quantile(np.clip(sobol, 1e-6, 1 - 1e-6))
        noise = jnp.asarray(np.concatenate([half, -half]), mean.dtype)
        weights = jnp.full(_DRAWS, 1.0 / _DRAWS, mean.dtype)
        return mean + jnp.sqrt(jnp.maximum(var, LEAST)) * noise, weights


def _logistic(dtype: Any) -> tuple[Any, Any]:
    """A rule for expectations over the logistic distribution, of what varies slowly."""
    nodes, weights = np.polynomial.legendre.leggauss(2 * NODES)
    return jnp.asarray(np.log1p(nodes) - np.log1p(-nodes), dtype), jnp.asarray(0.5 * weights, dtype)


def _log_between(low: Float[Array, ""], high: Float[Array, ""]) -> Float[Array, ""]:
    """The log probability of a standard normal between two numbers, in either tail."""
    flip = low > 0
    low, high = jnp.where(flip, -high, low), jnp.where(flip, -low, high)
    top = jnp.where(jnp.isfinite(high), log_ndtr(jnp.where(jnp.isfinite(high), high, 0.0)), 0.0)
    known = jnp.isfinite(low)
    bottom = log_ndtr(jnp.where(known, low, -1.0))
    gap = jnp.where(known, jnp.minimum(bottom - top, -1e-7), -1.0)
    return jnp.where(known, top + jnp.log(-jnp.expm1(gap)), top)


def bernoulli(link: Any = "logit") -> Bernoulli:
    r"""Two classes, :math:`p(y = 1) = \sigma(f)` or :math:`\Phi(f)`.

    Args:
        link: "logit" or "probit".

    Raises:
        RitzError: for another link.

    >>> bernoulli("probit").mean(jnp.zeros(1)).tolist()
    [0.5, 0.5]
    """
    if link not in ("logit", "probit"):
        raise RitzError(f"bernoulli: link={link!r} arrived, expected 'logit' or 'probit'")
    return Bernoulli(link=link)


def preference() -> Bernoulli:
    r"""Which of two was preferred, :math:`p(a \succ b) = \Phi(u(a) - u(b))`.

    For `difference(kernel)`, whose rows hold both: u is a utility with that kernel, and has no
    mean, as only differences count. Chu and Ghahramani, "Preference learning with Gaussian
    processes", 2005, with :math:`\sqrt2\sigma = 1`.

    >>> preference().mean(jnp.zeros(1)).tolist()
    [0.5, 0.5]
    """
    return Bernoulli(link="probit", has_mean=False)


def ordinal(levels: Any) -> Ordinal:
    r"""Classes in an order, by thresholds :math:`0 = c_1 < c_2 < \dots` that are learned.

    .. math:: p(y = k) = \Phi(c_{k+1} - f) - \Phi(c_k - f), \qquad c_0 = -\infty, c_K = \infty.

    Chu and Ghahramani, "Gaussian processes for ordinal regression", 2005, with noise of sd 1.

    Args:
        levels: K, 3 at least.

    Raises:
        RitzError: for fewer.

    >>> float(ordinal(3).mean(jnp.zeros(1)).sum()).__round__(5)
    1.0
    """
    many = whole_number("levels", levels, 3)
    # Such that the levels have about the same share when f is normal.
    cuts = ndtri(jnp.arange(1, many) / many) * math.sqrt(2.0)
    return Ordinal(jnp.diff(cuts))


def softmax(many: Any) -> Softmax:
    r"""C classes, :math:`p(y = c) = e^{f_c} / \sum_j e^{f_j}`, a function for each.

    The functions share a kernel. Expectations are over 128 of Sobol's points.

    Args:
        many: C, 2 at least.

    Raises:
        RitzError: for fewer.

    >>> softmax(4).mean(jnp.zeros(4)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return Softmax(latents=whole_number("softmax: many", many, 2))
