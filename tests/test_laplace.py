"""Laplace: modes from bad starts, curvature that is not positive, evidence, honesty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import moments
from scipy import special

import ritz
from ritz.solver._trust_region import curvature_of, dense_step, truncated_step
from ritz.target import from_log_density


def laplace(density, start, solver="laplace", **options):
    return ritz.fit(from_log_density(density, start), solver=solver, **options)


def test_evidence_of_a_gamma():
    r"""Laplace's estimate of :math:`\log\Gamma(a)` is Stirling's formula."""
    with jax.enable_x64(True):
        fit = laplace(lambda x: 50.0 * x - jnp.exp(x), jnp.zeros(()))
        stirling = 50.0 * np.log(50.0) - 50.0 + 0.5 * np.log(2.0 * np.pi / 50.0)
        assert fit.history.loss[-1] == pytest.approx(-stirling, abs=1e-8)
        assert abs(stirling - special.gammaln(50.0)) < 1.0 / (12.0 * 50.0) + 1e-6
        assert float(fit.q.loc[0]) == pytest.approx(np.log(50.0), abs=1e-7)
        assert fit.stop_reason == "converged"


STARTS = {
    # name: the log density, its mode, and a start where Newton's step leads away.
    "flat tails": (lambda x: -2.5 * jnp.log1p(((x - 8.0) ** 2) / 4.0).sum(), 8.0, -500.0),
    "a plateau": (lambda x: -jnp.logaddexp(0.0, 20.0 - x).sum() - 0.1 * x.sum(), None, 0.0),
    "infinite next door": (lambda x: (3.0 * jnp.log(x) - x).sum(), 3.0, 1e-8),
    "nan next door": (lambda x: jnp.where(x > 0, 3.0 * jnp.log(x) - x, jnp.nan).sum(), 3.0, 500.0),
    "a saddle": (lambda x: (2.0 * x**2 - 0.25 * x**4).sum(), None, 0.0),
}


@pytest.mark.parametrize(("density", "mode", "start"), STARTS.values(), ids=STARTS)
def test_from_bad_starts(density, mode, start):
    with jax.enable_x64(True):
        fit = laplace(density, jnp.full(2, start))
        assert fit.stop_reason == "converged", fit.info
        slope = jax.grad(density)(fit.q.loc)
        assert np.abs(np.asarray(slope) * np.exp(np.asarray(fit.q.log_scale))).max() < 1e-5
        assert fit.message == ""
        if mode is not None:
            np.testing.assert_allclose(fit.q.loc, mode, rtol=1e-5)


def test_gradients_alone_find_the_same_mode():
    """Of a skewed density; where it is not given the steps, it says so."""
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(200, 5)), float)
    counts = jnp.asarray(np.random.default_rng(1).poisson(2.0, size=200), float)
    density = lambda x: (counts * (rows @ x) - jnp.exp(rows @ x)).sum() - 0.5 * (x**2).sum()
    newton, quasi = (laplace(density, jnp.ones(5), solver=s) for s in ("laplace", "lbfgs"))
    assert quasi.stop_reason == "converged"
    assert quasi.message == ""
    mean, covariance = moments(newton.q)
    found, spread = moments(quasi.q)
    sd = np.sqrt(np.diag(covariance))
    assert (np.abs(found - mean) / sd).max() < 1e-3
    assert (np.abs(spread - covariance) / np.outer(sd, sd)).max() < 1e-2
    short = laplace(density, jnp.ones(5), solver="lbfgs", steps=2)
    assert short.status != "ok"
    assert "had not ended" in short.message


def test_units_far_apart():
    """Means of 1e4 with sds of 1e-3, beside others, from zero."""
    with jax.enable_x64(True):
        mean, sd = jnp.array([1e4, -2e4, 1.0, 0.0]), jnp.array([1e-3, 10.0, 1e-3, 1e5])
        mix = jnp.eye(4) + 0.4
        density = lambda x: -0.5 * (((x - mean) / sd) @ mix @ ((x - mean) / sd))
        fit = laplace(density, jnp.zeros(4))
        found, covariance = moments(fit.q)
        assert np.abs((found - mean) / sd).max() < 1e-6
        exact = np.linalg.inv(mix) * np.outer(sd, sd)
        assert np.abs((covariance - exact) / np.outer(sd, sd)).max() < 1e-6


def test_without_a_hessian_the_mode_is_the_same_and_scales_are_what_steps_told():
    """On a Gaussian as many steps as it has dimensions tell the whole covariance."""
    scales = jnp.array([1.0, 3.0, 0.2])
    density = lambda x: -0.5 * ((x - 1.0) / scales) @ ((x - 1.0) / scales)
    fit = laplace(density, jnp.zeros(3), solver=ritz.solver.lbfgs(hessian=False))
    assert np.abs((fit.q.loc - 1.0) / scales).max() < 0.05
    whole = laplace(density, jnp.zeros(3), solver=ritz.solver.lbfgs())
    assert fit.info["evaluations"] < whole.info["evaluations"]
    sds = np.sqrt(np.diag(np.asarray(fit.q.scale_tril) @ np.asarray(fit.q.scale_tril).T))
    np.testing.assert_allclose(sds, scales, rtol=0.3)
    # The wrong variant: scales of the start, which are those of a search that has not ended.
    short = laplace(density, jnp.zeros(3), solver=ritz.solver.lbfgs(hessian=False), steps=2)
    assert short.status != "ok"
    with pytest.raises(ritz.RitzError, match="hessian='no'"):
        ritz.solver.lbfgs(hessian="no")


def test_no_mode_is_said():
    """A density that grows without bound, and one that is flat in a direction."""
    fit = laplace(lambda x: x.sum(), jnp.zeros(2), steps=20)
    assert fit.status != "ok"
    assert "no mode was found" in fit.message or "curves upwards" in fit.message
    fit = laplace(lambda x: -0.5 * x[0] ** 2, jnp.ones(2))
    assert fit.status != "ok"
    assert "curves upwards in 1 directions" in fit.message


def test_mean_field_is_its_own_optimum():
    precision = jnp.array([[2.0, -1.2], [-1.2, 1.0]])
    fit = laplace(lambda x: -0.5 * x @ precision @ x, jnp.ones(2), family="mean_field")
    np.testing.assert_allclose(np.exp(-2.0 * fit.q.log_scale), [2.0, 1.0], rtol=1e-5)


def test_it_costs_what_it_says():
    """A step looks at one point and has one Hessian; a search that draws back looks at more."""
    fit = laplace(lambda x: -0.5 * (x**2).sum(), jnp.ones(3))
    assert fit.info["evaluations"] == fit.info["steps"] * (1 + 3)
    fit = laplace(lambda x: -2.5 * jnp.log1p((x - 8.0) ** 2 / 4.0).sum(), jnp.full(3, 4.0))
    assert fit.info["evaluations"] >= fit.info["steps"] * (1 + 3)


def test_a_step_is_the_minimum_within_its_radius():
    """Against a fine search over the ball's surface; a longer step is worse."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        root = rng.normal(size=(3, 3))
        hessian, grad = (
            jnp.asarray(root @ root.T + 0.1 * np.eye(3)),
            jnp.asarray(rng.normal(size=3)),
        )
        curvature = curvature_of(hessian)
        model = lambda p: grad @ p + 0.5 * p @ hessian @ p
        whole = dense_step(curvature, grad, jnp.asarray(1e18))
        np.testing.assert_allclose(whole.step, -np.linalg.solve(hessian, grad), rtol=1e-9)
        radius = 0.3 * float(whole.length)
        near = dense_step(curvature, grad, jnp.asarray(radius))
        assert float(near.length) == pytest.approx(radius, rel=1e-6)
        around = rng.normal(size=(20_000, 3))
        around *= radius / np.linalg.norm(around, axis=1, keepdims=True)
        values = [float(model(p)) for p in around[:2000] / np.asarray(curvature.scale)]
        assert float(model(near.step)) <= min(values) + 1e-9
        # The same without a matrix, where the scales are one.
        image = lambda v: hessian @ v
        free = truncated_step(image, grad, jnp.asarray(1e6), 50)
        assert float(model(free.step)) < 0.9 * float(model(whole.step))
        assert float(free.products) <= 4
        assert float(truncated_step(image, grad, jnp.asarray(0.1), 50).length) == pytest.approx(0.1)
        follows = truncated_step(lambda v: -v, grad, jnp.asarray(0.5), 50)
        assert float(follows.length) == pytest.approx(0.5)
        assert float(grad @ follows.step) < 0


@pytest.mark.slow
def test_large():
    """A hundred times correlated dimensions in float32, by a handful of steps."""
    rng = np.random.default_rng(1)
    design, noise = rng.normal(size=(1000, 200)), rng.normal(size=1000)
    y = jnp.asarray(design @ rng.normal(size=200) + noise, jnp.float32)
    x = jnp.asarray(design, jnp.float32)
    density = lambda b: -0.5 * ((y - x @ b) ** 2).sum() - 0.005 * (b**2).sum()
    fit = laplace(density, jnp.zeros(200))
    exact = np.linalg.solve(design.T @ design + 0.01 * np.eye(200), design.T @ np.asarray(y))
    sd = np.exp(np.asarray(fit.q.log_scale))
    assert (np.abs(np.asarray(fit.q.loc) - exact) / sd).max() < 0.05
    assert fit.info["steps"] <= 6
