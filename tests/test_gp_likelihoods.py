"""What outputs are given a function: against dense sums, and what is refused of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import poisson as poissons
from scipy.stats import t as students

import ritz
from ritz.gp import (
    GP,
    bernoulli,
    gaussian,
    heteroscedastic,
    ordinal,
    poisson,
    preference,
    softmax,
    student_t,
)

# A likelihood, an output, and how near a rule of 20 points is.
ONE = {
    "gaussian": (gaussian(0.5), 0.7, 1e-5),
    "student_t": (student_t(3.0, 1.0), 0.7, 2e-3),
    "logit": (bernoulli(), 1.0, 5e-4),
    "probit": (bernoulli("probit"), 0.0, 5e-4),
    "preference": (preference(), 1.0, 5e-4),
    "poisson": (poisson(), 2.0, 2e-3),
    "ordinal": (ordinal(4), 1.0, 1e-4),
}


def dense(likelihood, m, v, y):
    f = m + np.sqrt(v) * np.linspace(-9.0, 9.0, 4001)
    weights = norm.pdf(f, m, np.sqrt(v))
    weights /= weights.sum()
    logs = jax.vmap(lambda f: likelihood.log_prob(f[None], y))(jnp.asarray(f, float))
    return np.asarray(logs, float), weights, f


@pytest.mark.parametrize(("m", "v"), [(0.3, 0.4), (-1.0, 2.0)])
@pytest.mark.parametrize("name", ONE)
def test_expectations_are_integrals(name, m, v):
    likelihood, y, near = ONE[name]
    logs, weights, f = dense(likelihood, m, v, y)
    given = jnp.array([m]), jnp.array([v])
    assert float(likelihood.expected(*given, y)) == pytest.approx(weights @ logs, abs=near)
    log_mean = float(likelihood.log_mean(*given, y))
    assert log_mean == pytest.approx(np.log(weights @ np.exp(logs)), abs=near)
    means = np.asarray(jax.vmap(likelihood.mean)(jnp.asarray(f[:, None], float)), float)
    wanted = np.tensordot(weights, means, 1)
    np.testing.assert_allclose(likelihood.response(*given), wanted, atol=5 * near, rtol=1e-3)
    # The wrong variant: by Jensen's inequality the density at the mean is another number.
    assert abs(float(likelihood.log_prob(given[0], y)) - log_mean) > 1e-3 or name == "gaussian"


@pytest.mark.parametrize("m", [5.0, -20.0])
def test_a_logistic_curve_under_a_wide_normal(m):
    likelihood = bernoulli()
    logs, weights, _ = dense(likelihood, m, 400.0, 1.0)
    given = jnp.array([m]), jnp.array([400.0])
    assert float(likelihood.expected(*given, 1.0)) == pytest.approx(weights @ logs, rel=1e-3)
    wanted = np.log(weights @ np.exp(logs))
    assert float(likelihood.log_mean(*given, 1.0)) == pytest.approx(wanted, abs=2e-3)
    # The wrong variant: 20 points at once, some sds apart from the step.
    rule, shares = likelihood.points(*given)
    plain = jax.nn.logsumexp(jax.vmap(lambda f: likelihood.log_prob(f, 1.0))(rule), b=shares)
    assert abs(float(plain) - wanted) > 5e-3


def test_densities_are_scipys():
    f = jnp.array([0.4])
    assert float(student_t(5.0, 0.3).log_prob(f, 1.0)) == pytest.approx(
        students.logpdf(1.0, 5.0, 0.4, 0.3), abs=1e-5
    )
    assert float(poisson().log_prob(f, 3.0)) == pytest.approx(
        poissons.logpmf(3, np.exp(0.4)), abs=1e-5
    )
    cuts = np.concatenate([[-np.inf, 0.0], np.cumsum(ordinal(4).gaps), [np.inf]])
    wanted = np.diff(norm.cdf(cuts - 0.4))
    np.testing.assert_allclose(ordinal(4).mean(f), wanted, atol=1e-6)
    far = float(ordinal(4).log_prob(jnp.array([30.0]), 0.0))
    assert far == pytest.approx(norm.logcdf(-30.0), rel=1e-4)
    assert np.isfinite(jax.grad(lambda f: ordinal(4).log_prob(f, 2.0))(jnp.array([25.0]))).all()


def test_two_functions_by_draws():
    noisy, rng = heteroscedastic(), np.random.default_rng(0)
    mean, var = jnp.array([0.3, -0.2]), jnp.array([0.2, 0.3])
    f = np.asarray(mean) + np.sqrt(var) * rng.normal(size=(400_000, 2))
    logs = np.asarray(jax.vmap(lambda f: noisy.log_prob(f, 0.5))(jnp.asarray(f, float)), float)
    se = logs.std() / np.sqrt(len(logs))
    assert abs(float(noisy.expected(mean, var, 0.5)) - logs.mean()) < 5 * se
    density = np.exp(logs)
    se = density.std() / density.mean() / np.sqrt(len(logs))
    assert abs(float(noisy.log_mean(mean, var, 0.5)) - np.log(density.mean())) < 5 * se


def test_classes_by_draws():
    many, rng = softmax(3), np.random.default_rng(0)
    mean, var = jnp.array([0.5, 0.0, -1.0]), jnp.array([1.0, 0.3, 2.0])
    f = np.asarray(mean) + np.sqrt(var) * rng.normal(size=(200_000, 3))
    logs = np.asarray(jax.vmap(lambda f: many.log_prob(f, 1))(jnp.asarray(f, float)), float)
    assert abs(float(many.expected(mean, var, 1)) - logs.mean()) < 0.02
    np.testing.assert_allclose(
        many.response(mean, var), jax.nn.softmax(jnp.asarray(f), axis=1).mean(axis=0), atol=0.01
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: bernoulli("cauchy"), "link='cauchy'"),
        (lambda: ordinal(2), "levels=2"),
        (lambda: softmax(1), "1"),
        (lambda: student_t(-1.0), "student_t: df"),
        (lambda: GP(None, "poisson").fit([[0.0], [1.0]], [0, 1]), "likelihood arrived as str"),
        (lambda: GP(None, poisson()).fit([[0.0], [1.0]], [0, -1]), "-1 at index 1"),
        (lambda: GP(None, poisson()).fit([[0.0], [1.0]], [0, 1.5]), "1.5 at index 1"),
        (lambda: GP(None, bernoulli()).fit(np.eye(3), ["a", "b", "c"]), "softmax(3)"),
        (lambda: GP(None, softmax(4)).fit(np.eye(3), [0, 2, 5]), "of 4"),
        (lambda: GP(None, bernoulli()).fit(np.eye(3), [1, 1, 1]), "nothing to learn"),
        (lambda: GP(None, bernoulli()).fit(np.eye(3), [1, np.nan, 0]), "nan at index 1"),
        (lambda: GP(inference="ep").fit(np.eye(3), [1, 2, 0]), "nothing is approximated"),
        (lambda: GP(None, bernoulli(), inference="mcmc").fit(np.eye(2), [0, 1]), "'mcmc'"),
        (lambda: GP(None, softmax(2), inference="ep").fit(np.eye(2), [0, 1]), "one function"),
        (
            lambda: GP(None, bernoulli(), inference="laplace", hyperparameters="ep").fit(
                np.eye(2), [0, 1]
            ),
            "variational sites",
        ),
    ],
)
def test_what_is_refused_is_told_in_a_line(call, said):
    with pytest.raises(ritz.RitzError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
