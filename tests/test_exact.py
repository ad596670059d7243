"""Fits whose answer is known exactly, and variants that must miss it."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ritz
from ritz.estimator import Draw, Pathwise, pathwise
from ritz.family import FullRank, MeanField
from ritz.objective import Problem, negative_elbo
from ritz.target import from_log_density, from_numpyro

SEEDS = (0, 1, 2)


def gaussian(mean, cov):
    """A target with log density -(x - m)' P (x - m) / 2, so that Z = sqrt(det 2 pi C)."""
    precision, m = jnp.asarray(np.linalg.inv(cov)), jnp.asarray(mean)
    return from_log_density(lambda x: -0.5 * (x - m) @ precision @ (x - m), jnp.zeros(len(mean)))


def log_z(cov):
    return 0.5 * np.linalg.slogdet(2 * np.pi * np.asarray(cov))[1]


def exact_full_rank(mean, cov):
    factor = np.linalg.cholesky(cov)
    scale = np.diag(factor)
    return FullRank(jnp.asarray(mean), jnp.log(scale), jnp.asarray(factor / scale[:, None]))


@pytest.mark.parametrize("seed", SEEDS)
def test_conjugate_normal_mean(seed):
    y = np.random.default_rng(seed).normal(3.0, 2.0, size=20)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(1.0, 3.0))
        numpyro.sample("y", dist.Normal(mu, 2.0), obs=y)

    precision = 1 / 9 + 20 / 4
    mean, sd = (1 / 9 + y.sum() / 4) / precision, precision**-0.5
    cov = 4.0 * np.eye(20) + 9.0
    evidence = -0.5 * (y - 1) @ np.linalg.solve(cov, y - 1) - log_z(cov)
    fit = ritz.fit(model, (y,), family="mean_field", steps=5000, draws=32, seed=seed)
    q = fit.q
    assert abs(float(q.loc[0]) - mean) < 0.02 * sd
    assert abs(float(jnp.exp(q.log_scale[0])) / sd - 1) < 0.02
    # 4,000 draws: standard errors sd / sqrt(4000) and sd / sqrt(8000).
    assert abs(fit.mean()["mu"] - mean) < 4 * sd / 4000**0.5 + 0.02 * sd
    assert abs(fit.elbo.value - evidence) < 1e-3
    assert fit.status == "ok"


@pytest.mark.parametrize("shape", [0.7, 3.0, 40.0])
def test_gamma_poisson_on_the_log_scale(shape):
    """On x = log rate the posterior is a x - b e^x, whose best Gaussian is known.

    E_q = a m - b exp(m + s²/2) + log s is largest at s² = 1/a, m = log(a/b) - 1/(2a).
    """
    y = np.array([2, 0, 3, 1, 4])

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(shape, 2.0))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    a, b = shape + y.sum(), 2.0 + len(y)
    fit = ritz.fit(model, (y,), family="mean_field", steps=3000, draws=256)
    assert abs(float(jnp.exp(fit.q.log_scale[0])) * a**0.5 - 1) < 0.01
    assert abs(float(fit.q.loc[0]) - (math.log(a / b) - 0.5 / a)) < 0.01 / a**0.5
    lognormal_mean = math.exp(math.log(a / b) - 0.5 / a + 0.5 / a)
    assert abs(fit.mean()["rate"] - lognormal_mean) < 4 * lognormal_mean / (4000 * a) ** 0.5


def test_conjugate_normal_variance():
    """The precision of a normal with known mean: a Gamma posterior, as above."""
    y = np.random.default_rng(5).normal(0.0, 2.0, size=30)

    def model(y):
        precision = numpyro.sample("precision", dist.Gamma(2.0, 3.0))
        numpyro.sample("y", dist.Normal(0.0, precision**-0.5), obs=y)

    a, b = 2.0 + 15.0, 3.0 + 0.5 * (y**2).sum()
    fit = ritz.fit(model, (y,), family="mean_field", steps=3000, draws=256)
    assert abs(float(jnp.exp(fit.q.log_scale[0])) * a**0.5 - 1) < 0.01
    assert abs(float(fit.q.loc[0]) - (math.log(a / b) - 0.5 / a)) < 0.01 / a**0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_bayesian_linear_regression(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 4)) @ (np.eye(4) + np.triu(np.full((4, 4), 0.5), 1))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0]) + rng.normal(size=40)

    def model(x, y):
        beta = numpyro.sample("beta", dist.Normal(0.0, 5.0).expand([4]).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)

    cov = np.linalg.inv(x.T @ x + np.eye(4) / 25.0)
    mean = cov @ x.T @ y
    total = np.eye(40) + 25.0 * x @ x.T
    evidence = -0.5 * y @ np.linalg.solve(total, y) - log_z(total)
    fit = ritz.fit(model, (x, y), family="full_rank", steps=5000, draws=128, seed=seed)
    sd = np.sqrt(np.diag(cov))
    assert np.abs((np.asarray(fit.q.loc) - mean) / sd).max() < 0.03
    found = np.asarray(fit.q.scale_tril @ fit.q.scale_tril.T)
    assert np.abs((found - cov) / np.outer(sd, sd)).max() < 0.03
    assert abs(fit.elbo.value - evidence) < max(4 * fit.elbo.se, 2e-3)
    # The wrong family must miss it.
    narrow = ritz.fit(model, (x, y), family="mean_field", steps=3000, seed=seed)
    assert np.exp(np.asarray(narrow.q.log_scale) - np.log(sd)).min() < 0.9
    assert narrow.elbo.value < evidence - 0.05


