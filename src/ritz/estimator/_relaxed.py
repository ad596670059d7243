"""Relaxations of discrete choices: Gumbel-softmax and straight-through."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.estimator import _element as element
from ritz.estimator._base import AbstractEstimator, Draw, register


class AbstractRelaxation(AbstractEstimator):
    """Of Bernoulli and Categorical choices: numbers in [0, 1], and vectors on the simplex."""

    def check(self, q: Any) -> None:
        element.needs_logits(self, q)

    def value(self, q: Any) -> Any:
        return element.relaxed_value(q)

    def log_prob(self, q: Any, x: Any) -> Array:
        return element.relaxed_log_prob(q, x)


class GumbelSoftmax(AbstractRelaxation):
    """See `gumbel_softmax`."""

    biased: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    combines: ClassVar[bool] = False
    temperature: Float[Array, ""]

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        binary, logits, _ = element.discrete_logits(q)
        return Draw(relaxed(binary, noisy(binary, logits, key), self.temperature), {})


class StraightThrough(AbstractRelaxation):
    """See `straight_through`."""

    biased: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    combines: ClassVar[bool] = False
    temperature: Float[Array, ""] | None

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        binary, logits, _ = element.discrete_logits(q)
        z = noisy(binary, logits, key)
        if self.temperature is None:
            soft = jax.nn.sigmoid(logits) if binary else jnp.exp(logits)
        else:
            soft = relaxed(binary, z, self.temperature)
        return Draw(hard(binary, z) + soft - jax.lax.stop_gradient(soft), {})


def noisy(binary: bool, logits: Array, key: Key[Array, ""]) -> Array:
    """Logits with noise, whose sign, or largest entry, is a draw."""
    if binary:
        return logits + jax.random.logistic(key, logits.shape, logits.dtype)
    return logits + jax.random.gumbel(key, logits.shape, logits.dtype)


def relaxed(binary: bool, z: Array, temperature: Any) -> Array:
    """Noisy logits as a number in [0, 1], or a vector on the simplex."""
    return jax.nn.sigmoid(z / temperature) if binary else jax.nn.softmax(z / temperature)


def hard(binary: bool, z: Array) -> Array:
    """The choice that noisy logits make: 0 or 1, or a one-hot vector."""
    if binary:
        return (z > 0).astype(z.dtype)
    return jax.nn.one_hot(z.argmax(-1), z.shape[-1], dtype=z.dtype)


def positive(temperature: Any) -> Array:
    """A temperature as an array, so that a new one compiles nothing."""
    array = jnp.asarray(temperature, float)
    if array.shape != () or (not isinstance(array, Tracer) and not array > 0):
        raise RitzError(f"temperature={temperature!r} arrived, expected a positive number")
    return array


def gumbel_softmax(temperature: float | Array = 0.5) -> GumbelSoftmax:
    r"""Replace a discrete choice by a continuous one, and differentiate through it: biased.

    .. math:: \tilde x = \mathrm{softmax}\big((\log p + g) / \tau\big), \qquad
        g_k = -\log(-\log u_k).

    `sample` gives a number in [0, 1] for a Bernoulli choice, and for a Categorical choice of K a
    vector of K on the simplex, one-hot in the limit. Value and gradient are those of the relaxed
    program: their bias vanishes with the temperature, while the variance of the gradient grows.
    The log mass of a relaxed choice is extended linearly, :math:`\sum_k \tilde x_k \log p_k`.

    Jang, Gu and Poole 2017 (equation 2); Maddison, Mnih and Teh 2017 (equation 10).

    Args:
        temperature: :math:`\tau`.

    Returns:
        the estimator.

    Raises:
        RitzError: for a temperature that is not positive.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(logits):
    ...     x = sample(dist.Categorical(logits=logits), gumbel_softmax(0.1))
    ...     return x @ jax.numpy.arange(3.0)
    >>> expectation(program).grad(jax.random.key(0), jax.numpy.zeros(3)).shape
    (3,)
    """
    return GumbelSoftmax(positive(temperature))


def straight_through(temperature: float | Array | None = None) -> StraightThrough:
    r"""A hard choice, with the derivative of a soft one: biased.

    .. math:: x = b + s_\lambda - \bot s_\lambda.

    Without a temperature s is the vector of probabilities (for Bernoulli, the probability), which
    is exact where f is linear (Bengio, Léonard and Courville 2013, section 4.1). With one it is the
    Gumbel-softmax relaxation whose limit is b (Jang, Gu and Poole 2017, section 2.2): for a binary
    choice the gradient tends to the trapezoid rule for f(1) - f(0), exact where f is quadratic.
    The value is unbiased; it is 0 or 1 for a Bernoulli choice, and one-hot for a Categorical one.

    Args:
        temperature: :math:`\tau`, or None.

    Returns:
        the estimator.

    Raises:
        RitzError: for a temperature that is not positive.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(p):
    ...     return 3.0 * sample(dist.Bernoulli(p), straight_through())
    >>> round(float(expectation(program).grad(jax.random.key(0), 0.25)), 4)
    3.0
    """
    return StraightThrough(None if temperature is None else positive(temperature))


register("gumbel_softmax", gumbel_softmax, "Bernoulli, Categorical; relaxes them")
register("straight_through", straight_through, "Bernoulli, Categorical; keeps their values")
