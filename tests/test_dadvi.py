"""Deterministic ADVI and linear response: exact cases, convergence, honesty."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import banana, gaussian

import ritz
from ritz import RitzError
from ritz.diagnose import linear_response
from ritz.solver import _fixed_draws, dadvi
from ritz.target import from_log_density


def test_draws_have_the_moments_of_the_normal():
    key = jax.random.key(0)
    z = np.asarray(_fixed_draws.matched_noise(key, 30, 4, jnp.float32))
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(z.T @ z / 30, np.eye(4), atol=1e-5)
    many = np.asarray(_fixed_draws.matched_noise(key, 30, 40, jnp.float32))
    np.testing.assert_allclose((many**2).mean(0), 1.0, rtol=1e-5)


def test_the_optimum_on_its_draws_is_found():
    """The gradient is zero there, and that on other draws is not; the same seed, the same bits."""
    with jax.enable_x64(True):
        target = banana(1.0)
        fit = ritz.fit(target, family="mean_field", solver=dadvi(20))
        assert fit.stop_reason == "converged"
        run_key = jax.random.split(jax.random.key(0), 3)[1]

        def slope(key):
            noise = _fixed_draws.matched_noise(key, 20, 2, jnp.float64)
            at = lambda v: _fixed_draws.loss(target, _fixed_draws.moved(fit.q, v), noise)
            return float(jnp.abs(jax.grad(at)(jnp.zeros(4))).max())

        assert slope(run_key) < 1e-6 < 1e-2 < slope(jax.random.key(7))
        again = ritz.fit(target, family="mean_field", solver=dadvi(20))
        np.testing.assert_array_equal(again.q.loc, fit.q.loc)


def test_linear_response_is_exact_where_mean_field_is_not():
    with jax.enable_x64(True):
        target, mean, covariance = gaussian(20, 1e4)
        fit = ritz.fit(target, family="mean_field", solver="dadvi")
        sd = np.sqrt(np.diag(covariance))
        found = linear_response(fit)
        assert np.abs((found.mean - mean) / sd).max() < 1e-6
        assert np.abs((found.cov - covariance) / np.outer(sd, sd)).max() < 1e-6
        assert np.abs(found.sd / sd - 1.0).max() < 1e-6
        assert np.abs(np.exp(np.asarray(fit.q.log_scale)) / sd - 1.0).max() > 0.5
        some = linear_response(fit, lambda x: {"sum": x[:3].sum(), "first": x[0]})
        exact = np.array([covariance[0, 0], covariance[:3, 0].sum(), covariance[:3, :3].sum()])
        np.testing.assert_allclose(some.cov[np.triu_indices(2)], exact, rtol=1e-6)


def test_linear_response_without_a_matrix(monkeypatch):
    from ritz.diagnose import _linear_response as module

    with jax.enable_x64(True):
        target, _, covariance = gaussian(6, 100.0)
        fit = ritz.fit(target, family="mean_field", solver="dadvi")
        monkeypatch.setattr(module, "_DENSE_UP_TO", 4)
        found = linear_response(fit, lambda x: x[:2])
        np.testing.assert_allclose(found.cov, covariance[:2, :2], rtol=1e-4)


def test_linear_response_in_the_models_own_parameters():
    """Of a lognormal: the variance that the response of its mean gives, by the formula."""
    from numpyro.distributions import constraints

    with jax.enable_x64(True):
        density = lambda s: -0.5 * (jnp.log(s) - 1.0) ** 2 / 0.09 - jnp.log(s)
        target = from_log_density(density, 1.0, constraints.positive)
        fit = ritz.fit(target, family="mean_field", solver=dadvi(200))
        found, mean = linear_response(fit, draws=2000), np.exp(1.045)
        assert found.mean[0] == pytest.approx(mean, rel=1e-3)
        assert found.cov[0, 0] == pytest.approx(mean**2 * (0.09 + 0.09**2 / 2), rel=1e-2)
        wrong = mean**2 * 0.09
        assert abs(found.cov[0, 0] / wrong - 1.0) > 0.03


BAD = {
    "odd draws": (lambda: dadvi(7), "draws=7 arrived, expected an even number"),
    "too few": (
        lambda: ritz.fit(gaussian(5, 10.0)[0], family="full_rank", solver=dadvi(8), steps=1),
        "draws=8 arrived for a full-rank family in 5 dimensions, expected at least 10",
    ),
    "objective": (
        lambda: ritz.fit(
            banana(1.0),
            family="mean_field",
            objective=ritz.objective.iwae(3),
            solver="dadvi",
            steps=1,
        ),
        "DADVI minimises the negative ELBO",
    ),
    "family": (
        lambda: linear_response(ritz.fit(banana(1.0), solver="laplace", steps=1)),
        "linear_response corrects a mean-field fit, but this one's family is FullRank",
    ),
    "pairs": (
        lambda: linear_response(None, draws=3),
        "linear_response: draws=3 arrived, expected an even number",
    ),
    "no optimum": (
        lambda: linear_response(
            ritz.fit(
                from_log_density(lambda x: (0.5 * x**2).sum(), jnp.ones(2)),
                family="mean_field",
                steps=1,
            )
        ),
        "the loss has no minimum at this fit",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
