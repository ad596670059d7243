"""Conformance: every registered family keeps what it declares."""

import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from scipy import stats

import ritz
from ritz import RitzError
from ritz.estimator import pathwise
from ritz.family import (
    AbstractFamily,
    build,
    full_rank,
    lacking,
    mean_field,
    name_of,
    register,
    registered,
)
from ritz.family._base import in_units
from ritz.objective import Problem, negative_elbo
from ritz.target import from_log_density

FAMILIES = sorted(registered())
START = jnp.array([1.0, -2.0, 3.0])


def able(*needs):
    """The families that declare some capabilities."""
    return [n for n in FAMILIES if not lacking(needs, registered()[n].capabilities)]


# Their programs take seconds to compile.
LONGER = ("bnaf", "iaf", "maf", "coupling", "spline", "sylvester")
LONGER += ("annealed", "stochastic_flow", "mixflow", "implicit")
LONGER += ("pis", "dis", "bridge", "cmcd")


def cases(*needs, slow=("bnaf",)):
    """As `able`, some as slow tests."""
    mark = lambda name: [pytest.mark.slow] * (name in slow)
    return [pytest.param(name, marks=mark(name)) for name in able(*needs)]


def target(dim=3):
    """A shared parameter and what is conditional on it, so that there is structure to be found."""
    return from_log_density(
        lambda x: -0.5 * (x[0] ** 2 + ((x[1:] - x[0]) ** 2).sum()), np.zeros(dim)
    )


def made(name, dim=3):
    return registered()[name].build(target(dim), jnp.zeros(dim))


def trained(q):
    """What a solver moves, and the rest."""
    fixed = lambda leaf: isinstance(leaf, paramax.NonTrainable)
    return eqx.partition(q, eqx.is_inexact_array, is_leaf=fixed)


