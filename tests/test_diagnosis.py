"""`Fit.diagnose`: what it measures, and that wrong fits show."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats

import ritz
from ritz._verdict import heavy_tails
from ritz.diagnose import stein
from ritz.target import from_log_density


@pytest.mark.parametrize("seed", range(3))
def test_steins_identities_hold_for_draws_of_the_target(seed):
    """Of a skewed and a heavy-tailed density; a shift, and draws cut off, break them."""
    rng = np.random.default_rng(seed)
    x = np.stack([np.log(rng.gamma(2.0, size=4000)), rng.standard_t(3, size=4000)], axis=1)
    scores = lambda x: np.stack(
        [2.0 - np.exp(x[:, 0]), -4.0 * x[:, 1] / (3.0 + x[:, 1] ** 2)], axis=1
    )
    right = stein(x, scores(x))
    assert (np.abs(right.mean) < 4.5 * right.mean_se).all()
    assert (np.abs(right.variance) < 4.5 * right.variance_se).all()
    moved = x + np.array([0.4, 0.0])
    assert np.abs(stein(moved, scores(moved)).mean).max() > 0.3
    inside = x[x[:, 0] < 0.6]
    assert np.abs(stein(inside, scores(inside)).variance).max() > 0.3


@pytest.mark.parametrize("d", [7, 30, 60])
def test_all_directions_together_tell_few_draws_that_are_too_narrow(d):
    """Of 200 draws: the mean is zero for the right law in any dimension, and 1 - s² for sds s."""
    found = {1.0: [], 0.8: []}
    for seed in range(10):
        z = np.random.default_rng(seed).normal(size=(200, d))
        for s, values in found.items():
            one = stein(s * z, -s * z)
            values.append((one.together, one.together_se))
    for s, values in found.items():
        mean, se = np.mean(values, axis=0)
        assert abs(mean - (1.0 - s**2)) < 4 * se / 10**0.5
    told = lambda values: sum(abs(v) - 2 * se > 0.25 for v, se in values)
    assert told(found[1.0]) == 0
    assert told(found[0.8]) >= (6 if d == 7 else 9)


def test_repeated_draws_are_heavier_ones():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 1))
    counts = rng.integers(1, 5, size=500)
    often = np.repeat(x, counts, axis=0)
    found = stein(often, -often)
    weights = counts / counts.sum()
    assert found.mean[0] == pytest.approx(-(weights @ (x[:, 0])) * often.std())
    assert found.mean_se[0] > 1.05 * np.std(often) ** 2 / len(often) ** 0.5


def counts(y):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 0.1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def test_data_that_the_model_cannot_make_are_told():
    rng = np.random.default_rng(1)
    plain = rng.poisson(4.0, size=60)
    fine = ritz.fit(counts, (plain,), progress=False).diagnose()
    assert (fine.status, fine.remedies) == ("ok", ())
    assert "as predicted" in str(fine)
    spread = np.concatenate([plain[:30], np.zeros(20, int), np.full(10, 25)])
    off = ritz.fit(counts, (spread,), progress=False).diagnose()
    assert "the sd of y is" in str(off)
    assert off.measures["predictive"][0]["y", "sd"] < 0.01


def test_a_wrong_fit_has_remedies_in_order():
    banana = lambda x: -0.5 * (x[0] ** 2 + (4.0 * (x[1] - x[0] ** 2)) ** 2)
    target = from_log_density(banana, jnp.zeros(2))
    found = ritz.fit(target, family="mean_field", steps=500, progress=False).diagnose()
    assert found.status == "doubtful"
    assert found.remedies[0].startswith("run on")
    assert "fit.refine('nuts')" in found.remedies
    gap = found.measures["log Z"][0].value - found.measures["ELBO"][0].value
    assert gap > 0.3
    assert f"{gap:.2f} nats" in str(found)


def test_what_cannot_be_had_is_left_out(tmp_path):
    fit = ritz.fit(counts, (np.array([3, 4]),), progress=False)
    fit.save(tmp_path / "fit")
    alone = ritz.load(tmp_path / "fit").diagnose()
    assert {"k-hat", "ESS", "ELBO"} <= set(alone.measures)
    assert "predictive" not in alone.measures


def test_an_sd_that_rests_on_its_tail_is_doubtful():
    """Student's t: of two degrees it has none, of ten it has."""
    t = lambda df: lambda x: -0.5 * (df + 1.0) * jnp.log1p(x**2 / df).sum()
    heavy = ritz.fit(from_log_density(t(2.0), jnp.zeros(3)), progress=False)
    assert heavy.status == "doubtful"
    light = ritz.fit(from_log_density(t(10.0), jnp.zeros(1)), progress=False)
    assert light.status == "ok"
    exact = 1.8125  # its 95% quantile
    assert abs(np.quantile(light.sample(4000), 0.95) - exact) < 0.15


