"""Reweighted wake-sleep against sums: at K draws, in the limit, and in its sleep phase."""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import ritz
from ritz import RitzError
from ritz.diagnose import check_unbiased
from ritz.estimator import score
from ritz.family import AbstractFamily
from ritz.objective import Density, log_mean_exp, wake_sleep
from ritz.objective._wake_sleep import WakeSleep
from ritz.target import from_log_density

stop = jax.lax.stop_gradient


class Table(AbstractFamily):
    """A categorical family over 0, 1, 2 in one dimension."""

    logits: jax.Array
    capabilities: ClassVar[frozenset] = frozenset({"sample", "log_prob"})

    @property
    def dim(self):
        return 1

    def sample(self, key):
        return jax.random.categorical(key, self.logits)[None].astype(float)

    def log_prob(self, x):
        return jax.nn.log_softmax(self.logits)[x[0].astype(int)]


def log_joint(x, theta):
    return jnp.stack([0.3 * theta[0], theta[1] * theta[0], -0.5 * theta[1] ** 2])[x[0].astype(int)]


POINTS = jnp.arange(3.0)[:, None]
THETA, LOGITS = jnp.array([0.8, -0.9]), jnp.array([0.4, -0.3, 0.1])
TARGET = from_log_density(log_joint, jnp.zeros(1), theta=THETA)


def of(q, target):
    """Log densities of the target and of q at the three points."""
    return jax.vmap(target.log_density)(POINTS), jax.vmap(q.log_prob)(POINTS)


def program(loss):
    def run(params):
        logits, theta = params
        target = TARGET.with_params({"theta": theta})
        return loss.program(Table(logits), Density(target, jax.random.key(0), None), score())

    return run


def gradient(draws):
    """The K-draw gradients by the formulas of the paper, summed over all draws."""
    q, target = Table(LOGITS), TARGET
    lp, lq = of(q, target)
    slope_p = jax.jacobian(lambda t: of(q, target.with_params({"theta": t}))[0])(THETA)
    slope_q = jax.jacobian(lambda t: of(Table(t), target)[1])(LOGITS)
    every = jnp.array(list(itertools.product(range(3), repeat=draws)))
    mass = jnp.exp(lq[every].sum(1))
    weights = jax.nn.softmax((lp - lq)[every], axis=1)
    mean = lambda slope: -jnp.einsum("n,nk,nkd->d", mass, weights, slope[every])
    value = -mass @ jax.vmap(log_mean_exp)((lp - lq)[every])
    return value, mean(slope_q), mean(slope_p)


def limits():
    """The gradient of KL(p, q) in q, and of -log Z in theta."""
    q, target = Table(LOGITS), TARGET
    p = jax.nn.softmax(of(q, target)[0])
    log_z = lambda t: jax.nn.logsumexp(of(q, target.with_params({"theta": t}))[0])
    in_q = jax.grad(lambda t: -p @ of(Table(t), target)[1])(LOGITS)
    return in_q, -jax.grad(log_z)(THETA)


def exactly(draws):
    value, in_q, in_theta = gradient(draws)
    line = lambda x, slope: slope @ (x - stop(x))
    return lambda params: value + line(params[0], in_q) + line(params[1], in_theta)


class WithoutDetaching(WakeSleep):
    """Wrong: the weights are differentiated in q's parameters."""

    def of_densities(self, log_p, log_q):
        weights = jax.nn.softmax(stop(log_p) - log_q)
        phase = weights @ log_q
        return -log_mean_exp(log_p - stop(log_q)) - (phase - stop(phase))


class ThetaByTheLossOfQ(WakeSleep):
    """Wrong: theta follows the divergence that q follows."""

    def of_densities(self, log_p, log_q):
        log_w = stop(log_p - log_q)
        phase = jax.nn.softmax(log_w) @ (log_p - log_q)
        return -log_mean_exp(log_w) + (phase - stop(phase))


class QByTheBound(WakeSleep):
    """Wrong: q follows the importance-weighted bound."""

    def of_densities(self, log_p, log_q):
        return -log_mean_exp(log_p - log_q)


WRONG = [WithoutDetaching, ThetaByTheLossOfQ, QByTheBound]


@pytest.mark.parametrize("draws", [2, 4])
def test_k_draws(draws):
    """The biased gradients are the ones that they are declared to be."""
    found = check_unbiased(program(wake_sleep(draws)), (LOGITS, THETA), exact=exactly(draws))
    assert found, str(found)


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_variants_at_k_draws(wrong):
    assert not check_unbiased(program(wrong(2, 0.0)), (LOGITS, THETA), exact=exactly(2))


def test_the_bias_falls_as_one_over_k():
    wanted = jnp.concatenate(limits())
    errors = [jnp.concatenate(gradient(k)[1:]) - wanted for k in (2, 4, 8)]
    assert max(jnp.abs(errors[0])) > 0.03
    for less, more in itertools.pairwise(errors):
        ratio = jnp.linalg.norm(less) / jnp.linalg.norm(more)
        assert 1.7 < ratio < 2.3


