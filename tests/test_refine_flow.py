"""A doubtful fit refined by a flow: right afterwards, or said not to be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import ritz
from ritz import RitzError, _flowed, _whitened
from ritz.family import spline
from ritz.family._flow_parts import placed

LOC, TRIL = jnp.array([1.0, -2e4]), jnp.array([[1e-3, 0.0], [3e3, 1e4]])


def still(loc=LOC, tril=TRIL):
    """A flow that bends nothing yet."""
    return placed(spline(None, loc, layers=2, width=6, whitened=True), loc, tril)


def banana(unit=1.0):
    r"""x ~ N(0, 1), y ~ N(x^2, 0.2), of mean 1 and sd 1.43."""

    def density(x):
        x = x / unit
        return -0.5 * (x[0] ** 2 + ((x[1] - x[0] ** 2) / 0.2) ** 2)

    return ritz.target.from_log_density(density, unit * jnp.array([0.0, 1.0]))


SD = np.array([1.0, 2.04**0.5])


def gaussian(target):
    return ritz.fit(target, family="full_rank", solver="natural_gradient", progress=False)


def test_a_still_flow_is_the_gaussian_that_it_was_placed_on():
    q = still()
    x, log_q = jax.vmap(q.sample_and_log_prob)(jax.random.split(jax.random.key(0), 50))
    loc, tril = np.asarray(LOC, float), np.asarray(TRIL, float)
    z = np.linalg.solve(tril, (np.asarray(x, float) - loc).T)
    exact = stats.norm.logpdf(z).sum(axis=0) - np.log(np.diag(tril)).sum()
    np.testing.assert_allclose(log_q, exact, atol=5e-3)
    np.testing.assert_allclose(jax.vmap(q.log_prob)(x), log_q, atol=5e-3)


def test_what_is_not_trained_stays():
    q = still()
    problem = ritz.objective.Problem(
        ritz.target.from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.zeros(2)),
        q,
        ritz.objective.negative_elbo(1, "mc"),
        ritz.estimator.pathwise(),
    )
    moved = problem.family_at(jax.tree.map(lambda v: v + 1.0, problem.params))
    last = moved.distribution.bijection.bijections[-1]
    np.testing.assert_allclose(last.loc.tree, LOC)
    assert len(moved.rest) == len(q.rest)


def test_a_banana(tmp_path):
    rough = gaussian(banana())
    assert rough.refine("importance").status == "doubtful"
    fit = rough.refine("flow")
    assert fit.status == "ok"
    assert fit.correction == "importance"
    assert fit.psis.ess > 0.5 * len(fit.psis.log_weights)
    assert "refined by a spline flow" in fit.explain()
    mean, sd = fit.mean(), fit.sd()
    assert np.abs((mean - np.array([0.0, 1.0])) / SD).max() < 0.1
    assert np.abs(np.log(sd / SD)).max() < 0.2
    assert abs(fit.log_evidence.value - np.log(2 * np.pi * 0.2)) < 0.05
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit", banana())
    np.testing.assert_array_equal(again.sample(7), fit.sample(7))


def test_without_training_it_is_no_better_and_says_so(monkeypatch):
    """The wrong variant: a flow that bends nothing is the Gaussian of the draws."""
    monkeypatch.setattr(_flowed, "_RATES", (1e-9, 1e-9))
    monkeypatch.setattr(_flowed, "_STEPS", 100)
    monkeypatch.setattr(_flowed, "_TAIL_RATE", 1e-9)
    fit = gaussian(banana()).refine("flow")
    assert fit.status == "doubtful"


def test_a_flow_that_goes_on_moving_is_doubted(monkeypatch):
    """After a few steps k-hat may be low while arms of the banana are missing."""
    monkeypatch.setattr(_flowed, "_RATES", (0.02,))
    monkeypatch.setattr(_flowed, "_STEPS", 500)
    fit = gaussian(banana()).refine("flow")
    assert np.abs(np.log(fit.sd() / SD)).max() > 0.2
    assert any("still moving" in reason for reason in fit.reasons)


def test_a_stage_that_did_not_run_settles_nothing(monkeypatch):
    rough, run = gaussian(banana()), _flowed.run

    def fails(problem, solver, steps, key, **options):
        result = run(problem, solver, min(steps, 300), key, **options)
        first = steps == _flowed._STEPS
        return result if first else dataclasses.replace(result, stop_reason="not finite")

    monkeypatch.setattr(_flowed, "run", fails)
    fit = rough.refine("flow")
    assert fit.status == "doubtful"

    def interrupted(problem, solver, steps, key, **options):
        return dataclasses.replace(
            run(problem, solver, 10, key, **options), stop_reason="interrupted"
        )

    monkeypatch.setattr(_flowed, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rough.refine("flow")


def test_what_is_right_already_is_kept():
    target = ritz.target.from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.zeros(3))
    rough = gaussian(target)
    fit = rough.refine("flow")
    assert fit.status == "ok"
    assert fit.q is rough.q
    assert "is no better" in fit.explain()


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_in_any_unit(unit):
    fit = gaussian(banana(unit)).refine("flow")
    assert fit.status == "ok"
    assert np.abs(np.log(fit.sd() / unit / SD)).max() < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_a_funnel_of_ten(seed):
    def density(x):
        return -0.5 * (x[0] / 3) ** 2 - 0.5 * (x[1:] ** 2).sum() * jnp.exp(-x[0]) - 4.5 * x[0]

    target = ritz.target.from_log_density(density, jnp.zeros(10))
    fit = gaussian(target).refine("flow")
    quantiles = np.quantile(fit.stored()["x"][:, 0], [0.1, 0.25, 0.5, 0.75, 0.9])
    right = np.abs(quantiles - 3 * stats.norm.ppf([0.1, 0.25, 0.5, 0.75, 0.9])).max() < 0.5
    assert right or fit.status == "doubtful"
    assert fit.psis.ess > 0.3 * len(fit.psis.log_weights)


def choices(y=None):
    k = numpyro.sample("k", dist.Categorical(jnp.array([0.3, 0.7])))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu + k, 1.0), obs=y)


def test_discrete_coordinates_are_refused():
    fit = ritz.fit(choices, (jnp.array(0.5),), discrete="score", steps=20, progress=False)
    with pytest.raises(RitzError, match="moves continuous coordinates only"):
        fit.refine("flow")


def test_what_was_refined_before_is_not_said_again():
    fit = gaussian(banana()).refine("nuts")
    assert "refined by NUTS" in fit.explain()
    again = fit.refine("importance")
    assert "NUTS" not in again.explain()
    assert again.correction == "importance"


def test_five_thousand_dimensions_have_somewhere_to_start():
    target = ritz.target.from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.zeros(5000))
    q = ritz.family.mean_field(target, jnp.zeros(5000), scale=1.0)
    found = _whitened.whitened(q, target, jax.random.key(0), "nuts")
    assert found.factor.shape == (5000,)


def test_another_word_is_refused():
    with pytest.raises(RitzError, match="refine: 'flows' arrived; did you mean 'flow'"):
        gaussian(banana()).refine("flows")
    with pytest.raises(RitzError, match="whitened=3 arrived"):
        spline(None, jnp.zeros(2), whitened=3)
