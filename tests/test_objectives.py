"""Every objective with every estimator that may serve it, against sums and integrals by hand."""

import itertools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ritz
from ritz import RitzError, objective
from ritz.diagnose import check_unbiased
from ritz.estimator import (
    Draw,
    Pathwise,
    enumerate_support,
    pathwise,
    running_mean,
    score,
    sticking_the_landing,
)
from ritz.family import AbstractFamily, MeanField
from ritz.objective import Density

K = 2  # draws of every objective: pairs can be summed and integrated exactly
SAMPLES = np.array([[0.4], [-0.2], [1.1]])


class Table(AbstractFamily):
    """An independent categorical family over 0, 1, 2 in one dimension."""

    logits: jax.Array
    capabilities: ClassVar[frozenset] = frozenset({"sample", "log_prob"})
    has_enumerate_support: ClassVar[bool] = True

    @property
    def dim(self):
        return 1

    def sample(self, key):
        return jax.random.categorical(key, self.logits)[None].astype(float)

    def log_prob(self, x):
        return jax.nn.log_softmax(self.logits)[x[0].astype(int)]

    def enumerate_support(self, expand=True):
        return jnp.arange(3.0)[:, None]


class Case(NamedTuple):
    """What is summed or integrated exactly: points of one draw, with their weights under q."""

    q: Any
    target: Any
    points: Any  # q -> (n, d), differentiable where the draw is
    weights: Any  # q -> (n,)
    estimators: dict


GAUSS = ritz.target.from_log_density(
    lambda x: -0.5 * ((x - 0.7) ** 2).sum() / 0.8 + 0.1 * jnp.sin(2.0 * x).sum(), jnp.zeros(1)
)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(48)
DISCRETE = {
    "enumerate": enumerate_support(),
    "score": score(),
    "leave one out": score(draws=3),
    "running mean": score(baseline=running_mean(0.3)),
}
CONTINUOUS = {
    "pathwise": pathwise(),
    "score": score(),
    "leave one out": score(draws=2),
}
CASES = {
    "discrete": Case(
        Table(jnp.array([0.2, -0.4, 0.5])),
        GAUSS,
        lambda q: jnp.arange(3.0)[:, None],
        lambda q: jax.nn.softmax(q.logits),
        DISCRETE,
    ),
    "continuous": Case(
        MeanField(jnp.array([0.2]), jnp.array([-0.3])),
        GAUSS,
        lambda q: q.loc + jnp.exp(q.log_scale) * jnp.asarray(NODES, float)[:, None],
        lambda q: jnp.asarray(WEIGHTS / WEIGHTS.sum(), float),
        CONTINUOUS,
    ),
}
stop = jax.lax.stop_gradient
frozen = lambda q: jax.tree.map(stop, q)


def log_w(case, q, x):
    return jax.vmap(case.target.log_density)(x) - jax.vmap(q.log_prob)(x)


def pairs(case, q, f):
    """The mean of f over two independent draws: f sees log weights and points."""
    x, weight = case.points(q), case.weights(q)
    lw = log_w(case, q, x)
    values = jax.vmap(lambda i: jax.vmap(lambda j: f(jnp.stack([lw[i], lw[j]])))(N(x)))(N(x))
    return weight @ values @ weight


N = lambda x: jnp.arange(len(x))
mean_exp = lambda v: jax.nn.logsumexp(v) - np.log(K)
IMPORTANCE = {
    "iwae": (objective.iwae(K), lambda lw: -mean_exp(lw)),
    "renyi 0.5": (objective.renyi(0.5, K), lambda lw: -2.0 * mean_exp(0.5 * lw)),
    "renyi 1": (objective.renyi(1.0, K), lambda lw: -lw.mean()),
    "renyi -1": (objective.renyi(-1, K), lambda lw: -0.5 * mean_exp(2.0 * lw)),
    "chi square": (objective.chi_square(K), lambda lw: 0.5 * mean_exp(2.0 * lw)),
    "thermodynamic": (
        objective.thermodynamic(K, 3),
        lambda lw: -sum(jax.nn.softmax(b * lw) @ lw for b in (0.0, 1 / 3, 2 / 3)) / 3,
    ),
    "elbo": (objective.negative_elbo(1, "mc"), lambda lw: -lw.mean()),
}


