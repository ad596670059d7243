"""What a fit answers, and that its answers agree with each other."""

import functools
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz import RitzError
from ritz.target import from_log_density

SIGMA = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
Y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])


def schools(sigma, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", len(sigma)):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


@pytest.fixture(scope="module")
def fit():
    return ritz.fit(schools, (SIGMA, Y), family="full_rank", steps=6000)


def test_eight_schools_is_right(fit):
    """Reference of posteriordb: mu 4.41 (3.30), tau 3.6 (3.2), theta[0] 6.2 (5.6)."""
    assert abs(fit.mean()["mu"] - 4.41) < 0.33
    assert abs(fit.sd()["mu"] / 3.30 - 1) < 0.2
    assert abs(fit.mean()["theta"][0] - 6.15) < 0.1 * 5.6 + 0.3


def test_draws_are_functions_of_the_key_and_their_number(fit):
    key = jax.random.key(5)
    few, many = fit.sample(7, key), fit.sample(1203, key)
    for name in ("mu", "tau", "eta", "theta"):
        assert many[name].shape == (1203, *few[name].shape[1:])
        assert np.array_equal(few[name], many[name][:7])
    assert not np.array_equal(few["mu"], fit.sample(7, jax.random.key(6))["mu"])
    # where the two terms cancel, float32 leaves the rounding of each
    theta = many["mu"][:, None] + many["tau"][:, None] * many["eta"]
    np.testing.assert_allclose(many["theta"], theta, rtol=1e-4, atol=1e-5)
    again = ritz.fit(schools, (SIGMA, Y), family="full_rank", steps=6000)
    assert np.array_equal(again.sample(7, key)["tau"], few["tau"])
    other = ritz.fit(schools, (SIGMA, Y), family="full_rank", steps=6000, seed=1)
    assert not np.array_equal(other.sample(7, key)["tau"], few["tau"])


def test_moments_are_those_of_the_draws(fit):
    assert fit.labels[:2] == ["mu", "tau"]
    assert "eta[7]" in fit.labels
    cov = fit.cov()
    assert cov.shape == (10, 10)
    np.testing.assert_allclose(cov[1, 1] ** 0.5, fit.sd()["tau"], rtol=1e-5)
    rows = fit.summary().rows
    assert rows["tau"]["mean"] == pytest.approx(float(fit.mean()["tau"]), rel=1e-5)
    assert rows["theta[3]"]["5%"] < rows["theta[3]"]["50%"] < rows["theta[3]"]["95%"]


def test_log_prob_is_the_density_in_the_models_own_parameters(fit):
    values = fit.sample(5)
    x = jax.vmap(fit.target.unconstrain)({n: jnp.asarray(values[n]) for n in ("mu", "tau", "eta")})
    by_hand = jax.vmap(fit.q.log_prob)(x) - np.log(values["tau"])  # d tau / d x = tau
    np.testing.assert_allclose(fit.log_prob(values), by_hand, rtol=1e-4, atol=1e-4)
    one = {name: v[0] for name, v in values.items()}
    assert fit.log_prob(one).shape == ()
    np.testing.assert_allclose(fit.log_prob(one), by_hand[0], rtol=1e-4, atol=1e-4)


def test_log_prob_integrates_to_one():
    def model():
        numpyro.sample("rate", dist.Gamma(3.0, 2.0))

    fit = ritz.fit(model, steps=500)
    grid = np.linspace(1e-4, 20.0, 20_001, dtype=np.float32)
    density = np.exp(fit.log_prob({"rate": grid}))
    assert abs(np.trapezoid(density, grid) - 1) < 1e-3


def test_elbo_is_the_mean_log_weight(fit):
    weights = fit.log_weights()
    assert fit.elbo.value == pytest.approx(weights.astype(np.float64).mean(), rel=1e-6)
    assert fit.elbo.se == pytest.approx(weights.std(ddof=1) / 4000**0.5, rel=1e-3)
    # The loss that was minimised is its negative.
    assert -fit.history.loss[-1000:].mean() == pytest.approx(fit.elbo.value, abs=0.1)


def test_predict(fit):
    drawn = fit.predict(n=2000)
    assert drawn["y"].shape == (2000, 8)
    theta, sd = fit.mean()["theta"], fit.sd()["theta"]
    total = np.sqrt(sd**2 + SIGMA**2)
    assert (np.abs(drawn["y"].mean(0) - theta) < 4.5 * total / 2000**0.5).all()
    assert (np.abs(drawn["y"].std(0) / total - 1) < 0.1).all()


def test_predict_new_data_without_the_observations():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2))
    y = x @ np.array([1.0, 2.0]) + 0.1 * rng.normal(size=50)

    def linear(x, y=None):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Normal(x @ beta, 0.1), obs=y)

    fit = ritz.fit(linear, (x, y), steps=3000)
    new = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    for data in ((new,), {"x": new}):
        drawn = fit.predict(data, n=700)
        assert drawn["y"].shape == (700, 3)
        np.testing.assert_allclose(drawn["y"].mean(0), [1.0, 2.0, 3.0], atol=0.05)


