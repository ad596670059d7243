"""Every estimator against the exact value and gradient, and wrong variants that must miss them.

Three programs for each: one choice; a plate whose elements are kept apart; a plate of two that
the program mixes. The exact answer is a sum over a grid or over the support of an element.
"""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from ritz import RitzError
from ritz.estimator import (
    Antithetic,
    DoublyReparameterised,
    GaussHermite,
    GumbelSoftmax,
    Implicit,
    KernelControlVariates,
    MeasureValued,
    QuasiMonteCarlo,
    Rebar,
    Rejection,
    Relax,
    StraightThrough,
    Unscented,
    antithetic,
    doubly_reparameterised,
    enumerate_support,
    gauss_hermite,
    gumbel_softmax,
    implicit,
    kernel_control_variates,
    langevin_kernel,
    likeliest_kernel,
    measure_valued,
    pathwise,
    quasi_monte_carlo,
    rebar,
    rejection,
    relax,
    straight_through,
    unscented,
    vector_control_variates,
)
from ritz.estimator._implicit import moved
from ritz.family import FullRank, MeanField
from ritz.objective import expectation, of_log_weights, sample, sample_and_log_prob

DRAWS = 20_000
THETA = jnp.array([0.4, -0.3])
APART = jnp.array([0.5, 1.0, -0.8])
MIXED = jnp.array([1.0, -0.6])
SIGNS = jnp.array([1.0, 2.0, -1.0])
ROUNDING = 3e-6  # of single precision
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
    "beta": lambda t, c: dist.Beta(jnp.exp(0.5 + t[0] * c), jnp.exp(0.4 + t[1] * c)),
    "normal": lambda t, c: dist.Normal(t[0] * c, jnp.exp(t[1] * c)),
    "lognormal": lambda t, c: dist.LogNormal(t[0] * c, 0.5 * jnp.exp(t[1] * c)),
    "mixture": lambda t, c: dist.MixtureSameFamily(
        dist.Categorical(logits=jnp.stack([t[0] * c, 0.3 + 0 * t[1] * c], -1)),
        dist.Normal(
            jnp.stack([-1 + t[0] * c, 1 + t[1] * c], -1),
            jnp.stack([jnp.exp(t[1] * c), 0.6 + 0 * c], -1),
        ),
    ),
    "von mises": lambda t, c: dist.VonMises(3 + t[0] * c, jnp.exp(0.5 + t[1] * c)),
}
SUPPORTS = {
    "bernoulli": jnp.arange(2),
    "bernoulli of probs": jnp.arange(2),
    "categorical": jnp.arange(3),
    "poisson": jnp.arange(25),
    "exponential": jnp.linspace(-12, 5, 500),  # of the logarithm
    "gamma": jnp.linspace(-12, 5, 500),
    "beta": jax.nn.sigmoid(jnp.linspace(-14, 14, 500)),
    "normal": jnp.linspace(-13, 13, 500),
    "lognormal": jnp.linspace(-8, 8, 500),
    "mixture": jnp.linspace(-13, 13, 500),
    "von mises": jnp.linspace(-jnp.pi, jnp.pi, 400, endpoint=False),
}
DISCRETE = ("bernoulli", "bernoulli of probs", "categorical", "poisson")
POSITIVE = ("exponential", "gamma", "lognormal")


def number(law, x, one_hot=False):
    """A choice as a number: of an angle, something periodic; of a relaxed category, its mean."""
    if law == "von mises":
        return jnp.sin(x) + 0.5 * jnp.cos(x)
    return x @ jnp.arange(3.0) if one_hot else x * 1.0


ALL = ("single", "apart", "mixed")
FACTORS = {"single": jnp.array(0.9), "apart": APART, "mixed": MIXED}

# Compiled without optimisation: each is run once, on tiny arrays.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def program(law, which, how, one_hot=False):
    """A program, as a function of the parameters."""

    def run(t):
        x = number(law, sample(LAWS[law](t, FACTORS[which]), how), one_hot)
        if which == "mixed":
            return mixing(x[0], x[1], t)
        f = nonlinear(x, t)
        return f if which == "single" else f @ SIGNS

    return run


@functools.cache
def exact(law, which):
    """Its value and gradient."""
    grid = SUPPORTS[law]
    points = jnp.exp(grid) if law in POSITIVE else grid
    if law in DISCRETE:
        width = jnp.ones(len(grid))
    else:
        width = points * (grid[1] - grid[0]) if law in POSITIVE else jnp.gradient(points)
    numbers = number(law, points)

    def value(t):
        mass = lambda c: jnp.exp(LAWS[law](t, c).log_prob(points)) * width
        if which == "mixed":
            every = mixing(numbers[:, None], numbers[None, :], t)
            return mass(MIXED[0]) @ every @ mass(MIXED[1])
        f = nonlinear(numbers, t)
        if which == "single":
            return mass(FACTORS[which]) @ f
        return sum(s * mass(c) @ f for c, s in zip(APART, SIGNS, strict=True))

    return np.append(*compiled(jax.value_and_grad(value))(THETA))


def spread(run, t=THETA, draws=2000):
    """Standard deviations of a program's value and gradient."""
    both = lambda key: jnp.append(*expectation(run).value_and_grad(key, t))
    found = compiled(jax.vmap(both))(jax.random.split(jax.random.key(0), draws))
    return np.asarray(found, np.float64).std(0)


def once(run):
    """A deterministic estimate of a program's value and gradient."""
    return np.append(*compiled(expectation(run).value_and_grad)(jax.random.key(0), THETA))