def run(case, loss, estimator):
    """The program of an objective, with the family as its argument."""
    seen = Density(case.target, jax.random.key(0), None)
    return lambda q: loss.program(q, seen, estimator)


def check(case, loss, estimator, exact, draws=20_000):
    return check_unbiased(run(case, loss, estimator), case.q, exact=exact, draws=draws)


ALL = [
    (name, how, which)
    for which, case in CASES.items()
    for name, how in itertools.product(IMPORTANCE, case.estimators)
]


@pytest.mark.parametrize(("name", "how", "which"), ALL)
def test_functions_of_log_weights(name, how, which):
    case, (loss, f) = CASES[which], IMPORTANCE[name]
    found = check(case, loss, case.estimators[how], lambda q: pairs(case, q, f))
    assert found, str(found)


@pytest.mark.parametrize(("how", "which"), [(h, w) for w, c in CASES.items() for h in c.estimators])
def test_detached_objectives(how, which):
    """Draws are constants: weights of the sums hold still, and only log q is differentiated."""
    case = CASES[which]

    def exact(f):
        def value(q):
            x, weight = stop(case.points(q)), stop(case.weights(q))
            lp, lq = jax.vmap(case.target.log_density)(x), jax.vmap(q.log_prob)(x)
            each = lambda i, j: f(jnp.stack([lp[i], lp[j]]), jnp.stack([lq[i], lq[j]]))
            return weight @ jax.vmap(lambda i: jax.vmap(lambda j: each(i, j))(N(x)))(N(x)) @ weight

        return value

    def forward(lp, lq):
        lw = stop(lp - lq)
        return jax.nn.softmax(lw) @ (lp - lq) - mean_exp(lw)

    variance = lambda lp, lq: 0.25 * ((lp - lq)[0] - (lp - lq)[1]) ** 2
    for loss, f in ((objective.forward_kl(K), forward), (objective.log_variance(K), variance)):
        found = check(case, loss, case.estimators[how], exact(f))
        assert found, f"{loss}: {found}"


def test_gradient_of_log_variance_is_that_of_the_kl():
    case = CASES["discrete"]
    kl = lambda q: -(case.weights(q) @ log_w(case, q, case.points(q)))
    found = check(case, objective.log_variance(K), score(), kl)
    assert np.abs(found.z[1:]).max() < found.limit
    assert not found  # the value is another one


@pytest.mark.parametrize("how", ["pathwise", "score", "leave one out"])
def test_fisher_divergence(how):
    case = CASES["continuous"]

    def exact(q):
        slope = lambda x: jax.grad(lambda x: case.target.log_density(x) - q.log_prob(x))(x)
        return case.weights(q) @ (jax.vmap(slope)(case.points(q)) ** 2).sum(1)

    found = check(case, objective.fisher_divergence(), CONTINUOUS[how], exact)
    assert found, str(found)


@pytest.mark.parametrize(("how", "which"), [(h, w) for w, c in CASES.items() for h in c.estimators])
def test_maximum_mean_discrepancy(how, which):
    case = CASES[which]
    loss = objective.maximum_mean_discrepancy(SAMPLES, 0.9, K)

    def exact(q):
        x, w, y = case.points(q), case.weights(q), jnp.asarray(SAMPLES)
        k = lambda a, b: jnp.exp(-0.5 * ((a[:, None] - b) ** 2).sum(-1) / 0.81)
        own = (k(y, y).sum() - 3.0) / 6.0
        return w @ k(x, x) @ w - 2.0 * (w @ k(x, y)).mean() + own

    found = check(case, loss, case.estimators[how], exact)
    assert found, str(found)


# -- limits, bounds and their direction -----------------------------------------------------------


