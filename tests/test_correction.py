"""A fit's draws corrected by importance weights: every answer from the same posterior."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import special

import ritz
from ritz import RitzError, _posterior
from ritz._posterior import systematic
from ritz.target import from_log_density

SHAPE = 4.0


def model(y=None):
    """A count's rate under a gamma prior: the posterior is a gamma distribution too."""
    rate = numpyro.sample("rate", dist.Gamma(SHAPE - 1.0, 1.0))
    numpyro.deterministic("twice", 2.0 * rate)
    with numpyro.plate("rows", 1):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


@pytest.fixture(scope="module")
def fits():
    rough = ritz.fit(model, (np.array([1]),), solver="laplace")
    return rough, rough.refine("importance")


def test_every_answer_is_the_corrected_one(fits):
    """Gamma(4, 2): mean 2, sd 1; of its logarithm, digamma(4) - log 2."""
    rough, fine = fits
    exact = special.digamma(SHAPE) - np.log(2.0)
    log_sd = np.sqrt(special.polygamma(1, SHAPE))
    error = 4.0 * log_sd / np.sqrt(fine.psis.ess)
    mean = lambda rates: np.log(np.asarray(rates)).mean()
    assert abs(mean(rough.draws["rate"]) - exact) > error > abs(mean(fine.draws["rate"]) - exact)
    assert abs(mean(fine.sample(4000, jax.random.key(5))["rate"]) - exact) < 2.0 * error
    assert abs(fine.mean()["rate"] - 2.0) < 0.1
    assert abs(fine.sd()["rate"] - 1.0) < 0.1
    assert abs(np.sqrt(fine.cov()[0, 0]) - fine.sd()["rate"]) < 1e-6
    assert abs(fine.predict(n=4000)["y"].mean() - 2.0) < 0.15
    assert abs(fine.summary().rows["twice"]["mean"] - 2.0 * fine.mean()["rate"]) < 1e-6
    assert float(fine.to_arviz().posterior["rate"].mean()) == pytest.approx(fine.mean()["rate"])
    assert fine.correction == "importance"
    assert rough.correction is None
    assert fine.status == "ok"


def test_it_says_how_many_draws_differ(fits):
    _, fine = fits
    assert 2000 < fine.distinct <= 4000
    assert fine.distinct == len(np.unique(fine.draws["rate"]))
    assert f"4,000 resampled by importance weights, {fine.distinct:,} distinct" in str(fine)
    assert len(fine.psis.log_weights) == 4000  # which are worth more than 2,000
    assert fine.elbo.value == pytest.approx(fits[0].elbo.value, abs=5 * fits[0].elbo.se)


def test_a_corrected_fit_has_no_density_of_its_own(fits):
    rough, fine = fits
    assert hasattr(rough, "log_prob")
    assert not hasattr(fine, "log_prob")


def test_it_is_saved_and_loaded(fits, tmp_path):
    _, fine = fits
    fine.save(tmp_path / "fit")
    alone = ritz.load(tmp_path / "fit")
    assert alone.correction == "importance"
    assert alone.distinct == fine.distinct
    assert alone.khat == fine.khat
    np.testing.assert_array_equal(alone.draws["rate"], fine.draws["rate"])
    again = ritz.load(tmp_path / "fit", model, (np.array([1]),))
    np.testing.assert_array_equal(again.sample(7)["rate"], fine.sample(7)["rate"])


def test_where_weights_cannot_help_the_verdict_says_so():
    """A q that is far too narrow: the weights have no tail to speak of, and k-hat tells."""
    target = from_log_density(lambda x: -jnp.log1p(x**2).sum(), jnp.zeros(4))
    q = ritz.family.mean_field(target, jnp.zeros(4), 0.3)
    fit = ritz.fit(target, family=q, steps=0).refine()
    assert fit.status == "doubtful"
    assert any("k-hat" in reason for reason in fit.reasons)


def test_the_pool_grows_until_its_weights_are_worth_half_of_what_is_kept():
    target = from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.zeros(2))
    key = jax.random.key(0)
    sizes = []
    # A Gaussian s times as wide leaves a share of (sqrt(2 s^2 - 1) / s^2)^2 = 0.69, 0.44, 0.19, 0.
    for scale in (1.5, 2.0, 3.2, 100.0):
        q = ritz.family.mean_field(target, jnp.zeros(2), scale=scale)
        log_weights = _posterior.resampled(q, target, 2000, key)["log_weights"]
        sizes.append(len(log_weights))
        if scale == 3.2:
            assert _posterior.smooth(log_weights).ess > 950.0
    assert sizes[:2] == [4000, 4000]
    assert 5000 <= sizes[2] <= 6500
    assert sizes[3] == 8000


def test_more_draws_go_on_from_those_that_there_are():
    target = from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.zeros(2))
    q = ritz.family.mean_field(target, jnp.zeros(2))
    key = jax.random.key(3)
    whole = _posterior.drawn(q, target, 1300, key)
    first, rest = _posterior.drawn(q, target, 700, key), _posterior.drawn(q, target, 600, key, 700)
    np.testing.assert_array_equal(whole["x"], np.concatenate([first["x"], rest["x"]]))


def test_systematic_resampling_is_unbiased_and_even():
    weights = np.random.default_rng(0).dirichlet(np.full(50, 0.3))
    counts = np.zeros(50)
    for seed in range(400):
        chosen = np.bincount(systematic(weights, 100, np.random.default_rng(seed)), minlength=50)
        assert (np.abs(chosen - 100 * weights) < 1).all()
        counts += chosen
    assert np.abs(counts / 400 - 100 * weights).max() < 4 * 0.5 / 20
    order = systematic(np.full(1000, 1e-3), 1000, np.random.default_rng(0))
    assert sorted(order) == list(range(1000))
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15


def test_without_weights_there_is_no_correction(fits):
    class Sampler(ritz.family.MeanField):
        capabilities = frozenset({"sample"})

    rough = dataclasses.replace(fits[0], q=Sampler(jnp.zeros(1), jnp.zeros(1)))
    assert not hasattr(rough, "refine")
    with pytest.raises(
        RitzError, match="refine: 'bootstrap' arrived; choose from importance, flow"
    ):
        fits[0].refine("bootstrap")
