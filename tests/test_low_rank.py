"""The low-rank plus diagonal Gaussian against dense algebra, and at its size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ritz
from ritz import RitzError
from ritz.family import LowRank, low_rank
from ritz.target import from_log_density


def some(d, r, size=1.0):
    rng = np.random.default_rng(d)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return LowRank(draw(d), 0.5 * draw(d), size * draw(d, r))


def covariance(q):
    scale, factor = (np.asarray(v, float) for v in (jnp.exp(q.log_scale), q.factor))
    return scale[:, None] * (np.eye(q.dim) + factor @ factor.T) * scale


@pytest.mark.parametrize("size", [1.0, 100.0])  # 100: large factors cancel in Woodbury's formula
def test_it_is_the_dense_gaussian(size):
    from scipy import stats

    q = some(7, 3, size)
    dense = stats.multivariate_normal(np.asarray(q.loc), covariance(q))
    x, log_q = jax.vmap(q.sample_and_log_prob)(jax.random.split(jax.random.key(0), 20))
    np.testing.assert_allclose(log_q, dense.logpdf(np.asarray(x, float)), rtol=2e-4, atol=2e-3)
    assert abs(float(q.entropy()) - dense.entropy()) < 1e-3
    assert abs(float(q.log_scale.sum()) + 3.5 * np.log(2 * np.pi * np.e) - dense.entropy()) > 1.0
    push = jax.jacobian(lambda q: q.sample(jax.random.key(0)))(q).factor
    assert push.shape == (7, 7, 3)


def test_it_finds_a_covariance_of_its_form():
    truth = some(12, 2)
    cov = covariance(truth)
    precision = jnp.asarray(np.linalg.inv(cov), jnp.float32)
    target = from_log_density(
        lambda x: -0.5 * (x - truth.loc) @ precision @ (x - truth.loc), jnp.zeros(12)
    )
    sd = np.sqrt(np.diag(cov))
    fit = lambda rank: ritz.fit(
        target, family=lambda t, s: low_rank(t, s, rank=rank), steps=2000, draws=8
    )
    wrong = lambda q: np.abs((covariance(q) - cov) / np.outer(sd, sd)).max()
    good, poor = fit(2), fit(1)
    assert np.abs(np.asarray(good.q.loc - truth.loc) / sd).max() < 0.05
    assert wrong(good.q) < 0.05 < 0.3 < wrong(poor.q)
    assert good.elbo.value > poor.elbo.value + 0.2


def test_a_hundred_thousand_dimensions():
    d = 100_000
    weight = jnp.linspace(0.5, 2.0, d)
    target = from_log_density(lambda x: -0.5 * (weight * x**2).sum(), jnp.zeros(d))
    fit = ritz.fit(target, family="low_rank", steps=20, draws=1)
    assert fit.q.rank == 10
    assert np.isfinite(fit.history.columns["loss"]).all()
    x, log_q = fit.q.sample_and_log_prob(jax.random.key(0))
    np.testing.assert_allclose(log_q, fit.q.log_prob(x), rtol=1e-4)
    assert abs(float(log_q + fit.q.entropy())) < 5 * (d / 2) ** 0.5


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (5, "low_rank: rank=5 arrived for 4 dimensions, expected at most 4; .* family='full_rank'"),
        (0, "low_rank: rank=0 arrived"),
        (1.5, "low_rank: rank=1.5 arrived"),
    ],
)
def test_ranks_that_make_no_sense(rank, message):
    with pytest.raises(RitzError, match=message):
        low_rank(None, jnp.zeros(4), rank=rank)
