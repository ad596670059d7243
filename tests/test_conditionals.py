"""Mixtures of the best Gaussians given one or two coordinates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import gaussian

import ritz
from ritz import _automatic, _conditionals, _posterior
from ritz._conditionals import conditionals
from ritz._lattice import Lattice
from ritz.family import Mixture
from ritz.target import from_log_density, library

ALWAYS = lambda evaluations: True
NONE = _conditionals.Conditionals(None, 0.0, [])


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
    assert found.q is not None
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
    assert right.q is not None
    assert spoilt.q is not None
    assert ess(spoilt.q) < 0.9 * ess(right.q)


def test_there_is_nothing_to_follow_in_a_gaussian():
    target, _, _ = gaussian(6, 100.0)
    fit = ritz.fit(target, family="full_rank", solver="natural_gradient", progress=False)
    q = Mixture(jnp.zeros(1), jax.tree.map(lambda v: v[None], fit.q), "full_rank")
    found = conditionals(q, [fit.q], target, np.random.default_rng(0), ALWAYS)
    assert found == (None, 129.0, [])


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_what_cannot_be_afforded_is_left(allowed):
    left = iter([True] * allowed)
    target, q, before = best_gaussian(funnel, 4)
    afford = lambda evaluations: next(left, False)
    found = conditionals(before, [q], target, np.random.default_rng(0), afford)
    assert found.q is None
    # What was spent is told all the same: on the choice of a coordinate, twice, and a point.
    assert found.evaluations >= 129.0 * min(allowed, 2)


def test_a_density_that_ends():
    """Beyond x_0 = 1 there is none: lattice points there are left out."""
    ends = lambda x: jnp.where(x[0] < 1.0, funnel(x), -jnp.inf)
    target, q, before = best_gaussian(funnel, 4)
    target = from_log_density(ends, jnp.zeros(4))
    found = conditionals(before, [q], target, np.random.default_rng(0), ALWAYS)
    assert found.q is not None
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
    assert found.q is not None
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
    assert cut.q is not None
    assert sd(weighed(cut.q, target)) < 2.4


def test_modes_of_one_ridge_share_a_lattice():
    target, q, before = best_gaussian(funnel, 4)
    near = jax.tree.map(lambda v: v, q)
    one = conditionals(before, [q], target, np.random.default_rng(0), ALWAYS)
    both = conditionals(before, [q, near], target, np.random.default_rng(0), ALWAYS)
    assert one.q is not None
    assert both.q is not None
    assert both.q.components == one.q.components


def test_modes_apart_have_a_lattice_each(monkeypatch):
    """Two funnels of masses 0.7 and 0.3; one lattice for both leaves the other as it was."""
    shift = jnp.zeros(4).at[1].set(60.0)

    def two(x):
        return jnp.logaddexp(jnp.log(0.7) + funnel(x), jnp.log(0.3) + funnel(x - shift))

    target = from_log_density(two, jnp.zeros(4))
    _, q, _ = best_gaussian(funnel, 4)
    modes = [q, dataclasses.replace(q, loc=q.loc + shift)]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *modes)
    before = Mixture(jnp.zeros(2, q.loc.dtype), stacked, "full_rank")
    weighed_by = lambda q: _posterior.drawn(q, target, 16_000, jax.random.key(7))
    found = conditionals(before, modes, target, np.random.default_rng(0), ALWAYS)
    assert found.q is not None
    pool = weighed_by(found.q)
    weights = np.exp(pool["log_weights"].astype(float))
    assert _posterior.smooth(pool["log_weights"]).ess > 0.65 * 16_000
    far = pool["x"][:, 1] > 30.0
    assert abs(np.average(far, weights=weights) - 0.3) < 4.0 * (0.21 / 10_000) ** 0.5
    assert abs(far.mean() - 0.3) < 0.1  # components have their masses, so that draws do
    monkeypatch.setattr(Lattice, "covers", lambda *_: True)
    one = conditionals(before, modes, target, np.random.default_rng(0), ALWAYS)
    assert one.q is not None
    assert _posterior.smooth(weighed_by(one.q)["log_weights"]).ess < 0.5 * 16_000


def test_what_is_good_already_is_not_enriched(monkeypatch):
    """Though wide draws found a part that was looked for: what would be drawn from decides."""
    target, _, _ = gaussian(3, 10.0)
    seen = []
    monkeypatch.setattr(_automatic, "_missed", lambda q, target, key, looks: q.parts.loc[0])
    monkeypatch.setattr(_automatic, "conditionals", lambda *_: seen.append(1) or NONE)
    assert ritz.fit(target, progress=False).status == "ok"
    assert not seen
    monkeypatch.setattr(_automatic, "_fine", lambda _: False)
    ritz.fit(target, progress=False)
    assert seen


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gp_classification_iris", "stochastic_volatility"])
def test_hundreds_of_latent_values(name, monkeypatch):
    """By one Gaussian it is doubtful; the process agrees with chains that start from it."""
    packaged = library.get(name)
    fit = ritz.fit(packaged.model, packaged.data(), progress=False)
    assert fit.status == "ok"
    assert fit.khat < 0.6
    share = fit.psis.ess / len(fit.psis.log_weights)
    if name.startswith("gp"):
        chains = fit.refine("nuts")
        assert chains.status == "ok", chains.reasons
        for site in ("length", "amplitude", "z"):
            own, other = fit.draws[site], chains.draws[site]
            assert np.abs((own.mean(0) - other.mean(0)) / other.std(0)).max() < 0.1
            assert np.abs(np.log(own.std(0) / other.std(0))).max() < 0.2
    monkeypatch.setattr(_automatic, "conditionals", lambda *_: NONE)
    plain = ritz.fit(packaged.model, packaged.data(), progress=False)
    assert plain.status == "doubtful"
    assert share > 2.0 * plain.psis.ess / len(plain.psis.log_weights)
