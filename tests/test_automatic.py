"""`ritz.fit` with nothing asked for: right, or not "ok"."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from gaussians import gaussian
from jax.scipy.special import logsumexp

import ritz
from ritz import _automatic
from ritz.target import from_log_density


def error(fit, mean, sd):
    """The largest error of a mean in tenths of an sd, or of a log sd in fifths: 1 is too much."""
    found, spread = np.asarray(fit.mean(), float), np.asarray(fit.sd(), float)
    return max((np.abs(found - mean) / sd / 0.1).max(), np.abs(np.log(spread / sd) / 0.2).max())


@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_a_gaussian(condition):
    target, mean, covariance = gaussian(20, condition)
    fit = ritz.fit(target)
    assert (fit.status, fit.stop_reason) == ("ok", "converged")
    assert error(fit, mean, np.sqrt(np.diag(covariance))) < 1.0
    # Pairs of points along 20 axes, a step; 64 scores to choose starts from; and 4,000 densities
    # to look at the proposal.
    assert fit.info["evaluations"] == pytest.approx(40 * fit.info["steps"] + 64 + 4000 / 3)
    assert fit.info["steps"] <= 20
    log_z = 10.0 * np.log(2.0 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    assert abs(fit.log_evidence.value - log_z) < 4.0 * fit.log_evidence.se + 1e-3
    assert f"log Z   {fit.log_evidence.value:.2f}" in str(fit)
    assert "one mode" in fit.explain()


def two_modes(gap=12.0, weight=0.8):
    """Means, sds and weights: N(0, I) and N(gap, I/4)."""

    def log_density(x):
        left = jnp.log(weight) - 0.5 * (x**2).sum() - jnp.log(2 * jnp.pi)
        right = jnp.log1p(-weight) - 2.0 * ((x - gap) ** 2).sum() - jnp.log(0.5 * jnp.pi)
        return jnp.logaddexp(left, right)

    mean = (1.0 - weight) * gap
    sd = np.sqrt(weight + (1 - weight) * (0.25 + gap**2) - mean**2)
    return log_density, mean, sd


def test_two_modes_of_unequal_weights(monkeypatch):
    """From starts that lead to both; from one, and without a look at wide draws, it is wrong."""
    density, mean, sd = two_modes(gap=6.0)
    target = from_log_density(density, 3.2 * jnp.ones(2))
    fit = ritz.fit(target)
    assert fit.status == "ok"
    assert "2 modes" in fit.explain()
    assert error(fit, mean, sd) < 1.0
    for name in ("around", "far_from"):
        monkeypatch.setattr(_automatic, name, lambda *_: [])
    monkeypatch.setattr(_automatic, "_ROUNDS", 0)
    assert error(ritz.fit(target), mean, sd) > 1.0


@pytest.mark.parametrize("seed", range(3))
def test_a_mode_far_away_is_found(seed, monkeypatch):
    """17 standard deviations from the start, and half as wide; from starts near by it is not."""
    density, mean, sd = two_modes(gap=12.0)
    target = from_log_density(density, jnp.zeros(2))
    fit = ritz.fit(target, seed=seed)
    assert fit.status == "ok"
    assert error(fit, mean, sd) < 1.0
    monkeypatch.setattr(_automatic, "far_from", lambda *_: [])
    assert error(ritz.fit(target, seed=seed), mean, sd) > 1.0


@pytest.mark.slow
def test_five_hundred_dimensions():
    target, mean, covariance = gaussian(500, 1e3)
    fit = ritz.fit(target)
    assert fit.status == "ok"
    assert error(fit, mean, np.sqrt(np.diag(covariance))) < 1.0


def test_a_start_that_leads_to_a_mode_without_mass():
    """A mode of e^-30 of the mass, where the first start is; another one finds the rest."""

    def log_density(x):
        return logsumexp(jnp.array([-30.0 - 8.0 * ((x - 1.0) ** 2).sum(), -0.5 * (x**2).sum()]))

    target = from_log_density(log_density, jnp.full(2, 1.0))
    fit = ritz.fit(target)
    assert error(fit, 0.0, 1.0) < 1.0
    assert fit.status == "ok"


def model(x, scale, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1e4 * scale))
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1e7 * scale))
    noise = numpyro.sample("noise", dist.HalfNormal(1e5 * scale))
    numpyro.sample("y", dist.Normal(intercept + slope * x, noise), obs=y)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_units_of_the_data_do_not_matter(scale):
    """Unscaled columns, and in other units: the same verdict and the same answer."""
    rng = np.random.default_rng(0)
    x = 50_000.0 + 2_000.0 * rng.normal(size=100)
    y = 3.0 * x + 400.0 * rng.normal(size=100)
    with jax.enable_x64(True):
        fit = ritz.fit(model, (x, scale, scale * y))
        slope, noise = np.asarray(fit.mean()["slope"]), np.asarray(fit.mean()["noise"])
    exact = np.polyfit(x, y, 1)[0]
    residual = (y - np.polyval(np.polyfit(x, y, 1), x)).std(ddof=2)
    se = residual / x.std() / 10.0
    assert fit.status == "ok"
    assert abs(slope / scale - exact) < 0.1 * se
    assert abs(noise / scale / residual - 1.0) < 0.03


def funnel(x):
    v, rest = x[0], x[1:]
    return -0.5 * (v / 3.0) ** 2 - 0.5 * (rest**2).sum() * jnp.exp(-v) - 0.5 * len(rest) * v


def student(x):
    return -1.5 * jnp.log1p(x**2 / 2.0).sum()


@pytest.mark.filterwarnings("ignore:step:RuntimeWarning")
@pytest.mark.parametrize(
    ("density", "d"),
    [(funnel, 10), (student, 3), (lambda x: -0.0 * x.sum(), 2), (lambda x: x.sum(), 2)],
    ids=["Neal's funnel", "Student's t of 2 degrees", "a constant", "no bound"],
)
def test_what_it_cannot_do_is_not_ok(density, d):
    """A funnel's neck, variances that do not exist, and posteriors that are improper."""
    fit = ritz.fit(from_log_density(density, jnp.zeros(d)), progress=False)
    right = density is funnel and error(fit, 0.0, np.array([3.0] + [np.exp(2.25)] * 9)) < 1.0
    assert right or fit.status != "ok"