LOG_Z = float(np.log(np.sqrt(2.0 * np.pi * 0.8)))
PLAIN = ritz.target.from_log_density(lambda x: -0.5 * ((x - 0.7) ** 2).sum() / 0.8, jnp.zeros(1))
EXACT_Q = MeanField(jnp.array([0.7]), jnp.log(jnp.sqrt(jnp.array([0.8]))))
WIDE_Q = MeanField(jnp.array([0.4]), jnp.array([0.2]))
AT_THE_OPTIMUM = {
    "elbo": (objective.negative_elbo(1, "mc"), -LOG_Z),
    "iwae": (objective.iwae(4), -LOG_Z),
    "renyi": (objective.renyi(0.3, 4), -LOG_Z),
    "chi square": (objective.chi_square(4), LOG_Z),
    "thermodynamic": (objective.thermodynamic(4, 3), -LOG_Z),
    "forward kl": (objective.forward_kl(4), 0.0),
    "log variance": (objective.log_variance(4), 0.0),
    "fisher": (objective.fisher_divergence(), 0.0),
    "tempered": (objective.tempered_elbo(1.0), -LOG_Z),
}


def evaluate(loss, q, target=PLAIN, n=4000, estimator=None):
    estimator = estimator or pathwise()
    one = lambda key: loss(q, target, estimator, key)[0]
    values = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), n))
    return float(values.mean()), float(values.std() / n**0.5)


@pytest.mark.parametrize(("loss", "value"), AT_THE_OPTIMUM.values(), ids=AT_THE_OPTIMUM)
def test_value_at_q_equal_to_p(loss, value):
    mean, se = evaluate(loss, EXACT_Q)
    assert abs(mean - value) < 4.0 * se + 1e-5


@pytest.mark.parametrize("name", ["elbo", "iwae", "renyi", "thermodynamic"])
def test_bounds_from_above(name):
    mean, se = evaluate(AT_THE_OPTIMUM[name][0], WIDE_Q)
    assert mean > -LOG_Z + 2.0 * se


def test_limits_in_k():
    """IWAE tightens to -log Z; Rényi and χ² tend to their closed forms."""
    gaps = [evaluate(objective.iwae(k), WIDE_Q)[0] + LOG_Z for k in (1, 4, 16, 64)]
    assert gaps == sorted(gaps, reverse=True)
    assert 0.0 < gaps[-1] < 0.02
    x = jnp.linspace(-12.0, 12.0, 4001)[:, None]
    lw = jax.vmap(PLAIN.log_density)(x) - jax.vmap(WIDE_Q.log_prob)(x)
    q = jnp.exp(jax.vmap(WIDE_Q.log_prob)(x)) * 24.0 / 4000
    renyi = float(-2.0 * jnp.log(q @ jnp.exp(0.5 * lw)))
    chi = float(0.5 * jnp.log(q @ jnp.exp(2.0 * lw)))
    assert evaluate(objective.renyi(0.5, 2000), WIDE_Q, n=400)[0] == pytest.approx(renyi, abs=2e-3)
    assert evaluate(objective.chi_square(2000), WIDE_Q, n=400)[0] == pytest.approx(chi, abs=5e-3)
    assert chi > LOG_Z


def test_forward_kl_in_the_limit():
    x = jnp.linspace(-8.0, 9.0, 3001)[:, None]
    p = jnp.exp(jax.vmap(PLAIN.log_density)(x) - LOG_Z) * 17.0 / 3000
    kl = lambda q: p @ (jax.vmap(PLAIN.log_density)(x) - LOG_Z - jax.vmap(q.log_prob)(x))
    mean, se = evaluate(objective.forward_kl(2000), WIDE_Q, n=400)
    assert abs(mean - float(kl(WIDE_Q))) < 4.0 * se + 2e-3


# -- wrong variants, and pairs that are refused ----------------------------------------------------


class WithoutPath(Pathwise):
    """Wrong: the draw does not move with q."""

    def draw(self, q, key):
        return Draw(stop(q.sample(key)), {})


@pytest.mark.parametrize("name", IMPORTANCE)
def test_wrong_estimator_is_rejected(name):
    case, (loss, f) = CASES["continuous"], IMPORTANCE[name]
    assert not check(case, loss, WithoutPath(), lambda q: pairs(case, q, f))


@pytest.mark.parametrize("name", IMPORTANCE)
def test_wrong_functional_is_rejected(name):
    case, (loss, _) = CASES["continuous"], IMPORTANCE[name]
    wrong = lambda lw: -mean_exp(lw) + 0.1 * lw[0]
    assert not check(case, loss, pathwise(), lambda q: pairs(case, q, wrong))


