r"""Values from 0 to 1 given a logit each."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz.latent._likelihood import AbstractLikelihood, within

# Where a continuous Bernoulli's normaliser is 0/0, so near to a logit of 0, its series is used.
_NEAR = 0.08


class Bernoulli(AbstractLikelihood):
    """See `bernoulli`."""

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        return (x * out - jax.nn.softplus(out)).sum()

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.sigmoid(out)

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        return jax.random.bernoulli(key, jax.nn.sigmoid(out)).astype(out.dtype)

    def check(self, x: np.ndarray) -> None:
        within("bernoulli", x, 0.0, 1.0, "gaussian() for other numbers")


class ContinuousBernoulli(Bernoulli):
    """See `continuous_bernoulli`."""

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        return super().log_prob(out, x) + _log_normaliser(out).sum()

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        near = jnp.abs(out) < _NEAR
        safe = jnp.where(near, 1.0, out)
        # In the logit: 1/(1 - e^{-η}) - 1/η, and its series at 0.
        return jnp.where(near, 0.5 + out / 12.0, -1.0 / jnp.expm1(-safe) - 1.0 / safe)

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        u = jax.random.uniform(key, out.shape, out.dtype)
        near = jnp.abs(out) < 1e-3
        safe = jnp.where(near, 1.0, out)
        # The quantile function, log(1 + u (e^η - 1)) / η, from the side where it does not overflow.
        turned = jnp.abs(safe)
        v = jnp.where(safe > 0, u, 1.0 - u)
        up = 1.0 + jnp.log(v + (1.0 - v) * jnp.exp(-turned)) / turned
        return jnp.where(near, u, jnp.where(safe > 0, up, 1.0 - up))

    def check(self, x: np.ndarray) -> None:
        within("continuous_bernoulli", x, 0.0, 1.0, "gaussian() for other numbers")


def bernoulli() -> Bernoulli:
    r"""Values of 0 or 1, :math:`\log p = x\eta - \log(1 + e^\eta)`, with a logit for each.

    Numbers between 0 and 1 are taken as the mean of many draws; `continuous_bernoulli` has a
    density for them.

    >>> import jax.numpy as jnp
    >>> round(float(bernoulli().log_prob(jnp.zeros(2), jnp.array([0.0, 1.0]))), 4)
    -1.3863
    """
    return Bernoulli()


def continuous_bernoulli() -> ContinuousBernoulli:
    r"""Values from 0 to 1, :math:`p(x) = C(\eta)\, \sigma(\eta)^x \sigma(-\eta)^{1-x}`.

    .. math:: C(\eta) = \frac{\eta}{\tanh(\eta/2)}, \qquad C(0) = 2.

    Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders", 2019, equation 7.

    >>> import jax.numpy as jnp
    >>> abs(float(continuous_bernoulli().log_prob(jnp.zeros(3), jnp.full(3, 0.2)))) < 1e-6
    True
    """
    return ContinuousBernoulli()


def _log_normaliser(logit: Array) -> Array:
    near = jnp.abs(logit) < _NEAR
    safe = jnp.where(near, 1.0, logit)
    # In logarithms of |η|, as tanh(η/2) is ±1 far out.
    return jnp.where(
        near,
        math.log(2.0) + logit**2 / 12.0,
        jnp.log(jnp.abs(safe)) - jnp.log(jnp.tanh(0.5 * jnp.abs(safe))),
    )