def distance(law, how, which=ALL, one_hot=False, draws=DRAWS, seed=0):
    """Standard errors from the exact answers, (programs, 3); none is below rounding.

    Means and standard errors are taken in double precision.
    """
    parts = [expectation(program(law, w, how, one_hot)) for w in which]

    @compiled
    @jax.vmap
    def run(key):
        return jnp.stack([jnp.append(*part.value_and_grad(key, THETA)) for part in parts])

    found = np.asarray(run(jax.random.split(jax.random.key(seed), draws)), np.float64)
    wanted = np.stack([exact(law, w) for w in which])
    return (found.mean(0) - wanted) / np.maximum(found.std(0) / draws**0.5, ROUNDING)


def right(law, how, which=ALL, **kwargs):
    z = distance(law, how, which, **kwargs)
    assert np.abs(z).max() < SIGMA, z


def wrong(law, how, which=("single",), **kwargs):
    z = distance(law, how, which, **kwargs)
    assert np.abs(z).max() > SIGMA, z


# -- measure-valued -------------------------------------------------------------------------------


class Reversed(MeasureValued):
    """Wrong: the two distributions are exchanged."""

    def combine(self, f, notes):
        weight = notes["weight"]
        return ((2 * jax.lax.stop_gradient(weight) - weight) * f).sum(0)


@pytest.mark.parametrize("law", ["poisson", "normal"])
def test_measure_valued(law):
    right(law, measure_valued())


@pytest.mark.parametrize("law", ["bernoulli of probs", "categorical", "exponential", "gamma"])
def test_measure_valued_of_other_choices(law):
    right(law, measure_valued(), ("single", "mixed"))


class Alone(MeasureValued):
    """Wrong: only the element itself takes its other values, as if f kept elements apart."""

    coordinatewise = False


def test_measure_valued_reversed():
    wrong("normal", Reversed(), ("single", "mixed"))
    wrong("poisson", Reversed())
    wrong("poisson", Alone(), ("mixed",))


class EveryCombination(MeasureValued):
    coordinatewise = False
    factorised = True


@pytest.mark.parametrize("law", ["bernoulli", "categorical", "normal", "gamma"])
def test_one_at_a_time_is_every_combination(law):
    """The weights of all other combinations are zero, and so are their derivatives."""
    got, wanted = (once(program(law, "mixed", how())) for how in (MeasureValued, EveryCombination))
    np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=1e-6)


def binary(n):
    """A program that mixes n coins, and its values and masses at every outcome."""
    weights = jnp.sin(jnp.arange(n) + 1.0)
    f = lambda x: jnp.tanh(x @ weights) + 0.1 * (x.sum(-1) - 2.0) ** 2
    outcomes = jnp.array(list(itertools.product([0.0, 1.0], repeat=n)))
    return f, outcomes


@pytest.mark.parametrize("event", [False, True])
def test_variance_of_mixed_coins(event):
    """That of partial differences at the others' draw: enumerated; below the score function's."""
    f, outcomes = binary(6)
    t = jnp.linspace(-0.8, 0.6, 6)
    p = jax.nn.sigmoid(t)
    mass = jnp.prod(jnp.where(outcomes == 1.0, p, 1 - p), axis=1)
    slope = p * (1 - p)
    ends = lambda v: jax.vmap(lambda i: f(outcomes.at[:, i].set(v)), out_axes=1)(jnp.arange(6))
    each = slope * (ends(1.0) - ends(0.0))
    scores = f(outcomes)[:, None] * (outcomes - p)
    moments = lambda g: (mass @ g, mass @ g**2 - (mass @ g) ** 2)
    mean, variance = moments(each)
    assert (variance < 0.5 * moments(scores)[1]).all()

    def run(t):
        q = dist.Bernoulli(logits=t)
        return f(sample(q.to_event(1) if event else q, measure_valued()))

    grads = compiled(jax.vmap(lambda key: expectation(run).grad(key, t)))
    found = np.asarray(grads(jax.random.split(jax.random.key(0), DRAWS)), np.float64)
    assert np.abs((found.mean(0) - mean) / found.std(0) * DRAWS**0.5).max() < SIGMA
    squares = (found - np.asarray(mean)) ** 2
    z = (squares.mean(0) - variance) / squares.std(0) * DRAWS**0.5
    assert np.abs(z).max() < SIGMA


@pytest.mark.parametrize("family", [False, True])
def test_many_mixed_normals(family):
    """A square of a sum of 200, with one evaluation for each value that a parameter needs."""
    n = 200
    c = jnp.cos(jnp.arange(n))

    def run(t):
        loc, log_scale = t[0] * jnp.ones(n), t[1] * jnp.ones(n)
        q = MeanField(loc, log_scale) if family else dist.Normal(loc, jnp.exp(log_scale))
        return (sample(q, measure_valued()) @ c) ** 2 / n

    wanted = lambda t: ((t[0] * c.sum()) ** 2 + jnp.exp(2 * t[1]) * (c**2).sum()) / n
    t = jnp.array([0.2, -0.3])
    exact = np.append(*compiled(jax.value_and_grad(wanted))(t))
    one = lambda key: jnp.append(*expectation(run).value_and_grad(key, t))
    keys = jax.random.split(jax.random.key(0), 500)
    z = _z(np.asarray(compiled(lambda k: jax.lax.map(one, k))(keys), np.float64) - exact)
    assert np.abs(z).max() < SIGMA


def test_too_many_mixed_elements():
    run = lambda t: jnp.exp(sample(dist.Normal(t * jnp.ones(2000), 1.0), measure_valued()).mean())
    with pytest.raises(RitzError, match=r"mixes 2000 elements.* 6,001 in all.* use score\(\)"):
        expectation(run).value(jax.random.key(0), 0.3)


