r"""Counts given logarithms of rates, or logits of shares."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.latent._likelihood import AbstractLikelihood


class Poisson(AbstractLikelihood):
    """See `poisson`."""

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        return (x * out - jnp.exp(out) - jax.scipy.special.gammaln(x + 1.0)).sum()

    def expected_log_prob(
        self, mean: Float[Array, "..."], variance: Float[Array, "..."], x: Float[Array, "..."]
    ) -> Float[Array, ""]:
        rate = jnp.exp(mean + 0.5 * variance)
        return (x * mean - rate - jax.scipy.special.gammaln(x + 1.0)).sum()

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(out)

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        return jax.random.poisson(key, jnp.exp(out)).astype(out.dtype)

    def check(self, x: np.ndarray) -> None:
        _counts("poisson", x)

    def standard(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _of_counts(x)


class NegativeBinomial(AbstractLikelihood):
    """See `negative_binomial`.

    Attributes:
        log_size: the log of r, by value.
    """

    log_size: Any

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        r, gammaln = jnp.exp(self.log_size), jax.scipy.special.gammaln
        # log of mean / (mean + r), and of r / (mean + r)
        logit = out - self.log_size
        ways = gammaln(x + r) - gammaln(r) - gammaln(x + 1.0)
        return (ways + x * jax.nn.log_sigmoid(logit) + r * jax.nn.log_sigmoid(-logit)).sum()

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(out)

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        one, two = jax.random.split(key)
        r = jnp.broadcast_to(jnp.exp(self.log_size), out.shape)
        rate = jax.random.gamma(one, r) * jnp.exp(out) / r
        return jax.random.poisson(two, rate).astype(out.dtype)

    def for_data(self, x: np.ndarray) -> "NegativeBinomial":
        return NegativeBinomial(jnp.zeros(x[0].shape))

    def check(self, x: np.ndarray) -> None:
        _counts("negative_binomial", x)

    def standard(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _of_counts(x)


class Multinomial(AbstractLikelihood):
    """See `multinomial`."""

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        gammaln = jax.scipy.special.gammaln
        ways = gammaln(x.sum() + 1.0) - gammaln(x + 1.0).sum()
        return ways + (x * jax.nn.log_softmax(out)).sum()

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.softmax(out)

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        return jax.nn.one_hot(jax.random.categorical(key, out), out.shape[-1], dtype=out.dtype)

    def check(self, x: np.ndarray) -> None:
        if x.ndim != 2:
            raise RitzError(
                f"multinomial: rows of shape {x.shape[1:]} arrived, expected counts (d,)"
            )
        _counts("multinomial", x)
        if not (x.sum(axis=1) > 0).all():
            raise RitzError("multinomial: a row has no count at all; leave it out")


def poisson() -> Poisson:
    r"""Counts, :math:`x \sim \mathrm{Poisson}(e^\eta)`.

    >>> import jax.numpy as jnp
    >>> round(float(poisson().log_prob(jnp.zeros(1), jnp.zeros(1))), 4)
    -1.0
    """
    return Poisson()


def negative_binomial() -> NegativeBinomial:
    r"""Counts of mean :math:`e^\eta` and variance :math:`\mu + \mu^2/r`; r is learned, by column.

    >>> import jax.numpy as jnp
    >>> round(float(negative_binomial().log_prob(jnp.zeros(1), jnp.zeros(1))), 4)
    -0.6931
    """
    return NegativeBinomial(jnp.zeros(()))


def multinomial() -> Multinomial:
    r"""A row of counts, given their sum; `sample` gives a single count.

    .. math:: x \sim \mathrm{Mult}(\textstyle\sum_i x_i, \mathrm{softmax}(\eta)).

    >>> import jax.numpy as jnp
    >>> round(float(multinomial().log_prob(jnp.zeros(2), jnp.array([1.0, 1.0]))), 4)
    -0.6931
    """
    return Multinomial()


def _counts(name: str, x: np.ndarray) -> None:
    if (x < 0).any() or not (x == np.round(x)).all():
        raise RitzError(
            f"{name}: data that are not counts arrived (the least is {x.min():.4g}); use gaussian()"
        )


def _of_counts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.astype(np.float64)
    return x.mean(axis=0), np.maximum(x.std(axis=0), 1e-3 * max(x.std(), 1e-30))
