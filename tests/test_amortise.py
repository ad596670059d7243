"""Amortised posteriors: right for every data set of a conjugate model, calibrated, usual fits."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import paramax
import pytest
from scipy import stats

import ritz
from ritz import RitzError
from ritz.estimator import pathwise
from ritz.family import AbstractAmortised, FullRank, gaussians
from ritz.objective import Problem, amortised_forward_kl, negative_elbo
from ritz.target import _simulated as simulation
from ritz.target import from_numpyro, from_simulator

ROWS, LEAST = 6, 3


def conjugate(y):
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def exact(y):
    """The posterior's mean and sd."""
    precision = 0.25 + len(y) / 2.25
    return (0.25 + y.sum() / 2.25) / precision, precision**-0.5


@pytest.fixture(scope="module")
def posteriors():
    return ritz.amortise(
        conjugate, (np.zeros(ROWS),), least_rows=LEAST, components=1, steps=2000, draws=64
    )


@pytest.fixture(scope="module")
def cases(posteriors):
    """Draws of the parameter, data, and how many rows these have."""
    x, data = jax.vmap(posteriors.target.simulate)(jax.random.split(jax.random.key(5), 1000))
    return np.asarray(x)[:, 0], data, np.asarray(data[simulation.PRESENT].sum(1), int)


def conditioned(q, data):
    return jax.jit(jax.vmap(paramax.unwrap(q).condition))(data)


def errors(q, data, rows):
    """Of means, in posterior sds, and of sds."""
    known = [exact(y[:n]) for y, n in zip(np.asarray(data["y"]), rows, strict=True)]
    mean, sd = np.array(known).T
    loc, log_scale = np.asarray(q.parts.loc)[:, 0, 0], np.asarray(q.parts.log_scale)[:, 0, 0]
    return np.abs(loc - mean).mean() / sd.mean(), np.abs(np.exp(log_scale) / sd - 1.0).mean()


def close(found):
    return found[0] < 0.1 and found[1] < 0.06


def test_it_is_the_exact_posterior_of_new_data_of_any_size(posteriors, cases):
    _, data, rows = cases
    assert set(rows) == set(range(LEAST, ROWS + 1))
    assert close(errors(conditioned(posteriors.q, data), data, rows))


@pytest.mark.parametrize("wrong", ["shuffled", "one more row", "prior"])
def test_wrong_variants_are_refused(posteriors, cases, wrong):
    """Data of other pairs; a mask that forgets a row; an encoder that ignores the data."""
    _, data, rows = cases
    if wrong == "shuffled":
        q = conditioned(posteriors.q, jax.tree.map(lambda v: jnp.roll(v, 1, 0), data))
    elif wrong == "one more row":
        fewer = (np.arange(ROWS) < rows[:, None] - 1).astype(np.float32)
        q = conditioned(posteriors.q, data | {simulation.PRESENT: jnp.asarray(fewer)})
    else:
        one = jnp.ones((1, 1))
        prior = gaussians(one[0], one, jnp.log(2.0) * one, jnp.zeros((1, 1, 1)))
        q = jax.tree.map(lambda v: jnp.repeat(v[None], len(rows), 0), prior)
    assert not close(errors(q, data, rows))


