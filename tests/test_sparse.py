"""Families with the conditional independences of their target."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz import RitzError
from ritz.family import banded, mean_field, sparse_precision, structured
from ritz.family._elimination import eliminate
from ritz.target import from_log_density, from_numpyro, interactions


def dense(q):
    """The covariance of a family whose draws are linear in its noise."""
    push = (lambda e: q._push(e)[0]) if hasattr(q, "pattern") else q._push
    jacobian = np.asarray(jax.jit(jax.jacfwd(push))(jnp.zeros(q.dim)), float)
    return jacobian @ jacobian.T


def moved(q, size=0.3, seed=0):
    """Somewhere else in its parameters."""
    rng = np.random.default_rng(seed)
    shift = lambda v: v + jnp.asarray(size * rng.normal(size=v.shape), v.dtype)
    return jax.tree.map(lambda v: shift(v) if v.dtype.kind == "f" else v, q)


def grid(k):
    at = np.arange(k * k).reshape(k, k)
    pairs = [np.stack([at[1:], at[:-1]], -1), np.stack([at[:, 1:], at[:, :-1]], -1)]
    return np.concatenate([p.reshape(-1, 2) for p in pairs])


@pytest.mark.parametrize(("d", "b"), [(75, 3), (64, 1), (40, 39), (5, 2), (33, 2)])
def test_banded_has_a_banded_precision(d, b):
    q = moved(banded(None, jnp.zeros(d), bandwidth=b), 0.5 / b)
    precision = np.linalg.inv(dense(q))
    lag = np.abs(np.arange(d)[:, None] - np.arange(d))
    size = np.abs(precision).max()
    assert np.abs(precision[lag > b]).max(initial=0.0) < 1e-4 * size
    assert np.abs(precision[lag == b]).max() > 1e-3 * size
    half = -0.5 * np.linalg.slogdet(precision)[1]
    assert abs(float(q.entropy()) - (half + 0.5 * d * np.log(2 * np.pi * np.e))) < 1e-3


def test_a_precision_has_the_zeros_of_its_pattern():
    d = 49
    q = moved(sparse_precision(None, jnp.zeros(d), pattern=grid(7)))
    filled = np.eye(d, dtype=bool)
    at = eliminate(grid(7), d)
    order, first = at.order, at.last
    filled[np.ix_(order[:first], order[:first])] = True
    row = first
    for parents in at.parents:
        for own in parents:
            near = np.append(order[own[own > 0] - 1], order[row])
            filled[np.ix_(near, near)] = True
            row += 1
    precision = np.linalg.inv(dense(q))
    assert filled.mean() < 0.4
    assert np.abs(precision[~filled]).max() < 1e-4 * np.abs(precision).max()
    # Every pair of the pattern is there to be used.
    assert filled[tuple(grid(7).T)].all()


def random_walk(n=500):
    y = np.cumsum(0.5 * np.random.default_rng(0).normal(size=n)) + 1.0
    y = jnp.asarray(y, jnp.float32)
    density = lambda x: -0.5 * (((y - x) ** 2).sum() + 4.0 * ((x[1:] - x[:-1]) ** 2).sum())
    target = from_log_density(density, jnp.zeros(n))
    precision = -np.asarray(jax.hessian(density)(jnp.zeros(n)), float)
    covariance = np.linalg.inv(precision)
    return target, covariance @ np.asarray(y, float), covariance


SLOW = [pytest.param(family, marks=pytest.mark.slow) for family in (sparse_precision, structured)]


@pytest.mark.parametrize("family", [banded, *SLOW])
def test_five_hundred_states_of_a_time_series(family):
    target, mean, covariance = random_walk()
    sd = np.sqrt(np.diag(covariance))
    fit = ritz.fit(target, family=family.__name__, steps=2000, draws=8)
    assert np.abs((np.asarray(fit.q.loc) - mean) / sd).max() < 0.2
    found = dense(fit.q)
    error = np.abs((found - covariance) / np.outer(sd, sd))
    assert error.max() < 0.15
    assert error.mean() < 0.01
    assert np.abs(np.diag(covariance, 1) / (sd[1:] * sd[:-1])).min() > 0.3  # and not for want of it
    assert sum(np.size(w) for w in jax.tree.leaves(fit.q.weights)) < 1200


def groups(n=20, size=2):
    """A Gaussian hierarchical model."""
    rng = np.random.default_rng(1)
    design = jnp.asarray(rng.normal(size=(n, 6, size)), jnp.float32)
    y = jnp.asarray(rng.normal(size=(n, 6)) + 1.0, jnp.float32)

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0).expand([size]).to_event(1))
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
        with numpyro.plate("group", n):
            theta = numpyro.sample("theta", dist.Normal(mu, 0.7).to_event(1))
            seen = jnp.einsum("gik,gk->gi", design, theta) + shift
            numpyro.sample("y", dist.Normal(seen, 1.0).to_event(1), obs=y)

    return from_numpyro(model)


def exact(target):
    """The mean and covariance of a Gaussian target."""
    at = jnp.zeros(target.dim)
    covariance = np.linalg.inv(-np.asarray(jax.hessian(target.log_density)(at), float))
    return covariance @ np.asarray(jax.grad(target.log_density)(at), float), covariance


def test_structured_finds_the_groups_and_their_posterior_without_being_told():
    target = groups()
    mean, covariance = exact(target)
    sd = np.sqrt(np.diag(covariance))
    fit = lambda family: ritz.fit(target, family=family, steps=3000, draws=8)
    found = fit("structured")
    # 20 pairs of local coordinates, each given its pair of means, the shift and its neighbour.
    assert sorted(w.shape[0] for w in found.q.weights) == [20, 20]
    assert found.q.last.shape == (3, 3)
    assert np.abs((np.asarray(found.q.loc) - mean) / sd).max() < 0.06
    off = lambda q: np.abs((dense(q) - covariance) / np.outer(sd, sd)).max()
    assert off(found.q) < 0.1
    half_log_det = 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    log_z = float(target.log_density(jnp.asarray(mean, jnp.float32))) + half_log_det
    assert log_z - found.elbo.value < 0.1
    blocks = [(i, j) for i, j in interactions(target, jnp.zeros(target.dim)) if j > 2 or i < 3]
    alone = fit(lambda t, s: structured(t, s, pattern=blocks))  # no local given global
    assert off(alone.q) > 0.25
    assert log_z - alone.elbo.value > 0.4


def test_its_cost_is_linear_in_the_number_of_groups():
    size = {}
    for n in (100, 200):
        q = structured(groups(n), jnp.zeros(3 + 2 * n))
        size[n] = sum(v.size for v in jax.tree.leaves(q))
    assert size[200] < 2.05 * size[100]
    assert size[200] < 403 * 45


def test_a_funnel_is_in_the_structured_family():
    funnel = lambda x: (
        -0.5 * (x[0] / 1.5) ** 2 - (0.5 * (x[1:] / jnp.exp(0.5 * x[0])) ** 2).sum() - 4.5 * x[0]
    )
    target = from_log_density(lambda x: funnel(x), jnp.zeros(10))
    log_z = np.log(1.5) + 5 * np.log(2 * np.pi)
    fit = lambda family: ritz.fit(target, family=family, steps=4000, draws=8)
    found, gaussian = fit("structured"), fit("sparse_precision")
    assert log_z - found.elbo.value < 0.02
    assert log_z - gaussian.elbo.value > 0.5
    assert found.khat < 0.5


def test_interactions_are_those_of_the_second_derivatives():
    rng = np.random.default_rng(0)
    d = 700
    pairs = np.unique(np.sort(rng.integers(0, d, (900, 2)), axis=1)[:, ::-1], axis=0)
    pairs = np.concatenate([pairs, [[i, 3] for i in range(4, d)]])  # and one global coordinate
    pairs = np.unique(pairs[pairs[:, 0] > pairs[:, 1]], axis=0)
    i, j = jnp.asarray(pairs.T)
    density = lambda x: jnp.sin(x[i] * x[j] + 1.0).sum() - (x**4).sum()
    found = interactions(from_log_density(density, jnp.zeros(d)), jnp.zeros(d))
    np.testing.assert_array_equal(found, pairs)
    kinks = from_log_density(lambda x: -jnp.abs(x[1:] - x[:-1]).sum(), jnp.zeros(300))
    assert interactions(kinks, jnp.zeros(300)).tolist() == [[k + 1, k] for k in range(299)]


def test_large_chains_are_read_in_few_products():
    d = 5_000
    target = from_log_density(lambda x: -((x[2:] - x[:-2]) ** 2).sum() - x @ x, jnp.zeros(d))
    assert interactions(target, jnp.zeros(d)).tolist() == [[k + 2, k] for k in range(d - 2)]
    full = from_log_density(lambda x: -(x.sum() ** 2), jnp.zeros(1000))
    with pytest.raises(RitzError, match=r"the 1,000 coordinates .* nearly all .*='low_rank'"):
        interactions(full, jnp.zeros(1000))


def test_each_pattern_is_eliminated_in_few_rounds():
    chain = np.stack([np.arange(1, 4096), np.arange(4095)], -1)
    found = eliminate(chain, 4096)
    assert len(found.parents) < 30
    assert sum(p.size for p in found.parents) < 3 * 4096


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t, s: banded(t, s, bandwidth=4), r"bandwidth=4 .* less than 4; .*'full_rank'"),
        (lambda t, s: banded(t, s, bandwidth=0), r"banded: bandwidth=0 arrived"),
        (
            lambda t, s: sparse_precision(t, s, pattern=[(0, 9)]),
            r"has the pair \(0, 9\)",
        ),
        (lambda t, s: sparse_precision(t, s, pattern=[(1, 1)]), r"has the pair \(1, 1\)"),
        (lambda t, s: sparse_precision(t, s, pattern=[(1, 1, 2)]), r"int64 of shape \(1, 3\)"),
        (lambda t, s: sparse_precision(t, s, pattern=[(1,), (1, 2)]), r"ragged"),
        (lambda t, s: sparse_precision(t, s, pattern="chain"), r"pattern arrived as <U5"),
        (lambda t, s: structured(None, s), r"structured reads .* NoneType lacks; .*'mean_field'"),
    ],
)
def test_bad_input(make, message):
    target = from_log_density(lambda x: -(x @ x), jnp.zeros(4))
    with pytest.raises(RitzError, match=message):
        make(target, jnp.zeros(4))
    with pytest.raises(RitzError, match=message):
        ritz.fit(target, family=make)


def test_a_target_that_cannot_be_read_names_another_family():
    nowhere = from_log_density(lambda x: jnp.log(-(x @ x) - 1.0), jnp.zeros(3))
    with pytest.raises(RitzError, match=r"not finite near the start, .*'low_rank'"):
        structured(nowhere, jnp.zeros(3))
    assert mean_field(nowhere, jnp.zeros(3)).dim == 3