def test_a_density_that_is_not_a_number_somewhere_is_told():
    """The draws themselves stay numbers."""
    hole = lambda x: jnp.where(x[0] > 1.5, jnp.nan, -0.5 * (x**2).sum())
    fit = ritz.fit(
        from_log_density(hole, jnp.zeros(2)), family="full_rank", solver="laplace", progress=False
    ).refine("importance")
    assert fit.status == "doubtful"
    assert re.search(r"not a number at [67]\.\d% of the draws", fit.reasons[0])
    assert "jax_enable_x64" in fit.reasons[0]
    draws = fit.sample(4000)
    assert np.isfinite(draws).all()
    assert draws[:, 0].max() <= 1.5


def test_one_draw_that_holds_all_the_weight_is_told():
    """As where importance weights leave nothing else."""
    target = ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    fit = ritz.fit(target, solver="laplace", progress=False)
    one = lambda v: np.repeat(v[:1], len(v), axis=0)
    stored = dict(fit.stored())
    fit.restore(stored | {"x": one(stored["x"]), "values": jax.tree.map(one, stored["values"])})
    assert fit.distinct == 1
    assert "KSD" not in fit.diagnose().measures


def test_whole_numbers_have_no_tails_to_doubt():
    """Numbers of classes, of which a rare one may be far from the others; as reals they would."""
    rng = np.random.default_rng(0)
    target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(1))
    rare = np.where(rng.uniform(size=4000) < 0.0005, 60.0, rng.integers(2, size=4000))[:, None]
    assert heavy_tails(target, {target.sites[0].name: rare}) == []
    moved = rare + 1e-3 * rng.normal(size=rare.shape)
    assert "rests on a few draws" in heavy_tails(target, {target.sites[0].name: moved})[0]


def test_weights_tell_of_tails_that_draws_do_not_reach():
    target = ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(1))
    name = target.sites[0].name
    for seed in range(3):
        x = np.random.default_rng(seed).normal(0.0, 1.5, (4000, 1))
        own = scipy.stats.norm(0.0, 1.5).logpdf(x[:, 0])
        light = scipy.stats.norm.logpdf(x[:, 0]) - own
        heavy = scipy.stats.t(2).logpdf(x[:, 0]) - own
        assert heavy_tails(target, {name: x}) == []  # of the draws alone nothing is seen
        assert heavy_tails(target, {name: x}, 0.5, light) == []
        assert "rests on a few draws" in heavy_tails(target, {name: x}, 0.5, heavy)[0]


def test_tails_are_asked_of_what_has_learned_from_weights_and_told_again_when_loaded(tmp_path):
    target = ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    fit = ritz.fit(target, progress=False)
    assert "tails" not in fit.info
    fit.info["refitted"] = True
    assert fit.status == "ok"
    assert fit.info["tails"] == []
    again = dataclasses.replace(
        fit, info=fit.info | {"tails": ["the sd of x rests on a few draws"]}
    )
    assert again.status == "doubtful"
    again.save(tmp_path / "fit")
    assert ritz.load(tmp_path / "fit").reasons == again.reasons
    assert again.refine("importance").status == "ok"  # asked anew of other draws