def far(loss, seed=0):
    """Of the gradients of many draws, the largest distance from the limits in standard errors."""
    grads = jax.jit(jax.vmap(lambda key: ritz.objective.expectation(program(loss)).grad(
        key, (LOGITS, THETA))))(jax.random.split(jax.random.key(seed), 200))  # fmt: skip
    found = np.concatenate([np.asarray(g, np.float64) for g in grads], axis=1)
    wanted = np.concatenate([np.asarray(g) for g in limits()])
    return np.abs((found.mean(0) - wanted) / (found.std(0) / 200**0.5)).max()


def test_many_draws():
    """The bias is of the order of 1/2000, a fifth of a standard error."""
    assert far(wake_sleep(2000)) < 4.5
    for wrong in WRONG:
        assert far(wrong(2000, 0.0)) > 4.5


# -- the sleep phase ------------------------------------------------------------------------------


class Line(AbstractFamily):
    """An amortised Gaussian: q(x | y) is a Normal around a y + b, for this y."""

    a: jax.Array
    b: jax.Array
    log_scale: jax.Array
    y: float
    capabilities: ClassVar[frozenset] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised", "condition"}
    )

    @property
    def dim(self):
        return 1

    def condition(self, observed):
        return Line(self.a, self.b, self.log_scale, stop(observed["y"]))

    @property
    def _normal(self):
        return dist.Normal((self.a * self.y + self.b)[None], jnp.exp(self.log_scale))

    def sample(self, key):
        return self._normal.sample(key)

    def log_prob(self, x):
        return self._normal.log_prob(x).sum()

    def entropy(self):
        return self._normal.entropy().sum()


def linear(y):
    w = numpyro.param("w", 0.7)
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(w * x, 0.5), obs=y)


MODEL = ritz.target.from_numpyro(linear, (np.float32(1.3),))
START = Line(jnp.array(0.2), jnp.array(0.3), jnp.array(-0.1), 1.3)


def dreamt(own):
    """The mean of -log q(x | y) over x and y of the model."""
    a, b, log_scale = own
    w, noise = 0.7, 0.25
    square = (1 - a * w) ** 2 + a**2 * noise + b**2  # of x - a y - b
    return log_scale + 0.5 * jnp.log(2 * jnp.pi) + 0.5 * square * jnp.exp(-2 * log_scale)


def asleep(loss):
    seen = lambda key: Density(MODEL, key, None)
    own = (START.a, START.b, START.log_scale)

    def one(key):
        run = lambda own: loss.program(Line(*own, 1.3), seen(key), score())
        return jnp.stack(ritz.objective.expectation(run).grad(key, own))

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000))
    found = np.asarray(found, np.float64)
    wanted = np.stack(jax.grad(dreamt)(own))
    return np.abs((found.mean(0) - wanted) / (found.std(0) / 4000**0.5)).max()


class SleepWithoutItsData(WakeSleep):
    """Wrong: dreams are explained by q for the target's own data."""

    def _dreamt(self, q, target):
        keys = jax.random.split(jax.random.fold_in(target.key, 1), self.draws)
        one = lambda key: q.log_prob(stop(target.target.simulate(key)[0]))
        return jax.vmap(one)(keys).mean()


def test_sleep_phase():
    assert asleep(wake_sleep(4, sleep=1.0)) < 4.5
    assert asleep(SleepWithoutItsData(4, 1.0)) > 4.5
    assert asleep(wake_sleep(4)) > 4.5


def test_sleep_finds_the_line_for_all_data():
    """The posterior mean is w y / (w² + 1/4); its variance 1 / (1 + 4 w²)."""
    half = ritz.target.from_numpyro(linear, (np.float32(1.3),))
    fit = ritz.fit(half, family=START, objective=wake_sleep(8, sleep=1.0), steps=3000, seed=1)
    w = float(fit.target.trained["w"])
    assert abs(w**2 - (1.3**2 - 0.25)) < 0.05  # one observation: its square is the variance
    assert float(fit.q.a) == pytest.approx(w / (w**2 + 0.25), abs=0.05)
    assert float(fit.q.b) == pytest.approx(0.0, abs=0.05)
    sd = float(jnp.exp(fit.q.log_scale))
    assert sd == pytest.approx((1 + 4 * w**2) ** -0.5, rel=0.06)


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "draws": (lambda: wake_sleep(1), "draws=1 arrived"),
    "sleep": (lambda: wake_sleep(8, sleep=1.5), "sleep=1.5 arrived, expected a share"),
    "family": (
        lambda: ritz.fit(MODEL, objective=wake_sleep(8, sleep=0.5), steps=1),
        "WakeSleep needs a family with condition, which FullRank lacks",
    ),
    "target": (
        lambda: ritz.fit(
            from_log_density(lambda x: -x @ x, jnp.zeros(1)),
            family=START,
            objective=wake_sleep(8, sleep=0.5),
            steps=1,
        ),
        r"simulates data, which a LogDensityTarget cannot do; use .* wake_sleep\(\) without sleep",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
