"""Simulation-based calibration: right fits pass, wrong ones do not, and refits compile nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz import RitzError
from ritz._calibration import calibrate, holm, uniform_p_values

GAUSSIAN = {"family": "full_rank", "solver": "natural_gradient", "progress": False}
Y = np.array([0.3, 1.2, -0.5, 0.8])


def line(x, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(x @ b, 0.5), obs=y)


def collinear():
    """Two columns that are nearly one, so that slopes correlate at -0.95 or so."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 1)) + 0.2 * rng.normal(size=(20, 2))
    return x, x @ np.ones(2) + 0.5 * rng.normal(size=20)


@pytest.mark.parametrize("seed", range(2))
def test_a_conjugate_normal_is_calibrated_and_refits_compile_nothing(seed):
    found = ritz.fit(line, collinear(), seed=seed, **GAUSSIAN).diagnose(calibrate=30)
    measured, said = found.measures["calibration"]
    assert (found.status, found.reasons) == ("ok", ())
    assert min(measured.p_values.values()) > 0.01
    assert measured.refits == {"ok": 30, "doubtful": 0, "failed": 0}
    assert measured.compiled <= 1
    assert list(measured.ranks) == ["b[0]", "b[1]"]
    assert all(r.shape == (30,) and r.max() <= 99 for r in measured.ranks.values())
    assert said.startswith("30 refits of simulated data (30 ok): ranks of 2 scalars uniform")


@pytest.mark.parametrize("seed", range(2))
def test_mean_field_where_slopes_correlate_is_too_narrow(seed):
    fit = ritz.fit(
        line, collinear(), family="mean_field", solver="natural_gradient", seed=seed, progress=False
    )
    found = calibrate(fit, 40)
    assert found.rejected
    assert "too narrow: true values of simulated data do not rank" in found.reasons()[0]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("scale", "shift", "how"), [(0.5, 0.0, "narrow"), (1.0, 1.0, "too high")])
def test_posteriors_that_are_altered_are_told(scale, shift, how, seed):
    """Half as wide, or a standard deviation off: in each refit."""
    fit = ritz.fit(line, collinear(), seed=seed, **GAUSSIAN)

    def altered(*args, **kwargs):
        made = fit.again(*args, **kwargs)
        middle, sd = made.draws["b"].mean(0), made.draws["b"].std(0)
        made.draws["b"][:] = middle + scale * (made.draws["b"] - middle) + shift * sd
        return made

    wrong = calibrate(dataclasses.replace(fit, again=altered), 40)
    assert wrong.rejected
    assert how in wrong.reasons()[0]


def test_the_verdict_is_that_of_calibration_too():
    """Of a corrected fit, refits are corrected; what is rejected makes the diagnosis doubtful."""
    fit = ritz.fit(line, collinear(), **GAUSSIAN).refine("importance")
    seen = []

    def wide(*args, **kwargs):
        made = fit.again(*args, **kwargs)
        seen.append(made)
        q = dataclasses.replace(made.q, log_scale=made.q.log_scale + 0.3)
        return dataclasses.replace(made, q=q, correction="importance")

    assert not calibrate(dataclasses.replace(fit, again=wide), 30).rejected  # weights mend it
    wider = dataclasses.replace(ritz.fit(line, collinear(), **GAUSSIAN), again=None)

    def much_wider(*args, **kwargs):
        made = fit.again(*args, **kwargs)
        return dataclasses.replace(
            made, q=dataclasses.replace(made.q, log_scale=made.q.log_scale + 1.5)
        )

    found = dataclasses.replace(wider, again=much_wider).diagnose(calibrate=40)
    assert found.status == "doubtful"
    assert "too wide" in found.reasons[-1]
    assert found.remedies
    assert len(seen) == 30