def rank_test(q, x, spread=1.0):
    """The p-value of uniform ranks of parameters among posterior draws."""
    draw = lambda q, key: jax.vmap(q.sample)(jax.random.split(key, 99))[:, 0]
    drawn = np.asarray(jax.vmap(draw)(q, jax.random.split(jax.random.key(1), len(x))))
    centre = np.asarray(q.parts.loc)[:, :, 0]
    ranks = (centre + spread * (drawn - centre) < x[:, None]).sum(1)
    return stats.chisquare(np.bincount(ranks // 10, minlength=10)).pvalue


def test_it_is_calibrated_by_simulation(posteriors, cases):
    x, data, _ = cases
    q = conditioned(posteriors.q, data)
    assert rank_test(q, x) > 0.01
    assert rank_test(q, x, 0.75) < 1e-4
    assert rank_test(conditioned(posteriors.q, data | {"y": data["y"] + 0.5}), x) < 1e-4


def test_a_posterior_is_a_usual_fit(posteriors, tmp_path):
    y = np.array([2.0, 3.5, 1.0, 0.5, 4.0, 2.5])
    fit = posteriors.fit((y,))
    assert fit.status == "ok", fit.reasons
    assert fit.info["family"] == "amortised"
    mean, sd = exact(y)
    assert abs(fit.mean()["mu"] - mean) < 0.2 * sd
    assert abs(fit.sd()["mu"] / sd - 1.0) < 0.15
    assert fit.predict(n=10)["y"].shape == (10, ROWS)
    assert ritz.load(fit.save(tmp_path / "fit")).mean() == fit.mean()
    again = posteriors.fit((y[::-1] + 1.0,))
    assert again.info["compile_seconds"] == 0.0
    np.testing.assert_allclose(posteriors.fit((y[::-1],)).q.parts.loc, fit.q.parts.loc, atol=1e-4)


def test_fewer_rows_and_what_is_refused_of_them(posteriors):
    y = np.array([2.0, 3.5, 1.0, 0.5])
    fit = posteriors.fit((y,))
    assert abs(float(fit.q.parts.loc[0, 0]) - exact(y)[0]) < 0.2
    assert fit.observed_data()["y"].shape == (4,)
    whole = posteriors.fit((np.array([2, 3, 1, 0, 4, 2]),))  # integers: other arrays than before
    assert abs(float(whole.q.parts.loc[0, 0]) - exact(np.array([2, 3, 1, 0, 4, 2]))[0]) < 0.2
    for n in (2, 7):
        with pytest.raises(RitzError, match=f"trained with {LEAST} to {ROWS} rows"):
            posteriors.fit((np.zeros(n),))


@pytest.mark.slow
def test_a_fit_goes_on_from_there(posteriors):
    y = np.array([2.0, 3.5, 1.0, 0.5, 4.0, 2.5])
    start = posteriors.fit((y,))
    fit = ritz.fit(conjugate, (y,), family=start.q, steps=500, lr=0.01)
    assert abs(fit.mean()["mu"] - exact(y)[0]) < 0.1
    assert fit.status == "ok", fit.reasons


# -- the objective --------------------------------------------------------------------------------


class Known(AbstractAmortised):
    """The exact posterior of three rows, or that of a wrong likelihood."""

    off: jax.Array

    @property
    def dim(self):
        return 1

    def condition(self, data):
        precision = 0.25 + 3.0 / 2.25
        mean = (0.25 + data["y"].sum() / 2.25) / precision + self.off
        return FullRank(mean[None], jnp.log(precision**-0.5)[None], jnp.zeros((1, 1)))


def test_the_objective_is_the_entropy_of_the_posterior_where_that_is_exact():
    target = simulation.simulated(from_numpyro(conjugate, (np.zeros(3),)), None, None)
    entropy = 0.5 * np.log(2 * np.pi * np.e / (0.25 + 3.0 / 2.25))

    def far(off):
        problem = Problem(target, Known(jnp.asarray(off)), amortised_forward_kl(4000), pathwise())
        info = problem.loss(problem.params, jax.random.key(0))[1]
        return abs(float(info["loss"]) - entropy) / float(info["loss_se"])

    assert far(0.0) < 4
    assert far(0.5) > 4


def test_pairs_that_are_not_finite_are_left_out():
    def simulate(key):
        x = jax.random.normal(key)
        return {"x": x}, {"y": jnp.where(x > 0.0, jnp.inf, x)}

    target = from_simulator(simulate)

    class Half(AbstractAmortised):
        loc: jax.Array

        @property
        def dim(self):
            return 1

        def condition(self, data):
            return FullRank(self.loc + data["y"], jnp.zeros(1), jnp.zeros((1, 1)))

    problem = Problem(target, Half(jnp.zeros(1)), amortised_forward_kl(50), pathwise())
    grad, info = problem.grad(problem.params, jax.random.key(0))
    assert np.isfinite(info["loss"])
    assert np.isfinite(grad.loc).all()
    message = r"simulated data 'y' hold inf or nan in \d\d% of draws"
    with pytest.raises(RitzError, match=message):
        ritz.amortise(target, steps=1)


# -- models, inputs and simulators ----------------------------------------------------------------


def regression(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, scale), obs=y)


def walk(y):
    mean = jnp.concatenate([jnp.zeros(1), y[:-1]]) if y is not None else 0.0
    drift = numpyro.sample("drift", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mean + drift, 1.0).to_event(1), obs=y)


