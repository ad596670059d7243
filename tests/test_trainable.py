"""Targets with parameters of their own, against maxima of the evidence in closed form."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import paramax
import pytest
from numpyro.contrib.control_flow import cond, scan
from numpyro.distributions import constraints

import ritz
from ritz import RitzError, objective
from ritz.diagnose import check_unbiased
from ritz.estimator import pathwise
from ritz.family import MeanField, lacking
from ritz.objective import Density, Problem
from ritz.target import LogDensityTarget, from_log_density, from_numpyro

RNG = np.random.default_rng(0)
Y = (1.5 + np.sqrt(1.0 + 0.8**2) * RNG.normal(size=200)).astype(np.float32)
MEAN, SD = float(Y.mean()), float(np.sqrt(Y.var() - 1.0))


def groups(y):
    m = numpyro.param("m", 0.0)
    tau = numpyro.param("tau", lambda key: jnp.array(1.0), constraint=constraints.positive)
    with numpyro.plate("rows", len(y)):
        mu = numpyro.sample("mu", dist.Normal(m, tau))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


# -- every objective ------------------------------------------------------------------------------


def joint(x, theta):
    """x is standard normal, and 1.1 is x + theta with unit noise."""
    return dist.Normal(0.0, 1.0).log_prob(x) + dist.Normal(x + theta, 1.0).log_prob(1.1)


def one_number(y):
    theta = numpyro.param("theta", 0.3)
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x + theta, 1.0), obs=y)


ONE = from_numpyro(one_number, (np.float32(1.1),))
THETA = jnp.array(0.3)
POSTERIOR = MeanField(jnp.array([(1.1 - 0.3) / 2]), jnp.log(jnp.array([0.5**0.5])))
EVIDENCE = lambda theta: dist.Normal(theta, 2.0**0.5).log_prob(1.1)
# Of the likelihood, in which theta is.
WEIGHT = {"data_emphasised_elbo": 2.0, "annealed": 0.6}


def in_theta(loss):
    def program(theta):
        target = ONE.with_params({"theta": {"theta": theta}})
        return loss.program(POSTERIOR, Density(target, jax.random.key(0), None), pathwise())

    return program


def follows_the_evidence(loss, weight=1.0):
    """At the exact posterior a loss has the gradient of -log Z in the target's parameters."""
    slope = -weight * jax.grad(EVIDENCE)(THETA)
    run = in_theta(loss)
    # Values differ from loss to loss.
    only = lambda theta: run(theta) - jax.lax.stop_gradient(run(theta))
    line = lambda theta: slope * (theta - THETA)
    return check_unbiased(only, THETA, exact=line, draws=4000)


SERVED = {
    name: part.example()
    for name, part in objective.registered().items()
    if not lacking(part.example().needs, MeanField.capabilities)
}
TRAINING = [name for name, loss in SERVED.items() if loss.trains_target]
OTHERS = [name for name in SERVED if name not in TRAINING]


@pytest.mark.parametrize("name", TRAINING)
def test_objectives_train_the_target(name):
    loss = objective.registered()[name].example()
    found = follows_the_evidence(loss, WEIGHT.get(name, 1.0))
    assert found, str(found)


@pytest.mark.parametrize("name", OTHERS)
def test_objectives_that_do_not_are_refused(name):
    loss = objective.registered()[name].example()
    with pytest.raises(RitzError, match=r"cannot train .*\(theta\); use negative_elbo\(\)") as said:
        Problem(ONE, POSTERIOR, loss, pathwise())
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", ["forward_kl", "chi_square", "log_variance"])
def test_they_would_be_wrong(name):
    """The same test rejects them: they move theta elsewhere, or not at all."""
    assert not follows_the_evidence(objective.registered()[name].example())


# -- fits -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [None, objective.iwae(4)], ids=["elbo", "iwae"])
def test_the_maximum_of_the_evidence_is_found(loss, tmp_path):
    """The family holds the posterior, so that the bound is tight there."""
    fit = ritz.fit(groups, (Y,), family="mean_field", objective=loss, steps=3000)
    assert float(fit.target.trained["m"]) == pytest.approx(MEAN, abs=0.01)
    assert float(fit.target.trained["tau"]) == pytest.approx(SD, abs=0.02)
    assert fit.info["trained"][0].startswith("m = 1.5")
    assert "trained m = 1.5" in str(fit.summary())
    shrink = SD**2 / (1.0 + SD**2)
    off = fit.mean()["mu"] - MEAN - shrink * (Y - MEAN)
    assert np.sqrt((off**2).mean()) < 0.05
    evidence = dist.Normal(MEAN, (1.0 + SD**2) ** 0.5).log_prob(Y).sum()
    assert fit.elbo is not None
    assert fit.elbo.value == pytest.approx(float(evidence), abs=0.2 if loss is None else 1.0)