def test_predict_keeps_only_what_is_asked(fit):
    largest = fit.predict(n=300, reduce=lambda draw: draw["y"].max())
    assert largest.shape == (300,)
    np.testing.assert_allclose(largest, fit.predict(n=300)["y"].max(1), rtol=1e-6)


def test_prior_predict(fit):
    drawn = fit.prior_predict(3000)
    assert set(drawn) == {"mu", "tau", "eta", "theta", "y"}
    assert abs(drawn["mu"].mean()) < 4 * 5 / 3000**0.5
    assert abs(drawn["mu"].std() / 5 - 1) < 0.06


def test_to_arviz_without_a_warning(fit, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        idata = fit.to_arviz(coords={"school": list("ABCDEFGH")})
        assert idata.posterior.theta.dims == ("chain", "draw", "school")
        assert list(idata.posterior.school.values) == list("ABCDEFGH")
        assert idata.posterior_predictive.y.shape == (1, 4000, 8)
        assert idata.log_likelihood.y.shape == (1, 4000, 8)
        np.testing.assert_allclose(idata.observed_data.y, Y)
        path = str(tmp_path / "fit.nc")
        idata.to_netcdf(path)
        import arviz as az

        back = az.from_netcdf(path)
        np.testing.assert_array_equal(back.posterior.mu, idata.posterior.mu)
        assert back.posterior.attrs["inference_library"] == "ritz"


def test_log_likelihood_is_pointwise_and_unscaled(fit):
    drawn = fit.log_likelihood()["y"]
    theta = fit.draws["theta"]
    by_hand = -0.5 * ((Y - theta) / SIGMA) ** 2 - np.log(SIGMA) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(drawn, by_hand, rtol=1e-4, atol=1e-4)


def robust(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.StudentT(5.0, slope * x, 1.0), obs=y)


def constant(x, y=None):
    level = numpyro.sample("level", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.StudentT(5.0, level, 1.0), obs=y)


def test_arvizs_loo_and_compare():
    import arviz as az

    rng = np.random.default_rng(1)
    x = rng.normal(size=80)
    y = 1.5 * x + rng.normal(size=80)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = {m.__name__: ritz.fit(m, (x, y), steps=3000) for m in (robust, constant)}
        idatas = {name: f.to_arviz() for name, f in fits.items()}
        assert np.isfinite(az.loo(idatas["robust"]).elpd_loo)
        assert az.compare(idatas).index[0] == "robust"


def test_what_a_fit_cannot_do_is_absent():
    fit = ritz.fit(from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2)), steps=200)
    for name in ("predict", "prior_predict", "log_likelihood", "observed_data"):
        assert not hasattr(fit, name)
    assert hasattr(fit, "log_prob")
    with pytest.raises(AttributeError, match="needs a NumPyro model"):
        _ = fit.predict
    assert fit.to_arviz().groups() == ["posterior"]


def test_a_log_density_keeps_its_structure():
    example = {"a": (jnp.zeros(2), 1.0), "b": jnp.zeros((2, 2))}

    def log_density(p):
        return -0.5 * ((p["a"][0] ** 2).sum() + (p["a"][1] - 3) ** 2 + (p["b"] ** 2).sum())

    fit = ritz.fit(from_log_density(log_density, example), steps=2000)
    drawn = fit.sample(11)
    assert jax.tree.structure(drawn) == jax.tree.structure(example)
    assert drawn["a"][0].shape == (11, 2)
    assert abs(fit.mean()["a"][1] - 3.0) < 0.2
    assert fit.log_prob(drawn).shape == (11,)


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    import optax

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(beta * x, 1.0), obs=y)

    def again(x, y):  # another function that says the same
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(beta * x, 1.0), obs=y)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30))
    first = ritz.fit(model, (x, y), steps=300, solver=optax.adam(0.01))
    first.summary()
    assert first.info["compiled"]
    count = [0]

    def listen(event, duration, **_):
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    for function in (model, again):
        second = ritz.fit(function, (x, 2 * y), steps=4321, solver=optax.adam(0.01), seed=3)
        second.summary()
        assert not second.info["compiled"]
    assert count[0] == 0
    assert second.mean()["beta"] == pytest.approx(2 * first.mean()["beta"], abs=0.5)


def test_init_takes_values_and_fits(fit):
    near = ritz.fit(schools, (SIGMA, Y), steps=0, init={"tau": 3.0}, family="mean_field")
    assert near.info["start"] == "the values given, and the prior median"
    site = next(s for s in near.target.sites if s.name == "tau")
    assert float(near.q.loc[site.start]) == pytest.approx(np.log(3.0), rel=1e-5)
    all_there = ritz.fit(schools, (SIGMA, Y), steps=0, init=fit.mean(), family="mean_field")
    assert all_there.info["start"] == "the values given"  # theta, which is computed, is not read
    on = ritz.fit(schools, (SIGMA, Y + 1.0), steps=0, init=fit, family="full_rank")
    assert np.array_equal(on.q.loc, fit.q.loc)
    other = ritz.fit(schools, (SIGMA, Y), steps=0, init=fit, family="mean_field")
    assert other.info["start"] == "an earlier fit's mean"
    np.testing.assert_allclose(other.q.loc, fit.unconstrained_mean(), rtol=1e-5)