def like(tree, seed):
    """Standard normals of a tree's shapes."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(k, v.shape, v.dtype) for k, v in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, drawn)


# At 0.5 a network's random weights fold space so often that no few latents explain a draw, random
# planes leave holes where a Gaussian has mass, and the weights of paths have no variance.
PERTURBED = {"implicit": 0.1, "planar": 0.2, "mixflow": 0.1, "stochastic_flow": 0.1}


def perturbed(name, dim=3):
    """A family of this name away from where it starts."""
    params, rest = trained(made(name, dim))
    size = PERTURBED.get(name, 0.5)
    noise = in_units(like(params, 0), 1.0)
    params = jax.tree.map(lambda v, n: v + size * n, params, noise)
    return paramax.unwrap(eqx.combine(params, rest))


@functools.cache
def drawn(name, dim, n=20_000):
    """A family away from its start, draws of it with their log densities, as NumPy arrays."""
    q = perturbed(name, dim)
    keys = jax.random.split(jax.random.key(7), n)
    if "log_prob" in q.capabilities or "sample_and_log_prob" in q.capabilities:
        x, log_q = eqx.filter_jit(lambda q, k: jax.vmap(q.sample_and_log_prob)(k))(q, keys)
    else:
        x, log_q = eqx.filter_jit(lambda q, k: jax.vmap(q.sample)(k))(q, keys), jnp.zeros(n)
    return q, np.asarray(x, np.float64), np.asarray(log_q, np.float64)


class Grid:
    """The masses of a density's cells in the plane: fine about the draws, and far into the tails.

    Along each axis :math:`x = c + s sinh(u)` for evenly spaced u, out to 100 standard deviations.
    """

    u = np.linspace(-5.3, 5.3, 501)
    step = u[1] - u[0]

    def __init__(self, q, draws):
        # Quartiles, as tails may have no variance.
        low, self.centre, high = np.quantile(draws, [0.25, 0.5, 0.75], axis=0)
        self.scale = (high - low) / 1.35
        axes = self.centre[:, None] + self.scale[:, None] * np.sinh(self.u)
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
        log_prob = eqx.filter_jit(lambda q, x: jax.lax.map(q.log_prob, x, batch_size=4096))
        density = np.exp(np.asarray(log_prob(q, jnp.asarray(points, jnp.float32)), np.float64))
        stretch = self.step * np.cosh(self.u)
        self.mass = density.reshape(501, 501) * np.outer(stretch, stretch) * self.scale.prod()

    def cells(self, draws):
        """The cell that each draw is in."""
        u = np.arcsinh((draws - self.centre) / self.scale)
        return np.clip(np.rint((u - self.u[0]) / self.step).astype(int), 0, 500)

    def pvalue(self, draws):
        """Of a chi-squared test of the draws, in about a hundred cells of many."""
        cuts = lambda m: np.searchsorted(np.cumsum(m) / m.sum(), np.linspace(0, 1, 11)[1:-1])
        coarse = [np.searchsorted(cuts(self.mass.sum(1 - a)), np.arange(501)) for a in (0, 1)]
        which = 10 * coarse[0][:, None] + coarse[1]
        expected = np.bincount(which.ravel(), self.mass.ravel(), 100) / self.mass.sum() * len(draws)
        found = np.bincount(which[tuple(self.cells(draws).T)], minlength=100)
        big = expected >= 5
        expected = np.append(expected[big], expected[~big].sum())
        found = np.append(found[big], found[~big].sum())
        keep = expected > 1e-9
        assert found[~keep].sum() == 0
        return stats.chisquare(found[keep], expected[keep] * found.sum() / expected.sum()).pvalue


@functools.cache
def grid(name):
    q, x, _ = drawn(name, 2)
    return Grid(q, x)


@pytest.mark.parametrize("name", cases())
def test_it_is_built_around_the_start(name):
    one, build = target(), registered()[name].build
    q = build(one, START)
    assert name_of(q) == name
    assert q.capabilities == registered()[name].capabilities
    again = build(one, START, **json.loads(json.dumps(q.options)))
    assert jax.tree.structure(again) == jax.tree.structure(q)
    assert q.dim == 3
    # Of these two the orbit, or the path, goes to the target from there.
    if name in able("sample") and name not in ("mixflow", "cmcd"):
        x = np.asarray(jax.vmap(paramax.unwrap(q).sample)(jax.random.split(jax.random.key(0), 400)))
        assert (np.abs(x.mean(0) - START) < np.maximum(0.1, 4.0 * x.std(0) / 400**0.5)).all()


@pytest.mark.parametrize("name", cases("log_prob", "sample"))
def test_density_integrates_to_one(name):
    assert abs(grid(name).mass.sum() - 1) < 1e-3


@pytest.mark.parametrize("name", cases("log_prob", "sample"))
def test_samples_match_the_density(name):
    _, x, _ = drawn(name, 2)
    assert grid(name).pvalue(x) > 0.001
    centre = np.median(x, axis=0)
    assert grid(name).pvalue(centre + 1.1 * (x - centre)) < 1e-6
    turned = x @ np.array([[0.9, 0.1], [-0.1, 0.9]])
    assert grid(name).pvalue(turned) < 1e-6


@pytest.mark.parametrize("name", able("sample_and_log_prob"))
def test_importance_weights_have_mean_one(name):
    # Also of a family without a density of its own, whose draws come with an estimate of one.
    _, x, log_q = drawn(name, 3)
    # A Gaussian inside the bulk: where the draws have heavy tails, their covariance is of these.
    centre, width = np.median(x, axis=0), stats.iqr(x, axis=0)
    far = (np.abs(x - centre) / width).max(1)
    p = stats.multivariate_normal(centre, 0.5 * np.cov(x[far < np.quantile(far, 0.9)].T))

    def off(log_q):
        weights = np.exp(p.logpdf(x) - log_q)
        return abs(weights.mean() - 1) / (weights.std() / len(x) ** 0.5)

    assert off(log_q) < 4
    assert off(log_q + 0.2) > 4


@pytest.mark.parametrize(
    ("name", "x64"),
    [
        pytest.param(name, x64, marks=[pytest.mark.slow] * (x64 and name in LONGER))
        for name in able("sample_and_log_prob")
        for x64 in (False, True)
    ],
)
def test_sample_and_log_prob_agree_with_their_parts(name, x64):
    with jax.enable_x64(x64):
        q = perturbed(name)

        def every(q, key):
            x, log_q = q.sample_and_log_prob(key)
            apart = {"sample": q.sample(key)} if name in able("sample") else {}
            apart |= {"log_prob": q.log_prob(x)} if name in able("log_prob") else {}
            return x, log_q, apart

        run = eqx.filter_jit(lambda q, keys: jax.vmap(lambda key: every(q, key))(keys))
        x, log_q, apart = run(q, jax.random.split(jax.random.key(1), 50))
        assert x.dtype == log_q.dtype == (jnp.float64 if x64 else jnp.float32)
        tol = 1e-10 if x64 else 1e-4
        np.testing.assert_allclose(x, apart.get("sample", x), rtol=tol, atol=tol)
        np.testing.assert_allclose(log_q, apart.get("log_prob", log_q), rtol=tol, atol=tol)


@pytest.mark.parametrize("name", able("entropy"))
def test_entropy_is_the_mean_of_minus_log_prob(name):
    q, _, log_q = drawn(name, 3)
    error, se = abs(-log_q.mean() - float(q.entropy())), log_q.std() / len(log_q) ** 0.5
    assert error < 4 * se
    assert abs(-log_q.mean() - (float(q.entropy()) + 0.1)) > 4 * se


@pytest.mark.parametrize("name", cases("reparameterised", "log_prob"))
def test_the_derivative_of_draws_is_that_of_their_expectation(name):
    """Against the score function's estimate, along a direction in each of the parameters."""
    q = made(name, 2)
    params, rest = trained(q)
    size = 0.1 if name == "spline" else 0.5  # whose score is the noisiest
    noise = in_units(like(params, 0), 1.0)
    params = jax.tree.map(lambda v, n: v + size * n, params, noise)
    at = lambda params: paramax.unwrap(eqx.combine(params, rest))
    f = lambda x: jnp.tanh(x).sum() + 0.5 * jnp.sin(x[0] + 2.0 * x[1])

    def both(direction, key):
        x, moves = jax.jvp(lambda p: at(p).sample(key), (params,), (direction,))
        pathwise = jax.grad(f)(x) @ moves
        return pathwise, f(x), jax.jvp(lambda p: at(p).log_prob(x), (params,), (direction,))[1]

    # Direction k moves every eighth array from the k-th on, upwards: a signal above the noise.
    keys = jax.random.split(jax.random.key(4), 500)
    up = jax.grad(lambda p: jax.vmap(lambda key: f(at(p).sample(key)))(keys).mean())
    leaves, treedef = jax.tree.flatten(jax.jit(up)(params))
    own = lambda v, i: jnp.stack([v * (i % 8 == k) for k in range(min(8, len(leaves)))])
    directions = jax.tree.unflatten(treedef, [own(v, i) for i, v in enumerate(leaves)])
    keys = jax.random.split(jax.random.key(3), 20_000)
    run = jax.jit(jax.vmap(jax.vmap(both, (0, None)), (None, 0)))
    pathwise, value, score = (np.asarray(v, np.float64) for v in run(directions, keys))
    assert np.abs(pathwise).max(0).min() > 0

    def off(pathwise):
        difference = pathwise - (value - value.mean(0)) * score
        return np.abs(difference.mean(0)) / (difference.std(0) / len(keys) ** 0.5)

    assert off(pathwise).max() < 4.5
    assert off(2.0 * pathwise).max() > 4.5


