"""Reflected paths and bridges against what is known in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz import RitzError
from ritz.transport import domain, gaussian_plan, ipf, reflected_bridge

RNG = np.random.default_rng(0)


def unit(x):
    return jnp.abs(x[0] - 0.5) - 0.5


def wide(x):
    return jnp.abs(x[0]) - 50.0


def flower(x):
    radius = jnp.sqrt(x @ x + 1e-12)
    return radius - 1.0 - 0.3 * jnp.cos(5.0 * jnp.arctan2(x[1], x[0]))


def untrained(x, inside, epsilon, steps):
    """A bridge whose drifts are zero: a reflected Brownian motion."""
    build = reflected_bridge(x, inside, epsilon=epsilon, steps=steps, width=8)
    return paramax.unwrap(build(ritz.target.from_samples(x), jnp.zeros(x.shape[1])))


def ends(q, start, n):
    keys = jax.random.split(jax.random.key(1), n)
    return np.asarray(jax.jit(jax.vmap(lambda key: q.push(start, key)))(keys))


@pytest.mark.parametrize("epsilon", [0.1, 0.4])
def test_reflected_brownian_motion_on_an_interval_has_its_cosine_series(epsilon):
    """E cos(n pi X_1) = cos(n pi x) exp(-n^2 pi^2 epsilon / 2) for each n from 1 up."""
    n, order = 40_000, np.arange(1, 4)
    q = untrained(RNG.uniform(size=(100, 1)), domain(unit), epsilon, 100)
    x = ends(q, jnp.array([0.2]), n)
    found = np.cos(np.pi * order * x)
    exact = np.cos(np.pi * order * 0.2) * np.exp(-0.5 * (np.pi * order) ** 2 * epsilon)
    error = found.mean(0) - exact
    assert (np.abs(error) < 4.0 * found.std(0) / np.sqrt(n) + 2e-3).all()


def test_motion_that_is_not_reflected_is_told_apart():
    q = untrained(RNG.uniform(size=(100, 1)), None, 0.4, 100)
    x = ends(q, jnp.array([0.2]), 10_000)
    assert (x < 0.0).mean() > 0.1
    assert abs(x.mean() - 0.5) > 0.2


def test_a_long_motion_goes_to_the_uniform_law():
    q = untrained(RNG.uniform(size=(100, 1)), domain(unit), 4.0, 400)
    x = ends(q, jnp.array([0.0]), 4000)[:, 0]
    shares = np.histogram(x, bins=10, range=(0.0, 1.0))[0] / len(x)
    assert np.abs(shares - 0.1).max() < 4.5 * np.sqrt(0.09 / len(x))


@pytest.mark.parametrize("steps", [2, 20])
def test_no_place_of_a_path_is_outside(steps):
    """Even where steps are as long as the domain is wide."""
    inside = domain(flower)
    x = RNG.uniform(-1.3, 1.3, (4000, 2)).astype(np.float32)
    x = x[np.asarray(jax.vmap(inside.inside)(jnp.asarray(x)))]
    q = untrained(x, inside, 4.0, steps)
    keys = jax.random.split(jax.random.key(0), len(x))
    for side in (0, 1):
        seen = jax.jit(jax.vmap(lambda x, key, side=side: q.walk(x, key, side).x))
        places = seen(jnp.asarray(x), keys)
        assert bool(jax.vmap(jax.vmap(inside.inside))(places).all())
    free = untrained(x, None, 4.0, steps)
    places = jax.jit(jax.vmap(lambda x, key: free.walk(x, key).x))(jnp.asarray(x), keys)
    assert not bool(jax.vmap(jax.vmap(inside.inside))(places).all())


def test_normals_projections_and_reflections_of_a_disc():
    disc = domain(lambda x: jnp.linalg.norm(x) - 2.0)
    x, before = jnp.array([1.8, 2.4]), jnp.zeros(2)
    np.testing.assert_allclose(disc.normal(x), [-0.6, -0.8], atol=1e-5)
    np.testing.assert_allclose(disc.project(x), [1.2, 1.6], atol=1e-4)
    np.testing.assert_allclose(disc.reflect(x, before), [0.6, 0.8], atol=1e-4)
    np.testing.assert_array_equal(disc.reflect(x / 3.0, before), x / 3.0)
    # Mirrored beyond the other side, it ends at the wall.
    np.testing.assert_allclose(disc.reflect(4.0 * x, before), [1.2, 1.6], atol=1e-4)


def test_drifts_have_no_normal_part_at_the_boundary():
    inside = domain(flower)
    angle = jnp.linspace(0.0, 6.0, 40)
    radius = 1.0 + 0.3 * jnp.cos(5.0 * angle)
    x = radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    q = untrained(0.3 * RNG.uniform(size=(50, 2)), inside, 0.1, 10)
    arrays, rest = eqx.partition(q.drifts, eqx.is_array)
    moved = eqx.combine(jax.tree.map(lambda v: v + 0.3, arrays), rest)
    q = eqx.tree_at(lambda q: q.drifts, q, moved)
    at = jax.vmap(lambda x: (q.drift(x, 0.5), inside.normal(x)))
    drift, normal = at(x)
    assert float(jnp.abs(drift).max()) > 0.1
    np.testing.assert_allclose((drift * normal).sum(1), 0.0, atol=1e-3 * float(drift.max()))


@pytest.mark.slow
@pytest.mark.parametrize("inside", [domain(wide), None])
def test_a_bridge_of_gaussians_in_a_wide_domain_is_that_in_closed_form(inside):
    x0, x1 = RNG.normal(size=(20_000, 1)), 1.0 + 0.6 * RNG.normal(size=(20_000, 1))
    fit = ritz.fit(
        ritz.target.from_samples(x1),
        family=reflected_bridge(x0, inside, epsilon=0.5, steps=40, width=32),
        solver=ipf(inner=400, lr=0.01),
        steps=7 * 400,
        progress=False,
    )
    keys = jax.random.split(jax.random.key(2), len(x0))
    y = np.asarray(jax.jit(jax.vmap(fit.q.push))(jnp.asarray(x0, jnp.float32), keys))
    plan = gaussian_plan([0.0], [[1.0]], [1.0], [[0.36]], 0.5)
    np.testing.assert_allclose(y.mean(), plan.mean[1], atol=0.06)
    np.testing.assert_allclose(np.cov(x0[:, 0], y[:, 0]), plan.covariance, atol=0.06)
    # Independent ends would be told apart.
    assert plan.covariance[0, 1] > 0.2


def test_bad_input_in_one_line():
    x = RNG.uniform(size=(100, 1))
    target = ritz.target.from_samples(x)
    start = jnp.zeros(1)
    for call, said in (
        (lambda: domain(3.0), "expected a function"),
        (lambda: reflected_bridge(x, epsilon=-1.0), "positive"),
        (lambda: reflected_bridge(x, steps=1), "whole number"),
        (lambda: reflected_bridge(x, domain=unit), "ritz.transport.domain"),
        (lambda: reflected_bridge(np.zeros(3)), "expected (N, d)"),
        (lambda: reflected_bridge(x + 0.5, domain(unit))(target, start), "of the base are outside"),
        (lambda: reflected_bridge(np.zeros((9, 2)))(target, start), "one space"),
        (lambda: ipf(inner=0), "whole number"),
        (lambda: ipf(lr=0.0), "positive"),
        (lambda: ritz.fit(target, family=reflected_bridge(x), steps=1, progress=False), "ipf()"),
    ):
        with pytest.raises(RitzError) as error:
            call()
        assert said in str(error.value)
        assert "\n" not in str(error.value)
