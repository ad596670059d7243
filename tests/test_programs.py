"""Programs: unbiased value and gradient, whatever samples inside what, and honest refusal."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

import ritz
from ritz import RitzError
from ritz.diagnose import check_unbiased
from ritz.estimator import (
    AbstractEstimator,
    Draw,
    Enumerate,
    Score,
    enumerate_support,
    gumbel_softmax,
    law,
    pathwise,
    rebar,
    rejection,
    relax,
    running_mean,
    score,
    sticking_the_landing,
    straight_through,
)
from ritz.objective import expectation, mean, plug_in, sample, sample_and_log_prob
from ritz.program import _graph

BINARY = {
    "enumerate": enumerate_support(),
    "score": score(),
    "leave one out": score(draws=3),
    "running mean": score(baseline=running_mean(0.5)),
}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
NODES, WEIGHTS = jnp.asarray(NODES), jnp.asarray(WEIGHTS / WEIGHTS.sum())
THETA = jnp.array([0.3, -0.5, 1.0, 0.2])


def holds(program, theta, exact, draws=20_000, seed=0):
    found = check_unbiased(program, theta, exact=exact, draws=draws, seed=seed)
    assert found, str(found)


def over_binary(n, f, p):
    """The exact mean of f over n independent binary choices."""
    total = 0.0
    for z in itertools.product([0.0, 1.0], repeat=n):
        z = jnp.array(z)
        total += jnp.prod(jnp.where(z == 1.0, p, 1.0 - p)) * f(z)
    return total


# -- one choice, and choices that depend on each other --------------------------------------------


@pytest.mark.parametrize("how", BINARY.values(), ids=BINARY)
def test_one_choice(how):
    f = lambda z, t: (z - 0.3) ** 2 * jnp.sin(t) + z * t
    program = lambda t: f(sample(dist.Bernoulli(jax.nn.sigmoid(t)), how), t)
    exact = lambda t: over_binary(1, lambda z: f(z[0], t), jax.nn.sigmoid(t)[None])
    holds(program, jnp.asarray(0.7), exact)


@pytest.mark.parametrize("first", [pathwise(), score(), score(draws=2)])
@pytest.mark.parametrize("second", BINARY.values(), ids=BINARY)
@pytest.mark.parametrize("third", [pathwise(), score()])
def test_chain_of_three(first, second, third):
    def program(t):
        x = sample(dist.Normal(t, 1.0), first)
        z = sample(dist.Bernoulli(jax.nn.sigmoid(x * t)), second)
        return sample(dist.Normal(z * t + x, 0.5), third) ** 2

    def exact(t):
        x = t + NODES
        p = jax.nn.sigmoid(x * t)
        mean = lambda z: (z * t + x) ** 2 + 0.25
        return (WEIGHTS * ((1.0 - p) * mean(0.0) + p * mean(1.0))).sum()

    holds(program, jnp.asarray(0.4), exact)


def test_markov_chain_is_summed_pair_by_pair():
    """Six states of five steps each: 7,776 paths, but no array of that size."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(6, 6)))

    def program(m):
        z, total = jnp.array(0), 0.0
        for t in range(5):
            z = sample(dist.Categorical(logits=m[z]), enumerate_support())
            total = total + jnp.sin(z + t)
        return total

    def exact(m):
        p, total = jax.nn.one_hot(0, 6), 0.0
        for t in range(5):
            p = p @ jax.nn.softmax(m, -1)
            total = total + p @ jnp.sin(jnp.arange(6.0) + t)
        return total

    sizes = [v.aval.size for v in _variables(lambda m: expectation(program).value(KEY, m), matrix)]
    assert max(sizes) <= 6**3
    value, grad = expectation(program).value_and_grad(KEY, matrix)
    np.testing.assert_allclose(value, exact(matrix), rtol=1e-5)
    np.testing.assert_allclose(grad, jax.grad(exact)(matrix), rtol=1e-4, atol=1e-6)


KEY = jax.random.key(0)


def _variables(f, *args):
    todo = [jax.make_jaxpr(f)(*args).jaxpr]
    while todo:
        jaxpr = todo.pop()
        for eqn in jaxpr.eqns:
            todo += [getattr(j, "jaxpr", j) for j in jax.extend.core.jaxprs_in_params(eqn.params)]
            yield from eqn.outvars


# -- plates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", BINARY.values(), ids=BINARY)
@pytest.mark.parametrize("batched", [True, False])
def test_elements_kept_apart(how, batched):
    a = jnp.arange(4.0)

    def program(t):
        p = jax.nn.sigmoid(t)
        if batched:
            return ((sample(dist.Bernoulli(p), how) - a) ** 2).sum()
        one = lambda p, a: (sample(dist.Bernoulli(p), how) - a) ** 2
        return jax.vmap(one)(p, a).sum()

    def exact(t):
        p = jax.nn.sigmoid(t)
        return (p * (1.0 - a) ** 2 + (1.0 - p) * a**2).sum()

    holds(program, THETA, exact)


@pytest.mark.parametrize("how", BINARY.values(), ids=BINARY)
@pytest.mark.parametrize("batched", [True, False])
def test_elements_mixed(how, batched):
    f = lambda z: jnp.exp(0.5 * z.sum()) * jnp.cos(z[0])

    def program(t):
        p = jax.nn.sigmoid(t)
        if batched:
            return f(sample(dist.Bernoulli(p), how))
        return f(jax.vmap(lambda p: sample(dist.Bernoulli(p), how))(p))

    holds(program, THETA, lambda t: over_binary(4, f, jax.nn.sigmoid(t)))


def test_enumeration_is_linear_in_a_plate():
    logits = jnp.zeros((1000, 3))

    def program(logits):
        z = sample(dist.Categorical(logits=logits), enumerate_support())
        return jnp.sin(z + jnp.arange(1000.0)).sum()

    f = lambda logits: expectation(program).value(KEY, logits)
    assert max(v.aval.size for v in _variables(f, logits)) <= 3 * 1000 * 3