def test_it_is_saved_and_taken_up(tmp_path):
    fit = ritz.fit(groups, (Y[:8],), steps=300)
    fit.save(tmp_path / "fit")
    alone = ritz.load(tmp_path / "fit")
    assert {k: float(v) for k, v in alone.target.trained.items()} == {
        k: float(v) for k, v in fit.target.trained.items()
    }
    alone.save(tmp_path / "again")
    whole = ritz.load(tmp_path / "again", groups, (Y[:8],))
    x = jnp.zeros(8)
    assert float(whole.target.log_density(x)) == float(fit.target.log_density(x))
    assert float(whole.target.log_density(x)) != float(
        from_numpyro(groups, (Y[:8],)).log_density(x)
    )
    np.testing.assert_array_equal(whole.predict(n=3)["y"], fit.predict(n=3)["y"])
    for earlier in (fit, alone):
        more = ritz.fit(groups, (Y[:8],), init=earlier, steps=0)
        assert more.target.trained == fit.target.trained
    with pytest.raises(RitzError, match=r"has trained .*'tau'.*give the model that was fitted"):
        ritz.load(tmp_path / "fit", without, (Y[:8],))


def without(y):
    with numpyro.plate("rows", len(y)):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_second_fit_compiles_nothing():
    ritz.fit(groups, (Y[:5],), steps=20)
    assert not ritz.fit(groups, (Y[1:6],), steps=20).info["compiled"]


def test_predictions_are_those_of_the_trained_model():
    target = from_numpyro(groups, (Y,))
    moved = target.with_params({"theta": {"m": jnp.array(7.0), "tau": jnp.array(-9.0)}})
    drawn = moved.prior_predict(jax.random.key(0))
    assert abs(float(drawn["mu"].mean()) - 7.0) < 1e-3
    assert float(moved.trained["tau"]) == pytest.approx(np.exp(-9.0))
    x, observed = moved.simulate(jax.random.key(0))
    np.testing.assert_allclose(x, drawn["mu"], rtol=1e-5)
    np.testing.assert_array_equal(observed["y"], drawn["y"])


class Decoder(eqx.Module):
    weight: jax.Array
    bias: Any
    name: str = "decoder"

    def __call__(self, z):
        return self.weight @ z + self.bias


def test_an_equinox_module_is_trained():
    """Probabilistic PCA of one point, with the bias held: the weight's best length is known."""
    y = jnp.array([2.0, -1.0])

    def density(z, decoder):
        return -0.5 * (z @ z) - 0.5 * ((y - decoder(z)) ** 2).sum()

    start = Decoder(jnp.array([[0.5], [0.1]]), paramax.NonTrainable(jnp.zeros(2)))
    target = from_log_density(density, jnp.zeros(1), theta=start)
    assert list(target.trained) == ["weight"]
    fit = ritz.fit(target, steps=3000)
    assert isinstance(fit.target, LogDensityTarget)
    found = fit.target.theta
    # Marginal covariance I + w w', largest where w = sqrt(|y|² - 1) along y.
    wanted = np.sqrt(y @ y - 1.0) * y / jnp.linalg.norm(y)
    sign = jnp.sign(found.weight[0, 0])
    np.testing.assert_allclose(sign * found.weight[:, 0], wanted, atol=0.05)
    np.testing.assert_array_equal(paramax.unwrap(found).bias, np.zeros(2))
    assert found.name == "decoder"


class Shifted(LogDensityTarget):
    """A target of one's own, with a part of it declared."""

    trainable: ClassVar[tuple[str, ...]] = ("theta",)

    def of(self, values):
        return joint(values, self.theta["shift"])


def test_a_target_of_ones_own():
    base = from_log_density(lambda x, own: joint(x, own["shift"]), 0.0, theta={"shift": 0.0})
    fields = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    fit = ritz.fit(Shifted(**fields), steps=2000)
    assert float(fit.target.trained["shift"]) == pytest.approx(1.1, abs=0.02)


# -- in the rest of the engine --------------------------------------------------------------------


