"""Mixtures of the best Gaussians given one or two coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import gaussian

import ritz
from ritz import _conditionals, _posterior
from ritz._conditionals import conditionals
from ritz.family import Mixture
from ritz.target import from_log_density, library

ALWAYS = lambda evaluations: True


def normal(x, mean, log_sd):
    return (-0.5 * ((x - mean) * jnp.exp(-log_sd)) ** 2 - log_sd - 0.5 * jnp.log(2 * jnp.pi)).sum()


def funnel(x):
    """x_0 is normal; given it, so are the others, whose place and width it moves. Z = 1."""
    slope = jnp.linspace(-1.0, 1.0, len(x) - 1)
    return normal(x[0], 0.3, 0.0) + normal(x[1:], slope * x[0], 0.7 * x[0] * jnp.ones(len(x) - 1))


def bent(x):
    """x_1 moves the others, x_2 sets their width, x_0 does neither. Z = 1."""
    rest = normal(x[3:], x[1] ** 2, 0.6 * x[2] * jnp.ones(len(x) - 3))
    return normal(x[:3], jnp.array([1.0, 0.0, 0.0]), jnp.zeros(3)) + rest


def best_gaussian(density, d):
    target = from_log_density(density, jnp.zeros(d))
    fit = ritz.fit(target, family="full_rank", solver="natural_gradient", progress=False)
    stacked = jax.tree.map(lambda v: v[None], fit.q)
    return target, fit.q, Mixture(jnp.zeros(1, stacked.loc.dtype), stacked, "full_rank")


def weighed(q, target, n=16_000):
    return _posterior.drawn(q, target, n, jax.random.key(7))


@pytest.mark.parametrize(
    ("density", "unit", "expected"),
    [(funnel, 1.0, [0]), (bent, 1.0, [1, 2]), (bent, 1e3, [1, 2])],
)
def test_conditional_gaussians_are_found_exactly(density, unit, expected):
    """Then weights are those of the lattice alone: nearly all draws are left, and Z is 1.

    In any units of a coordinate.
    """
    d = 8
    units = jnp.ones(d).at[1].set(unit)
    target, q, before = best_gaussian(lambda x: density(x / units), d)
    found = conditionals(before, [q], target, np.random.default_rng(0), ALWAYS)
    assert found is not None
    assert sorted(found.coordinates) == expected
    pool = weighed(found.q, target)
    smoothed = _posterior.smooth(pool["log_weights"])
    plain = _posterior.smooth(weighed(before, target)["log_weights"])
    assert smoothed.khat < 0.5
    assert smoothed.ess > 0.65 * 16_000
    assert smoothed.ess > 2.0 * plain.ess
    ratio = np.exp(pool["log_weights"].astype(float)) / unit
    assert abs(ratio.mean() - 1.0) < 4.0 * ratio.std() / 16_000**0.5


@pytest.mark.parametrize("wrong", ["no slope", "no run"])
def test_without_its_parts_it_is_worse(wrong, monkeypatch):
    """Gaussians that are all alike, or that do not follow the mean, leave fewer draws."""
    solved = _conditionals._solved
    first = []

    def spoiled(found, dim):
        part, cost = solved(found, dim)
        first.append(part)
        if wrong == "no run":
            part = part._replace(mean=first[0].mean, root=first[0].root)
        return part._replace(slope=0.0 * part.slope), cost

    target, q, before = best_gaussian(bent, 8)
    rng = lambda: np.random.default_rng(0)
    ess = lambda q: _posterior.smooth(weighed(q, target)["log_weights"]).ess
    right = conditionals(before, [q], target, rng(), ALWAYS)
    monkeypatch.setattr(_conditionals, "_solved", spoiled)
    spoilt = conditionals(before, [q], target, rng(), ALWAYS)
    assert right is not None
    assert spoilt is not None
    assert ess(spoilt.q) < 0.9 * ess(right.q)


def test_there_is_nothing_to_follow_in_a_gaussian():
    target, _, _ = gaussian(6, 100.0)
    fit = ritz.fit(target, family="full_rank", solver="natural_gradient", progress=False)
    q = Mixture(jnp.zeros(1), jax.tree.map(lambda v: v[None], fit.q), "full_rank")
    assert conditionals(q, [fit.q], target, np.random.default_rng(0), ALWAYS) is None


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_what_cannot_be_afforded_is_left(allowed):
    left = iter([True] * allowed)
    target, q, before = best_gaussian(funnel, 4)
    afford = lambda evaluations: next(left, False)
    assert conditionals(before, [q], target, np.random.default_rng(0), afford) is None


def test_a_density_that_ends():
    """Beyond x_0 = 1 there is none: lattice points there are left out."""
    ends = lambda x: jnp.where(x[0] < 1.0, funnel(x), -jnp.inf)
    target, q, before = best_gaussian(funnel, 4)
    target = from_log_density(ends, jnp.zeros(4))
    found = conditionals(before, [q], target, np.random.default_rng(0), ALWAYS)
    assert found is not None
    assert np.isfinite(np.asarray(found.q.parts.loc)).all()
    assert float(found.q.parts.loc[1:, 0].max()) < 1.0
    smoothed = _posterior.smooth(weighed(found.q, target)["log_weights"])
    assert smoothed.ess > 0.5 * 16_000


def test_the_default_follows_it():
    """A funnel that no Gaussian is near to: right, ok, and said."""
    fit = ritz.fit(from_log_density(lambda x: funnel(2.0 * x), jnp.zeros(12)), progress=False)
    assert fit.status == "ok"
    assert "which the curvature changes with" in fit.explain()
    slope = np.linspace(-1.0, 1.0, 11) / 2.0
    # E x_i = a E theta; Var x_i = E e^{1.4 theta} + a^2 Var theta, theta ~ N(0.3, 1).
    mean = np.r_[0.15, 0.3 * slope]
    sd = np.sqrt(np.r_[0.25, 0.25 * np.exp(1.4 * 0.3 + 0.98) + slope**2])
    assert np.abs((np.asarray(fit.mean()) - mean) / sd).max() < 0.1
    assert np.abs(np.log(np.asarray(fit.sd()) / sd)).max() < 0.2


def neal(x):
    return normal(x[0], 0.0, jnp.log(3.0)) + normal(x[1:], 0.0, 0.5 * x[0] * jnp.ones(len(x) - 1))


def test_a_lattice_that_would_be_cut_is_made_coarser(monkeypatch):
    """Neal's funnel in 50 dimensions: the Gaussian is a tenth as wide as the funnel is long.

    Where the lattice is cut instead, weights do not tell, and sds are wrong.
    """
    target, q, before = best_gaussian(neal, 50)
    found = conditionals(before, [q], target, np.random.default_rng(0), ALWAYS)
    assert found is not None
    pool = weighed(found.q, target)
    smoothed = _posterior.smooth(pool["log_weights"])
    assert smoothed.ess > 0.75 * 16_000
    sd = lambda pool: np.sqrt(
        np.average(pool["x"][:, 0] ** 2, weights=np.exp(pool["log_weights"].astype(float)))
    )
    assert abs(sd(pool) - 3.0) < 0.15
    monkeypatch.setattr(_conditionals, "_CUT", -np.inf)
    monkeypatch.setattr(_conditionals, "_COMPONENTS", 37)
    cut = conditionals(before, [q], target, np.random.default_rng(0), ALWAYS)
    assert cut is not None
    assert sd(weighed(cut.q, target)) < 2.4


def test_modes_of_one_ridge_share_a_lattice():
    target, q, before = best_gaussian(funnel, 4)
    near = jax.tree.map(lambda v: v, q)
    one = conditionals(before, [q], target, np.random.default_rng(0), ALWAYS)
    both = conditionals(before, [q, near], target, np.random.default_rng(0), ALWAYS)
    assert one is not None
    assert both is not None
    assert both.q.components == one.q.components


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gp_classification_iris", "stochastic_volatility"])
def test_hundreds_of_latent_values(name):
    packaged = library.get(name)
    fit = ritz.fit(packaged.model, packaged.data(), progress=False)
    assert fit.status == "ok"
    assert fit.khat < 0.6
    assert fit.psis.ess > 0.15 * len(fit.psis.log_weights)  # 0.01 of one Gaussian's