def test_credit_stays_with_its_element():
    """An element's gradient has the variance of its own cost, not of the sum of a thousand."""
    f = jnp.linspace(-1.0, 1.0, 1000)

    def program(t):
        return (sample(dist.Bernoulli(jax.nn.sigmoid(t)), score()) * f).sum()

    grads = jax.vmap(lambda k: expectation(program).grad(k, jnp.zeros(1000)))(
        jax.random.split(KEY, 200)
    )
    assert float(jnp.abs(grads).max()) <= 1.0


def test_draws_of_a_vmap_are_independent_without_a_mapped_argument():
    def program(t):
        draw = lambda _: sample(dist.Bernoulli(jax.nn.sigmoid(t)), score())
        inner = jax.vmap(jax.jit(draw))(jnp.arange(3))
        return jnp.log(jnp.exp(inner * 1.0).mean())

    exact = lambda t: over_binary(3, lambda z: jnp.log(jnp.exp(z).mean()), jax.nn.sigmoid(t))
    holds(program, jnp.asarray(0.4), exact)


def test_mixture_with_looked_up_parameters():
    theta = {"m": jnp.array([0.5, -1.0]), "l": jnp.array([[0.1, 0.2], [0.3, -0.4], [0.0, 1.0]])}
    a = jnp.arange(3.0)

    def program(t):
        def one(a, logits):
            z = sample(dist.Categorical(logits=logits), enumerate_support())
            x = sample(dist.Normal(t["m"][z], 1.0), pathwise())
            return (x - a) ** 2 * t["m"][z]

        return jax.vmap(one)(a, t["l"]).sum()

    def exact(t):
        p = jax.nn.softmax(t["l"], -1)
        return (p * ((t["m"] - a[:, None]) ** 2 + 1.0) * t["m"]).sum()

    ordered = lambda t: exact(t)
    holds(program, theta, ordered)


# -- scan, cond, jit ------------------------------------------------------------------------------


def two_levels(steps):
    """A score-function site that moves the state, a pathwise and a summed one, in a scan."""
    us = jnp.linspace(-1.0, 1.0, steps)

    def program(th):
        def body(carry, u):
            h, total = carry
            a = sample(dist.Bernoulli(jax.nn.sigmoid(th[0] * h + u)), score())
            x = sample(dist.Normal(th[1] * h, 1.0), pathwise())
            z = sample(dist.Bernoulli(jax.nn.sigmoid(th[0] + x)), enumerate_support())
            return (0.5 * h + a * 0.5, total + (z - 0.3 * x + h) ** 2), jnp.sin(z + a)

        (h, total), ys = lax.scan(body, (jnp.array(0.1), jnp.array(0.0)), us)
        return total + ys.sum() + h**2

    def exact(th):
        def rest(h, t):
            if t == steps:
                return h**2
            p, x = jax.nn.sigmoid(th[0] * h + us[t]), th[1] * h + NODES
            pz = jax.nn.sigmoid(th[0] + x)
            mean = lambda f: (WEIGHTS * (pz * f(1.0, x) + (1.0 - pz) * f(0.0, x))).sum()
            out = mean(lambda z, x: (z - 0.3 * x + h) ** 2)
            for a, pa in ((1.0, p), (0.0, 1.0 - p)):
                sent = rest(0.5 * h + 0.5 * a, t + 1)
                out += pa * (mean(lambda z, x, a=a: jnp.sin(z + a)) + sent)
            return out

        return rest(jnp.array(0.1), 0)

    return program, exact


@pytest.mark.parametrize("unrolled", [16, 0])
def test_scan(unrolled, monkeypatch):
    monkeypatch.setattr(_graph, "UNROLLED", unrolled)
    program, exact = two_levels(4)
    holds(program, jnp.array([0.8, -0.4]), exact, draws=40_000)


def test_long_scan_agrees_with_the_score_function():
    program, _ = two_levels(30)
    found = check_unbiased(program, jnp.array([0.8, -0.4]), draws=20_000)
    assert found, str(found)


@pytest.mark.parametrize("how", [score(), rejection(0)], ids=["score", "rejection"])
@pytest.mark.parametrize("unrolled", [16, 0])
def test_gammas_that_reach_the_next_step(how, unrolled, monkeypatch):
    """x' ~ Gamma(1 + t x, 1): the means have a closed form, of any number of steps."""
    monkeypatch.setattr(_graph, "UNROLLED", unrolled)

    def program(t):
        def body(x, _):
            x = sample(dist.Gamma(1.0 + t * x, 1.0), how)
            return x, x

        last, xs = lax.scan(body, jnp.array(1.0), None, length=4)
        return xs.sum() + last**2

    def exact(t):
        mean, square, total = 1.0, 1.0, 0.0
        for _ in range(4):  # E[x'] = a and E[x'^2] = a + a^2 for a shape a
            square = 1.0 + t * mean + 1.0 + 2.0 * t * mean + t**2 * square
            mean = 1.0 + t * mean
            total = total + mean
        return total + square

    holds(program, jnp.asarray(0.4), exact, draws=40_000)


def test_summed_choice_that_reaches_the_next_step_is_refused():
    def program(t):
        def body(h, _):
            z = sample(dist.Bernoulli(jax.nn.sigmoid(t + h)), enumerate_support())
            return jnp.tanh(h + z), h

        return lax.scan(body, 0.0, None, length=100)[0]

    with pytest.raises(
        RitzError, match=r"Enumerate inside a scan of 100 steps reaches .*score\(\)"
    ):
        expectation(program).value(KEY, 0.3)


def test_cond():
    def program(t):
        z = sample(dist.Bernoulli(jax.nn.sigmoid(t)), enumerate_support())
        left = lambda: sample(dist.Normal(t, 1.0), pathwise())
        right = lambda: 2.0 * sample(dist.Bernoulli(jax.nn.sigmoid(2.0 * t)), score())
        return lax.cond(z > 0, left, right) ** 2

    def exact(t):
        p = jax.nn.sigmoid(t)
        return p * (t**2 + 1.0) + (1.0 - p) * 4.0 * jax.nn.sigmoid(2.0 * t)

    holds(program, jnp.asarray(0.3), exact)


def test_a_branch_that_is_not_taken_may_have_no_gradient():
    """At negative x the first branch has no derivative, and neither has its choice."""

    def program(t):
        x = sample(dist.Bernoulli(logits=t), score()).astype(float) - 0.5
        root = lambda x: jnp.sqrt(x) + sample(dist.Normal(t * jnp.log(x), 1.0), score())
        return lax.cond(x > 0.0, root, lambda x: t * x, x)

    p = jax.nn.sigmoid
    exact = lambda t: p(t) * (0.5**0.5 + t * np.log(0.5)) - 0.5 * t * p(-t)
    holds(program, 0.3, exact)


