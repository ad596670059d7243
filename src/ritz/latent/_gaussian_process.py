r"""Smooth curves of latents as the prior of a sequence, and exact posteriors given potentials."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, positive, whole_number
from ritz.family._mean_field import LOG_2PI
from ritz.latent._encoder import AbstractLaw
from ritz.latent._potentials import AbstractSequence, Potentials

# Of the variance of 1 so much is white noise, so that factors exist in float32.
_NUGGET = 1e-3


class Curves(AbstractLaw):
    """Independent Gaussian curves.

    Attributes:
        mean: of each, shape (d, T).
        factor: Cholesky factors of their covariances.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "reparameterised"})
    mean: Float[Array, "d T"]
    factor: Float[Array, "d T T"]

    @property
    def dim(self) -> int:
        return self.mean.size

    @property
    def loc(self) -> Float[Array, " n"]:
        return self.mean.T.reshape(-1)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return (self.mean + jnp.einsum("dst,dt->ds", self.factor, noise)).T.reshape(-1)

    def log_prob(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        off = x.reshape(self.mean.shape[::-1]).T - self.mean
        white = _solved(self.factor, off[..., None])
        return -0.5 * (white**2).sum() - _log_det(self.factor) - 0.5 * x.size * LOG_2PI

    def divergences(self, prior: Any) -> Float[Array, " d"] | None:
        if not isinstance(prior, GaussianProcess):
            return None
        factor = prior.factor
        spread = (_solved(factor, self.factor) ** 2).sum(axis=(1, 2))
        off = (_solved(factor, self.mean[..., None]) ** 2).sum(axis=(1, 2))
        scales = jax.vmap(_log_det)(factor) - jax.vmap(_log_det)(self.factor)
        return 0.5 * (spread + off - self.mean.shape[1]) + scales


class GaussianProcess(AbstractSequence):
    """See `gaussian_process`.

    Attributes:
        log_length: of each latent, in steps.
        steps: T.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "reparameterised"})
    log_length: Float[Array, " d"]
    steps: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.steps * self.log_length.size

    @property
    def covariance(self) -> Float[Array, "d T T"]:
        """Of each latent's curve."""
        t = jnp.arange(self.steps)
        far = (t[:, None] - t) / jnp.exp(self.log_length)[:, None, None]
        return (1.0 - _NUGGET) * jnp.exp(-0.5 * far**2) + _NUGGET * jnp.eye(self.steps)

    @property
    def factor(self) -> Float[Array, "d T T"]:
        """Its Cholesky factor."""
        return jnp.linalg.cholesky(self.covariance)

    def _law(self) -> Curves:
        return Curves(jnp.zeros((self.log_length.size, self.steps)), self.factor)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        return self._law().sample(key)

    def log_prob(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        return self._law().log_prob(x)

    def given(self, said: Potentials) -> Curves:
        each = lambda v: v.reshape(self.steps, -1).T

        def one(K: Array, h: Array, J: Array) -> tuple[Array, Array]:
            # K - K S (I + S K S)^-1 S K, where S is the root of J: it needs no inverse of K. The
            # mean is K S (I + S K S)^-1 h / S, in which nothing cancels. Of a step of which nothing
            # is said J is 0, where a root has no derivative.
            told_of = J > 0.0
            sure = jnp.sqrt(jnp.where(told_of, J, 1.0))
            root, white = jnp.where(told_of, sure, 0.0), jnp.where(told_of, h / sure, 0.0)
            told = root[:, None] * K
            eye = jnp.eye(self.steps)
            factor = jnp.linalg.cholesky(eye + told * root)
            half = _solved(factor, told)
            cov = K - half.T @ half
            small = jnp.finfo(cov.dtype).eps * jnp.trace(K) * eye
            mean = half.T @ _solved(factor, white[:, None])[:, 0]
            return mean, jnp.linalg.cholesky(cov + small)

        return Curves(*jax.vmap(one)(self.covariance, each(said.h), each(said.precision)))


def _solved(factor: Array, right: Array) -> Array:
    return jax.scipy.linalg.solve_triangular(factor, right, lower=True)


def _log_det(factor: Array) -> Array:
    return jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum()


def gaussian_process(width: Any, length: Any = 5.0) -> Any:
    r"""Independent smooth curves as the prior of a sequence's latents.

    .. math:: z_{\cdot i} \sim \mathcal{N}(0, K_i), \qquad
        K_i(s, t) = (1 - \epsilon)\,e^{-(s - t)^2 / 2 \ell_i^2} + \epsilon\,\delta_{st},
        \quad \epsilon = 10^{-3}.

    The latents of a `VAE` are those of all steps in a row, `latent = T * width`; lengths are
    trained. With `posterior=potentials()` the posterior is exact given what the encoder says of
    each step, by T³ operations; with `diagonal()` steps are independent given the row. Fortuin,
    Baranchuk, Rätsch and Mandt, "GP-VAE: deep probabilistic time series imputation", 2020; with
    potentials Pearce, "The Gaussian process prior VAE for interpretable latent dynamics from
    pixels", 2020.

    Args:
        width: d.
        length: of all curves at the start, in steps.

    Returns:
        a builder, from latent dimensions and a key to a family.

    Raises:
        RitzError: for a width below one, or a length that is not positive; from the builder, where
            the latent dimensions are not two or more times the width.

    >>> gaussian_process(2)(20, jax.random.key(0)).steps
    10
    """
    d = whole_number("width", width, 1)
    positive("gaussian_process: length", length)

    def build(latent: Any, key: Key[Array, ""]) -> GaussianProcess:
        if not isinstance(latent, int) or latent % d or latent < 2 * d:
            raise RitzError(
                f"gaussian_process: latent={latent} arrived, expected {d} times the number of steps"
            )
        return GaussianProcess(jnp.full(d, jnp.log(float(length))), latent // d)

    return build
