"""What `marginal` and `normalize` return, as families: exact bounds, and wrong variants."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz import RitzError
from ritz.diagnose import check_unbiased
from ritz.estimator import enumerate_support, pathwise, score, sticking_the_landing
from ritz.family import MeanField, Product, mean_field
from ritz.objective import (
    Density,
    expectation,
    importance,
    iwae,
    marginal,
    negative_elbo,
    normalize,
    sample,
    sir,
)
from ritz.program._nested import Marginal, log_mean_exp
from ritz.target import from_log_density


class Line(eqx.Module):
    """x is Gaussian around a line along which an auxiliary r moves it."""

    loc: jax.Array
    by: jax.Array
    log_scale: jax.Array

    def __call__(self):
        r = sample(dist.Normal(0.0, 1.0), name="r")
        sample(dist.Normal(self.loc + self.by * r, jnp.exp(self.log_scale)), name="x")

    @property
    def exactly(self):
        """The marginal: a Gaussian whose covariance is diagonal plus of rank one."""
        cov = jnp.diag(jnp.exp(2 * self.log_scale)) + jnp.outer(self.by, self.by)
        return dist.MultivariateNormal(self.loc, cov)


class Back(eqx.Module):
    """A proposal of r given x, which is the posterior where its parameters fit."""

    slope: jax.Array
    log_scale: jax.Array

    def __call__(self, x):
        sample(dist.Normal(self.slope @ x, jnp.exp(self.log_scale)), name="r")


MEAN, BY, SD = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, -0.5, 0.7]), jnp.array([0.5, 0.8, 0.6])
TRUE = Line(MEAN, BY, jnp.log(SD)).exactly
LOG_Z = 1.7
TARGET = from_log_density(lambda x: TRUE.log_prob(x) + LOG_Z, jnp.zeros(3))
START = Line(
    jnp.array([0.8, 2.3, 2.6]), jnp.array([0.7, 0.1, 0.9]), jnp.log(jnp.array(0.7)) + 0 * SD
)
SEEN = Density(TARGET, jax.random.key(0), None)
KL = float(
    0.5
    * (
        jnp.trace(TRUE.precision_matrix @ START.exactly.covariance_matrix)
        + (MEAN - START.loc) @ TRUE.precision_matrix @ (MEAN - START.loc)
        - 3.0
        + jnp.linalg.slogdet(TRUE.covariance_matrix)[1]
        - jnp.linalg.slogdet(START.exactly.covariance_matrix)[1]
    )
)


class WithoutItsOwn(Marginal):
    """Wrong: the auxiliary choice that made the draw is not among the K."""

    def draw_and_log_prob(self):
        x = self._run({})[self.keep].value
        return x, log_mean_exp(self._weights(x, self.via.draws))


def elbos(q, n=20_000):
    """Log weights of draws outside of programs, in standard form: mean, its error, mean weight."""

    def one(key):
        x, log_q = q.sample_and_log_prob(key)
        return TARGET.log_density(x) - log_q

    lw = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), n)), np.float64)
    w = np.exp(lw - LOG_Z)
    return lw.mean(), lw.std() / n**0.5, (w.mean() - 1.0) / (w.std() / n**0.5)


def test_the_elbo_is_exact_as_k_grows():
    """From below for each K, and with weights whose mean is Z."""
    exact, gaps = LOG_Z - KL, []
    for k in (1, 4, 256):
        mean, se, z = elbos(marginal(START, "x", importance(k)))
        gaps.append(exact - mean)
        assert abs(z) < 4.0
    assert gaps[0] > gaps[1] > 10 * se
    assert abs(gaps[2]) < 4 * se + 0.2 * gaps[0] / 256 * 4
    mean, se, _ = elbos(WithoutItsOwn(START, "x", importance(4)))
    assert mean - exact > 10 * se


def test_the_posterior_of_the_auxiliary_choice_is_exact_at_once():
    precision = 1.0 + (START.by**2 * jnp.exp(-2 * START.log_scale)).sum()
    slope = START.by * jnp.exp(-2 * START.log_scale) / precision
    back = lambda x: sample(dist.Normal(slope @ (x - START.loc), precision**-0.5), name="r")
    x, log_q = marginal(START, "x", importance(2, back)).sample_and_log_prob(jax.random.key(1))
    np.testing.assert_allclose(log_q, START.exactly.log_prob(x), rtol=1e-5)


def test_draws_are_those_of_the_marginal():
    q = marginal(START, "x", importance(4))
    x = np.asarray(jax.vmap(q.sample)(jax.random.split(jax.random.key(0), 20_000)), np.float64)
    z = (x.mean(0) - START.loc) / (x.std(0) / len(x) ** 0.5)
    assert np.abs(z).max() < 4.5
    cov = START.exactly.covariance_matrix
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.05)


def test_gradients_of_the_loss():
    """In a problem, against the score function of every choice."""

    def run(q):
        return negative_elbo(1, "mc").program(q, SEEN, ritz.estimator.default(q))

    found = check_unbiased(run, marginal(START, "x", importance(3)), draws=20_000)
    assert found, str(found)


@pytest.mark.parametrize("proposal", [None, Back(jnp.zeros(3), jnp.array(0.0))])
def test_fits(proposal, tmp_path):
    """The target's covariance is in the family, and not in mean field, which is worth 0.37 less."""
    start = Line(jnp.zeros(3), jnp.full(3, 0.1), jnp.zeros(3))
    family = marginal(start, "x", importance(64, proposal))
    fit = ritz.fit(TARGET, family=family, steps=3000, progress=False)
    assert fit.elbo is not None
    gap = LOG_Z - fit.elbo.value
    assert -4 * fit.elbo.se < gap < 0.06
    sign = jnp.sign(fit.q.program.by[0])
    np.testing.assert_allclose(sign * fit.q.program.by, BY, atol=0.2)
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit", TARGET, family=family)
    np.testing.assert_array_equal(again.q.program.by, fit.q.program.by)
    np.testing.assert_array_equal(again.log_weights(5), fit.log_weights(5))


