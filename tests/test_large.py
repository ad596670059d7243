"""Many rows: right, or said not to be, in bounded time."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz.solver._side_by_side import side_by_side


def logistic(x, y=None):
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.5).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ beta), obs=y)


def rows(n, d, dtype=np.float32):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d)).astype(dtype)
    x[:, 0] = 1.0
    chance = 1 / (1 + np.exp(-x @ rng.normal(scale=0.5, size=d)))
    return x, (rng.uniform(size=n) < chance).astype(dtype)


def mode(x, y):
    """The mode, and the sds there: with so many rows the posterior is normal."""
    x, at = x.astype(float), np.zeros(x.shape[1])
    precision = np.eye(len(at)) / 2.5**2
    for _ in range(12):
        p = 1 / (1 + np.exp(-x @ at))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + precision
        at = at + np.linalg.solve(hessian, x.T @ (y - p) - precision @ at)
    return at, np.sqrt(np.diag(np.linalg.inv(hessian)))


def off(fit, x, y):
    at, sd = mode(x, y)
    return np.abs((fit.mean()["beta"] - at) / sd).max(), np.abs(fit.sd()["beta"] / sd - 1).max()


@pytest.mark.parametrize(("n", "d"), [(100_000, 5), (1_000_000, 20)])
def test_all_rows_at_once(n, d):
    x, y = rows(n, d)
    fit = ritz.fit(logistic, (x, y), progress=False)
    assert (fit.stop_reason, fit.status) == ("converged", "ok")
    mean, sd = off(fit, x, y)
    assert mean < 0.1
    assert sd < 0.2
    assert ("fewer starts" in fit.explain()) == (n == 1_000_000)


def test_rows_in_batches():
    x, y = rows(100_000, 5)
    fit = ritz.fit(logistic, ritz.data.batches((x, y), 1000), progress=False)
    assert (fit.stop_reason, fit.status) == ("converged", "ok")
    mean, sd = off(fit, x, y)
    assert mean < 0.1
    assert sd < 0.2


def test_columns_in_any_unit():
    x, y = rows(100_000, 3, np.float64)
    scale = np.array([1.0, 1e-3, 1e4])
    shifted = x * scale + np.array([0.0, 5e4, -3.0])

    def model(x, y=None):
        beta = numpyro.sample("beta", dist.Normal(0.0, 2.5 / scale).to_event(1))
        level = numpyro.sample("level", dist.Normal(0.0, 1e9))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Bernoulli(logits=x @ beta + level), obs=y)

    with jax.enable_x64(True):
        fit = ritz.fit(model, (shifted, y), progress=False)
        at, sd = mode(x, y)
        error = np.abs((fit.mean()["beta"] * scale - at) / sd)[1:].max()
        assert fit.status == "doubtful" or error < 0.1


def test_gradients_one_after_another_are_those_side_by_side(monkeypatch):
    x, y = rows(300, 3)
    options = {"family": "full_rank", "solver": "natural_gradient", "progress": False}
    whole = ritz.fit(logistic, (x, y), **options)
    monkeypatch.setattr("ritz.solver._side_by_side.SIDE_BY_SIDE", 2000)
    again = ritz.fit(logistic, (x, y), **options)
    np.testing.assert_allclose(again.q.loc, whole.q.loc, atol=1e-4)
    np.testing.assert_allclose(again.q.scale_tril, whole.q.scale_tril, atol=1e-4)


def test_few_evaluations_side_by_side_where_arrays_on_the_way_are_large():
    """Many combinations of few data, as a sum over discrete values makes them."""
    points = jnp.zeros((64, 3))
    target = {"data": jnp.ones(500)}
    on_the_way = lambda x: (x.sum() * jnp.ones((1024, 512))).sum()
    assert side_by_side(on_the_way, points, target) == 4
    looped = lambda x: jax.lax.fori_loop(0, 2, lambda i, c: c + on_the_way(x), 0.0)
    assert side_by_side(looped, points, target) == 4
    # As large as the data themselves: all at once, as before.
    assert side_by_side(lambda x: (x[0] * target["data"]).sum(), points, target) == 64
    assert side_by_side(lambda x: jnp.ones(1 << 22).sum() * x[0], points, target) == 1
