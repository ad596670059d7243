"""Gaussian score matching: its equation, exactness, invariance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import banana, gaussian, off

import ritz
from ritz import RitzError
from ritz.solver import gaussian_score_matching
from ritz.solver._score_matching import _matched


def divergence(mean, covariance):
    """KL from the standard normal."""
    precision = np.linalg.inv(covariance)
    return 0.5 * (
        np.trace(precision) + mean @ precision @ mean + np.linalg.slogdet(covariance)[1] - len(mean)
    )


def test_the_update_is_the_nearest_gaussian_with_that_score():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        z, g = rng.normal(size=3), rng.normal(size=3)
        apart = np.asarray(_matched(jnp.asarray(z), jnp.asarray(g)))
        mean, covariance = z + apart, np.eye(3) + np.outer(z, z) - np.outer(apart, apart)
        np.testing.assert_allclose(np.linalg.solve(covariance, apart), g, atol=1e-12)
        best = divergence(mean, covariance)
        for _ in range(200):  # other Gaussians with the same score at z
            turn = rng.normal(size=(3, 3)) * 0.05
            near = covariance + turn + turn.T
            if np.linalg.eigvalsh(near)[0] > 0:
                assert divergence(z + near @ g, near) > best - 1e-12
        # A wrong root of its quadratic equation gives another score.
        wrong = apart * 1.1
        cov = np.eye(3) + np.outer(z, z) - np.outer(wrong, wrong)
        assert np.abs(np.linalg.solve(cov, wrong) - g).max() > 1e-2


def test_a_gaussian_is_found():
    with jax.enable_x64(True):
        target, mean, covariance = gaussian(10, 1e3)
        fit = ritz.fit(target, solver=gaussian_score_matching(), steps=3000)
        assert max(off(fit, mean, covariance)) < 1e-6
        assert fit.info["evaluations"] == 30_000


def test_steps_do_not_depend_on_units():
    with jax.enable_x64(True):
        found = []
        for scale in (1.0, 1e-3, 1e3):
            log_scale = jnp.log(jnp.array([0.5, 0.5 * scale]))
            start = ritz.family.FullRank(jnp.array([0.4, scale]), log_scale, jnp.zeros((2, 2)))
            fit = ritz.fit(banana(scale), family=start, solver=gaussian_score_matching(3), steps=7)
            found.append(np.asarray(fit.q.loc) / np.array([1.0, scale]))
        np.testing.assert_allclose(found[1], found[0], rtol=1e-8)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-8)


def test_bad_input():
    with pytest.raises(RitzError, match="draws"):
        gaussian_score_matching(0)