def test_measure_valued_refuses():
    for q in (dist.Beta(2.0, 3.0), FullRank(jnp.zeros(2), jnp.zeros(2), jnp.zeros((2, 2)))):
        with pytest.raises(RitzError, match=r"MeasureValued cannot .* use .*pathwise\(\)"):
            measure_valued().check(q)


# -- relaxations ----------------------------------------------------------------------------------


def bias(how, f, temperatures, draws=100_000):
    """Errors of the gradient in a Bernoulli's logit, with their standard errors."""
    t = jnp.array(0.6)
    p = jax.nn.sigmoid(t)
    wanted = p * (1 - p) * (f(1.0) - f(0.0))

    @compiled
    @jax.vmap
    def run(key):
        at = lambda how: expectation(lambda t: f(sample(dist.Bernoulli(logits=t), how)))
        return jnp.stack([at(how(temperature)).grad(key, t) for temperature in temperatures])

    found = np.asarray(run(jax.random.split(jax.random.key(1), draws)), np.float64)
    return np.abs(found.mean(0) - wanted), found.std(0) / draws**0.5


class NotScaled(GumbelSoftmax):
    """Wrong: the noise is not divided by the temperature."""

    def draw(self, q, key):
        noise = jax.random.logistic(key, q.batch_shape)
        return (
            super()
            .draw(dist.Bernoulli(logits=q.logits), key)
            ._replace(value=jax.nn.sigmoid(q.logits / self.temperature + noise))
        )


def test_gumbel_softmax_is_right_in_the_limit():
    f = lambda x: jnp.sin(2.0 * x) + x**2
    error, se = bias(gumbel_softmax, f, (1.0, 0.3, 0.05))
    assert error[0] > error[1] + SIGMA * se[1] > error[2]
    assert error[2] < SIGMA * se[2]
    error, se = bias(lambda t: NotScaled(jnp.asarray(t)), f, (1.0, 0.3, 0.05))
    assert error[2] > SIGMA * se[2]


class NoisyProbability(StraightThrough):
    """Wrong: the soft value itself, without its number removed."""

    def draw(self, q, key):
        return super().draw(q, key)._replace(value=jax.nn.sigmoid(q.logits / self.temperature))


def test_straight_through_is_right_in_the_limit_for_quadratics():
    f = lambda x: (x - 0.3) ** 2
    error, se = bias(straight_through, f, (2.0, 0.05))
    assert error[0] > 2 * SIGMA * se[0]
    assert error[1] < SIGMA * se[1]
    error, se = bias(lambda t: NoisyProbability(jnp.asarray(t)), f, (0.05,))
    assert error[0] > SIGMA * se[0]
    cubic = lambda x: (x - 0.3) ** 3
    error, se = bias(straight_through, cubic, (0.05,))
    assert error[0] > SIGMA * se[0]


def test_straight_through_without_temperature_is_exact_for_linear_f():
    def f(t):
        x = sample(dist.Categorical(logits=t), straight_through())
        return x @ jnp.array([1.0, -2.0, 0.5])

    t = jnp.array([0.1, 0.2, -0.4])
    wanted = jax.grad(lambda t: jax.nn.softmax(t) @ jnp.array([1.0, -2.0, 0.5]))(t)
    np.testing.assert_allclose(expectation(f).grad(jax.random.key(0), t), wanted, atol=1e-6)


@pytest.mark.parametrize("how", [gumbel_softmax(0.5), straight_through(0.5), rebar(), relax(sum)])
def test_relaxed_values(how):
    q = dist.Categorical(probs=jnp.array([0.2, 0.3, 0.5])).expand([4])
    assert how.value(q).shape == (4, 3)
    assert how.value(q.to_event(1)).shape == (4, 3)
    assert how.value(dist.Bernoulli(0.3)).shape == ()
    one_hot = jax.nn.one_hot(jnp.array([0, 2, 1, 1]), 3)
    wanted = q.log_prob(jnp.array([0, 2, 1, 1])).sum()
    np.testing.assert_allclose(how.log_prob(q, one_hot), wanted, rtol=1e-6)
    bits = jnp.array([0.0, 1.0])
    wanted = dist.Bernoulli(0.3).log_prob(bits).sum()
    np.testing.assert_allclose(how.log_prob(dist.Bernoulli(0.3).expand([2]), bits), wanted, 1e-6)
    with pytest.raises(RitzError, match=rf"{type(how).__name__} cannot .* use score\(\)"):
        how.check(dist.Poisson(2.0))


@pytest.mark.parametrize("make", [gumbel_softmax, straight_through, rebar])
def test_temperatures_are_positive(make):
    with pytest.raises(RitzError, match=r"temperature=-1.0 arrived, expected a positive number"):
        make(-1.0)


# -- REBAR and RELAX ------------------------------------------------------------------------------


class Network(eqx.Module):
    """A control of one choice."""

    weight: jax.Array

    def __call__(self, z):
        return self.weight[0] * jnp.tanh(z).sum() + self.weight[1]


class WithoutScore(Rebar):
    """Wrong: the conditional relaxation has no score term."""

    def combine(self, f, notes):
        scale = notes["scale"][0]
        right = super().combine(f, notes)
        credit = notes["log_q"][0] - jax.lax.stop_gradient(notes["log_q"][0])
        return right + scale * jax.lax.stop_gradient(f[2]) * credit