def test_sticking_the_landing_is_for_the_elbo():
    case = CASES["continuous"]
    elbo = lambda q: pairs(case, q, lambda lw: -lw.mean())
    assert check(case, objective.negative_elbo(1, "mc"), sticking_the_landing(), elbo)
    iwae = lambda q: pairs(case, q, IMPORTANCE["iwae"][1])
    assert not check(case, objective.iwae(K), sticking_the_landing(), iwae)  # biased, so refused:
    with pytest.raises(RitzError, match=r"StickingTheLanding .* biased .*Importance.*pathwise\(\)"):
        ritz.fit(GAUSS, objective=objective.iwae(4), estimator=sticking_the_landing(), steps=10)


def test_tail_adaptive_needs_paths():
    with pytest.raises(RitzError, match=r"TailAdaptive needs .*pathwise\(\)"):
        ritz.fit(GAUSS, objective=objective.tail_adaptive(), estimator=score(), steps=10)


BAD = {
    "alpha": (lambda: objective.renyi("x"), "alpha='x' arrived"),
    "draws": (lambda: objective.iwae(0), "draws=0 arrived"),
    "partitions": (lambda: objective.thermodynamic(4, 0), "partitions=0 arrived"),
    "beta": (lambda: objective.beta_elbo(-1.0), "beta=-1.0 arrived, expected a positive"),
    "tail": (lambda: objective.tail_adaptive(4, beta=2.0), "beta=2.0 arrived"),
    "samples": (lambda: objective.maximum_mean_discrepancy(np.ones(3), 1.0), "expected \\(n, d\\)"),
    "bandwidth": (
        lambda: objective.maximum_mean_discrepancy(np.ones((3, 1)), 0.0),
        "bandwidth=0.0 arrived",
    ),
    "no likelihood": (
        lambda: ritz.fit(PLAIN, objective=objective.beta_elbo(2.0), steps=10),
        "does not tell its likelihood from its prior",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


# -- fits ------------------------------------------------------------------------------------------


FITS = {
    "iwae": objective.iwae(3),
    "renyi": objective.renyi(0.5, 8),
    "chi square": objective.chi_square(64),
    "thermodynamic": objective.thermodynamic(16, 4),
    "forward kl": objective.forward_kl(32),
    "log variance": objective.log_variance(8),
    "tail adaptive": objective.tail_adaptive(16),
    "fisher": objective.fisher_divergence(4),
    "mmd": objective.maximum_mean_discrepancy(
        np.random.default_rng(0).normal(0.7, 0.8**0.5, (2000, 1)), 0.9, 16
    ),
}


@pytest.mark.parametrize("loss", FITS.values(), ids=FITS)
def test_each_objective_finds_a_gaussian(loss):
    # χ² has no slope for finite draws where q is far from p: all start near
    start = MeanField(jnp.array([0.3]), jnp.array([0.3]))
    fit = ritz.fit(PLAIN, family=start, objective=loss, steps=3000, progress=False)
    loc, scale = float(fit.q.loc[0]), float(jnp.exp(fit.q.log_scale)[0])
    assert loc == pytest.approx(0.7, abs=0.06)
    assert scale == pytest.approx(0.8**0.5, rel=0.06)


def test_weighted_elbos_find_their_optima():
    import numpyro
    import numpyro.distributions as dist

    y = np.array([1.0, 2.0, 3.0])

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    for loss, precision, sd in (
        (objective.beta_elbo(2.0, 8), 1.0 + 3.0 / 2.0, None),
        (objective.data_emphasised_elbo(3.0, 8), 1.0 + 9.0, None),
        (objective.tempered_elbo(2.0, 8), 4.0, 2.0**0.5 / 2.0),
    ):
        fit = ritz.fit(model, (y,), objective=loss, steps=3000, progress=False)
        wanted = (precision - 1.0) * 2.0 / precision
        assert float(fit.q.loc[0]) == pytest.approx(wanted, abs=0.03)
        found = float(jnp.exp(fit.q.log_scale)[0])
        assert found == pytest.approx(sd or precision**-0.5, rel=0.04)
