"""Conformance: every registered family keeps what it declares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ritz
from ritz import RitzError
from ritz.estimator import pathwise
from ritz.family import AbstractFamily, build, mean_field, register, registered
from ritz.objective import Problem, negative_elbo
from ritz.target import from_log_density

FAMILIES = sorted(registered())


def target(dim=3):
    return from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(dim))


def perturbed(name, dim=3, seed=0):
    """A family of this name away from where it starts."""
    q = registered()[name].build(target(dim), jnp.zeros(dim))
    leaves, treedef = jax.tree.flatten(q)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [v + 0.5 * jax.random.normal(k, v.shape) for v, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, moved)


def draws(q, n, seed=0):
    return jax.vmap(q.sample)(jax.random.split(jax.random.key(seed), n))


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_built_around_the_start(name):
    start = jnp.array([1.0, -2.0, 3.0])
    q = registered()[name].build(target(), start)
    assert type(q) is registered()[name].kind
    assert q.dim == 3
    assert np.abs(np.asarray(draws(q, 400)).mean(0) - start).max() < 0.1


@pytest.mark.parametrize("name", FAMILIES)
def test_density_integrates_to_one(name):
    q = perturbed(name, dim=2)
    drawn = np.asarray(draws(q, 4000))
    centre, sd = drawn.mean(0), drawn.std(0)
    grid = np.linspace(-8.0, 8.0, 401)
    x, y = np.meshgrid(grid * sd[0] + centre[0], grid * sd[1] + centre[1], indexing="ij")
    points = jnp.asarray(np.stack([x, y], -1).reshape(-1, 2), jnp.float32)
    density = np.exp(np.asarray(jax.vmap(q.log_prob)(points), np.float64))
    assert abs(density.sum() * (grid[1] - grid[0]) ** 2 * sd.prod() - 1) < 1e-3


def integral_transform(q, x):
    """Each coordinate of draws from a Gaussian q through its exact conditional distribution."""
    loc = np.asarray(q.loc, np.float64)
    scale = (
        np.asarray(q.scale_tril, np.float64)
        if hasattr(q, "scale_tril")
        else np.diag(np.exp(np.asarray(q.log_scale, np.float64)))
    )
    return stats.norm.cdf(np.linalg.solve(scale, (np.asarray(x, np.float64) - loc).T)).T


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_match_the_density(name):
    q = perturbed(name)
    x = np.asarray(draws(q, 5000))
    u = integral_transform(q, x)
    assert all(stats.kstest(u[:, i], "uniform").pvalue > 0.01 / 3 for i in range(3))
    wrong = integral_transform(q, 1.25 * (x - x.mean(0)) + x.mean(0))
    assert any(stats.kstest(wrong[:, i], "uniform").pvalue < 1e-4 for i in range(3))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("x64", [False, True])
def test_sample_and_log_prob_agree_with_their_parts(name, x64):
    with jax.enable_x64(x64):
        q = perturbed(name)
        keys = jax.random.split(jax.random.key(1), 50)
        x, log_q = jax.vmap(q.sample_and_log_prob)(keys)
        assert x.dtype == log_q.dtype == (jnp.float64 if x64 else jnp.float32)
        np.testing.assert_allclose(x, jax.vmap(q.sample)(keys), rtol=1e-6)
        np.testing.assert_allclose(log_q, jax.vmap(q.log_prob)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_entropy_is_the_mean_of_minus_log_prob(name):
    q = perturbed(name)
    values = -np.asarray(jax.vmap(q.log_prob)(draws(q, 20_000)))
    assert abs(values.mean() - float(q.entropy())) < 4 * values.std() / 20_000**0.5
    assert abs(values.mean() - (float(q.entropy()) + 0.1)) > 4 * values.std() / 20_000**0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_sample_is_differentiable_where_declared(name):
    q = perturbed(name)
    if "reparameterised" in q.capabilities:
        grad = jax.grad(lambda q: (q.sample(jax.random.key(0)) ** 2).sum())(q)
        assert all(np.abs(np.asarray(g)).max() > 0 for g in jax.tree.leaves(grad))


@pytest.mark.parametrize("name", FAMILIES)
def test_it_fits_at_ten_times_the_size(name):
    fit = ritz.fit(target(30), family=name, steps=1500)
    assert np.abs(np.asarray(fit.q.loc)).max() < 0.3


class Sampler(AbstractFamily):
    """A family that can only be sampled."""

    capabilities = frozenset({"sample", "reparameterised"})
    loc: jax.Array

    @property
    def dim(self):
        return self.loc.shape[0]

    def sample(self, key):
        return self.loc + jax.random.normal(key, self.loc.shape)


def test_what_a_family_lacks_is_named_with_one_that_works():
    with pytest.raises(
        RitzError, match=r"NegativeELBO needs a family with entropy, which Sampler lacks; .*: "
    ):
        Problem(target(), Sampler(jnp.zeros(3)), negative_elbo(), pathwise())
    with pytest.raises(RitzError, match="Sampler has no log_prob; its capabilities: rep"):
        Sampler(jnp.zeros(3)).log_prob(jnp.zeros(3))


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("mean_feild", "no family 'mean_feild'"),
        (3, "a family arrived as int"),
        (lambda target, start: "x", "a family arrived as str"),
        (mean_field(None, jnp.zeros(4)), r"has 4 dimensions, but the target has 3 dimensions"),
    ],
)
def test_families_that_do_not_fit(family, message):
    with pytest.raises(RitzError, match=message):
        build(family, target(), jnp.zeros(3))


def test_a_users_own_family_needs_no_registration(monkeypatch):
    fit = ritz.fit(
        target(), family=lambda t, start: mean_field(t, start + 1.0, scale=0.5), steps=1500
    )
    assert np.abs(np.asarray(fit.q.loc)).max() < 0.3
    monkeypatch.setattr("ritz.family._base._REGISTRY", dict(registered()))
    register("wide", lambda t, start: mean_field(t, start, 2.0), type(fit.q), "for this test")
    assert "wide" in registered()