@pytest.mark.parametrize("name", cases("sample", slow=LONGER))
def test_it_fits_at_ten_times_the_size_and_comes_back_from_a_file(name, tmp_path):
    fit = ritz.fit(target(30), family=name, steps=1000)
    assert np.abs(fit.unconstrained_mean()).max() < 0.4
    loaded = ritz.load(fit.save(tmp_path / "fit"))
    own = lambda q: jax.tree.leaves(eqx.filter(q, eqx.is_array))
    assert eqx.tree_equal(own(loaded.q), own(fit.q))
    assert loaded.q.options == fit.q.options
    assert name_of(loaded.q) == fit.info["family"] == name


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
    wide = lambda t, start: mean_field(t, start, 2.0)
    register("wide", wide, fit.q.capabilities, "2d", "for this test")
    assert "wide" in registered()


def test_a_family_that_memory_cannot_hold_is_refused_before_it_is_made():
    big = target(1_000_000)
    message = (
        r"the family 'full_rank' in 1,000,000 dimensions takes 3\.6 TiB for its parameters and "
        r"about 21\.8 TiB to train, but .* are free; use family='(low_rank|mean_field)'"
    )
    with pytest.raises(RitzError, match=message):
        build("full_rank", big, jnp.zeros(1_000_000))
    with pytest.raises(RitzError, match="'full_rank' in 1,000,000 dimensions"):
        build(full_rank, big, jnp.zeros(1_000_000))
    assert build("full_rank", target(100), jnp.zeros(100)).dim == 100
