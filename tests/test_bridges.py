"""Bridges between samples, against Gaussians whose plan is known in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz import RitzError
from ritz.transport import gaussian_plan, light_bridge

MEAN0, COV0 = np.array([1.0, -2.0]), np.array([[1.0, 0.3], [0.3, 0.5]])
MEAN1, COV1 = np.array([30.0, 4.0]), np.array([[2.0, -0.8], [-0.8, 1.0]])
EPSILON = 0.5


def exact_bridge(n=2000):
    """A bridge of one component with the arrays that make it the best one between two Gaussians."""
    plan = gaussian_plan(MEAN0, COV0, MEAN1, COV1, EPSILON)
    rng = np.random.default_rng(0)
    x0, x1 = (rng.multivariate_normal(m, s, n) for m, s in ((MEAN0, COV0), (MEAN1, COV1)))
    q = light_bridge(x0, EPSILON, 1)(ritz.target.from_samples(x1), jnp.zeros(2))
    m0, m1, scale = (np.asarray(v, float) for v in paramax.unwrap(q.frame))
    # y = MEAN1 + A (x - MEAN0), with covariance epsilon A.
    np.testing.assert_allclose(plan.conditional_covariance, EPSILON * plan.slope, rtol=1e-9)
    shift = (MEAN1 - m1 + plan.slope @ (m0 - MEAN0)) / scale
    root = np.linalg.cholesky(plan.slope)
    np.fill_diagonal(root, np.log(np.diag(root)))
    return q.__class__(
        height=jnp.zeros(1),
        loc=jnp.asarray(shift)[None],
        root=jnp.asarray(root)[None],
        **{name: getattr(q, name) for name in ("source", "frame", "epsilon", "rows")},
    ), plan


def test_the_gaussian_plan_solves_the_static_problem():
    """Stationary for each change of the cross-covariance; twice the entropy's weight is not."""
    epsilon, inverse = 0.7, np.linalg.inv

    def gradient(cross, epsilon):
        # Of E|x - y|^2 / 2 + epsilon KL, in the cross-covariance.
        below = COV1 - cross.T @ inverse(COV0) @ cross
        return -np.eye(2) + epsilon * inverse(COV0) @ cross @ inverse(below)

    cross = gaussian_plan(MEAN0, COV0, MEAN1, COV1, epsilon).covariance[:2, 2:]
    assert np.abs(gradient(cross, epsilon)).max() < 1e-9
    assert np.abs(gradient(cross, 2.0 * epsilon)).max() > 0.1


def test_the_conditional_law_is_that_of_the_closed_form():
    q, plan = exact_bridge()
    x = MEAN0 + np.array([0.7, -0.4])
    weights, means, covariances = q.conditional(jnp.asarray(x))
    np.testing.assert_allclose(weights, 1.0)
    np.testing.assert_allclose(means[0], MEAN1 + plan.slope @ (x - MEAN0), rtol=1e-4)
    np.testing.assert_allclose(covariances[0], plan.conditional_covariance, rtol=1e-4, atol=1e-5)
    draws = jax.vmap(lambda k: q.push(jnp.asarray(x), k))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(np.cov(draws.T), covariances[0], atol=0.06)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_drift_is_that_of_a_brownian_bridge_to_the_plan(t):
    """Before the end it is (E[X_1 | X_t = x] - x) / (1 - t), a regression between Gaussians."""
    q, plan = exact_bridge()
    x = (1 - t) * MEAN0 + t * MEAN1 + [0.5, 0.8]
    t_in = min(t, 0.999)  # at the end the fraction is 0 / 0, the drift is not
    s0, cross, s1 = (plan.covariance[a, b] for a, b in _BLOCKS)
    now = (
        (1 - t_in) ** 2 * s0
        + t_in**2 * s1
        + t_in * (1 - t_in) * (cross + cross.T + EPSILON * np.eye(2))
    )
    with_end = (1 - t_in) * cross.T + t_in * s1
    middle = (1 - t_in) * MEAN0 + t_in * MEAN1
    x_in = x if t < 1 else x + middle - MEAN1
    end = MEAN1 + with_end @ np.linalg.solve(now, x_in - middle)
    expected = (end - x_in) / (1 - t_in)
    np.testing.assert_allclose(q.drift(jnp.asarray(x), t), expected, atol=0.02)


_BLOCKS = tuple((slice(a, a + 2), slice(b, b + 2)) for a, b in ((0, 0), (0, 2), (2, 2)))