class WithoutCondition(Relax):
    """Wrong: the score of b is paired with noise that did not make it."""

    def draw(self, q, key):
        draw = super().draw(q, key)
        z = q.logits + jax.random.logistic(key, q.batch_shape)
        again = q.logits + jax.random.logistic(jax.random.fold_in(key, 1), q.batch_shape)
        log_q = draw.notes["log_q"]
        credit = jnp.expm1(log_q - jax.lax.stop_gradient(log_q))
        control = self.network(z) - jax.lax.stop_gradient(self.network(again)) * (1 + credit)
        notes = draw.notes | {"control": control - jax.lax.stop_gradient(control)}
        return draw._replace(notes=notes)


@pytest.mark.parametrize("law", ["bernoulli", "categorical"])
@pytest.mark.parametrize("how", [rebar(0.5, 0.7), relax(Network(jnp.array([0.8, 0.3])))])
def test_rebar_and_relax(law, how):
    right(law, how, ALL if law == "bernoulli" else ("mixed",), one_hot=law == "categorical")


def test_rebar_and_relax_with_terms_missing():
    wrong("bernoulli", WithoutScore(jnp.array(0.5), jnp.array(1.0)))
    wrong("bernoulli", WithoutCondition(Network(jnp.array([0.8, 0.3]))))


def offset(x):
    """Far from zero, and not a sum of which a program drops the constant."""
    return jnp.sqrt(4.0 + (x + 0.5) ** 2)


def test_rebar_has_less_variance_than_the_score():
    def sd(how):
        f = lambda t: offset(sample(dist.Bernoulli(logits=t), how))
        keys = jax.random.split(jax.random.key(0), 5000)
        return float(compiled(jax.vmap(lambda k: expectation(f).grad(k, 0.3)))(keys).std())

    assert sd(rebar(0.3)) < 0.2 * sd(rebar(0.3, 0.0))


def test_relax_learns_from_the_squared_gradient():
    """The derivative of the gradient's variance in the network is estimated by one draw."""
    keys = jax.random.split(jax.random.key(0), 2000)

    def square(weight):
        f = lambda t: offset(sample(dist.Bernoulli(logits=t), relax(Network(weight))))
        return (jax.vmap(lambda k: expectation(f).grad(k, 0.3))(keys) ** 2).mean()

    slope = compiled(jax.value_and_grad(square))
    before, direction = slope(jnp.zeros(2))
    after, _ = slope(-direction)
    assert after < 0.5 * before


def test_relax_refuses_a_network_of_vectors():
    program = lambda t: sample(dist.Bernoulli(logits=t), relax(lambda z: jnp.ones(2) * z))
    with pytest.raises(RitzError, match=r"returned shape \(2,\) for one choice"):
        expectation(program).value(jax.random.key(0), 0.3)


# -- implicit reparameterisation ------------------------------------------------------------------


class WithoutMinus(Implicit):
    """Wrong: the sign of the implicit derivative."""

    def draw(self, q, key):
        draw = super().draw(q, key)
        return draw._replace(value=2 * jax.lax.stop_gradient(draw.value) - draw.value)


@pytest.mark.parametrize("law", ["mixture", "von mises"])
def test_implicit(law):
    right(law, implicit(), ("apart", "mixed") if law == "mixture" else ("single",), draws=5000)
    wrong(law, WithoutMinus(), draws=5000)


def test_implicit_leaves_to_numpyro_what_it_differentiates():
    key, q = jax.random.key(0), dist.Gamma(2.0, 3.0)
    assert implicit().draw(q, key).value == pathwise().draw(q, key).value


def test_implicit_general_mixture_agrees_with_the_same_family():
    def at(parts):
        def value(t, x):
            q = parts(dist.Categorical(logits=t), t)
            density = lambda x: jnp.exp(q.log_prob(x))
            return moved(x, q.cdf, density)

        return compiled(jax.jacobian(value))(THETA, jnp.array(0.7))

    same = at(lambda which, t: dist.MixtureSameFamily(which, dist.Normal(t, 1.0)))
    general = at(lambda which, t: dist.MixtureGeneral(which, [dist.Normal(m, 1.0) for m in t]))
    np.testing.assert_allclose(same, general, rtol=1e-4)
    implicit().check(dist.MixtureGeneral(dist.Categorical(jnp.ones(1)), [dist.Normal(0.0, 1.0)]))


def test_implicit_has_second_derivatives():
    """Those of the quantile function, of which two Newton steps give up to the third."""

    def value(t, key):
        q = dist.MixtureSameFamily(
            dist.Categorical(logits=jnp.stack([t, 0.0 * t])), dist.Normal(jnp.array([-1.0, 1.0]), 1)
        )
        return implicit().draw(q, key).value ** 2

    t = jnp.array(0.3)
    keys = jax.random.split(jax.random.key(0), DRAWS)
    second = compiled(jax.vmap(lambda k: jax.grad(jax.grad(lambda t: value(t, k) * t))(t)))(keys)
    # E x² = 2 whatever the weights, so that of t E x² the second derivative is 0.
    assert abs(second.mean()) < SIGMA * second.std() / DRAWS**0.5


def test_implicit_refuses():
    with pytest.raises(RitzError, match=r"Implicit cannot estimate Poisson: .* use score\(\)"):
        implicit().check(dist.Poisson(2.0))
    both = dist.MixtureSameFamily(
        dist.Categorical(probs=jnp.ones(2) / 2),
        dist.MultivariateNormal(jnp.zeros((2, 3)), jnp.eye(3)),
    )
    with pytest.raises(RitzError, match=r"an element is not one number; use score\(\)"):
        implicit().check(both)


# -- rejection samplers ---------------------------------------------------------------------------


class WithoutCorrection(Rejection):
    """Wrong: the noise is treated as if its distribution had no parameters."""

    def combine(self, f, notes):
        return f