# -- normalize ------------------------------------------------------------------------------------

Q = MeanField(jnp.array([0.8, 2.2, 2.7]), jnp.log(jnp.array([0.6, 0.7, 0.8])))


def value(loss, q, n=4000):
    program = lambda: loss.program(q, SEEN, ritz.estimator.default(q))
    values = jax.vmap(expectation(program).value)(jax.random.split(jax.random.key(0), n))
    return float(values.mean()), float(values.std() / n**0.5)


def test_its_elbo_is_the_importance_weighted_bound():
    wanted, other = value(iwae(5), Q)
    q = normalize(TARGET, sir(5, Q))
    mean, se = value(negative_elbo(1, "mc"), q)
    assert abs(mean - wanted) < 4 * (se + other)
    outside, se, z = elbos(q)
    assert abs(outside + wanted) < 4 * (se + other)
    assert abs(z) < 4.0
    single, other = value(negative_elbo(1, "mc"), Q)
    assert single - wanted > 10 * (other + se)


@pytest.mark.parametrize("how", [None, enumerate_support(), score()])
def test_its_gradient_is_that_of_the_bound(how):
    """In the proposal; the same gradient by the score function of each draw."""

    def run(q):
        resampled = normalize(TARGET, sir(2, q, how))
        return negative_elbo(1, "mc").program(resampled, SEEN, ritz.estimator.default(resampled))

    bound = lambda q: iwae(2).program(q, SEEN, pathwise())
    keys = jax.random.split(jax.random.key(5), 20_000)
    both = jax.jit(jax.vmap(lambda key: expectation(bound).value_and_grad(key, Q)))(keys)
    mean = jax.tree.map(lambda v: v.mean(0), both)
    line = lambda q: (
        mean[0]
        + sum(
            (g * (x - x0)).sum()
            for g, x, x0 in zip(*map(jax.tree.leaves, (mean[1], q, Q)), strict=True)
        )
    )
    found = check_unbiased(run, Q, exact=line)
    # The line has an error of its own, of the same size.
    assert np.abs(found.z).max() < 2**0.5 * found.limit, str(found)