@pytest.mark.parametrize("correlation", [0.5, 0.95])
def test_mean_field_underestimates_by_a_known_amount(correlation):
    cov = np.array([[1.0, correlation], [correlation, 1.0]])
    fit = ritz.fit(gaussian([1.0, -1.0], cov), family="mean_field", steps=5000, draws=256)
    variance = np.exp(2 * np.asarray(fit.q.log_scale))
    np.testing.assert_allclose(variance, 1 / np.diag(np.linalg.inv(cov)), rtol=0.01)
    # KL = log Z gap = -log(1 - rho²) / 2.
    gap = log_z(cov) - fit.elbo.value
    assert abs(gap + 0.5 * math.log(1 - correlation**2)) < 4 * fit.elbo.se + 0.01
    if correlation == 0.95:
        assert fit.status == "doubtful"
        assert any("full_rank" in reason for reason in fit.reasons)
        full = ritz.fit(gaussian([1.0, -1.0], cov), family="full_rank", steps=6000)
        assert full.status == "ok"


def at(q, target):
    """A fit that stands at q."""
    return ritz.fit(target, family=q, steps=0)


def test_elbo_at_the_posterior_has_no_variance():
    mean, cov = np.array([1.0, -2.0, 3.0]), np.diag([1.0, 4.0, 0.25]) + 0.3
    with jax.enable_x64(True):
        fit = at(exact_full_rank(mean, cov), gaussian(mean, cov))
        weights = fit.log_weights(500)
        np.testing.assert_allclose(weights, log_z(cov), rtol=1e-12)
        assert fit.elbo.se < 1e-12
        assert abs(fit.elbo.value - log_z(cov)) < 1e-12
        assert fit.khat == 0.0 or fit.khat < 0.7
        off = at(exact_full_rank(mean, 1.2 * cov), gaussian(mean, cov))
        assert off.elbo.se > 1e-3
        assert off.elbo.value < log_z(cov)


def elbo_gradient(problem, n, seed):
    """Mean and standard error of the gradient over n keys, raveled."""

    def one(key):
        return jax.flatten_util.ravel_pytree(problem.grad(problem.params, key)[0])[0]

    grads = jax.lax.map(one, jax.random.split(jax.random.key(seed), n), batch_size=1000)
    return np.asarray(grads.mean(0)), np.asarray(grads.std(0)) / n**0.5


class WithoutPath(Pathwise):
    """Wrong: the draw's dependence on the scale is dropped."""

    def draw(self, q, key):
        return Draw(q.loc + jax.lax.stop_gradient(q.sample(key) - q.loc), {})


@pytest.mark.parametrize("entropy", ["closed", "mc"])
@pytest.mark.parametrize("draws", [1, 5])
@pytest.mark.parametrize("family", [MeanField, FullRank])
def test_gradient_is_unbiased(entropy, draws, family):
    mean, cov = np.array([1.0, -0.5]), np.array([[1.0, 0.6], [0.6, 2.0]])
    target = gaussian(mean, cov)
    loc, log_scale = jnp.array([0.3, 0.2]), jnp.array([-0.4, 0.1])
    if family is MeanField:
        q = MeanField(loc, log_scale)
    else:
        q = FullRank(loc, log_scale, jnp.array([[0.0, 0.0], [0.7, 0.0]]))
    precision = np.linalg.inv(cov)

    def exact(q):
        scale = jnp.diag(jnp.exp(q.log_scale)) if family is MeanField else q.scale_tril
        off = q.loc - mean
        energy = 0.5 * (off @ precision @ off + jnp.trace(precision @ scale @ scale.T))
        return energy - q.entropy()

    wanted = jax.flatten_util.ravel_pytree(eqx.filter_grad(exact)(q))[0]
    problem = Problem(target, q, negative_elbo(draws, entropy), pathwise())
    got, se = elbo_gradient(problem, 20_000, seed=1)
    threshold = 4.5  # two-sided 4 s.e., corrected for at most 8 entries
    assert (np.abs(got - wanted) <= threshold * se + 1e-5).all()
    wrong = Problem(target, q, negative_elbo(draws, entropy), WithoutPath())
    got, se = elbo_gradient(wrong, 20_000, seed=1)
    assert (np.abs(got - wanted) > threshold * se + 1e-5).any()


