"""Posteriors of functions given outputs that are not normal, against exact ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import lognorm

import ritz
from ritz.gp import (
    GP,
    bernoulli,
    difference,
    gaussian,
    heteroscedastic,
    matern,
    ordinal,
    poisson,
    preference,
    rbf,
    softmax,
    student_t,
)
from ritz.gp._density import DENSITIES, WAYS, priors_of
from ritz.gp._density import gaussian as by_formula
from ritz.gp._evidence import predicted
from ritz.gp._inference import laplace
from ritz.gp._sites import converged, posterior
from ritz.gp._stationary import Stationary

RNG = np.random.default_rng(0)
X = np.sort(RNG.uniform(0.0, 6.0, size=(40, 1)), axis=0)
F = 2.0 * np.sin(2.0 * X[:, 0])
LABELS = (RNG.uniform(size=40) < 1.0 / (1.0 + np.exp(-F))).astype(float)
APPROXIMATE = ("variational", "laplace", "ep", "variational, EP's evidence")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def parts(variance=4.0, length=0.8, **more):
    kernel = Stationary(jnp.asarray(length, float), jnp.asarray(variance, float), "2.5")
    return {"kernel": kernel, "mean": jnp.full(1, 0.3)} | more


def data(y=LABELS, likelihood=None, x=X, **more):
    likelihood = bernoulli() if likelihood is None else likelihood
    return {"x": jnp.asarray(x), "y": jnp.asarray(y), "likelihood": likelihood} | more


@eqx.filter_jit
def learned(way, parts, data):
    return WAYS[way](parts, data)


def evidence(way, parts, data):
    return float(learned(way, parts, data).log_evidence)


def test_with_normal_noise_every_way_is_exact_and_the_first_step_is_the_last():
    y, noise = jnp.asarray(F + 0.3 * RNG.normal(size=40)), jax.tree.map(jnp.float64, gaussian(0.3))
    bend = jnp.full((1, 40), 1.0 / 0.3**2)

    def seen(mean, var):
        return jax.vmap(noise.expected)(mean.T, var.T, y).sum(), (y - mean) / 0.3**2, bend

    for more in ({}, {"z": jnp.asarray(X[::4])}):
        given = data(y, noise, **more)
        wanted = float(by_formula(parts(), given).log_evidence)
        for way in ("variational",) if more else ("variational", "ep"):
            assert evidence(way, parts(), given) == pytest.approx(wanted, abs=1e-6)
        priors = jax.jit(lambda given: priors_of(parts(), given))(given)
        once = jax.jit(posterior)(priors, bend, (y - 0.3)[None] / 0.3**2)
        sites, last = jax.jit(lambda priors: converged(priors, seen))(priors)
        np.testing.assert_allclose(last.mean, once.mean, atol=1e-8)
        np.testing.assert_allclose(sites.w, bend)


def test_inducing_inputs_at_all_rows_are_all_rows():
    whole = evidence("variational", parts(), data())
    z = jnp.asarray(X)
    assert evidence("variational", parts(), data(z=z)) == pytest.approx(whole, abs=1e-4)
    fewer = [evidence("variational", parts(), data(z=z[::k])) for k in (3, 8)]
    assert whole > fewer[0] > fewer[1]


def enumerated(variance):
    """The evidence of two rows and the mean of the first, by a sum over a grid."""
    x, y = X[[3, 9]], np.array([1.0, 0.0])
    given = data(y, x=x)
    cov = np.asarray(parts(variance)["kernel"].matrix(given["x"], given["x"]))
    axis = np.linspace(-8.0, 8.0, 401)
    u = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    f = 0.3 + u @ np.linalg.cholesky(cov).T
    logs = -0.5 * (u**2).sum(axis=1) - np.logaddexp(0.0, -(2.0 * y - 1.0) * f).sum(axis=1)
    weights = np.exp(logs)
    total = weights.sum() * (axis[1] - axis[0]) ** 2 / (2.0 * np.pi)
    return given, np.log(total), weights @ f[:, 0] / weights.sum()


@pytest.mark.parametrize("variance", [0.5, 10.0])
def test_two_rows_against_a_grid(variance):
    given, wanted, mean = enumerated(variance)
    found = {w: evidence(w, parts(variance), given) for w in APPROXIMATE}
    assert found["variational"] < wanted
    assert abs(found["ep"] - wanted) < 0.3 * abs(found["variational"] - wanted) + 1e-6
    assert abs(found["variational, EP's evidence"] - wanted) < abs(found["variational"] - wanted)
    assert abs(found["laplace"] - wanted) < 0.15
    # The wrong variant: without what a row's own site says there is no evidence of rows.
    priors = priors_of(parts(variance), given)
    prior = jax.jit(posterior)(priors, jnp.zeros((1, 2)), jnp.zeros((1, 2)))
    alone = jax.vmap(given["likelihood"].log_mean)(prior.mean.T, prior.var.T, given["y"]).sum()
    assert abs(float(alone) - wanted) > 5 * abs(found["ep"] - wanted)
    at = jax.tree.map(lambda v: v[0], learned("ep", parts(variance), given).seen)
    told = predicted(parts(variance)["kernel"], 0.3, at, given["x"][:1])[0]
    assert float(told[0]) == pytest.approx(mean, abs=0.03)


@pytest.mark.parametrize("variance", [1.0, 4.0])
def test_with_one_row_expectation_propagation_is_exact(variance):
    """Its site too, with which the posterior has the mean of the exact one."""
    given = data(LABELS[:1], x=X[:1])
    prior = jnp.array([0.3]), jnp.array([variance])
    wanted = float(bernoulli().log_mean(*prior, LABELS[0]))
    found = learned("ep", parts(variance), given)
    assert float(found.log_evidence) == pytest.approx(wanted, abs=1e-6)
    slope = jax.grad(lambda m: bernoulli().log_mean(m, prior[1], LABELS[0]))(prior[0])
    at = jax.tree.map(lambda v: v[0], found.seen)
    mean = predicted(parts(variance)["kernel"], 0.3, at, given["x"])[0]
    assert float(mean[0]) == pytest.approx(0.3 + variance * float(slope[0]), abs=1e-4)


def test_the_prior_of_hyperparameters_is_log_normal():
    given = data(first=[jnp.log(0.5), jnp.log(2.0)], log_sd=jnp.asarray(1.5))
    whole = float(DENSITIES["variational"](parts(), given))
    logs = lognorm.logpdf([0.8, 4.0], 1.5, scale=[0.5, 2.0]).sum() + 2.0 * np.log(
        1.5 * np.sqrt(2.0 * np.pi)
    )
    level = -0.5 * (0.3 / 5.0) ** 2
    wanted = evidence("variational", parts(), given) + logs + level
    assert whole == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("way", APPROXIMATE)
def test_slopes_of_evidences_are_differences(way, sparse):
    more = {"z": jnp.asarray(X[::5])} if sparse else {}

    def value(p):
        return WAYS[way](parts(jnp.exp(p[0]), jnp.exp(p[1]), mean=p[2:]), data(**more)).log_evidence

    at = jnp.array([np.log(4.0), np.log(0.8), 0.3])
    slope = jax.jit(jax.grad(value))(at)
    value = jax.jit(value)
    step = 1e-3
    wanted = [(value(at + step * e) - value(at - step * e)) / (2.0 * step) for e in jnp.eye(3)]
    exact = 0.02 if way == "variational, EP's evidence" else 2e-3
    np.testing.assert_allclose(slope, wanted, atol=exact)


def test_laplaces_slope_with_the_mode_held_is_another():
    """The wrong variant: the mode and the curvature held, as they may be for a bound."""

    def value(p, held):
        given = parts(jnp.exp(p[0]), jnp.exp(p[1]))
        priors, y = priors_of(given, data()), data()["y"]
        found = laplace(priors, bernoulli(), y)
        if not held:
            return found.log_evidence
        sites = jax.lax.stop_gradient(found.sites)
        alpha = jax.lax.stop_gradient(posterior(priors, sites.w, sites.b).alpha)
        at = posterior(priors, sites.w, alpha=alpha)
        logs = jax.vmap(bernoulli().log_prob)(at.mean.T, y).sum()
        return logs - 0.5 * at.norm - at.weighed.half_log_det.sum()

    at = jnp.array([np.log(4.0), np.log(0.8)])
    slopes = [jax.jit(jax.value_and_grad(lambda p, h=h: value(p, h)))(at) for h in (False, True)]
    assert float(slopes[0][0]) == pytest.approx(float(slopes[1][0]), abs=1e-4)
    assert np.abs(slopes[0][1] - slopes[1][1]).max() > 1e-2


def curve(n=120):
    x = np.sort(RNG.uniform(0.0, 6.0, size=(n, 1)), axis=0)
    return x, 2.0 * np.sin(2.0 * x[:, 0])


@pytest.mark.parametrize("how", [{}, {"inference": "ep"}, {"hyperparameters": "ep"}])
def test_two_classes(how):
    x, f = curve()
    y = np.where(RNG.uniform(size=120) < 1.0 / (1.0 + np.exp(-f)), "yes", "no")
    gp = GP(matern(2.5), bernoulli(), progress=False, **how).fit(x, y)
    chance = gp.predict_proba(x)
    assert list(gp.classes_) == ["no", "yes"]
    np.testing.assert_allclose(chance.sum(axis=1), 1.0)
    truth = 1.0 / (1.0 + np.exp(-f))
    assert np.abs(chance[:, 1] - truth).mean() < 0.12
    assert gp.log_density(x, y).mean() > -0.55
    assert set(gp.predict(x)) == {"no", "yes"}
    assert gp.score(x, y) > 0.75
    with pytest.raises(ritz.RitzError, match="'maybe', which training did not"):
        gp.log_density(x[:1], ["maybe"])
    with pytest.raises(ritz.RitzError, match="not the function plus noise"):
        gp.predict(x, return_std=True)


def test_counts():
    x, f = curve()
    gp = GP(matern(2.5), poisson(), progress=False).fit(x, RNG.poisson(np.exp(0.7 * f)))
    assert np.corrcoef(gp.predict(x), np.exp(0.7 * f))[0, 1] > 0.93
    mean, sd = gp.function(x)
    assert np.mean(np.abs(mean - 0.7 * f) < 2.5 * sd) > 0.9
    with pytest.raises(ritz.RitzError, match="no classes"):
        gp.predict_proba(x)


def test_outliers_hardly_move_a_function_with_heavy_tails():
    x, f = curve()
    y = f + 0.1 * RNG.normal(size=120)
    y[::10] += 8.0
    heavy = GP(matern(2.5), student_t(), progress=False).fit(x, y)
    plain = GP(matern(2.5), progress=False).fit(x, y)
    error = [np.sqrt(np.mean((gp.predict(x) - f) ** 2)) for gp in (heavy, plain)]
    assert error[0] < 0.15 < error[1]
    assert heavy.noise_ < 0.3


def test_levels_in_an_order():
    x, f = curve(200)
    y = np.digitize(f + RNG.normal(size=200), [-1.5, 0.0, 1.5])
    gp = GP(matern(2.5), ordinal(4), progress=False).fit(x, y)
    assert np.corrcoef(gp.function(x)[0], f)[0, 1] > 0.9
    assert gp.predict_proba(x).shape == (200, 4)


def test_three_classes_and_their_gaps():
    x, f = curve()
    y = np.array([7, 2, 40])[np.digitize(f + 0.3 * RNG.normal(size=120), [-1.0, 1.0])]
    gp = GP(matern(2.5), softmax(3), inducing=20, progress=False).fit(x, y)
    assert gp.score(x, y) > 0.85
    assert list(gp.classes_) == [2, 7, 40]
    assert gp.sample(x[:5], 3).shape == (3, 5, 3)
    assert "20 inducing inputs" in gp.explain()


def test_noise_that_grows():
    x, f = curve(200)
    sd = np.exp(-2.5 + x[:, 0] / 2.0)
    y = f + sd * RNG.normal(size=200)
    gp = GP(matern(2.5), heteroscedastic(), progress=False).fit(x, y)
    level = gp.function(x)[0][:, 1]
    assert np.corrcoef(level, np.log(sd))[0, 1] > 0.9
    plain = GP(matern(2.5), progress=False).fit(x, y)
    new = f + sd * RNG.normal(size=200)
    assert gp.log_density(x, new).mean() > plain.log_density(x, new).mean() + 0.1


def test_preferences_tell_a_utility():
    a, b = RNG.uniform(0.0, 6.0, size=(2, 300, 1))
    u = lambda v: 2.0 * np.sin(2.0 * v[:, 0])
    won = u(a) - u(b) + RNG.normal(size=300) > 0
    gp = GP(difference(rbf()), preference(), progress=False).fit(np.hstack([a, b]), won)
    x, f = curve()
    found = gp.function(np.hstack([x, np.full_like(x, 3.0)]))[0]
    assert np.corrcoef(found, f)[0, 1] > 0.95
    turned = gp.function(np.hstack([np.full_like(x, 3.0), x]))[0]
    np.testing.assert_allclose(turned, -found, atol=1e-6)
    with pytest.raises(ritz.RitzError, match="an even number"):
        GP(difference(rbf()), preference(), progress=False).fit(x, won[:120])