@pytest.mark.parametrize("law", ["gamma", "beta"])
def test_rejection(law):
    right(law, rejection(2), ALL if law == "gamma" else ("single",))


class WithoutJacobian(Rejection):
    """Wrong: the density of the accepted noise is that of the gamma draw it makes."""

    def draw(self, q, key):
        draw = super().draw(q, key)
        return draw._replace(notes={"log_pi": q.log_prob(draw.value)})


def test_rejection_with_terms_missing():
    """The mean of the logarithm of a gamma draw; nothing is augmented, where it shows most."""

    def z(how):
        program = lambda a: jnp.log(sample(dist.Gamma(a, 1.0), how))
        keys = jax.random.split(jax.random.key(0), DRAWS)
        grads = compiled(jax.vmap(lambda k: expectation(program).grad(k, 1.0)))(keys)
        grads = np.asarray(grads, np.float64)
        return abs(grads.mean() - jnp.pi**2 / 6) * DRAWS**0.5 / grads.std()

    assert z(rejection(0)) < SIGMA
    assert z(WithoutCorrection(0)) > SIGMA
    assert z(WithoutJacobian(0)) > SIGMA


def test_rejection_of_dirichlet():
    a = jnp.array([0.4, 1.0, 2.5])

    def program(a):
        x = sample(dist.Dirichlet(a), rejection())
        return x[0] * x[1] + x[2] ** 2

    def wanted(a):
        total = a.sum() * (a.sum() + 1)
        return (a[0] * a[1] + a[2] * (a[2] + 1)) / total

    keys = jax.random.split(jax.random.key(0), DRAWS)
    both = lambda k: jnp.append(*expectation(program).value_and_grad(k, a))
    found = np.asarray(compiled(jax.vmap(both))(keys), np.float64)
    truth = np.append(*jax.value_and_grad(wanted)(a))
    assert (np.abs(found.mean(0) - truth) < SIGMA * found.std(0) / DRAWS**0.5).all()


def test_augmentation_lowers_the_correction():
    def slope(b):
        keys = jax.random.split(jax.random.key(0), 2000)
        log_pi = lambda a, k: rejection(b).draw(dist.Gamma(a, 1.0), k).notes["log_pi"]
        return float(compiled(jax.vmap(lambda k: jax.grad(log_pi)(0.7, k)))(keys).std())

    assert slope(10) < 0.2 * slope(1)


def test_rejection_refuses():
    with pytest.raises(RitzError, match=r"Rejection cannot .* use pathwise\(\)"):
        rejection().check(dist.Normal(0.0, 1.0))
    with pytest.raises(RitzError, match="shape_augmentation=-1 arrived, expected a whole number"):
        rejection(-1)


# -- quadrature -----------------------------------------------------------------------------------


class Physicists(GaussHermite):
    """Wrong: the nodes are those of exp(-x²)."""

    def draw(self, q, key):
        draw = super().draw(q, key)
        return draw._replace(value=q.loc + (draw.value - q.loc) / 2**0.5)


def off(law, how, which):
    """The largest error of a deterministic estimate."""
    return np.abs(once(program(law, which, how)) - exact(law, which)).max()


@pytest.mark.parametrize(
    ("law", "which"), [("lognormal", "single"), *(("normal", which) for which in ALL)]
)
def test_gauss_hermite(law, which):
    error = off(law, gauss_hermite(30), which)
    assert error < (1e-4 if law == "normal" else 1e-3)  # f oscillates in the noise
    if law == "normal":
        assert off(law, Physicists(30), which) > 1e-2


GAUSSIANS = {
    "multivariate normal": lambda t: dist.MultivariateNormal(
        jnp.array([t[0], 0.5]), scale_tril=jnp.array([[1.0, 0.0], [0.6, 0.5]]) * jnp.exp(t[1])
    ),
    "mean field": lambda t: MeanField(jnp.array([t[0], 0.5]), jnp.array([0.2, -0.1]) + t[1]),
    "full rank": lambda t: FullRank(
        jnp.array([t[0], 0.5]), jnp.array([0.2, t[1]]), jnp.array([[0.0, 0.0], [0.7, 0.0]])
    ),
    "normal event": lambda t: dist.Normal(jnp.array([t[0], 0.5]), jnp.exp(t[1])).to_event(1),
    "normal plate": lambda t: dist.Normal(jnp.array([t[0], 0.5]), jnp.exp(t[1])),
}


def cubic(x, t):
    return x[0] ** 2 * x[1] + t[0] * x[1] ** 3 + x[0] * x[1] - 2.0 * x[1] ** 2


def smooth(x, t):
    return jnp.exp(0.4 * x[0]) * jnp.cos(x[1]) + t[0] * x[1]


def moments(q):
    """Mean and covariance of a Gaussian choice."""
    if isinstance(q, FullRank):
        return q.loc, q.scale_tril @ q.scale_tril.T
    if isinstance(q, MeanField):
        return q.loc, jnp.diag(jnp.exp(2 * q.log_scale))
    if isinstance(q, dist.MultivariateNormal):
        return q.mean, q.covariance_matrix
    return q.mean, jnp.diag(q.variance)