def test_value_is_unbiased_and_its_standard_error_is_right():
    cov = np.array([[1.0, 0.6], [0.6, 2.0]])
    q = MeanField(jnp.zeros(2), jnp.zeros(2))
    problem = Problem(gaussian([0.0, 0.0], cov), q, negative_elbo(8), pathwise())
    precision = np.linalg.inv(cov)
    exact = 0.5 * np.trace(precision) - float(q.entropy())
    loss, info = jax.vmap(lambda key: problem.loss(q, key))(
        jax.random.split(jax.random.key(0), 5000)
    )
    assert abs(loss.mean() - exact) < 4 * loss.std() / 5000**0.5
    claimed = float(jnp.sqrt((info["loss_se"] ** 2).mean()))
    assert abs(claimed / float(loss.std()) - 1) < 0.05


def regression(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return x, x @ np.array([1.0, -1.0]) + rng.normal(size=n)


def linear(x, y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def test_minibatch_elbo_has_the_full_mean():
    data = regression(60)
    batches = ritz.data.batches(data, 10)
    scaled = ritz.target.from_batches(linear, batches)
    q = MeanField(jnp.array([0.5, 0.0]), jnp.array([-1.0, -1.0]))
    rows = jnp.asarray(batches.chunk(0, 600))

    def losses(target):
        problem = Problem(target, q, negative_elbo(1), pathwise())
        arrays = jax.tree.map(jnp.asarray, batches.arrays)
        keys = jax.random.split(jax.random.key(0), len(rows))
        return np.asarray(
            jax.vmap(lambda x, k: problem.loss(q, k, batches.get(arrays, x))[0])(rows, keys)
        )

    full = Problem(from_numpyro(linear, data), q, negative_elbo(1), pathwise())
    keys = jax.random.split(jax.random.key(1), 20_000)
    whole = np.asarray(jax.vmap(lambda k: full.loss(q, k)[0])(keys))
    part = losses(scaled)
    se = math.hypot(whole.std() / 20_000**0.5, part.std() / 600**0.5)
    assert abs(part.mean() - whole.mean()) < 4 * se
    unscaled = from_numpyro(linear, data)  # knows of no rows: its batches stand for themselves
    assert abs(losses(unscaled).mean() - whole.mean()) > 8 * se


def test_minibatch_fit_reaches_the_full_posterior():
    x, y = regression(400, seed=3)
    cov = np.linalg.inv(x.T @ x + np.eye(2))
    mean = cov @ x.T @ y
    fit = ritz.fit(linear, ritz.data.batches((x, y), 40), family="full_rank", steps=8000, draws=4)
    sd = np.sqrt(np.diag(cov))
    assert np.abs((np.asarray(fit.q.loc) - mean) / sd).max() < 0.1
    assert np.abs(np.asarray(jnp.exp(fit.q.log_scale)) / sd - 1).max() < 0.1


def test_a_fit_that_stopped_too_early_is_doubtful():
    cov = np.diag([1e-4, 1.0, 1e4])
    fit = ritz.fit(gaussian([0.0, 0.0, 300.0], cov), steps=2000)
    assert fit.status == "doubtful"


def test_a_shift_that_khat_does_not_see_is_reported():
    mean, cov = np.zeros(3), np.eye(3)
    shifted = exact_full_rank(mean + np.array([0.0, 0.3, 0.0]), cov)
    fit = at(shifted, gaussian(mean, cov))
    assert fit.khat < 0.7
    assert fit.status == "doubtful"
    assert any("theta[1]" in reason and "sd" in reason for reason in fit.reasons)
    narrow = at(exact_full_rank(mean, 0.5 * cov), gaussian(mean, cov))
    assert narrow.status == "doubtful"
    assert at(exact_full_rank(mean, cov), gaussian(mean, cov)).status == "ok"


def test_rescaling_by_an_optax_schedule_of_the_users_own():
    fit = ritz.fit(
        gaussian([2.0], np.eye(1)),
        family="mean_field",
        solver=optax.adam(optax.cosine_decay_schedule(0.05, 2000)),
        steps=2000,
    )
    assert abs(float(fit.q.loc[0]) - 2.0) < 0.05
