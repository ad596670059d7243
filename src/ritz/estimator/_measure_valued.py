"""Measure-valued gradients: differences of expectations under two other distributions."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Key

from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, detached, register, stop
from ritz.estimator._coordinates import one_at_a_time, weights_one_at_a_time
from ritz.estimator._element import BERNOULLI, CATEGORICAL, bare, elsewhere, parameter
from ritz.family import MeanField

Shape = tuple[int, ...]
Branches = tuple[list[Array], list[Array]]  # values, a draw first, and weights


class MeasureValued(AbstractEstimator):
    """See `measure_valued`."""

    stacked: ClassVar[bool] = True
    coordinatewise: ClassVar[bool] = True
    cost: ClassVar[str] = "2; 4 for a Normal, K for a Categorical; linear in mixed elements"

    def check(self, q: Any) -> None:
        if _derivative(bare(_normals(q))[0]) is None:
            names = "Bernoulli, Categorical, Poisson, Exponential, Gamma, Normal and mean_field"
            raise law.refuse(self, q, f"it knows derivatives of {names} only", elsewhere(q))

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        one, shape, events = bare(_normals(q))
        derivative = _derivative(one)
        assert derivative is not None
        values, weights = map(jnp.stack, derivative(one, shape, key))
        if events:  # f may mix the elements of an event
            axes = range(1 + len(shape) - events, 1 + len(shape))
            values = one_at_a_time(values, axes, f"a {type(q).__name__}")
            weights = weights_one_at_a_time(weights, axes).reshape(len(values), *shape[:-events])
        value = jax.lax.stop_gradient(values).astype(law.value(q).dtype)
        return Draw(value, {"weight": weights})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        return (notes["weight"] * f).sum(0)


def _normals(q: Any) -> Any:
    """A mean-field family as the NumPyro distribution that it is."""
    if not isinstance(q, MeanField):
        return q
    return dist.Normal(q.loc, jnp.exp(q.log_scale)).to_event(1)


def _slope(x: Array) -> Array:
    """0, whose derivative is that of x."""
    return x - jax.lax.stop_gradient(x)


def _bernoulli(q: Any, shape: Shape, key: Any) -> Branches:
    p = parameter(q, "probs", shape)
    x = jax.random.bernoulli(key, stop(p))
    towards = jnp.where(x, 1.0, -1.0) * _slope(p)  # f(1) - f(0), from the drawn value's side
    return [x, ~x], [1 + towards, -towards]


def _categorical(q: Any, shape: Shape, key: Any) -> Branches:
    p = parameter(q, "probs", shape, own=1)
    x = jax.random.categorical(key, jnp.log(stop(p)))
    every = [x, *((x + j) % p.shape[-1] for j in range(1, p.shape[-1]))]
    slope = _slope(p)
    slopes = [jnp.take_along_axis(slope, k[..., None], -1)[..., 0] for k in every]
    return every, [1 + slopes[0], *slopes[1:]]


def _poisson(q: Any, shape: Shape, key: Any) -> Branches:
    rate = parameter(q, "rate", shape)
    x = jax.random.poisson(key, stop(rate), shape)
    return [x, x + 1], [1 - _slope(rate), _slope(rate)]


def _exponential(q: Any, shape: Shape, key: Any) -> Branches:
    rate = parameter(q, "rate", shape)
    x, more = jax.random.exponential(key, (2, *shape), rate.dtype) / stop(rate)
    change = _slope(rate) / stop(rate)
    return [x, x + more], [1 + change, -change]


def _gamma(q: Any, shape: Shape, key: Any) -> Branches:
    a, rate = parameter(q, "concentration", shape), parameter(q, "rate", shape)
    one, two = jax.random.split(key)
    x = stop(jax.random.gamma(one, a) / rate)
    more = jax.random.exponential(two, shape, rate.dtype) / stop(rate)
    # The concentration's derivative is no pair of distributions that are easy to draw from.
    score = detached(dist.Gamma(a, stop(rate)).log_prob(x))
    change = stop(a / rate) * _slope(rate)
    return [x, x + more], [1 + change + score, -change]


def _normal(q: Any, shape: Shape, key: Any) -> Branches:
    loc, scale = parameter(q, "loc", shape), parameter(q, "scale", shape)
    keys = jax.random.split(key, 4)
    dtype = loc.dtype
    rayleigh = jnp.sqrt(2 * jax.random.exponential(keys[0], shape, dtype))
    length = jnp.sqrt(2 * jax.random.gamma(keys[1], 1.5, shape, dtype))
    maxwell = jax.random.rademacher(keys[2], shape, dtype) * length  # double-sided
    noise = maxwell * jax.random.uniform(keys[3], shape, dtype)  # standard normal, coupled
    shift = _slope(loc) / stop(scale) / jnp.sqrt(2 * jnp.pi)
    widening = _slope(scale) / stop(scale)
    values = [loc + scale * z for z in (noise, maxwell, rayleigh, -rayleigh)]
    return values, [1 - widening, widening, shift, -shift]


def _derivative(q: Any) -> Callable[[Any, Shape, Any], Branches] | None:
    if isinstance(q, BERNOULLI):
        return _bernoulli
    if isinstance(q, CATEGORICAL):
        return _categorical
    known = {
        dist.Poisson: _poisson,
        dist.Exponential: _exponential,
        dist.Gamma: _gamma,
        dist.Normal: _normal,
    }
    return known.get(type(q))


def measure_valued() -> MeasureValued:
    r"""Weak derivatives: the derivative of q is a difference of two distributions.

    .. math:: \nabla_\theta \mathbb{E}_{q_\theta} f(x)
        = c_\theta \big(\mathbb{E}_{p^+} f(x) - \mathbb{E}_{p^-} f(x)\big).

    It needs no derivative of f and no log density, at the cost of evaluations of f for every
    parameter. The pairs, coupled to be close: Bernoulli, 1 and 0; Categorical, every category;
    Poisson, x + 1 and x; Exponential and the rate of a Gamma, x and x with another exponential
    added; a Normal's location, Rayleigh distances to both sides, and its scale, a double-sided
    Maxwell and the Normal itself. The concentration of a Gamma has no simple pair, and takes the
    score function.

    Of n elements that a program mixes, one at a time takes the values of its pair while the others
    stay at the draw: 1 + n evaluations, 1 + 3 n for Normals and 1 + n (K - 1) for a Categorical.
    This is the estimate that every combination would give. For binary elements it is the
    difference :math:`f(x_{i \leftarrow 1}) - f(x_{i \leftarrow 0})` at the others' draw, the
    conditional mean of the score function's estimate given the others: in parameters that an
    element has to itself its variance is no larger, with any baseline (Titsias and Lázaro-Gredilla
    2015, "Local expectation gradients for black box variational inference").

    First derivatives only. Pflug 1989; Mohamed, Rosca, Figurnov and Mnih 2020 (section 6,
    table 1).

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(p):
    ...     return 3.0 * sample(dist.Bernoulli(p), measure_valued())
    >>> round(float(expectation(program).grad(jax.random.key(0), 0.25)), 4)
    3.0
    """
    return MeasureValued()


register(
    "measure_valued",
    measure_valued,
    "Bernoulli, Categorical, Poisson, Exponential, Gamma, Normal, mean_field",
)
