"""Pareto smoothing against ArviZ, and against tails whose shape is known."""

import numpy as np
import pytest

from ritz import RitzError
from ritz.diagnose import moment_shift, psis
from ritz.diagnose._psis import fit_pareto


def weights(case, s, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=s)
    return {
        "light": 0.1 * x,
        "normal": 1.5 * x,
        "heavy": np.log(rng.pareto(1.2, size=s)),
        "very heavy": np.log(rng.pareto(0.6, size=s)) - 400.0,
        "large": 1e3 + 3.0 * x,
        "some zero": np.where(rng.uniform(size=s) < 0.1, -np.inf, x),
    }[case]


@pytest.mark.parametrize("case", ["light", "normal", "heavy", "very heavy", "large", "some zero"])
@pytest.mark.parametrize("s", [200, 1000, 4000])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_equals_arviz(case, s, seed):
    import arviz as az

    lw = weights(case, s, seed)
    theirs, khat = az.psislw(lw.copy())
    ours = psis(lw)
    assert abs(ours.khat - float(khat)) < 1e-6
    np.testing.assert_allclose(ours.log_weights, theirs, atol=1e-6)
    assert abs(ours.ess - 1 / np.exp(2 * theirs).sum()) < 1e-6 * s


@pytest.mark.parametrize("shape", [0.3, 0.7, 1.2])
def test_it_finds_the_shape_of_a_pareto_tail(shape):
    estimates = []
    for seed in range(10):
        u = np.random.default_rng(seed).uniform(size=20_000)
        estimates.append(psis(-shape * np.log(u)).khat)
    # Ten estimates of standard error about (1 + k) / sqrt(424), shrunk towards 1/2.
    se = (1 + shape) / 424**0.5 / 10**0.5
    assert abs(np.mean(estimates) - shape) < 4 * se + 0.03 * abs(shape - 0.5)


def test_threshold_depends_on_the_number_of_draws():
    x = np.random.default_rng(0).normal(size=4000)
    assert psis(x).threshold == 0.7
    assert abs(psis(x[:100]).threshold - 0.5) < 1e-12


def test_equal_weights_are_perfect():
    out = psis(np.full(1000, -3.0))
    assert out.khat == 0.0
    assert abs(out.ess - 1000) < 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_numbers_are_the_worst(bad):
    lw = np.zeros(100)
    lw[3] = bad
    assert psis(lw).khat == np.inf
    assert psis(np.full(100, -np.inf)).khat == np.inf


@pytest.mark.parametrize("shape", [(10,), (100, 2), ()])
def test_too_few_or_the_wrong_shape(shape):
    with pytest.raises(RitzError, match="expected one axis"):
        psis(np.zeros(shape))


def test_moment_shift_of_normals():
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    # Target N(0.4, 0.8²) in the first coordinate, q = N(0, 1).
    lw = -0.5 * ((x[:, 0] - 0.4) / 0.8) ** 2 + 0.5 * x[:, 0] ** 2
    shift = moment_shift(x, psis(lw))
    assert abs(shift.mean[0] - 0.4) < 4 * shift.noise
    assert abs(shift.log_sd[0] - np.log(0.8)) < 4 * shift.noise
    assert np.abs(shift.mean[1]) < 4 * shift.noise


def test_weights_of_a_far_too_wide_proposal():
    """A shape whose quantiles overflow: numbers, without a warning."""
    x = 100.0 * np.random.default_rng(0).normal(size=(4000, 2))
    found = psis(-0.5 * (x**2).sum(axis=1))
    assert found.khat > 10.0
    assert found.ess < 20.0
    assert np.exp(found.log_weights).sum() == pytest.approx(1.0)


def test_weights_that_are_equal_at_the_top_have_no_tail():
    """As of draws of a few values; a few larger ones above them are a tail too short to judge."""
    lw = np.log(np.repeat([1.0, 2.0, 50.0], 1000))
    found = psis(lw)
    assert found.khat == 0.0
    np.testing.assert_allclose(found.log_weights, lw - np.log(np.exp(lw).sum()), atol=1e-12)
    assert psis(np.append(lw, np.log([1e3, 2e3]))).khat == np.inf


def test_the_fit_of_a_tail_has_the_exponential_as_its_limit():
    """The rate b = 0, on which a grid may land, is that of the mean; elsewhere it is near it."""
    for n in range(5, 200):
        assert np.isfinite(fit_pareto(np.ones(n))).all()
    x = np.sort(np.random.default_rng(0).exponential(2.0, 20_000))
    k, sigma = fit_pareto(x)
    assert abs(k) < 4 / 20_000**0.5
    assert sigma == pytest.approx(2.0, rel=0.05)