def test_branches_and_loops_without_choices_keep_elements_apart():
    """A thousand coins go through cond and scan one by one, two plates together."""
    n, t = 200, 0.3
    coins = lambda t, n=n: sample(dist.Bernoulli(logits=jnp.full(n, t)), enumerate_support())
    both = lambda z, w: jnp.exp(0.5 * z) * (1.0 + w)
    p = jax.nn.sigmoid(t)
    mean = 1.0 + p * (np.exp(0.5) - 1.0)

    def by_cond(t):
        z = coins(t).astype(float)
        return lax.cond(t > 0, lambda z: jnp.exp(0.5 * z), lambda z: z, z).mean()

    def by_map(t):
        return lax.map(lambda z: jnp.exp(0.5 * z), coins(t).astype(float)).mean()

    def nested(t):
        z = coins(t, (n // 2, 2)).astype(float)
        w = sample(dist.Bernoulli(logits=jnp.zeros(2)), enumerate_support()).astype(float)
        inner = lambda z: lax.map(lambda zw: both(*zw), (z, w))
        return lax.map(inner, z).mean()

    for program, value in ((by_cond, mean), (by_map, mean), (nested, 1.5 * mean)):
        np.testing.assert_allclose(expectation(program).value(jax.random.key(0), t), value, 1e-5)


def test_a_running_sum_mixes_elements():
    """What a scan carries has seen all rows so far: their elements are not apart."""

    def program(t):
        z = sample(dist.Bernoulli(logits=jnp.full(3, t)), enumerate_support()).astype(float)
        _, sums = lax.scan(lambda c, z: (c + z, (c + z) ** 2), 0.0, z)
        return sums.sum()

    exact = lambda t: over_binary(3, lambda z: (jnp.cumsum(z) ** 2).sum(), jax.nn.sigmoid(t))
    np.testing.assert_allclose(expectation(program).value(jax.random.key(0), 0.3), exact(0.3), 1e-5)
    holds(program, 0.3, exact, draws=200)


class Unnamed(Score):
    """A score function whose note does not say that it is a log density."""

    def draw(self, q, key):
        value, notes = super().draw(q, key)
        return Draw(value, {"lp": next(iter(notes.values()))})


def test_notes_that_a_long_scan_cannot_read_are_refused():
    def program(t):
        def step(c, _):
            return 0.5 * c + sample(dist.Bernoulli(logits=t + 0.1 * c), Unnamed(None)), None

        return lax.scan(step, 0.0, None, length=20)[0]

    with pytest.raises(RitzError, match="none of its notes is a log density"):
        expectation(program).grad(jax.random.key(0), 0.3)


def test_choices_that_come_together_are_counted():
    def program(t):
        return sum(sample(dist.Bernoulli(logits=t)) for _ in range(20)) ** 2 * 1.0

    with pytest.raises(RitzError, match=r"brings together 17 choices .* at most 65,536"):
        expectation(program).grad(jax.random.key(0), 0.3)


def test_widths_may_differ():
    with jax.enable_x64(True):

        def program(t):
            step = lambda c, _: (
                0.5 * c + sample(dist.Normal(t, 1.0), score()).astype(jnp.float32),
                None,
            )
            x = lax.scan(step, jnp.float32(0.0), None, length=20)[0]
            z = sample(dist.Bernoulli(logits=t.astype(float)), score()).astype(jnp.float32)
            return jnp.tanh(z) * jnp.float32(2.0) + x

        grad = expectation(program).grad(jax.random.key(0), jnp.float32(0.3))
        assert grad.dtype == jnp.float32
        assert np.isfinite(grad)


def test_a_case_that_is_left_out_may_be_no_number():
    """NumPyro guards against infinite logits so; a mean of that case would spoil the gradient."""

    def program(q):
        z = sample(q, enumerate_support())
        return jnp.where(q.logits > -9.0, 3.0 * z, jnp.inf * z).sum() + q.log_prob(z).sum()

    q = jax.tree.map(jnp.asarray, dist.Bernoulli(logits=jnp.array([0.4, -0.3])))
    value, grad = expectation(program).value_and_grad(KEY, q)
    p = jax.nn.sigmoid(q.logits)
    exact = lambda p: (3.0 * p + p * jnp.log(p) + (1.0 - p) * jnp.log1p(-p)).sum()
    np.testing.assert_allclose(value, exact(p), rtol=1e-5)
    np.testing.assert_allclose(grad.logits, jax.grad(exact)(p) * p * (1.0 - p), rtol=1e-5)


def test_while_loop_is_refused():
    def program(t):
        step = lambda x: x + sample(dist.Normal(t, 1.0))
        return lax.while_loop(lambda x: x < 1.0, step, 0.0)

    with pytest.raises(RitzError, match="samples inside while, which expectation cannot follow"):
        expectation(program).value(KEY, 1.0)


def test_second_derivative_by_the_score_function():
    program = lambda t: sample(dist.Bernoulli(jax.nn.sigmoid(t)), score()) * 3.0
    second = jax.grad(lambda t, k: expectation(program).grad(k, t))
    got = jax.vmap(lambda k: second(0.4, k))(jax.random.split(KEY, 50_000))
    exact = jax.grad(jax.grad(lambda t: 3.0 * jax.nn.sigmoid(t)))(0.4)
    assert abs(got.mean() - exact) < 4.5 * got.std() / 50_000**0.5


def test_a_baseline_learns_the_mean_and_changes_no_mean():
    def program(params):
        t, b = params
        return sample(dist.Bernoulli(jax.nn.sigmoid(t)), score(baseline=b)) * -2.0

    def step(b, key):
        grad = expectation(program).grad(key, (jnp.asarray(0.3), b))[1]
        return eqx.apply_updates(b, jax.tree.map(lambda g: -0.05 * g, grad)), b()

    keys = jax.random.split(KEY, 2000)
    path = lax.scan(step, running_mean(), keys)[1][100:]
    assert abs(float(path.mean()) - float(jax.nn.sigmoid(0.3))) < 0.05  # 4.5 s.e.


class Network(eqx.Module):
    """A baseline for each row, from its covariate."""

    x: jax.Array
    net: eqx.nn.MLP

    def __call__(self):
        return jax.vmap(self.net)(lax.stop_gradient(self.x)[:, None])


def test_a_network_is_a_baseline():
    """It learns what f is for each row, so that the gradient's variance falls, and its mean not."""
    x = jnp.linspace(-2.0, 2.0, 8)

    def program(t, b):
        z = sample(dist.Bernoulli(logits=t * x), score(baseline=b)).astype(float)
        return ((z - 3.0 * x) ** 2).sum()

    grads = lambda b, n: jax.vmap(lambda k: expectation(program).grad(k, 0.3, b))(
        jax.random.split(jax.random.key(5), n)
    )

    def step(state, key):
        b, moments = state
        wanted = expectation(lambda b: program(0.3, b))
        grad = wanted.grad(key, b)
        moments = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g**2, moments, grad)
        move = jax.tree.map(lambda g, m: -0.01 * g / (jnp.sqrt(m) + 1e-6), grad, moments)
        return (eqx.apply_updates(b, move), moments), None

    first = Network(x, eqx.nn.MLP(1, "scalar", 16, 1, jax.nn.tanh, key=KEY))
    arrays, static = eqx.partition(first, eqx.is_array)
    body = lambda s, k: (lambda new: ((eqx.filter(new[0][0], eqx.is_array), new[0][1]), None))(
        step((eqx.combine(s[0], static), s[1]), k)
    )
    zeros = jax.tree.map(jnp.zeros_like, arrays)
    (arrays, _), _ = jax.jit(lambda s: lax.scan(body, s, jax.random.split(KEY, 3000)))(
        (arrays, zeros)
    )
    learned = eqx.combine(arrays, static)
    before, after = np.asarray(grads(first, 2000)), np.asarray(grads(learned, 2000))
    assert after.var() < 0.1 * before.var()
    exact = jax.grad(lambda t: (jax.nn.sigmoid(t * x) * (1.0 - 6.0 * x)).sum())(0.3)
    assert abs(after.mean() - exact) < 4.0 * after.std() / 2000**0.5


# -- wrong estimators are found, and bad input told -----------------------------------------------


class WithoutScore(Score):
    """Wrong: the score term is missing."""

    def combine(self, f, notes):
        return f


class UncentredWeights(Enumerate):
    """Wrong: the gradient of the weights is missing."""

    def draw(self, q, key):
        values, notes = super().draw(q, key)
        return Draw(values, jax.tree.map(jax.lax.stop_gradient, notes))


class OwnBaseline(Score):
    """Wrong: the baseline depends on the draw."""

    def combine(self, f, notes):
        log_q = notes["log_q"]
        credit = jnp.expm1(log_q - jax.lax.stop_gradient(log_q))
        return f + 0.5 * f * credit


@pytest.mark.parametrize("wrong", [WithoutScore(), UncentredWeights(), OwnBaseline()])
@pytest.mark.parametrize("exact", [True, False])
def test_wrong_estimator_is_found(wrong, exact):
    f = lambda z, t: (z - 0.3) ** 2 * jnp.sin(t) + z * t
    program = lambda t: f(sample(dist.Bernoulli(jax.nn.sigmoid(t)), wrong), t)
    known = lambda t: over_binary(1, lambda z: f(z[0], t), jax.nn.sigmoid(t)[None])
    found = check_unbiased(program, jnp.asarray(0.7), exact=known if exact else None)
    assert not found
    assert "BIASED: entry 0 of the gradient" in str(found)


SKEWED = ritz.target.from_log_density(lambda x: (jnp.sin(x) - 0.5 * x**2).sum(), jnp.zeros(1))
detaching = jax.jit(lambda q: sample_and_log_prob(q, sticking_the_landing()))


@pytest.mark.parametrize(
    "draw",
    [lambda q: sample_and_log_prob(q, sticking_the_landing()), detaching],
    ids=["plain", "jit, whose trace is kept"],
)
def test_the_reference_has_plain_log_densities(draw):
    """Sticking the landing is biased in a bound that is not linear in log q."""

    def program(q, draw):
        def log_weight(_):
            x, log_q = draw(q)
            return SKEWED.log_density(x) - log_q

        return -ritz.objective.log_mean_exp(jax.vmap(log_weight)(jnp.arange(4)))

    q = ritz.family.MeanField(jnp.array([0.5]), jnp.array([0.3]))
    assert not check_unbiased(lambda q: program(q, draw), q, draws=10_000)
    found = check_unbiased(lambda q: program(q, sample_and_log_prob), q, draws=10_000)
    assert found, str(found)


@pytest.mark.parametrize(
    ("how", "right"),
    [
        (rebar(), True),
        (relax(lambda z: jnp.tanh(z).sum()), True),
        (gumbel_softmax(), False),
        (straight_through(), False),
    ],
    ids=["rebar", "relax", "gumbel_softmax", "straight_through"],
)
def test_relaxed_choices_are_compared_with_hard_ones(how, right):
    coin = lambda t: (sample(dist.Bernoulli(logits=t), how) + t) ** 3
    die = lambda t: (sample(dist.Categorical(logits=t), how) @ jnp.arange(3.0)) ** 2
    for program, at in [(coin, 0.3), (die, jnp.zeros(3))]:
        found = check_unbiased(program, at)
        assert bool(found) == right, str(found)


def test_an_unknown_relaxation_needs_an_exact_reference():
    class Halved(AbstractEstimator):
        def value(self, q):
            return jax.ShapeDtypeStruct((), float)

        def draw(self, q, key):
            return Draw(0.5 * law.draw(q, key), {})

    program = lambda t: sample(dist.Poisson(t), Halved())
    with pytest.raises(RitzError, match=r"Halved gives .* draws are int32 .*pass exact="):
        check_unbiased(program, 2.0)


def test_a_distribution_of_ones_own():
    class Triangular(eqx.Module):
        """Density 2 (1 - x / w) / w on (0, w)."""

        width: jax.Array

        def sample(self, key):
            return self.width * (1.0 - jnp.sqrt(1.0 - jax.random.uniform(key)))

        def log_prob(self, x):
            return jnp.log(2.0 * (1.0 - x / self.width) / self.width)

    wide = jnp.asarray(2.0)  # the density vanishes at the end that moves, so the score is unbiased
    program = lambda w: sample(Triangular(w), score()) ** 2 * w
    holds(program, wide, lambda w: w**3 / 6.0)


def test_sample_and_log_prob_of_a_plate():
    program = lambda p: sample_and_log_prob(dist.Bernoulli(p * jnp.ones(3)))[1]
    p = 0.3
    value = expectation(program).value(KEY, p)
    assert value == pytest.approx(3 * (p * np.log(p) + (1 - p) * np.log(1 - p)), rel=1e-5)


NORMAL = dist.Normal(0.0, 1.0)
drawn = lambda t: sample(dist.Normal(t, 1.0))


def value(program):
    return expectation(program).value(KEY, 0.3)


def no_return(t):
    sample(NORMAL)


def branches(t):
    return t if sample(NORMAL) > 0.0 else 0.0


BAD = {
    "name of an estimator": (
        lambda: value(lambda t: sample(NORMAL, "score")),
        r"sample: 'score' arrived as the estimator, .* such as score\(\)",
    ),
    "function that makes an estimator": (
        lambda: value(lambda t: sample_and_log_prob(NORMAL, score)[0]),
        r"the function score arrived as the estimator, .* such as score\(\)",
    ),
    "class of an estimator": (
        lambda: value(lambda t: sample(NORMAL, Score)),
        r"the class Score arrived as the estimator, .* such as score\(\)",
    ),
    "number": (lambda: value(lambda t: sample(t)), "Tracer arrived, expected a family, a NumPyro"),
    "nothing": (lambda: value(lambda t: sample(None)), "sample: None arrived, expected a family"),
    "class of a distribution": (
        lambda: value(lambda t: sample(dist.Normal)),
        r"the class Normal arrived; make one: Normal\(...\)",
    ),
    "constant": (lambda: value(lambda t: sample(dist.Delta(t))), "Delta arrived.* use its value"),
    "baseline": (lambda: score(3), r"baseline=3 arrived.* write score\(draws=3\)"),
    "no return": (lambda: value(no_return), "no_return returned None; .* lack a return"),
    "pair": (lambda: value(lambda t: (t, t)), "returned a tuple; a program returns one real"),
    "text": (lambda: value(lambda t: "x"), "returned 'x'; a program returns one real"),
    "if": (lambda: value(branches), r"program 'branches' \(line \d+ .*use jax.numpy.where"),
    "float": (lambda: value(lambda t: float(sample(NORMAL))), "needs the value of a traced array"),
    "integer argument": (lambda: expectation(drawn).grad(KEY, 3), "argument is 3, without a float"),
    "integers in a dict": (
        lambda: expectation(lambda t: drawn(t["a"])).grad(KEY, {"a": 1}),
        "a dict, without a floating number .*; pass floats",
    ),
    "integer to check": (lambda: check_unbiased(drawn, 1), "is 1, without a floating number"),
    "exact of a vector": (
        lambda: check_unbiased(drawn, 1.0, exact=lambda t: t * jnp.ones(3), draws=100),
        r"exact returned float32 of shape \(3,\), expected one real number",
    ),
    "exact of nothing": (
        lambda: check_unbiased(drawn, 1.0, exact=lambda t: None, draws=100),
        "exact returned None, expected one real number",
    ),
    "exact of two": (
        lambda: check_unbiased(drawn, 1.0, exact=lambda t, u: t),
        r"exact: a function that takes \(t, u\) arrived, expected a function of \(argument 1\)",
    ),
    "outside": (lambda: sample(dist.Normal(0.0, 1.0)), "called outside a program"),
    "vector": (
        lambda: expectation(lambda t: jnp.ones(3) * t).value(KEY, 1.0),
        r"returned float32 of shape \(3,\); a program returns one real number",
    ),
    "integer": (
        lambda: expectation(lambda t: jnp.array(1)).value(KEY, 1.0),
        "returned int32 of shape",
    ),
    "no function": (lambda: expectation(3), "int arrived, expected a function"),
    "no argument": (
        lambda: expectation(lambda: 1.0).grad(KEY),
        "without arguments has no gradient",
    ),
    "pathwise for a discrete choice": (
        lambda: sample(dist.Bernoulli(0.5), pathwise()),
        r"not differentiable; use enumerate_support\(\) or score\(\)",
    ),
    "enumeration of a continuous choice": (
        lambda: sample(dist.Normal(0.0, 1.0), enumerate_support()),
        r"its support is not finite; use pathwise\(\)",
    ),
    "too many combinations": (
        lambda: expectation(
            lambda t: jnp.exp(sample(dist.Bernoulli(t * jnp.ones(20)), enumerate_support()).sum())
        ).value(KEY, 0.3),
        r"mixes 20 elements of 2 values each, which makes 2\^20",
    ),
    "derivative inside": (
        lambda: expectation(
            lambda t: jax.grad(lambda s: sample(dist.Normal(s, 1.0)) ** 2)(t)
        ).value(KEY, 0.3),
        "differentiates through sample",
    ),
    "one draw": (lambda: score(draws=1), "draws=1 arrived"),
    "two baselines": (lambda: score(running_mean(), draws=3), "leave-one-out is a baseline"),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_function_is_an_objective():
    """Rényi's bound in five lines is the packaged one, and matches the analytic value."""

    def bound(q, target):
        def log_weight(_):
            x, log_q = sample_and_log_prob(q)
            return 0.5 * (target.log_density(x) - log_q)

        return -2.0 * ritz.objective.log_mean_exp(jax.vmap(log_weight)(jnp.arange(8)))

    target = ritz.target.from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.zeros(2))
    own = ritz.fit(target, objective=bound, steps=300, progress=False)
    packaged = ritz.fit(target, objective=ritz.objective.renyi(0.5, 8), steps=300, progress=False)
    np.testing.assert_array_equal(own.history.loss, packaged.history.loss)
    assert law.is_reparameterised(own.q)


# -- nested: densities that are estimated ----------------------------------------------------------


def gaussian_pair(t):
    def program():
        r = sample(dist.Normal(t, 1.0), name="r")
        sample(dist.Normal(0.5 * r, 0.7), name="x")

    return program


def proposal_of(exact):
    def proposal(x):
        # the posterior of r given x, exactly or too wide
        variance = 1.0 / (1.0 + 0.25 / 0.49)
        mean = variance * (0.3 + 0.5 * x / 0.49)
        sample(dist.Normal(mean, variance**0.5 * (1.0 if exact else 1.5)), name="r")

    return proposal


def marginal_density(x, t):
    return dist.Normal(0.5 * t, (0.25 + 0.49) ** 0.5).log_prob(x)


def test_marginal_with_the_exact_proposal_is_exact():
    def program(t):
        q = ritz.objective.marginal(
            gaussian_pair(t), "x", ritz.objective.importance(3, proposal_of(True))
        )
        x, log_q = sample_and_log_prob(q)
        return (log_q - marginal_density(x, t)) ** 2

    values = jax.vmap(lambda k: expectation(program).value(k, 0.3))(jax.random.split(KEY, 100))
    assert float(values.max()) < 1e-8


@pytest.mark.parametrize("proposal", [None, proposal_of(False)])
def test_marginal_bounds_in_the_right_direction_and_tightens(proposal):
    def gap(k):
        def program(t):
            via = ritz.objective.importance(k, proposal)
            x, log_q = sample_and_log_prob(ritz.objective.marginal(gaussian_pair(t), "x", via))
            return log_q - marginal_density(x, t)

        keys = jax.random.split(KEY, 20_000)
        values = jax.vmap(lambda key: expectation(program).value(key, 0.3))(keys)
        return float(values.mean()), float(values.std() / len(keys) ** 0.5)

    found = [gap(k) for k in (1, 4, 32)]
    assert all(mean > 4.0 * se for mean, se in found)
    assert found[0][0] > found[1][0] > found[2][0]


def test_density_of_a_marginal_at_a_point_is_unbiased():
    def program(t):
        via = ritz.objective.importance(2)
        q = ritz.objective.marginal(gaussian_pair(t), "x", via)
        return jnp.exp(ritz.objective.log_prob(q, 0.4))

    holds(program, jnp.asarray(0.3), lambda t: jnp.exp(marginal_density(0.4, t)))


def gaussian_chain(t):
    """Three steps, so that x ~ N(t, 3)."""

    def program():
        r = sample(dist.Normal(t, 1.0), name="r")
        s = sample(dist.Normal(r, 1.0), name="s")
        sample(dist.Normal(s, 1.0), name="x")

    return program


def about(*names):
    def proposal(x):
        for name in names:
            sample(dist.Normal(x, 1.5), name=name)

    return proposal


@pytest.mark.parametrize("names", [("s",), ("r",), ("r", "s"), ()])
def test_what_no_proposal_names_comes_from_the_program(names):
    via = ritz.objective.importance(2, about(*names))

    def density(t):
        q = ritz.objective.marginal(gaussian_chain(t), "x", via)
        return jnp.exp(ritz.objective.log_prob(q, 1.0))

    holds(density, jnp.asarray(0.3), lambda t: jnp.exp(dist.Normal(t, 3**0.5).log_prob(1.0)))


def test_reciprocal_density_of_a_draw_is_unbiased_given_part_of_a_proposal():
    """The mean of f(x) / q̂(x) over draws is the integral of f."""
    via = ritz.objective.importance(2, about("s"))

    def program(t):
        x, log_q = sample_and_log_prob(ritz.objective.marginal(gaussian_chain(t), "x", via))
        return jnp.exp(dist.Normal(0.5, 1.0).log_prob(x) - log_q) * t

    holds(program, jnp.asarray(0.3), lambda t: t)


def test_draw_of_a_marginal():
    def program(t):
        via = ritz.objective.importance(2)
        return sample(ritz.objective.marginal(gaussian_chain(t), "x", via)) ** 2

    holds(program, jnp.asarray(0.3), lambda t: t**2 + 3.0)


def resampled_pair(t):
    """x ~ N(r, 1), where r is one of two proposals for N(t, 1)."""

    class Target(eqx.Module):
        loc: jax.Array

        def log_density(self, r):
            return -0.5 * (r - self.loc) ** 2

    via = ritz.objective.sir(2, dist.Normal(0.0, 1.5))

    def program():
        r = sample(ritz.objective.normalize(Target(t), via), name="r")
        sample(dist.Normal(r, 1.0), name="x")

    return program


@pytest.mark.parametrize("proposal", [None, about("r")])
def test_resampling_inside_a_marginal(proposal):
    def program(t):
        via = ritz.objective.importance(2, proposal)
        q = ritz.objective.marginal(resampled_pair(t), "x", via)
        return jnp.exp(ritz.objective.log_prob(q, 0.7))

    def exact(t):
        r = 1.5 * NODES
        log_w = -0.5 * (r - t) ** 2 - dist.Normal(0.0, 1.5).log_prob(r)
        first = jax.nn.sigmoid(log_w[:, None] - log_w)  # probability of the first of the two
        return 2.0 * (WEIGHTS * jnp.exp(dist.Normal(r, 1.0).log_prob(0.7))) @ first @ WEIGHTS

    holds(program, jnp.asarray(0.3), exact)


def test_elbo_of_resampling_is_the_importance_weighted_bound():
    class Target:
        def log_density(self, x):
            return -0.5 * x**2

    target = Target()

    def nested(t):
        via = ritz.objective.sir(2, dist.Normal(t, 1.5))
        x, log_q = sample_and_log_prob(ritz.objective.normalize(target, via))
        return target.log_density(x) - log_q

    def exact(t):
        x = t + 1.5 * NODES
        lw = -0.5 * x**2 - dist.Normal(t, 1.5).log_prob(x)
        both = jnp.logaddexp(lw[:, None], lw) - jnp.log(2.0)
        return WEIGHTS @ both @ WEIGHTS

    holds(nested, jnp.asarray(0.3), exact)


def nested(program, keep):
    q = ritz.objective.marginal(program, keep, ritz.objective.importance(2))
    return expectation(lambda: sample_and_log_prob(q)[1]).value(KEY)


def at_one(program, keep="x", proposal=None):
    q = ritz.objective.marginal(program, keep, ritz.objective.importance(2, proposal))
    return expectation(lambda: ritz.objective.log_prob(q, 1.0)).value(KEY)


def in_vmap():
    z = jax.vmap(lambda m: sample(dist.Normal(m, 1.0), name="z"))(jnp.zeros(2))
    sample(dist.Normal(z.sum(), 1.0), name="x")


def in_scan():
    step = lambda z, _: (sample(dist.Normal(z, 1.0), name="z"), None)
    sample(dist.Normal(lax.scan(step, 0.0, jnp.arange(3))[0], 1.0), name="x")


def in_cond():
    draw = lambda: sample(dist.Normal(0.0, 1.0), name="z")
    sample(dist.Normal(lax.cond(jnp.array(True), draw, lambda: 0.0), 1.0), name="x")


def sticking():
    z = sample(dist.Normal(0.0, 1.0), ritz.estimator.sticking_the_landing(), name="z")
    sample(dist.Normal(z, 1.0), name="x")


PAIR = ritz.objective.marginal(gaussian_pair(0.0), "x", ritz.objective.importance(2))
BAD_NESTED = {
    "no name": (
        lambda: nested(lambda: sample(dist.Normal(0.0, 1.0)), "x"),
        "must name its choices",
    ),
    "no such": (lambda: nested(gaussian_pair(0.0), "y"), "keep='y': no such choice; .* r, x"),
    "via": (lambda: ritz.objective.marginal(gaussian_pair(0.0), "x", 3), "expected importance"),
    "sir": (lambda: ritz.objective.normalize(3, 4), "expected sir"),
    "no such at a point": (
        lambda: at_one(gaussian_pair(0.0), "y"),
        "keep='y': no such choice; .* r, x",
    ),
    "proposal of a stranger": (
        lambda: at_one(gaussian_pair(0.0), "x", about("z")),
        "the proposal names 'z', .* may name r",
    ),
    "proposal of a stranger, in a draw": (
        lambda: expectation(
            lambda: sample_and_log_prob(
                ritz.objective.marginal(
                    gaussian_pair(0.0), "x", ritz.objective.importance(1, about("z"))
                )
            )[1]
        ).value(KEY),
        "the proposal names 'z', .* may name r",
    ),
    "proposal of what is kept": (
        lambda: at_one(gaussian_pair(0.0), "x", about("x")),
        "the proposal names 'x', .* may name r",
    ),
    "proposal that is no function": (
        lambda: ritz.objective.importance(2, 3),
        "proposal=int arrived, expected a function",
    ),
    "no function": (
        lambda: ritz.objective.marginal(3, "x", ritz.objective.importance(2)),
        "int arrived, expected a function",
    ),
    "inside vmap": (lambda: at_one(in_vmap), "z is inside vmap, .* write a batch inside"),
    "inside scan": (lambda: at_one(in_scan), "z is inside vmap, .* write a batch inside"),
    "inside cond": (lambda: at_one(in_cond), "z is inside vmap, .* write a batch inside"),
    "detached": (lambda: at_one(sticking), r"biased in a program for marginal.*use pathwise\(\)"),
    "estimator of a marginal": (
        lambda: sample_and_log_prob(PAIR, score()),
        "Score cannot estimate a Marginal, .*its program's",
    ),
    "estimator of a draw of a marginal": (
        lambda: sample(PAIR, score()),
        "Score cannot estimate a Marginal, .*its program's",
    ),
    "proposal of sir": (
        lambda: ritz.objective.sir(2, 3.0),
        "proposal=float arrived, expected a family",
    ),
    "relaxed choice of sir": (
        lambda: ritz.objective.sir(2, dist.Normal(0.0, 1.0), ritz.estimator.gumbel_softmax()),
        "GumbelSoftmax relaxes the choice",
    ),
    "pathwise choice of sir": (
        lambda: ritz.objective.sir(2, dist.Normal(0.0, 1.0), pathwise()),
        "not differentiable; use enumerate_support",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD_NESTED.values(), ids=BAD_NESTED)
def test_nested_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


# -- functions of expectations ---------------------------------------------------------------------


def one_or_three(p, how=None):
    return lambda: 1.0 + 2.0 * sample(dist.Bernoulli(p), how)


def log_of_average(p, k):
    """The exact expectation of the logarithm of the average of K."""
    n = np.arange(k + 1)
    ways = np.array([math.comb(k, i) for i in n], float)
    return (ways * p**n * (1.0 - p) ** (k - n)) @ np.log(1.0 + 2.0 * n / k)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_log_of_a_mean_is_exact_under_enumeration(k):
    p = 0.3
    program = lambda p: plug_in(jnp.log, mean(one_or_three(p), draws=k))
    value, grad = expectation(program).value_and_grad(KEY, p)
    assert value == pytest.approx(log_of_average(p, k), rel=1e-5)
    slope = (log_of_average(p + 1e-5, k) - log_of_average(p - 1e-5, k)) / 2e-5
    assert grad == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("k", [2, 16])
def test_log_of_a_mean_has_the_gradient_of_its_own_number_of_draws(k):
    def exact(p):
        n = jnp.arange(k + 1)
        ways = jnp.array([math.comb(k, i) for i in range(k + 1)], float)
        return (ways * p**n * (1.0 - p) ** (k - n)) @ jnp.log(1.0 + 2.0 * n / k)

    program = lambda p: plug_in(jnp.log, mean(one_or_three(p, score()), draws=k))
    found = check_unbiased(program, jnp.asarray(0.3), exact=exact)
    assert found, str(found)
    assert found.bias == f"O(1/K), K = {k}: plug_in of log"
    assert found.bias in str(found)
    wrong = check_unbiased(program, jnp.asarray(0.3), exact=lambda p: jnp.log(1.0 + 2.0 * p))
    assert bool(wrong) is False


def test_bias_of_plug_in_falls_as_its_mark_says():
    bias = [log_of_average(0.3, k) - np.log(1.6) for k in (1, 4, 16, 64)]
    assert bias[0] / bias[1] == pytest.approx(4.0, rel=0.2)
    assert bias[1] / bias[2] == pytest.approx(4.0, rel=0.1)
    assert bias[2] / bias[3] == pytest.approx(4.0, rel=0.03)
    program = lambda p: plug_in(jnp.log, mean(one_or_three(p), draws=4))
    assert expectation(program).value(KEY, 0.3) - np.log(1.6) == pytest.approx(bias[1], abs=1e-5)


def test_ratio_of_means():
    def program(p):
        ratio = plug_in(lambda a, b: a / b, mean(one_or_three(p), 2), mean(one_or_three(0.5), 1))
        return ratio - 1.0

    assert expectation(program).bias(0.3) == "O(1/K), K = 1: plug_in of a function"
    exact = lambda p: (1.0 + 2.0 * p) * (0.5 + 0.5 / 3.0) - 1.0
    assert expectation(program).value(KEY, 0.3) == pytest.approx(exact(0.3), rel=1e-5)


def test_what_is_linear_in_means_is_exact_and_unmarked():
    def program(p):
        m = mean(one_or_three(p), draws=50)
        nested = mean(lambda: 2.0 * mean(one_or_three(p), draws=2), draws=3)
        numbered = mean(lambda k: k * one_or_three(p)(), draws=3)
        half = jnp.array(0.5) * m + np.float32(1.0) * m * np.array(0.5)
        return 1.0 - (half - 3.0) / jnp.array(2.0) + nested - -numbered * jnp.exp(p) + (2.0 - m)

    def exact(p):
        m = 1.0 + 2.0 * p
        return 1.0 - (m - 3.0) / 2.0 + 2.0 * m + m * jnp.exp(p) + 2.0 - m

    assert expectation(program).bias(0.3) is None
    value, grad = expectation(program).value_and_grad(KEY, 0.3)
    assert value == pytest.approx(float(exact(0.3)), rel=1e-5)
    assert grad == pytest.approx(float(jax.grad(exact)(0.3)), rel=1e-5)


def test_mean_times_a_choice():
    def program(t):
        x = sample(dist.Normal(t, 1.0))
        return mean(lambda: sample(dist.Normal(x, 1.0)), draws=3) * x

    holds(program, jnp.asarray(0.3), lambda t: t**2 + 1.0)


def test_mark_is_found_inside_vmap_scan_and_jit():
    def inner(p):
        return plug_in(jnp.log, mean(one_or_three(p), draws=2))

    def scanned(p):
        return lax.scan(lambda c, _: (c + jax.jit(inner)(p), None), 0.0, jnp.arange(20))[0]

    mapped = lambda p: jax.vmap(lambda _: inner(p))(jnp.arange(3)).mean()
    for program in (scanned, mapped, jax.jit(inner)):
        assert expectation(program).bias(0.3) == "O(1/K), K = 2: plug_in of log"
    both = lambda p: inner(p) + plug_in(jnp.exp, mean(one_or_three(p), draws=8))
    says = "O(1/K), K = 2: plug_in of log; O(1/K), K = 8: plug_in of exp"
    assert expectation(both).bias(0.3) == says
    assert expectation(mapped).value(KEY, 0.3) == pytest.approx(log_of_average(0.3, 2), rel=1e-5)


def test_plug_in_inside_a_loop_that_makes_no_choice():
    def program(p):
        m = mean(one_or_three(p), draws=2)
        step = lambda c, _: (c + plug_in(jnp.log, m), None)
        return lax.scan(step, 0.0, jnp.arange(20))[0] / 20.0

    assert expectation(program).value(KEY, 0.3) == pytest.approx(log_of_average(0.3, 2), rel=1e-5)


NONLINEAR = {
    "log": jnp.log,
    "lax": lax.log,
    "numpy": np.log,
    "math": math.log,
    "float": float,
    "product": lambda m: m * m,
    "quotient": lambda m: m / m,
    "reciprocal": lambda m: 1.0 / m,
    "array over": lambda m: jnp.array(1.0) / m,
    "numpy over": lambda m: np.array(1.0) / m,
    "square": lambda m: m**2,
    "exponential": lambda m: jnp.array(2.0) ** m,
    "absolute": abs,
    "maximum": lambda m: jnp.maximum(m, 0.0),
    "greater": lambda m: m > 0.0,
    "equal": lambda m: m == 0.0,
    "array greater": lambda m: jnp.array(0.0) > m,
    "truth": lambda m: 1.0 if m else 0.0,
    "where": lambda m: jnp.where(True, m, 0.0),
    "stack": lambda m: jnp.stack([m, m]),
    "asarray": jnp.asarray,
    "numpy array": np.asarray,
    "logsumexp": jax.nn.logsumexp,
    "softplus": jax.nn.softplus,
    "vmap": lambda m: jax.vmap(lambda _: m)(jnp.arange(2)).sum(),
    "jit": lambda m: jax.jit(lambda x: x)(m),
    "set": lambda m: jnp.zeros(2).at[0].set(m).sum(),
    "distribution": lambda m: sample(dist.Normal(m, 1.0)),
}


@pytest.mark.parametrize("use", NONLINEAR.values(), ids=NONLINEAR)
def test_what_is_not_linear_in_a_mean_is_refused(use):
    program = lambda p: use(mean(one_or_three(p), draws=2))
    with pytest.raises(RitzError, match=r"write plug_in\(g, mean\)") as caught:
        expectation(program).value(KEY, 0.3)
    assert "\n" not in str(caught.value)


BAD_MEAN = {
    "no draws": (lambda: mean(one_or_three(0.3), draws=0), "draws=0 arrived"),
    "no function": (lambda: mean(3.0, draws=2), "mean: float arrived, expected a function"),
    "arguments": (lambda: mean(lambda a, b: a, draws=2), "of 2 arguments arrived"),
    "no function of means": (lambda: plug_in(3.0), "plug_in: float arrived, .* function"),
    "no mean": (lambda: plug_in(jnp.log, 3.0), "plug_in: float arrived, .*mean"),
    "nothing": (lambda: plug_in(jnp.log), "plug_in: nothing arrived, .*mean"),
}


@pytest.mark.parametrize(("call", "says"), BAD_MEAN.values(), ids=BAD_MEAN)
def test_mean_bad_input(call, says):
    with pytest.raises(RitzError, match=says):
        call()


def test_errors_of_a_program_stay_what_they_are():
    def program(p):
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        expectation(program).value(KEY, 0.3)