@functools.cache
def integral(name, f):
    """Value and gradient of the mean of f, on a tensor grid of 40 x 40."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = jnp.stack(jnp.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    w = jnp.outer(weights, weights).ravel() / weights.sum() ** 2

    def value(t):
        mean, cov = moments(GAUSSIANS[name](t))
        x = mean + z @ jnp.linalg.cholesky(cov).T
        return w @ jax.vmap(lambda x: f(x, t))(x)

    return np.append(*compiled(jax.value_and_grad(value))(THETA))


class OneSigma(Unscented):
    """Wrong: the points are one standard deviation away, whatever the dimension."""

    def draw(self, q, key):
        draw = super().draw(q, key)
        loc = draw.value.mean(0)
        return draw._replace(value=loc + (draw.value - loc) / 2**0.5)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_unscented_is_exact_for_cubics(name):
    run = lambda how: lambda t: cubic(sample(GAUSSIANS[name](t), how), t)
    at = lambda how: once(run(how))
    np.testing.assert_allclose(at(unscented()), integral(name, cubic), rtol=1e-5, atol=1e-5)
    if name != "normal plate":
        assert np.abs(at(OneSigma()) - integral(name, cubic)).max() > 0.1


DECODER = jnp.array([[1.0, 2.0, -0.3], [0.5, -1.0, 0.8], [0.0, 3.0, 1.1], [-0.7, 0.4, 0.2]])
SHIFT, PIXELS = jnp.array([0.1, -0.4, 0.3, 0.0]), jnp.array([1.0, 0.0, 2.0, -0.5])
LATENT = jnp.array([0.3, -0.2, 0.5, -0.3, 0.1, -0.8])  # means, then log standard deviations


def squared_error(z):
    return ((PIXELS - DECODER @ z - SHIFT) ** 2).sum()


def affine_decoder(how):
    def run(t):
        return squared_error(sample(dist.Normal(t[:3], jnp.exp(t[3:])).to_event(1), how))

    return run


def closed_form(t, variance=1.0):
    """At the mean, and variances times squared column norms."""
    columns = (DECODER**2).sum(0)
    return squared_error(t[:3]) + variance * jnp.exp(2 * t[3:]) @ columns


@pytest.mark.parametrize("degree", [2, 3])
def test_unscented_is_the_zero_variance_path_of_affine_decoders(degree):
    keys = jax.random.split(jax.random.key(0), 100_000)
    both = lambda how: compiled(
        jax.vmap(lambda k: jnp.append(*expectation(affine_decoder(how)).value_and_grad(k, LATENT)))
    )
    found = both(unscented(degree))(keys[:3])
    assert (found == found[0]).all()  # bit for bit
    wanted = np.append(*jax.value_and_grad(closed_form)(LATENT))
    np.testing.assert_allclose(found[0], wanted, rtol=2e-5)
    draws = np.asarray(both(pathwise())(keys), np.float64)
    z = lambda x: np.abs(x - draws.mean(0)) * len(keys) ** 0.5 / draws.std(0)
    assert (z(found[0]) < SIGMA).all()
    without = np.append(*jax.value_and_grad(closed_form)(LATENT, 0.0))
    assert z(without).max() > 50


def test_unscented_of_degree_2_has_fewer_points():
    q = MeanField(jnp.zeros(5), jnp.zeros(5))
    shape = lambda how: how.draw(q, jax.random.key(0)).value.shape
    assert (shape(unscented(2)), shape(unscented())) == ((6, 5), (10, 5))
    with pytest.raises(RitzError, match="degree=4 arrived, expected 2 or 3"):
        unscented(4)


@pytest.mark.parametrize("how", [gauss_hermite(3), unscented(), quasi_monte_carlo(4)])
def test_gaussian_estimators_refuse(how):
    with pytest.raises(RitzError, match=rf"{type(how).__name__} cannot .* use pathwise\(\)"):
        how.check(dist.Gamma(2.0, 1.0))
    with pytest.raises(RitzError, match=r"use enumerate_support\(\) or score\(\)"):
        how.check(dist.Bernoulli(0.3))


def test_gauss_hermite_refuses_vectors():
    with pytest.raises(RitzError, match=r"use unscented\(\) or pathwise\(\)"):
        gauss_hermite().check(MeanField(jnp.zeros(2), jnp.zeros(2)))


# -- correlated draws -----------------------------------------------------------------------------


class NotShifted(QuasiMonteCarlo):
    """Wrong: the same net every time."""

    def draw(self, q, key):
        return super().draw(q, jax.random.key(0))


class ReflectedAtZero(Antithetic):
    """Wrong: the centre of symmetry."""

    def draw(self, q, key):
        draw = super().draw(q, key)
        return draw._replace(value=draw.value.at[self.draws // 2 :].add(-2 * q.loc))


@pytest.mark.parametrize("how", [quasi_monte_carlo(4), antithetic(4)])
def test_quasi_monte_carlo_and_antithetic(how):
    right("normal", how)


def test_wrong_nets_and_reflections():
    wrong("normal", NotShifted(4))
    wrong("normal", ReflectedAtZero(4))


@pytest.mark.parametrize("name", ["multivariate normal", "full rank"])
@pytest.mark.parametrize("how", [quasi_monte_carlo(8), antithetic(), kernel_control_variates(8)])
def test_correlated_draws_of_vectors(name, how):
    run = lambda t: smooth(sample(GAUSSIANS[name](t), how), t)
    both = lambda key: jnp.append(*expectation(run).value_and_grad(key, THETA))
    found = compiled(jax.vmap(both))(jax.random.split(jax.random.key(0), 5000))
    found = np.asarray(found, np.float64)
    z = (found.mean(0) - integral(name, smooth)) / (found.std(0) / 5000**0.5)
    assert np.abs(z).max() < SIGMA, z


def test_correlated_draws_have_less_variance():
    """Than as many independent ones."""
    run = lambda how: lambda t: smooth(sample(GAUSSIANS["full rank"](t), how), t)
    one = spread(run(pathwise())) / 32**0.5
    assert (spread(run(quasi_monte_carlo(32))) < 0.7 * one).all()
    ratio = spread(run(kernel_control_variates(32)), draws=500) / one
    assert (ratio < jnp.array([0.5, 0.5, 0.8])).all()
    linear = lambda t: 3.0 * sample(dist.Normal(*t), antithetic(2))
    assert (spread(linear, jnp.array([1.0, 2.0])) < 1e-5).all()


def test_draws_are_of_a_right_number():
    with pytest.raises(RitzError, match="draws=12 arrived, expected a power of 2"):
        quasi_monte_carlo(12)
    with pytest.raises(RitzError, match="draws=3 arrived, expected an even number"):
        antithetic(3)
    with pytest.raises(RitzError, match=r"Antithetic cannot .* symmetric .* use pathwise\(\)"):
        antithetic().check(dist.Gamma(1.0, 1.0))
    with pytest.raises(RitzError, match=r"ridge=0\.0 arrived, expected a positive number"):
        kernel_control_variates(8, ridge=0.0)


# -- kernel control variates ----------------------------------------------------------------------


class NotStein(KernelControlVariates):
    """Wrong: a kernel whose mean is not zero."""

    def weights(self, z):
        kernel = jnp.exp(-0.125 * ((z[:, None] - z[None, :]) ** 2).sum(-1))
        half = self.draws // 2
        return self._half(kernel, half)


def test_kernel_control_variates():
    right("normal", kernel_control_variates(8))
    wrong("normal", NotStein(8, None, 1e-4))


def related(tasks=2, m=12, seed=0):
    """Points of Gaussian targets of several widths, with the scores there."""
    variances = 1.0 + 0.5 * np.arange(tasks)
    x = np.random.default_rng(seed).normal(size=(tasks, m, 2)) * variances[:, None, None] ** 0.5
    return x, -x / variances[:, None, None]


def wrong_scores(scores):
    """Wrong: the first target's score for all tasks."""
    return scores * np.array([1.0, 1.5])[:, None, None]


