"""Mean-field families with other margins than normal ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import ritz
from ritz import RitzError
from ritz.family import laplace, student_t
from ritz.target import from_log_density


@pytest.mark.parametrize("df", [0.7, 3.0, 49.9, 50.1, 1e4, 1e7])
@pytest.mark.parametrize("x64", [False, True])
def test_student_t_is_scipys_for_few_and_many_degrees_of_freedom(df, x64):
    with jax.enable_x64(x64):
        q = student_t(None, jnp.zeros(1), df=df, scale=2.0)
        truth, tol = stats.t(df, scale=2.0), 1e-11 if x64 else 5e-6
        for x in (0.0, 1.0, 30.0):
            found = float(q.log_prob(jnp.array([x])))
            scale = 1.0 + (x / 2.0) ** 2 * 0.5
            assert abs(found - truth.logpdf(x)) < tol * scale * (1.0 if df < 1e5 else 3.0)
        assert abs(float(q.entropy()) - truth.entropy()) < 10 * tol


def test_the_entropys_derivative_in_the_degrees_of_freedom():
    q = student_t(None, jnp.zeros(1))
    at = lambda log_df: eqx.tree_at(lambda q: q.log_df, q, log_df[None]).entropy()
    for df in (1.0, 30.0, 70.0, 500.0):
        half = df / 2
        # d/dnu: (nu + 1)/4 [psi'((nu + 1)/2) - psi'(nu/2)] + 1/(2 nu), and 1/2 psi cancels.
        gap = special.polygamma(1, half + 0.5) - special.polygamma(1, half)
        exact = df * ((df + 1) / 4 * gap + 1 / (2 * df))
        assert abs(float(jax.grad(at)(jnp.log(df))) - exact) < 2e-4 * max(abs(exact), 0.1)


def test_it_finds_the_tails_of_a_product_of_student_ts():
    df, scale = np.array([3.0, 8.0]), np.array([1.0, 0.2])
    density = lambda x: -(0.5 * (df + 1) * jnp.log1p((x / scale) ** 2 / df)).sum()
    target = from_log_density(density, jnp.array([1.0, -1.0]))
    fit = lambda family: ritz.fit(target, family=family, steps=2000, lr=0.05, draws=16)
    found = fit("student_t")
    assert np.abs(np.log(np.asarray(found.q.df) / df)).max() < 0.3
    assert np.abs(np.asarray(found.q.log_scale) - np.log(scale)).max() < 0.05
    wrong = fit(lambda t, s: student_t(t, s, df=30.0))
    assert found.log_weight_sd < 0.1 < 0.2 < wrong.log_weight_sd
    np.testing.assert_allclose(wrong.q.df, 30.0, rtol=1e-6)


@pytest.mark.slow
def test_it_becomes_a_gaussian_where_the_target_is_one():
    # KL(t || N) is flat in the degrees of freedom: it falls like their square.
    target = from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.ones(2))
    fit = lambda family: ritz.fit(target, family=family, lr=0.05, steps=2000, draws=64)
    fits = [fit("student_t"), fit(lambda t, s: student_t(t, s, df=4.0))]
    assert np.asarray(fits[0].q.df).min() > 20
    kl = [np.log(2 * np.pi) - f.elbo.value for f in fits]
    assert kl[0] < 0.01 < 0.02 < kl[1]


def test_laplace_finds_a_laplace():
    scale = jnp.array([1.0, 0.1])
    target = from_log_density(lambda x: -(jnp.abs(x - 2.0) / scale).sum(), jnp.zeros(2))
    fit = ritz.fit(target, family="laplace", steps=2000, draws=16)
    np.testing.assert_allclose(fit.q.loc, [2.0, 2.0], atol=0.03)
    np.testing.assert_allclose(jnp.exp(fit.q.log_scale), scale, rtol=0.05)
    normal = ritz.fit(target, family="mean_field", steps=2000, draws=16)
    assert abs(fit.elbo.value - float(jnp.log(2.0 * scale).sum())) < 0.01
    assert normal.elbo.value < fit.elbo.value - 0.1
    truth = stats.laplace(scale=0.1)
    q = laplace(None, jnp.zeros(1), scale=0.1 * 2**0.5)
    assert abs(float(q.log_prob(jnp.ones(1))) - truth.logpdf(1.0)) < 1e-5


@pytest.mark.parametrize("df", [0.0, -1, "three", float("inf"), True])
def test_degrees_of_freedom_that_make_no_sense(df):
    with pytest.raises(RitzError, match=r"student_t: df=.* arrived, expected a positive number"):
        student_t(None, jnp.zeros(2), df=df)