def test_the_loss_is_the_divergence_up_to_a_constant():
    """It is smallest at the best plan; epsilon off by two moves it."""
    q, _ = exact_bridge(20_000)
    rng = np.random.default_rng(1)
    target = ritz.target.from_samples(rng.multivariate_normal(MEAN1, COV1, 20_000))
    arrays = {n: getattr(q, n) for n in ("height", "loc", "root", "source", "frame", "epsilon")}

    def loss(**other):
        given: Any = arrays | other
        one = paramax.unwrap(q.__class__(rows=20_000, **given))
        return float(q.objective.loss(one, target, jax.random.key(0)))

    best = loss()
    for name, by in (("loc", 0.1), ("loc", -0.1), ("root", 0.1), ("root", -0.1)):
        assert loss(**{name: getattr(q, name) + by * (name == "loc" or jnp.eye(2))}) > best
    np.testing.assert_allclose(loss(height=q.height + 1.0), best, atol=1e-3)


def test_the_drift_carries_the_source_to_where_samples_are_pushed():
    """Two components: the bridge simulated in 200 steps, and the law at its end."""
    rng = np.random.default_rng(2)
    x1 = np.where(rng.uniform(size=(2000, 1)) < 0.3, -2.0, 2.0) + 0.3 * rng.normal(size=(2000, 1))
    q = light_bridge(rng.normal(size=(2000, 1)), 0.5, 2)(ritz.target.from_samples(x1), jnp.zeros(1))

    def end(key):
        start, walk = jax.random.split(key)
        x = q.pair(start)[0]

        def step(x, at):
            i, key = at
            noise = jnp.sqrt(0.5 / 200) * jax.random.normal(key, (1,))
            return x + q.drift(x, i / 200) / 200 + noise, None

        return jax.lax.scan(step, x, (jnp.arange(200), jax.random.split(walk, 200)))[0]

    keys = jax.random.split(jax.random.key(3), 2000)
    walked, pushed = jax.jit(jax.vmap(end))(keys), jax.jit(jax.vmap(q.sample))(keys)
    test = ritz.diagnose.energy_test
    assert test(np.asarray(walked), np.asarray(pushed)).p_value > 0.01
    # Without its drift the Brownian motion ends elsewhere.
    still = np.asarray(jax.vmap(lambda k: q.pair(k)[0])(keys)) + 0.7 * rng.normal(size=(2000, 1))
    assert test(np.asarray(walked), still).p_value < 0.01


def test_a_fit_reaches_a_mixture_and_keeps_its_source():
    rng = np.random.default_rng(4)
    x0 = 100.0 * rng.normal(size=(1500, 2))
    x1 = 100.0 * (
        np.sign(rng.normal(size=(1500, 2))) * [2.0, 1.0] + 0.2 * rng.normal(size=(1500, 2))
    )
    fit = ritz.fit(
        ritz.target.from_samples(x1), family=light_bridge(x0, 3000.0, 8), steps=4000, progress=False
    )
    assert fit.status == "ok", fit.reasons
    q: Any = fit.q
    x, _ = jax.vmap(q.pair)(jax.random.split(jax.random.key(0), 50))
    apart = np.abs(np.asarray(x)[:, None] - x0).sum(-1).min(1)
    assert apart.max() < 1e-2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: light_bridge(np.zeros(3)), "x0 of shape"),
        (lambda: light_bridge(np.full((3, 1), np.nan)), "not finite"),
        (lambda: light_bridge("x"), "x0"),
        (lambda: light_bridge(np.zeros((3, 1)), 0.0), "epsilon=0.0"),
        (lambda: light_bridge(np.zeros((3, 1)), "small"), "epsilon='small'"),
        (lambda: light_bridge(np.zeros((3, 1)), components=0), "components=0"),
        (lambda: light_bridge(np.zeros((3, 1)), rows=0), "rows=0"),
        (lambda: gaussian_plan([0.0], [[1.0]], [0.0], [[1.0]], -1.0), "epsilon=-1.0"),
        (lambda: gaussian_plan([0.0], [[1.0]], [0.0, 1.0], [[1.0]], 1.0), "shapes"),
        (lambda: gaussian_plan([0.0], [[-1.0]], [0.0], [[1.0]], 1.0), "cov0"),
    ],
)
def test_bad_input_is_refused_in_a_line(given, said):
    with pytest.raises(RitzError, match=said) as caught:
        given()
    assert "\n" not in str(caught.value)


def test_source_and_target_must_be_of_one_space():
    samples = ritz.target.from_samples(np.random.default_rng(0).normal(size=(100, 2)))
    with pytest.raises(RitzError, match="1 coordinates"):
        ritz.fit(samples, family=light_bridge(np.zeros((5, 1))), progress=False)
    with pytest.raises(RitzError, match="components=200"):
        ritz.fit(samples, family=light_bridge(np.zeros((5, 2)), components=200), progress=False)
    density = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.zeros(2))
    with pytest.raises(RitzError, match="from_samples"):
        ritz.fit(density, family=light_bridge(np.zeros((5, 2))), progress=False)