def test_vector_control_variates_are_exact_in_their_span():
    """Integrands that are constants plus kernels at the points: what is left is the constants."""
    x, scores = related()
    constants, length = np.array([2.0, -1.0]), 1.3
    beta = np.random.default_rng(1).normal(size=(2, 12))
    beta -= beta.mean(1, keepdims=True)  # what is orthogonal to constants
    with jax.enable_x64(True):
        own = [langevin_kernel(x[t], x[t], scores[t], scores[t], length) @ beta[t] for t in (0, 1)]
        y = constants[:, None] + np.stack(own)
        off = lambda scores: np.abs(
            vector_control_variates(y, x, scores, length=length, ridge=1e-10, coupled=False).mean
            - constants
        )
        assert off(scores).max() < 1e-6
        assert off(wrong_scores(scores)).max() > 0.05


def test_control_variates_have_mean_zero():
    """Under the task's own target, whatever they are fitted to; not with another's score."""
    x, scores = related(m=20)
    y = np.stack([np.cos(x[0].sum(1)), 2.0 * np.cos(x[1].sum(1)) + x[1, :, 0]])
    fresh = np.random.default_rng(5).normal(size=(40_000, 2)) * 1.5**0.5

    def z(score, at):
        fitted = vector_control_variates(y, x, score, length=1.5, ridge=0.1)
        value = np.asarray(fitted.control(1, jnp.asarray(fresh), jnp.asarray(at)), np.float64)
        return abs(value.mean() / value.std() * len(value) ** 0.5)

    assert z(scores, -fresh / 1.5) < 4.0
    assert z(wrong_scores(scores), -fresh) > 4.0


def test_tasks_with_points_in_common_gain_nothing():
    x, scores = related(1, 15)
    both = lambda a: np.concatenate([a, a])
    y = np.stack([np.sin(x[0].sum(1)), np.sin(x[0].sum(1)) ** 2 + x[0, :, 0]])
    with jax.enable_x64(True):
        fit = lambda coupled: vector_control_variates(
            y, both(x), both(scores), length=1.5, ridge=1e-9, coupled=coupled
        )
        joint, alone = fit(True), fit(False)
        np.testing.assert_allclose(joint.mean, alone.mean, rtol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(joint.coupling), 2.0**0.5, rtol=1e-5)
        assert abs(joint.coupling[0, 1]) > 0.01


def test_joining_helps_related_tasks():
    """Each has its own points, 15 of them; the integrals are known."""
    wave = np.exp(-0.5 * 2.25 * 2 * np.array([1.0, 1.5]))  # the mean of cos(1.5 (x1 + x2))
    truth = np.array([wave[0], 2.0 * wave[1]])

    def errors(seed, coupled):
        x, scores = related(2, 15, seed)
        f = np.cos(1.5 * x.sum(-1))
        y = np.stack([f[0], 2.0 * f[1]])
        length, ridge = likeliest_kernel(y, x, scores, (0.7, 1.0, 1.4), (0.1, 1.0))
        found = vector_control_variates(y, x, scores, length=length, ridge=ridge, coupled=coupled)
        return np.asarray(found.mean) - truth, y.mean(1) - truth

    seeds = range(40)
    joint = np.array([errors(s, True)[0] for s in seeds])
    alone, plain = map(np.array, zip(*[errors(s, False) for s in seeds], strict=True))
    square = lambda e: ((e / truth.std()) ** 2).mean()
    assert square(joint) < 0.9 * square(alone) < 0.5 * square(plain)