def test_skewed_scales_are_right():
    """Log-gamma margins: the draws are the target's, where the Gaussians are not."""
    shape = jnp.array([0.7, 1.5, 4.0])
    target = from_log_density(lambda x: (shape * x - jnp.exp(x)).sum(), jnp.zeros(3))
    fit = ritz.fit(target)
    from scipy.special import digamma, polygamma

    assert fit.status == "ok"
    assert error(fit, digamma(shape), np.sqrt(polygamma(1, shape))) < 1.0


def test_the_same_seed_gives_the_same_bits():
    target, _, _ = gaussian(3, 10.0)
    one, two, other = (ritz.fit(target, seed=s).draws["theta"] for s in (1, 1, 2))
    assert (one == two).all()
    assert not (one == other).all()


def test_it_is_saved_and_read(tmp_path):
    target, _, _ = gaussian(3, 10.0)
    fit = ritz.fit(target)
    again = ritz.load(fit.save(tmp_path / "fit"))
    assert again.explain() == fit.explain()
    assert again.correction == "importance"
    np.testing.assert_array_equal(again.mean()["theta"], fit.mean())


def test_parts_that_are_asked_for_are_taken():
    target, _, _ = gaussian(3, 10.0)
    fit = ritz.fit(target, steps=50)
    assert (fit.info["steps"], fit.info["family"], fit.correction) == (50, "full_rank", None)
    assert "adam" in fit.explain()


def test_a_callback_ends_the_search():
    target, _, _ = gaussian(3, 10.0)
    seen = []
    fit = ritz.fit(target, callbacks=[lambda state, steps, info: seen.append(steps) or True])
    assert (fit.stop_reason, len(seen)) == ("callback", 1)


def test_what_ends_a_later_run_is_told():
    """A callback that stops, or fails, in the second run: the first one's answer, and why."""
    target, mean, covariance = gaussian(3, 10.0)
    calls = []

    def second(state, steps, info):
        calls.append(steps)
        return len(calls) == 2

    fit = ritz.fit(target, callbacks=[second])
    assert fit.stop_reason == "callback"
    assert error(fit, mean, np.sqrt(np.diag(covariance))) < 1.0

    def fails(state, steps, info):
        raise ValueError("on purpose")

    with pytest.warns(RuntimeWarning, match="on purpose"):
        assert ritz.fit(target, callbacks=[fails]).stop_reason == "callback failed"
    with pytest.warns(RuntimeWarning), pytest.raises(ritz.RitzError, match="on purpose"):
        ritz.fit(target, callbacks=[fails], strict=True)
