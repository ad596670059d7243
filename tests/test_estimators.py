"""Every estimator against the exact value and gradient, and wrong variants that must miss them.

Three programs for each: one choice; a plate whose elements are kept apart; a plate of two that
the program mixes. The exact answer is a sum over a grid or over the support of an element.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from ritz import RitzError
from ritz.estimator import MeasureValued, measure_valued
from ritz.objective import expectation, sample

DRAWS = 20_000
THETA = jnp.array([0.4, -0.3])
APART = jnp.array([0.5, 1.0, -0.8])
MIXED = jnp.array([1.0, -0.6])
SIGMA = 4.5  # two-sided 4 standard errors, corrected for nine numbers


def nonlinear(x, t):
    return jnp.sin(1.3 * x + t[1]) + 0.3 * t[0] * x


def mixing(x, y, t):
    return jnp.tanh(x - 0.7 * y + 0.4 * x * y) * (1.0 + t[0])


# A distribution, from the parameters and a factor that tells elements apart.
LAWS = {
    "bernoulli": lambda t, c: dist.Bernoulli(logits=t[0] * c + t[1]),
    "bernoulli of probs": lambda t, c: dist.Bernoulli(probs=jax.nn.sigmoid(t[0] * c + t[1])),
    "categorical": lambda t, c: dist.Categorical(
        logits=jnp.stack([t[0] * c, t[1] * c, jnp.sin(c) + 0 * t[0]], -1)
    ),
    "poisson": lambda t, c: dist.Poisson(jnp.exp(t[0] * c + t[1])),
    "exponential": lambda t, c: dist.Exponential(jnp.exp(t[0] * c + t[1])),
    "gamma": lambda t, c: dist.Gamma(jnp.exp(0.7 + t[0] * c), jnp.exp(t[1] * c)),
    "normal": lambda t, c: dist.Normal(t[0] * c, jnp.exp(t[1] * c)),
}
SUPPORTS = {
    "bernoulli": jnp.arange(2),
    "bernoulli of probs": jnp.arange(2),
    "categorical": jnp.arange(3),
    "poisson": jnp.arange(25),
    "exponential": jnp.linspace(-12, 5, 1200),  # of the logarithm
    "gamma": jnp.linspace(-12, 5, 1200),
    "normal": jnp.linspace(-13, 13, 1200),
}
POSITIVE = ("exponential", "gamma")


def number(x, one_hot):
    """A categorical choice as a number, also where it is relaxed to a vector."""
    return x @ jnp.arange(3.0) if one_hot else x * 1.0


def programs(law, how, one_hot=False):
    """The three programs, as functions of the parameters."""
    q = LAWS[law]
    read = lambda x: number(x, one_hot)

    def single(t):
        return nonlinear(read(sample(q(t, jnp.array(0.9)), how)), t)

    def apart(t):
        x = read(sample(q(t, APART), how))
        return (nonlinear(x, t) * jnp.array([1.0, 2.0, -1.0])).sum()

    def mixed(t):
        x = read(sample(q(t, MIXED), how))
        return mixing(x[0], x[1], t)

    return [single, apart, mixed]


@functools.cache
def exact(law):
    """Their values and gradients: (3, 3)."""
    grid = SUPPORTS[law]
    points = jnp.exp(grid) if law in POSITIVE else grid
    step = grid[1] - grid[0]
    jacobian = points * step if law in POSITIVE else step
    q = LAWS[law]

    def mass(t, c):
        return jnp.exp(q(t, c).log_prob(points)) * jacobian

    def single(t):
        return mass(t, 0.9) @ nonlinear(points, t)

    def apart(t):
        return sum(s * mass(t, c) @ nonlinear(points, t) for c, s in zip(APART, (1, 2, -1)))

    def mixed(t):
        every = mixing(points[:, None], points[None, :], t)
        return mass(t, MIXED[0]) @ every @ mass(t, MIXED[1])

    rows = [jnp.append(f(THETA), jax.grad(f)(THETA)) for f in (single, apart, mixed)]
    return np.asarray(jnp.stack(rows))


def estimated(all_programs, draws=DRAWS, seed=0):
    """Means over draws and their standard errors, in double precision: (programs, 3) each."""
    parts = [expectation(program) for program in all_programs]

    @jax.jit
    @jax.vmap
    def run(key):
        rows = [jnp.append(*part.value_and_grad(key, THETA)) for part in parts]
        return jnp.stack(rows)

    found = np.asarray(run(jax.random.split(jax.random.key(seed), draws)), np.float64)
    return found.mean(0), found.std(0) / draws**0.5


def distance(law, how, one_hot=False, draws=DRAWS, seed=0):
    """Standard errors from the exact answer, (3, 3); those below rounding count as rounding."""
    mean, se = estimated(programs(law, how, one_hot), draws, seed)
    return (mean - exact(law)) / np.maximum(se, 3e-6)


def right(law, how, **kwargs):
    z = distance(law, how, **kwargs)
    assert np.abs(z).max() < SIGMA, z


def wrong(law, how, **kwargs):
    z = distance(law, how, **kwargs)
    assert np.abs(z).max() > SIGMA, z


# -- measure-valued -------------------------------------------------------------------------------


class Reversed(MeasureValued):
    """Wrong: the two distributions are exchanged."""

    def combine(self, f, notes):
        weight = notes["weight"]
        return ((2 * jax.lax.stop_gradient(weight) - weight) * f).sum(0)


@pytest.mark.parametrize("law", LAWS)
def test_measure_valued(law):
    right(law, measure_valued())


def test_measure_valued_reversed():
    wrong("normal", Reversed())
    wrong("poisson", Reversed())


@pytest.mark.parametrize(
    "q", [dist.Beta(2.0, 3.0), dist.Normal(jnp.zeros(3), 1.0).to_event(1)], ids=["beta", "event"]
)
def test_measure_valued_refuses(q):
    with pytest.raises(RitzError, match=r"MeasureValued cannot .* use .*pathwise\(\)"):
        measure_valued().check(q)