def test_vector_control_variates_refuse():
    x, scores = related()
    with pytest.raises(RitzError, match=r"values of shape \(12,\), points of \(2, 12, 2\)"):
        vector_control_variates(np.ones(12), x, scores, length=1.0, ridge=0.1)
    with pytest.raises(RitzError, match=r"ridge=0.0 arrived, expected a positive number"):
        vector_control_variates(np.ones((2, 12)), x, scores, length=1.0, ridge=0.0)


# -- doubly reparameterised -----------------------------------------------------------------------


def iwae(lw):
    return jax.nn.logsumexp(lw) - jnp.log(len(lw))


def renyi(lw):
    return (jax.nn.logsumexp(0.4 * lw) - jnp.log(len(lw))) / 0.4


def posterior(theta):
    return lambda x: dist.StudentT(4.0, theta, 1.3).log_prob(x) + 0.3 * jnp.sin(x)


def gaussian(t):
    return dist.Normal(t[0], jnp.exp(t[1]))


def bound_gradients(bound, how, draws=DRAWS):
    """In q's two parameters and p's one, for every key."""
    run = lambda t: of_log_weights(bound, posterior(t[2]), gaussian(t), 4, how)
    keys = jax.random.split(jax.random.key(0), draws)
    t = jnp.array([0.4, -0.3, 0.7])
    grads = compiled(jax.vmap(lambda k: expectation(run).grad(k, t)))(keys)
    return np.asarray(grads, np.float64)


class WithoutSecond(DoublyReparameterised):
    """Wrong, except for the ELBO: q's score is dropped, and not accounted for."""

    def coefficients(self, bound, lw):
        return jax.grad(bound)(lw)


@pytest.mark.parametrize("bound", [iwae, renyi, jnp.mean], ids=["iwae", "renyi", "elbo"])
def test_doubly_reparameterised(bound):
    """Against the pathwise gradient of the same draws, which has the same mean."""
    wanted = bound_gradients(bound, pathwise())
    z = lambda how: _z(bound_gradients(bound, how) - wanted)
    assert np.abs(z(doubly_reparameterised())).max() < SIGMA
    assert (np.abs(z(WithoutSecond())).max() > SIGMA) == (bound is not jnp.mean)


def _z(x):
    return x.mean(0) / np.maximum(x.std(0) / len(x) ** 0.5, ROUNDING)


def test_doubly_reparameterised_weights_are_squared():
    """For the importance-weighted bound; equation 8 of the paper."""
    x = jnp.array([0.3, -1.0, 0.8, 2.1, -0.4])
    log_p, q = posterior(0.7), dist.Normal(0.2, 1.0)
    slope = jax.vmap(jax.grad(lambda x: log_p(x) - q.log_prob(x)))(x)
    w = jax.nn.softmax(jax.vmap(log_p)(x) - q.log_prob(x))
    of_draws = lambda x: doubly_reparameterised().of_log_weights(iwae, log_p, q, x)
    np.testing.assert_allclose(compiled(jax.grad(of_draws))(x), w**2 * slope, rtol=1e-4)


def test_signal_to_noise_does_not_fall_with_k():
    """As it does for the pathwise gradient, by 1/sqrt(K) (Rainforth et al. 2018)."""
    t = jnp.array([0.4, -0.1])

    def ratio(how, k):
        run = lambda t: of_log_weights(iwae, dist.Normal(0.7, 0.7).log_prob, gaussian(t), k, how)
        keys = jax.random.split(jax.random.key(0), 2000)
        g = np.asarray(compiled(jax.vmap(lambda key: expectation(run).grad(key, t)))(keys))
        return np.abs(g.mean(0)) / g.std(0)

    one, other = doubly_reparameterised(), pathwise()
    assert (ratio(one, 64) > ratio(one, 4)).all()
    assert (ratio(other, 64) < 0.6 * ratio(other, 4)).any()
    assert (ratio(one, 64) > 3.0 * ratio(other, 64)).all()


def test_doubly_reparameterised_refuses():
    key, how = jax.random.key(0), doubly_reparameterised()
    run = lambda q, log_p: expectation(lambda: of_log_weights(iwae, log_p, q, 2, how)).value(key)
    with pytest.raises(RitzError, match=r"Poisson: its draws are not differentiable; use score"):
        run(dist.Poisson(1.0), posterior(0.0))
    with pytest.raises(RitzError, match=r"log_p returned shape \(2,\), expected one number"):
        run(dist.Normal(0.0, 1.0), lambda x: x * jnp.ones(2))
    alone = lambda: sample_and_log_prob(dist.Normal(0.0, 1.0), how)[1]
    with pytest.raises(RitzError, match=r"no choice alone; use pathwise\(\)"):
        expectation(alone).value(key)


def test_an_axis_of_categories_is_no_plate():
    """Three choices among three, whose logits vary along the categories with another plate."""
    table = jnp.arange(9.0).reshape(3, 3) / 5

    def f(t):
        z = sample(dist.Bernoulli(logits=t), enumerate_support())
        return (sample(dist.Categorical(logits=z * table)) * SIGNS).sum()

    def wanted(t):
        total = 0.0
        for z in itertools.product([0.0, 1.0], repeat=3):
            mass = jnp.exp(dist.Bernoulli(logits=t).log_prob(jnp.array(z)).sum())
            mean = jax.nn.softmax(jnp.array(z) * table) @ jnp.arange(3.0)
            total += mass * (mean * SIGNS).sum()
        return total

    t = jnp.array([0.3, -0.5, 0.2])
    got = compiled(expectation(f).value_and_grad)(jax.random.key(0), t)
    truth = compiled(jax.value_and_grad(wanted))(t)
    np.testing.assert_allclose(jnp.append(*got), jnp.append(*truth), rtol=1e-4, atol=1e-5)
