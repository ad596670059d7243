"""JKO steps between Gaussians in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ritz
from ritz import RitzError
from ritz.family import full_rank
from ritz.transport import jko, wasserstein_flow

A, STEPS = 0.5, 3
SHIFT = jnp.array([2.0, -1.0])


def closed_form(sd, mean, a=A):
    """A step on KL(. || N(SHIFT, 1)): the derivative in the mean, and in the sd, vanishes."""
    return (sd + np.sqrt(sd**2 + 4.0 * a * (1.0 + a))) / (2.0 * (1.0 + a)), (
        mean + a * np.asarray(SHIFT)
    ) / (1.0 + a)


def target():
    return ritz.target.from_log_density(lambda x: -0.5 * ((x - SHIFT) ** 2).sum(), jnp.zeros(2))


def fitted(step_size):
    base = full_rank(None, jnp.zeros(2), 2.0)
    return ritz.fit(
        target(),
        family=wasserstein_flow(STEPS, base, width=16),
        solver=jko(step_size, inner=300, rows=512, width=16, lr=0.02),
        steps=STEPS * 300,
        progress=False,
    )


@pytest.mark.slow
def test_gaussian_iterates_are_those_in_closed_form():
    fit = fitted(A)
    keys = jax.random.split(jax.random.key(9), 40_000)
    sd, mean = np.full(2, 2.0), np.zeros(2)
    for k in range(1, STEPS + 1):
        sd, mean = closed_form(sd, mean)
        x = np.asarray(jax.jit(jax.vmap(fit.q.sample_at, (0, None)))(keys, jnp.asarray(k)))
        np.testing.assert_allclose(x.mean(0), mean, atol=0.06)
        np.testing.assert_allclose(np.cov(x.T), np.diag(sd**2), atol=0.05 * sd[0] ** 2)


@pytest.mark.slow
def test_steps_of_another_size_are_told_apart():
    """Twice the step: the same test, which the wrong size fails at the first iterate."""
    fit = fitted(2.0 * A)
    keys = jax.random.split(jax.random.key(9), 10_000)
    x = np.asarray(jax.jit(jax.vmap(fit.q.sample_at, (0, None)))(keys, jnp.asarray(1)))
    sd, mean = closed_form(np.full(2, 2.0), np.zeros(2))
    assert np.abs(x.mean(0) - mean).max() > 0.15
    assert np.abs(x.std(0) / sd - 1.0).max() > 0.05


def test_at_first_the_flow_is_its_base():
    q = wasserstein_flow(2)(target(), jnp.zeros(2))
    key = jax.random.key(0)
    np.testing.assert_array_equal(q.sample(key), q.base.sample(key))


def test_bad_input_in_one_line():
    for call, said in (
        (lambda: jko(-1.0), "positive"),
        (lambda: jko(inner=0), "whole number"),
        (lambda: wasserstein_flow(0), "whole number"),
        (lambda: wasserstein_flow(2, base=3.0), "expected a family"),
        (lambda: wasserstein_flow(2, full_rank(None, jnp.zeros(1)))(target(), jnp.zeros(2)), "1 d"),
        (lambda: ritz.fit(target(), family="full_rank", solver=jko(), steps=1), "WassersteinFlow"),
        (lambda: ritz.fit(target(), family=wasserstein_flow(2), steps=1, progress=False), "jko()"),
    ):
        with pytest.raises(RitzError) as error:
            call()
        assert said in str(error.value)
        assert "\n" not in str(error.value)
