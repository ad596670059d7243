"""Batch and match: exact on Gaussian targets, invariant, and its own equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import banana, gaussian, off

import ritz
from ritz import RitzError
from ritz.solver import batch_and_match
from ritz.solver._batch_and_match import _match


@pytest.mark.parametrize(("d", "condition"), [(2, 1e6), (30, 1e6)])
def test_a_gaussian_is_found_in_fifty_steps(d, condition):
    with jax.enable_x64(True):
        target, mean, covariance = gaussian(d, condition)
        fit = ritz.fit(target, family="full_rank", solver=batch_and_match(), steps=50)
        assert max(off(fit, mean, covariance)) < 1e-6


def test_in_single_precision():
    target, mean, covariance = gaussian(20, 1e3)
    fit = ritz.fit(target, family="full_rank", solver=batch_and_match(), steps=50)
    assert max(off(fit, mean, covariance)) < 1e-3


def test_the_update_solves_its_equation():
    r""":math:`\Sigma U \Sigma + \Sigma = V`, and the mean, by the formulas as they are printed."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        z, g, rate = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), 2.5
        factor, mean = map(np.asarray, _match(jnp.asarray(z), jnp.asarray(g), jnp.asarray(rate)))
        sigma, share = factor @ factor.T, rate / (1.0 + rate)
        u = rate * np.cov(g.T, bias=True) + share * np.outer(g.mean(0), g.mean(0))
        v = np.eye(3) + rate * np.cov(z.T, bias=True) + share * np.outer(z.mean(0), z.mean(0))
        np.testing.assert_allclose(sigma @ u @ sigma + sigma, v, atol=1e-10)
        np.testing.assert_allclose(mean, share * (sigma @ g.mean(0) + z.mean(0)), atol=1e-12)
        assert not np.allclose(sigma @ u @ sigma + sigma, v - np.eye(3), atol=1e-2)


def test_steps_do_not_depend_on_units():
    with jax.enable_x64(True):
        found = []
        for scale in (1.0, 1e-3, 1e3):
            log_scale = jnp.log(jnp.array([0.5, 0.5 * scale]))
            start = ritz.family.FullRank(jnp.array([0.4, scale]), log_scale, jnp.zeros((2, 2)))
            fit = ritz.fit(banana(scale), family=start, solver=batch_and_match(10), steps=7)
            found.append(np.asarray(fit.q.loc) / np.array([1.0, scale]))
        np.testing.assert_allclose(found[1], found[0], rtol=1e-8)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-8)


BAD = {
    "draws": (lambda: batch_and_match(1), "draws"),
    "rate": (lambda: batch_and_match(rate=0.0), "rate=0.0 arrived, expected a positive number"),
    "family": (
        lambda: ritz.fit(banana(1.0), family="mean_field", solver=batch_and_match(), steps=1),
        "BatchAndMatch does not move a MeanField; use family='full_rank'",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