def walk(y=None, n=6):
    from numpyro.contrib.control_flow import scan

    step = numpyro.sample("step", dist.HalfNormal(1.0))

    def one(level, y):
        level = numpyro.sample("level", dist.Normal(level, step))
        numpyro.sample("y", dist.Normal(level, 0.5), obs=y)
        return level, None

    scan(one, 0.0, y, length=n)


def test_counts_plates_and_scans_are_refitted_to_what_was_simulated():
    """What a refit sees is what was drawn: its observed data are those, of the same types."""

    def counts(y):
        rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    for model, data in ((counts, (np.array([2, 3, 1]),)), (walk, (np.arange(6.0),))):
        fit, seen = ritz.fit(model, data, **GAUSSIAN), []

        def again(*args, fit=fit, seen=seen, **kwargs):
            seen.append(args[0].observed_data()["y"])
            return fit.again(*args, **kwargs)

        found = calibrate(dataclasses.replace(fit, again=again), 10)
        own = fit.observed_data()["y"]
        assert all(v.shape == own.shape and v.dtype == own.dtype for v in seen)
        assert len(np.unique(np.stack(seen), axis=0)) > 3
        assert min(found.p_values.values()) > 0.001


@pytest.mark.parametrize("n", [20, 60])
def test_p_values_of_uniform_numbers_are_uniform(n):
    """At most their level, and near to it; of others they are small."""
    rng = np.random.default_rng(n)
    p = uniform_p_values(rng.uniform(size=(2000, n)))
    for level in (0.01, 0.05, 0.2):
        se = (level * (1.0 - level) / 2000) ** 0.5
        assert 0.5 * level - 4 * se < (p <= level).mean() < level + 4 * se
    assert (uniform_p_values(rng.beta(0.5, 0.5, size=(100, n))) < 0.05).mean() > 0.2 * n / 20


def test_the_exact_law_of_one_number():
    """One of two points: with n = 2 the count below 1/2 is 0, 1 or 2."""
    p = uniform_p_values(np.array([[0.2, 0.7], [0.6, 0.7], [0.1, 0.2]]))
    np.testing.assert_allclose(p, [1.0, 0.5, 0.5])


def test_holm():
    np.testing.assert_allclose(holm(np.array([0.5, 0.001, 0.02])), [0.5, 0.003, 0.04])


def improper(y):
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def with_factor(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("more", -(mu**2))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def from_itself(y):
    phi = numpyro.sample("phi", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(phi * y[:-1], 1.0), obs=y[1:])


@pytest.mark.parametrize(
    ("model", "n", "says"),
    [
        (improper, 20, "site 'mu'.*proper"),
        (with_factor, 20, "the model has a numpyro.factor"),
        (from_itself, 20, "from the observed values themselves"),
        (line, 5, "calibrate=5 arrived, expected"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(model, n, says):
    fit = ritz.fit(model, collinear() if model is line else (Y,), **GAUSSIAN)
    with pytest.raises(RitzError, match=says) as error:
        fit.diagnose(calibrate=n)
    assert "\n" not in str(error.value)


def test_a_plain_density_and_a_loaded_fit_cannot_be_simulated(tmp_path):
    plain = ritz.fit(ritz.target.from_log_density(lambda x: -(x**2), jnp.zeros(())), **GAUSSIAN)
    with pytest.raises(RitzError, match="data cannot be drawn from this target"):
        plain.diagnose(calibrate=20)
    fit = ritz.fit(line, collinear(), **GAUSSIAN)
    loaded = ritz.load(fit.save(tmp_path / "fit"), line, collinear())
    with pytest.raises(RitzError, match="that was not made here"):
        loaded.diagnose(calibrate=20)


def test_the_same_key_gives_the_same_ranks():
    fit = ritz.fit(line, collinear(), **GAUSSIAN)
    one, two = calibrate(fit, 10), calibrate(fit, 10)
    np.testing.assert_equal(one.ranks, two.ranks)
    other = dataclasses.replace(fit, key=jax.random.key(9))
    assert any((calibrate(other, 10).ranks[k] != r).any() for k, r in one.ranks.items())