def resampling(k):
    return lambda target, start: normalize(target, sir(k, mean_field(target, start)))


def test_a_fit_moves_the_proposal_and_not_the_target(tmp_path):
    fit = ritz.fit(TARGET, family=resampling(8), steps=2000, progress=False)
    plain = ritz.fit(TARGET, family="mean_field", steps=2000, progress=False)
    assert fit.elbo is not None
    assert plain.elbo is not None
    assert LOG_Z - fit.elbo.value < 0.35 * (LOG_Z - plain.elbo.value)
    np.testing.assert_allclose(np.diag(fit.cov()), jnp.diag(TRUE.covariance_matrix), rtol=0.2)
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit", TARGET, family=resampling(8))
    np.testing.assert_array_equal(again.log_weights(5), fit.log_weights(5))


def coin(y, w):
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    numpyro.sample("y", dist.Normal(mu.sum(), 1.0), obs=y)
    numpyro.sample("w", dist.Normal(3.0 * z, 1.0), obs=w)


def test_beside_discrete_choices():
    """As a part of a product, whose other part has a score function."""
    start = Line(jnp.zeros(2), jnp.full(2, 0.1), jnp.zeros(2))
    family = marginal(start, "x", importance(8))
    fit = ritz.fit(
        coin, (0.4, 1.7), family=family, discrete="score", steps=1500, lr=0.05, progress=False
    )
    assert isinstance(fit.q, Product)
    assert {"sample", "sample_and_log_prob"} <= fit.q.capabilities
    assert "log_prob" not in fit.q.capabilities
    odds = 0.3 / 0.7 * np.exp(-0.5 * (1.7 - 3.0) ** 2 + 0.5 * 1.7**2)
    found = float(fit.discrete_posterior()["z"][1])
    assert found == pytest.approx(odds / (1.0 + odds), abs=0.04)


# -- refusals -------------------------------------------------------------------------------------


def trained(x, theta):
    return TARGET.log_density(x) + theta


def rows(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


FAMILY = marginal(START, "x", importance(2))
BAD = {
    "estimator": (
        lambda: ritz.fit(TARGET, family=FAMILY, estimator=pathwise(), steps=1),
        r"Pathwise cannot estimate a Marginal, .*name it in its program's sample\(q, …\)",
    ),
    "landing": (
        lambda: ritz.fit(TARGET, family=FAMILY, estimator=sticking_the_landing(), steps=1),
        "StickingTheLanding cannot estimate a Marginal",
    ),
    "objective": (
        lambda: ritz.fit(TARGET, family=FAMILY, objective=ritz.objective.forward_kl(), steps=1),
        "ForwardKL needs a family with log_prob, which Marginal lacks",
    ),
    "solver": (
        lambda: ritz.fit(TARGET, family=FAMILY, solver="natural_gradient", steps=1),
        "NaturalGradient does not move a Marginal",
    ),
    "a number": (
        lambda: ritz.fit(TARGET, family=marginal(START, "r", importance(2)), steps=1),
        r"a Marginal of shape \(\) arrived as a family, expected .*vectors",
    ),
    "a target that moves": (
        lambda: ritz.fit(
            from_log_density(trained, jnp.zeros(3), theta=0.0), family=resampling(2), steps=1
        ),
        r"Normalized holds a target, .*use its proposal as the family, with iwae\(K\)",
    ),
    "batches of a stream": (
        lambda: ritz.fit(
            rows,
            ritz.data.batches([(np.zeros(5),)] * 4, total=20),
            family=resampling(2),
            steps=1,
        ),
        r"sees its data in batches only.*with iwae\(K\)",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
