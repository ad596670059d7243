"""What the claims of papers on the core rest on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ritz.estimator import langevin_kernel, vector_control_variates
from ritz.papers.core import amortized_optimization as amortised
from ritz.papers.core import bbvi_variance_bounds as bbvi
from ritz.papers.core import fast_matrix_sqrt as paper


def test_scalar_rule_has_the_right_root_and_a_wrong_gradient():
    """The wrong variant of fast-matrix-sqrt, without its timing."""
    a, g = paper._matrices(0, 2)
    for root, right in ((paper.pade, True), (paper.scalar_rule, False)):
        exact, found = paper._both(paper.eigen), paper._both(lambda a, f=root: f(a, 8, 10))
        value, gradient = map(paper._error, found(a, g), exact(a, g))
        assert value < 1e-2
        assert (gradient < 1e-2) == right


def test_stein_kernel_has_no_mean_under_the_target_of_its_score():
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    with jax.enable_x64(True):
        x, y = jnp.asarray(1.5 * nodes[:, None]), jnp.array([[-0.3], [1.7]])
        right = langevin_kernel(x, y, -x / 2.25, -y, 1.2)  # each point has a target of its own
        wrong = langevin_kernel(x, y, -x, -y, 1.2)
        np.testing.assert_allclose(weights @ np.asarray(right), 0.0, atol=1e-8)
        assert (np.abs(weights @ np.asarray(wrong)) > 0.05).all()


def test_stein_kernel_is_the_operator_applied_to_both_arguments():
    k = lambda x, y: jnp.exp(-0.5 * ((x - y) ** 2).sum() / 0.7**2)
    with jax.enable_x64(True):
        x, y, a, b = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)))
        slope = jax.grad(k, 1)
        value = jnp.trace(jax.jacobian(slope)(x, y)) + a @ slope(x, y) + b @ jax.grad(k)(x, y)
        value += a @ b * k(x, y)
        found = langevin_kernel(x[None], y[None], a[None], b[None], 0.7)
        assert float(found[0, 0]) == pytest.approx(float(value), rel=1e-10)


def test_common_points_make_the_coupling_irrelevant_without_a_ridge():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = np.tile(rng.normal(size=(6, 1)), (2, 1, 1))
        y = rng.normal(size=(2, 6))
        means = [
            vector_control_variates(y, x, -x, length=0.5, ridge=1e-9, coupled=coupled).mean
            for coupled in (True, False)
        ]
        np.testing.assert_allclose(*means, rtol=1e-3)


@pytest.mark.parametrize("cholesky", [False, True])
def test_gradients_are_those_of_the_negative_elbo(cholesky):
    rng = np.random.default_rng(0)
    d, lower = 4, np.tril_indices(4, -1)
    target = bbvi._Quadratic(d, rng)
    point = bbvi._point(target.mode, target.sd, cholesky, 1, rng)  # odd: a softplus
    noise = rng.normal(size=(20_000, d))
    with jax.enable_x64(True):

        def loss(loc, s, below, u):
            c = jnp.diag(jax.nn.softplus(s)).at[lower].set(below)
            entropy = jnp.log(jnp.diag(c)).sum()
            return bbvi.quadratic(loc + c @ u, *map(jnp.asarray, target.data)) - entropy

        at = (point.loc, np.log(np.expm1(np.diag(point.factor))), point.factor[lower])
        each = jax.vmap(jax.grad(loss, (0, 1, 2)), (None, None, None, 0))(*at, noise)
        each = each if cholesky else each[:2]
        found = bbvi.squared_gradients(target.joint, target.data, point, noise)
        np.testing.assert_allclose(sum((g**2).sum(1) for g in each), found, rtol=1e-10)
    mean = sum(float((np.asarray(g).mean(0) ** 2).sum()) for g in each)
    assert bbvi._known(target, point).gradient == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize("d", [1, 4, 64])
def test_moment_factors_bound_the_moments_of_a_normal(d):
    squares = np.random.default_rng(0).normal(size=(100_000, d)) ** 2
    for cholesky, jacobian in ((True, squares.sum(1)), (False, (squares**2).sum(1) ** 0.5)):
        factor = bbvi.moment_factor(d, cholesky)
        assert (1.0 + jacobian).mean() <= factor
        assert ((1.0 + jacobian) * squares[:, 0]).mean() <= 1.02 * factor


def test_objective_at_its_optimum():
    target = bbvi._Quadratic(5, np.random.default_rng(0))
    chol = np.linalg.cholesky(np.linalg.inv(target.precision))
    sd = np.diag(np.diag(target.precision) ** -0.5)
    for cholesky, factor in ((True, chol), (False, sd)):
        at = bbvi._known(target, bbvi.Point(target.mode, factor, np.ones(5), cholesky))
        assert at.objective == pytest.approx(target.optimum(cholesky), rel=1e-10)
        assert at.gradient == pytest.approx(0.0, abs=1e-10)


def test_equal_centres_make_a_squared_distance():
    x, y = jnp.array([0.6, 0.8, 0.0]), jnp.array([0.0, 1.0, 0.0])
    found = amortised.value(x, (jnp.tile(y, (4, 1)), jnp.full(4, 0.3)))
    exact = 0.5 * np.arccos(0.8) ** 2 + 0.3 - amortised.SOFTNESS * np.log(4.0)
    assert float(found) == pytest.approx(float(exact), rel=1e-5)


def test_predictions_turn_with_the_sphere():
    turn = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0], "float32")
    centres, offsets = amortised.functions(jax.random.key(1), None)
    for unrolled in (0, 2):
        model = amortised.Model(jax.random.key(0), unrolled)
        here, there = (centres, offsets), (centres @ turn.T, offsets)
        found = model(here, here)
        np.testing.assert_allclose(model(there, there), turn @ found, atol=1e-5)
        assert float(jnp.linalg.norm(found)) == pytest.approx(1.0, rel=1e-5)


def test_descents_end_at_the_least_value():
    context = amortised.functions(jax.random.key(2), None)
    starts = amortised._uniform(jax.random.key(3), (64,))
    end = amortised._descent(context, starts, 300)[0]
    grid = amortised._uniform(jax.random.key(4), (20_000,))
    values = jax.vmap(lambda x: amortised.value(x, context))(grid)
    least = float(amortised.value(end, context))
    assert float(values.min()) - 1e-3 < least <= float(values.min()) + 1e-6