def local(y):
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


X, Y = np.linspace(-1.0, 1.0, 5), np.array([0.1, -0.4, 0.3, 0.8, 0.2])


@pytest.mark.parametrize(
    ("model", "data", "inputs", "alike"),
    [
        (conjugate, (Y,), [], True),
        (regression, (X, Y), [0], True),
        (walk, (Y,), [0], False),
        (local, (Y,), [], False),
    ],
)
def test_inputs_and_rows_that_may_change_places_are_found(model, data, inputs, alike):
    target = from_numpyro(model, data)
    assert simulation.inputs_of(target) == inputs
    assert simulation.exchangeable(target, jax.random.key(0)) is alike


quickly = functools.partial(ritz.amortise, steps=2, draws=2, components=2)


@pytest.mark.slow
def test_inputs_are_those_of_training_or_drawn():
    posteriors = quickly(regression, (X, Y))
    assert posteriors.fit((X, Y + 1.0)).q.dim == 2
    with pytest.raises(RitzError, match="other values of an input"):
        posteriors.fit((X + 1.0, Y))
    draw = lambda key: (jax.random.normal(key, (5,)), jnp.zeros(5))
    free = quickly(regression, (X, Y), inputs=draw)
    one, two = (free.fit((x, Y)).q.parts.loc for x in (X, X + 1.0))
    assert not np.array_equal(one, two)
    with pytest.raises(RitzError, match="inputs drew arguments of shapes"):
        quickly(regression, (X, Y), inputs=lambda key: (jnp.zeros(4), jnp.zeros(5)))


def test_a_simulator_with_and_without_a_density():
    def simulate(key):
        one, two = jax.random.split(key)
        theta = {"rate": jnp.exp(jax.random.normal(one))}
        return theta, theta["rate"] + jax.random.normal(two, (2,))

    def log_density(theta, data):
        log_rate = jnp.log(theta["rate"])
        return -0.5 * log_rate**2 - log_rate - 0.5 * ((data - theta["rate"]) ** 2).sum()

    positive = {"rate": dist.constraints.positive}
    data = jnp.array([1.0, 2.0])
    blind = quickly(from_simulator(simulate, constraints=positive)).fit(data)
    assert (blind.draws["rate"] > 0.0).all()
    assert any("accuracy is unchecked" in reason for reason in blind.reasons)
    known = quickly(from_simulator(simulate, log_density, positive)).fit(data)
    assert known.khat is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quickly(walk, (Y,)), "computes what it observes from the observed values"),
        (lambda: quickly(local, (Y,), least_rows=2), "cannot change places"),
        (lambda: quickly(conjugate, (Y,), least_rows=9), "or are fewer"),
        (lambda: quickly(conjugate, (Y,), components=0), "components=0 arrived"),
        (lambda: quickly(conjugate, (Y,), inputs=3), "inputs arrived as int"),
        (lambda: quickly(conjugate, (Y,), encoder="mlp"), "encoder arrived as str"),
        (lambda: quickly(lambda: numpyro.sample("x", dist.Normal(0, 1))), "no observed site"),
        (
            lambda: quickly(ritz.target.from_log_density(lambda x: -(x**2), 0.0)),
            "a LogDensityTarget cannot",
        ),
        (lambda: from_simulator(lambda key: 3.0), "returned float, expected a pair"),
        (lambda: from_simulator(lambda key: 1 / 0), "the simulator failed: ZeroDivisionError"),
        (
            lambda: ritz.fit(conjugate, (Y,), objective=amortised_forward_kl(), steps=1),
            "needs a family with condition",
        ),
        (
            lambda: Problem(
                from_numpyro(conjugate, (Y,)), Known(jnp.zeros(())), negative_elbo(), pathwise()
            ),
            "NegativeELBO needs a family with entropy, sample, which Known lacks",
        ),
        (
            lambda: ritz.target.from_log_density(lambda x: -(x**2), 0.0).simulate(
                jax.random.key(0)
            ),
            "a LogDensityTarget cannot draw data; use a NumPyro model, or ritz.target.from_simul",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(RitzError, match=re.compile(message)):
        call()