def mixture(y):
    share = numpyro.param("share", 0.5, constraint=constraints.unit_interval)
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(share))
        numpyro.sample("y", dist.Normal(mu * z, 1.0), obs=y)


def chain(y):
    stay = numpyro.param("stay", 0.7, constraint=constraints.unit_interval)
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))

    def step(z, y_t):
        z = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, stay, 1 - stay)))
        numpyro.sample("y", dist.Normal(mu * z, 1.0), obs=y_t)
        return z, None

    scan(step, 0, y)


@pytest.mark.parametrize("model", [mixture, chain])
def test_where_discrete_sites_are_summed(model):
    y, target = Y[:4], from_numpyro(model, (Y[:4],))
    (name,) = target.trained
    free = jnp.array(0.4)
    value = jax.nn.sigmoid(free)
    moved = target.with_params({"theta": {name: free}})
    if model is mixture:
        each = jnp.stack([jnp.log(1 - value) - 0.5 * y**2, jnp.log(value) - 0.5 * (y - 1.2) ** 2])
        seen = jax.nn.logsumexp(each, axis=0).sum()
    else:
        log_p = lambda before, z: jnp.log(value if z == before else 1 - value)
        total = []
        for path in np.ndindex(2, 2, 2, 2):
            steps = zip((0, *path), path, y, strict=False)
            # From 0, the chance of 1 is 1 - stay.
            total.append(sum(log_p(b, z) - 0.5 * (v - 1.2 * z) ** 2 for b, z, v in steps))
        seen = jax.nn.logsumexp(jnp.stack(total))
    wanted = seen - 2.0 * np.log(2 * np.pi) + dist.Normal(0.0, 3.0).log_prob(1.2)
    np.testing.assert_allclose(moved.log_density(jnp.array([1.2])), wanted, rtol=1e-5)


def shared(y):
    m = numpyro.param("m", 0.0)
    x = numpyro.sample("x", dist.Normal(0.0, 0.1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(m + x, 1.0), obs=y)


def test_rows_in_batches():
    fit = ritz.fit(shared, ritz.data.batches((Y,), 50), steps=3000)
    assert float(fit.target.trained["m"]) == pytest.approx(MEAN, abs=0.05)


# -- refusals -------------------------------------------------------------------------------------


def whole_number(y):
    numpyro.sample("x", dist.Normal(numpyro.param("n", 3) * 1.0, 1.0))


def outside(y):
    scale = numpyro.param("scale", -1.0, constraint=constraints.positive)
    numpyro.sample("x", dist.Normal(0.0, jnp.abs(scale)))


def in_a_loop(y):
    def step(carry, y_t):
        m = numpyro.param("m", 0.0)
        numpyro.sample("x", dist.Normal(m, 1.0))
        return carry, None

    scan(step, 0.0, y)


def in_a_branch(y):
    def branch(_):
        numpyro.sample("x", dist.Normal(numpyro.param("m", 0.0), 1.0))

    cond(True, branch, branch, None)


BAD = {
    "an integer": (lambda: from_numpyro(whole_number, (Y,)), "'n', …\\) has dtype int32; write a"),
    "outside": (lambda: from_numpyro(outside, (Y,)), "starts outside its support positive"),
    "in a scan": (lambda: from_numpyro(in_a_loop, (Y,)), "'m', …\\) is inside scan or cond"),
    "in a cond": (lambda: from_numpyro(in_a_branch, (Y,)), "'m', …\\) is inside scan or cond"),
    "no number": (lambda: from_log_density(joint, 0.0, theta={"n": 1}), "without floating numbers"),
    "infinite": (lambda: from_log_density(joint, 0.0, theta=np.inf), "that is not finite"),
    "a solver of scores": (
        lambda: ritz.fit(ONE, solver="natural_gradient", steps=1),
        r"needs score_at, which this Problem cannot offer .*adam\(\) needs only grad",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_failure_is_explained():
    """At the parameters of the step, not at those of the start."""

    def model():
        s = numpyro.param("s", 1.0)
        numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("f", jnp.sqrt(s))

    with pytest.warns(RuntimeWarning, match="the log density of site 'f' is|not finite"):
        fit = ritz.fit(model, (), steps=2000, lr=1.0, objective=downhill)
    assert fit.stop_reason == "not finite"
    assert np.isfinite(float(fit.target.trained["s"]))


def downhill(q, target):
    return target.log_density(objective.sample(q))