def test_nan_at_one_site_is_named():
    def model(y):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        b = numpyro.sample("b", dist.LogNormal(0.0, 1.0))
        # The density of c is nan as soon as a draw of b passes 3.
        numpyro.sample("c", dist.Normal(jnp.where(b > 3.0, jnp.nan, a), 1.0), obs=y)

    with pytest.warns(RuntimeWarning, match="the log density of site 'c' is nan"):
        fit = ritz.fit(model, (np.array(1.0),), steps=5000, family="mean_field")
    assert fit.status == "failed"
    assert fit.stop_reason == "not finite"
    assert "step" in fit.message
    assert np.isfinite(fit.sample(10)["a"]).all()
    with pytest.raises(RitzError, match="site 'c' is nan"):
        ritz.fit(model, (np.array(1.0),), steps=5000, family="mean_field", strict=True)


@pytest.mark.parametrize("x64", [False, True])
def test_both_precisions(x64):
    with jax.enable_x64(x64):
        fit = ritz.fit(schools, (SIGMA, Y), family="full_rank", steps=500)
        assert fit.info["dtype"] == ("float64" if x64 else "float32")
        assert fit.sample(3)["mu"].dtype == fit.info["dtype"]
        assert fit.q.loc.dtype == fit.info["dtype"]


def test_summary_says_what_there_is_to_know(fit):
    text = str(fit)
    for part in ("theta[7]", "ELBO", "k-hat", "ESS", "full_rank", "compiling", "verdict"):
        assert part in text
    assert "<table>" in fit._repr_html_()
    facts = fit.summary().to_dict()["facts"]
    assert facts["khat_threshold"] == 0.7
    assert {"elbo", "elbo_se", "ess", "compile_seconds", "run_seconds", "steps"} <= set(facts)


def test_a_table_is_bound_by_name_and_the_summary_says_how():
    import pandas as pd

    table = pd.DataFrame({"sigma": SIGMA, "y": Y, "name": list("ABCDEFGH")})
    fit = ritz.fit(schools, table, steps=0, family="mean_field")
    text = str(fit.summary())
    assert "sigma <- sigma (float, 8 rows)" in text
    assert "not used: name" in text
    assert "<-" not in str(ritz.fit(schools, (SIGMA, Y), steps=0, family="mean_field"))


PARABOLA = from_log_density(lambda x: -0.5 * (x**2).sum() + x.sum(), np.zeros(2))


def elbo_by_hand(q, target):
    x, log_q = ritz.objective.sample_and_log_prob(q)
    return log_q - target.log_density(x)


@pytest.mark.parametrize(
    "how", [ritz.estimator.score(), ritz.estimator.score(ritz.estimator.running_mean(0.5)), None]
)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
def test_the_estimator_of_a_fit_serves_a_function_objective(how, wrap):
    draw = wrap(ritz.objective.sample_and_log_prob)

    def by_hand(q, target):
        x, log_q = draw(q)
        return log_q - target.log_density(x)

    fit = functools.partial(ritz.fit, PARABOLA, estimator=how, steps=20, progress=False)
    packaged = fit(objective=ritz.objective.negative_elbo(1, "mc")).q.loc
    np.testing.assert_allclose(fit(objective=by_hand).q.loc, packaged, rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "estimator", "says"),
    [
        (lambda q: 0.0, None, r"objective: .* takes \(q\) arrived, .* of \(q, target\)"),
        (lambda q, target: None, None, "<lambda> returned None"),
        (
            lambda q, target: 1.0 if ritz.objective.sample(q)[0] > 0 else 0.0,
            None,
            r"'<lambda>' \(line \d+ of test_fit.py\) needs the value",
        ),
        (elbo_by_hand, ritz.estimator.sticking_the_landing(), "linear in log q only.*name it"),
    ],
)
def test_function_objectives_that_cannot_serve(objective, estimator, says):
    with pytest.raises(RitzError, match=says):
        ritz.fit(PARABOLA, objective=objective, estimator=estimator, steps=1, progress=False)


def test_two_batched_choleskys_in_one_program_end():
    """With JAX 0.10 on two cores they waited for each other; Ritz leaves it threads enough."""
    code = """
import jax, ritz, jax.numpy as jnp
a = jnp.broadcast_to(jnp.eye(11), (500, 11, 11))
both = jax.jit(lambda a, b: jnp.linalg.cholesky(a).sum() + jnp.linalg.cholesky(b).sum())
for _ in range(300):
    both(a, a + 1.0).block_until_ready()
"""
    env = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
    subprocess.run([sys.executable, "-c", code], env=env, timeout=100, check=True)
