"""Every objective with every estimator that may serve it, against sums and integrals by hand.

The matrix is fed by the two registries: what is registered is tested, on each small model whose
choice the estimator serves. `make test` runs each pair on one model, `make test-all` on all.
"""

import dataclasses
import functools
import re
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import test_estimators as wrong

import ritz
from ritz import RitzError, estimator, objective
from ritz.diagnose import check_unbiased
from ritz.estimator import (
    Draw,
    Enumerate,
    LeaveOneOut,
    Pathwise,
    Score,
    StickingTheLanding,
    gauss_hermite,
    gumbel_softmax,
    law,
    pathwise,
    rebar,
    running_mean,
    score,
    sticking_the_landing,
    straight_through,
    unscented,
)
from ritz.estimator._implicit import moved
from ritz.family import AbstractFamily, MeanField, lacking
from ritz.objective import Density, expectation

K = 2  # draws of every example: pairs can be summed and integrated exactly
SAMPLES = np.array([[0.4], [-0.2], [1.1]])  # of the example of the discrepancy
stop = jax.lax.stop_gradient


@pytest.fixture
def unoptimised():
    """Programs that run once, on tiny arrays, are mostly compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# -- small models ---------------------------------------------------------------------------------


class Table(AbstractFamily):
    """An independent categorical family over 0, 1, 2 in one dimension."""

    logits: jax.Array
    capabilities: ClassVar[frozenset] = frozenset({"sample", "log_prob", "entropy"})
    has_enumerate_support: ClassVar[bool] = True

    @property
    def dim(self):
        return 1

    def sample(self, key):
        return jax.random.categorical(key, self.logits)[None].astype(float)

    def log_prob(self, x):
        return jax.nn.log_softmax(self.logits)[x[0].astype(int)]

    def entropy(self):
        return -jax.nn.softmax(self.logits) @ jax.nn.log_softmax(self.logits)

    def enumerate_support(self, expand=True):
        return jnp.arange(3.0)[:, None]


class Model(NamedTuple):
    """What is summed or integrated exactly: points of one draw, with their weights under q."""

    q: Any
    points: Any  # q -> (n, 1), differentiable where `path` is
    weights: Any  # q -> (n,)
    path: bool = False  # whether draws are differentiated through the points
    bend: float = 0.5  # of the target


NODES, WEIGHTS = (jnp.asarray(x, float) for x in np.polynomial.hermite_e.hermegauss(80))


def on_grid(q, points, widths):
    """Points that carry their density."""
    density = lambda q: jnp.exp(q.log_prob(points[:, None]))[:, 0] * widths
    return Model(q, lambda q: points[:, None], density)


STEP = 0.04
LOGS = jnp.arange(-2.3, 2.1, STEP)
MODELS = {
    "table": Model(
        Table(jnp.array([0.2, -0.4, 0.5])),
        lambda q: jnp.arange(3.0)[:, None],
        lambda q: jax.nn.softmax(q.logits),
    ),
    "coin": Model(
        dist.Bernoulli(logits=jnp.array([0.4])),
        lambda q: jnp.arange(2.0)[:, None],
        lambda q: jax.nn.sigmoid(jnp.stack([-q.logits[0], q.logits[0]])),
    ),
    "gaussian": Model(
        MeanField(jnp.array([0.2]), jnp.array([-0.3])),
        lambda q: q.loc + jnp.exp(q.log_scale) * NODES[:, None],
        lambda q: WEIGHTS / WEIGHTS.sum(),
        True,
    ),
    "normal": Model(
        dist.Normal(jnp.array([0.2]), jnp.array([0.7])),
        lambda q: q.loc + q.scale * NODES[:, None],
        lambda q: WEIGHTS / WEIGHTS.sum(),
        True,
    ),
    "gamma": on_grid(  # so far from zero that the slope of log q has moments
        dist.Gamma(jnp.array([8.5]), jnp.array([4.0])), jnp.exp(LOGS), STEP * jnp.exp(LOGS)
    ),
    "mixture": on_grid(
        dist.MixtureSameFamily(
            dist.Categorical(logits=jnp.array([[0.3, -0.2]])),
            dist.Normal(jnp.array([[-0.6, 0.9]]), jnp.array([[0.8, 0.5]])),
        ),
        jnp.arange(-5.0, 5.0, STEP),
        STEP,
    ),
}
HAVE_NO_ENTROPY = {"mixture"}
PLAINEST = {"doubly_reparameterised": "iwae"}  # an objective that it serves; others: the ELBO
OWN = {"implicit": "mixture", "measure_valued": "coin"}  # others: the first that they serve


def two_terms(bend):
    x = numpyro.sample("x", dist.Normal(0.1, 1.2))
    numpyro.sample("y", dist.Normal(x + bend * jnp.sin(2.0 * x), 0.9), obs=0.8)


TARGETS = {bend: ritz.target.from_numpyro(two_terms, (bend,)) for bend in (0.5, 0.0)}
TARGET = TARGETS[0.5]


class Seen(Density):
    """The target, at values of a discrete choice too."""

    def log_density(self, x):
        return super().log_density(jnp.asarray(x, float))

    def terms(self, x):
        return super().terms(jnp.asarray(x, float))


SEEN = {bend: Seen(target, jax.random.key(0), None) for bend, target in TARGETS.items()}


# -- what the objectives are ----------------------------------------------------------------------


def logs(model, q, x):
    """Log densities of the target and of q."""
    log_p = jax.vmap(TARGETS[model.bend].log_density)(x)
    return log_p, jax.vmap(lambda x: law.log_prob(q, x).sum())(x)


def pairs(weight, f, *each):
    """The mean over two independent draws of f, of what is known of each."""
    two = lambda i, j: f(*(jnp.stack([a[i], a[j]]) for a in each))
    n = jnp.arange(len(weight))
    return weight @ jax.vmap(lambda i: jax.vmap(lambda j: two(i, j))(n))(n) @ weight


def of_weights(f):
    """A function of two log weights."""

    def exact(model, q):
        lp, lq = logs(model, q, model.points(q))
        return pairs(model.weights(q), f, lp - lq)

    return exact


def of_constant_draws(f):
    """A function of log densities at draws that are constants: weights of the sums hold still."""

    def exact(model, q):
        return pairs(stop(model.weights(q)), f, *logs(model, q, stop(model.points(q))))

    return exact


def forward(lp, lq):
    lw = stop(lp - lq)
    return jax.nn.softmax(lw) @ (lp - lq) - mean_exp(lw)


def wake(lp, lq):
    held = stop(lp - lq)
    return -mean_exp(lp - stop(lq)) - stop(jax.nn.softmax(held)) @ (lq - stop(lq))


def tail_adaptive(model, q):
    """The larger weight counts twice as much, and only draws have derivatives."""
    x, weight = model.points(q), stop(model.weights(q))
    if not model.path:
        x = moved(x, q.cdf, lambda x: jnp.exp(q.log_prob(x)))
    lp, lq = logs(model, jax.tree.map(stop, q), x)
    larger = lambda lw: jnp.where(lw[0] == lw[1], 0.5, jnp.where(lw > lw[::-1], 2 / 3, 1 / 3))
    return pairs(weight, lambda lw: -(stop(larger(lw)) @ lw), lp - lq)


def fisher(model, q):
    x = model.points(q)
    log_w = lambda x: TARGETS[model.bend].log_density(x) - law.log_prob(q, x).sum()
    return model.weights(q) @ (jax.vmap(jax.grad(log_w))(x) ** 2).sum(1)


def discrepancy(model, q):
    x, w, y = model.points(q), model.weights(q), jnp.asarray(SAMPLES)
    k = lambda a, b: jnp.exp(-0.5 * ((a[:, None] - b) ** 2).sum(-1) / 0.81)
    own = (k(y, y).sum() - 3.0) / 6.0
    return w @ k(x, x) @ w - 2.0 * (w @ k(x, y)).mean() + own


def weighted(likelihood, prior, entropy):
    """The three parts of the ELBO, with weights."""

    def exact(model, q):
        def energy(x):
            log_prior = dist.Normal(0.1, 1.2).log_prob(x)
            mean = x + model.bend * jnp.sin(2.0 * x)
            return -likelihood * dist.Normal(mean, 0.9).log_prob(0.8) - prior * log_prior

        x, w = model.points(q), model.weights(q)
        log_q = jax.vmap(lambda x: law.log_prob(q, x).sum())(x)
        return w @ (jax.vmap(energy)(x[:, 0]) + entropy * log_q)

    return exact


mean_exp = lambda v: jax.nn.logsumexp(v) - np.log(K)
thermodynamic = lambda lw: -sum(jax.nn.softmax(b * lw) @ lw for b in (0.0, 1 / 3, 2 / 3)) / 3
# An objective that is registered and not here is compared with its score-function gradient.
EXACT = {
    "negative_elbo": of_weights(lambda lw: -lw.mean()),
    "negative_elbo(entropy='mc')": of_weights(lambda lw: -lw.mean()),
    "annealed": weighted(0.6, 0.6, 1.0),
    "beta_elbo": weighted(1.0, 1.5, 1.5),
    "tempered_elbo": weighted(1.0, 1.0, 2.0),
    "data_emphasised_elbo": weighted(2.0, 1.0, 1.0),
    "iwae": of_weights(lambda lw: -mean_exp(lw)),
    "renyi": of_weights(lambda lw: -2.0 * mean_exp(0.5 * lw)),
    "chi_square": of_weights(lambda lw: 0.5 * mean_exp(2.0 * lw)),
    "thermodynamic": of_weights(thermodynamic),
    "forward_kl": of_constant_draws(forward),
    "wake_sleep": of_constant_draws(wake),
    "log_variance": of_constant_draws(lambda lp, lq: 0.25 * ((lp - lq)[0] - (lp - lq)[1]) ** 2),
    "tail_adaptive": tail_adaptive,
    "fisher_divergence": fisher,
    "maximum_mean_discrepancy": discrepancy,
}


def linearised(f, q):
    """A function with the value and slope of f at q: computed once, whoever compares with it."""
    value, slope = jax.jit(jax.value_and_grad(f))(q)
    dot = lambda x, g: (g * (x - stop(x))).sum()
    return lambda q: value + sum(jax.tree.leaves(jax.tree.map(dot, q, slope)))


@functools.cache
def reference(name, model):
    return linearised(lambda q: EXACT[name](MODELS[model], q), MODELS[model].q)


def program(loss, how, bend=0.5):
    """Of an objective, with the family as its argument."""
    return lambda q: loss.program(q, SEEN[bend], how)


def compare(loss, how, model, exact, draws=20_000):
    """As one of all comparisons of the matrix: together they have one rate of false alarms.

    It is that of four standard errors for one number: 6e-5, over pairs, models and entries.
    """
    run, q = program(loss, how, MODELS[model].bend), MODELS[model].q
    return check_unbiased(run, q, exact=exact, draws=draws, comparisons=len(MATRIX))


def right(found, atol=1e-6):
    """Whether nothing speaks against it.

    Without variance only rounding is left, of terms that may be larger than their sum.
    """
    return bool(found) or np.allclose(found.estimate, found.reference, rtol=0.0, atol=atol)


# -- the matrix -----------------------------------------------------------------------------------


OBJECTIVES = objective.registered()
ESTIMATORS = estimator.registered()


def serves(how, model):
    try:
        ESTIMATORS[how].example().check(MODELS[model].q)
    except RitzError:
        return False
    return True


SERVED = {how: [m for m in MODELS if serves(how, m)] for how in ESTIMATORS}  # of these models


def matrix():
    """Pairs, on every model that the estimator serves; all but one of these are slow."""
    for name, part in OBJECTIVES.items():
        if lacking(part.example().needs, frozenset(Table.capabilities | {"reparameterised"})):
            continue  # for families of another kind, which have their own tests
        closed = "entropy" in part.example().needs
        for how, served in SERVED.items():
            models = [m for m in served if not (closed and m in HAVE_NO_ENTROPY)]
            for model in models:
                slow = model != (OWN[how] if OWN.get(how) in models else models[0])
                yield pytest.param(name, how, model, marks=[pytest.mark.slow] if slow else [])


MATRIX = [*matrix()]


def attempt(loss, how, model):
    """Check and trace a pair, without compiling it."""
    loss.check(how)
    wanted = expectation(program(loss, how, MODELS[model].bend)).value_and_grad
    return jax.eval_shape(wanted, jax.random.key(0), MODELS[model].q)


def works(call, loss, how, model):
    """Whether a pair is legal with the part in its place that a refusal names."""
    if call in OBJECTIVES:
        loss = OBJECTIVES[call].example()
    else:
        how = ESTIMATORS[call].example()
    try:
        attempt(loss, how, model)
    except RitzError:
        return False
    return True


def refused(loss, how, model, elsewhere=()):
    """Before compilation, in one line, every part named in which works: here, or elsewhere."""
    with pytest.raises(RitzError) as caught:
        attempt(loss, how, model)
    said = str(caught.value)
    assert "\n" not in said
    named = re.findall(r"(\w+)\(\)", said.rpartition("use ")[2])
    assert named, said
    for call in named:
        assert any(works(call, loss, how, m) for m in (model, *elsewhere)), said


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize(("name", "how", "model"), MATRIX)
def test_every_pair(name, how, model):
    """Value and gradient are right; or the pair is refused; or it is declared biased."""
    loss, by = OBJECTIVES[name].example(), ESTIMATORS[how].example()
    try:
        loss.check(by)
        if by.biased:
            attempt(loss, by, model)
            assert how in LIMITS
            return
        found = compare(loss, by, model, reference(name, model) if name in EXACT else None)
    except RitzError:
        # An objective knows the estimator and not the choice: what it names may not serve that.
        refused(loss, by, model, MODELS)
        return
    assert right(found), str(found)


@pytest.mark.parametrize("how", ESTIMATORS)
def test_choices_that_an_estimator_does_not_serve(how):
    """It is refused where the program is traced, and what is named instead works."""
    loss = OBJECTIVES[PLAINEST.get(how, "negative_elbo(entropy='mc')")].example()
    by = ESTIMATORS[how].example()
    for model in set(MODELS) - set(SERVED[how]) - set(LIMIT_MODELS):
        refused(loss, by, model)


# -- limits of biased estimators ------------------------------------------------------------------


def with_slopes(slopes, between=()):
    """A coin whose draws move: at points of no mass between 0 and 1, and at these."""
    at = jnp.asarray([0.0, 1.0, *between])

    def weights(q):
        p = jax.nn.sigmoid(q.logits[0])
        return stop(jnp.array([1.0 - p, p, *(1e-9 for _ in between)]))

    def points(q):
        p = jax.nn.sigmoid(q.logits[0])
        return (at + jnp.asarray(slopes) / weights(q) * (p - stop(p)))[:, None]

    return Model(MODELS["coin"].q, points, weights, path=True)


POSTERIOR = 1.0 / (1.2**-2 + 0.9**-2) ** 0.5  # the sd of x where nothing is bent
GRID = (np.arange(200) + 0.5) / 200
gaussian = lambda loc, scale: MODELS["gaussian"]._replace(
    q=MeanField(jnp.array([loc]), jnp.log(jnp.array([scale]))), bend=0.0
)
LIMIT_MODELS = {
    # Straight-through draws take the slopes at both ends: a trapezoid, exact for quadratics.
    "trapezoid": with_slopes([0.5, 0.5]),
    # Relaxed draws pass every point between.
    "relaxed": with_slopes([0.0, 0.0, *(1 / 200 for _ in GRID)], GRID),
    "straight": gaussian(0.2, 0.5),  # log weights are quadratic
    "as wide": gaussian(0.2, POSTERIOR),  # log weights are linear
    "posterior": gaussian(POSTERIOR**2 * (0.1 / 1.2**2 + 0.8 / 0.9**2), POSTERIOR),
    "narrow": gaussian(0.2, 0.02),
}
MODELS |= LIMIT_MODELS


class Limit(NamedTuple):
    """An estimator in its limit and far from it, and models on which it is exact there."""

    near: Any
    far: Any
    model: str
    others: Any = MappingProxyType({})  # objectives with a model of their own
    draws: int = 20_000
    atol: float = 1e-6  # of what has no variance
    twice: Any = None  # twice as far from the limit as `near`: a bias that is linear cancels


LIMITS = {
    "gumbel_softmax": Limit(
        gumbel_softmax(0.005),
        gumbel_softmax(2.0),
        "coin",
        {"tail_adaptive": "relaxed"},
        twice=gumbel_softmax(0.01),
    ),
    "straight_through": Limit(straight_through(0.02), straight_through(2.0), "trapezoid"),
    "gauss_hermite": Limit(gauss_hermite(56), gauss_hermite(2), "normal", draws=100, atol=1e-4),
    # For cubics. Weights are constant where q is the posterior; a kernel is cubic from near.
    "unscented": Limit(
        unscented(),
        wrong.OneSigma(),
        "straight",
        dict.fromkeys(["iwae", "renyi", "chi_square", "thermodynamic", "forward_kl"], "posterior")
        | {"wake_sleep": "posterior"}
        | {"log_variance": "as wide", "maximum_mean_discrepancy": "narrow"},
        draws=100,
    ),
}
# Hard values, whose density alone is differentiated: right at any temperature.
ANYWHERE = {("straight_through", name) for name in ("forward_kl", "log_variance", "wake_sleep")}
LIMIT_PAIRS = [
    pytest.param(
        how, name, marks=[] if name in ("negative_elbo(entropy='mc')", "iwae") else pytest.mark.slow
    )
    for how in LIMITS
    for name in OBJECTIVES
]


def extrapolated(near, twice):
    """To the limit, from half way."""
    estimate = 2.0 * near.estimate - twice.estimate
    se = np.sqrt(4.0 * near.se**2 + twice.se**2)
    z = (estimate - near.reference) / se
    return dataclasses.replace(near, z=z, estimate=estimate, se=se)


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize(("how", "name"), LIMIT_PAIRS)
def test_biased_estimators_are_right_in_their_limit(how, name):
    limit, loss = LIMITS[how], OBJECTIVES[name].example()
    model = limit.others.get(name, limit.model)
    assert limit.near.biased
    assert isinstance(limit.near, type(ESTIMATORS[how].example()))
    try:
        attempt(loss, limit.near, model)
    except RitzError:
        refused(loss, limit.near, model, MODELS)
        return
    exact = reference(name, model) if name in EXACT else None
    near, far = (compare(loss, by, model, exact, limit.draws) for by in limit[:2])
    if limit.twice is not None:
        near = extrapolated(near, compare(loss, limit.twice, model, exact, limit.draws))
    assert right(near, limit.atol), str(near)
    assert right(far, limit.atol) == ((how, name) in ANYWHERE), str(far)


# -- declarations ---------------------------------------------------------------------------------


@jax.custom_jvp
def marked(x):
    """The same, with a derivative that is not a number, in a form that can be counted."""
    return jnp.asinh(jnp.sinh(x))


marked.defjvp(lambda primals, tangents: (marked(*primals), jnp.nan * tangents[0]))


def evaluated(jaxpr, primitive="asinh"):
    """Numbers that a primitive makes."""
    own = sum(e.outvars[0].aval.size for e in jaxpr.eqns if e.primitive.name == primitive)
    inner = [j for e in jaxpr.eqns for j in jax.extend.core.jaxprs_in_params(e.params)]
    return own + sum(evaluated(j, primitive) for j in inner)


def declared(how):
    """Its cost as a number, for one choice of "table", "coin" or a Gaussian number."""
    words = {"size of the support": 3}
    words["2; 4 for a Normal, K for a Categorical; linear in mixed elements"] = 2
    words |= {"2d, or d + 1": 2, "K": getattr(how, "draws", 0), "nodes": getattr(how, "nodes", 0)}
    return words.get(how.cost) or int(how.cost)


# The other serves sets of log weights, and no choice alone.
@pytest.mark.parametrize("how", [n for n in ESTIMATORS if n != "doubly_reparameterised"])
def test_declarations_of_estimators(how, monkeypatch):
    """How often the rest of a program runs, whether its slopes are used, and whether log q is."""
    by, q = ESTIMATORS[how].example(), MODELS[OWN.get(how, SERVED[how][0])].q
    number = lambda x: (x @ jnp.arange(x.shape[-1]))[None] if x.ndim == 2 else x * 1.0
    asked = []
    plain = law.log_prob
    monkeypatch.setattr(law, "log_prob", lambda q, x: asked.append(x) or plain(q, x))

    def run(q):
        if by.detaches:
            x, log_q = objective.sample_and_log_prob(q, by)
            return marked(number(x)).sum() + log_q
        return marked(number(objective.sample(q, by))).sum()

    wanted, key = expectation(run), jax.random.key(0)
    assert evaluated(jax.make_jaxpr(wanted.value)(key, q).jaxpr) == declared(by)
    assert bool(asked) == ("log_prob" in by.needs)
    slopes = jax.tree.leaves(wanted.grad(key, q))
    assert any(bool(jnp.isnan(x).any()) for x in slopes) == ("slope" in by.needs)


class Silent(MeanField):
    """A family without a density, as an implicit sampler is."""

    capabilities: ClassVar[frozenset] = frozenset({"sample", "reparameterised"})


@pytest.mark.parametrize("how", ["score", "score(draws)", "sticking_the_landing"])
def test_families_without_the_density_that_an_estimator_needs(how):
    q = Silent(jnp.zeros(1), jnp.zeros(1))
    with pytest.raises(RitzError, match=r"has no log_prob; use pathwise\(\)"):
        ESTIMATORS[how].example().check(q)
    pathwise().check(q)


class CountedTarget(Density):
    def log_density(self, x):
        return super().log_density(jnp.asinh(jnp.sinh(x)))

    def terms(self, x):
        return super().terms(jnp.asinh(jnp.sinh(x)))


@pytest.mark.parametrize(
    "name",
    [n for n in OBJECTIVES if not lacking(OBJECTIVES[n].example().needs, MeanField.capabilities)],
)
def test_declarations_of_objectives(name):
    """Points of the target that a gradient takes."""
    loss = OBJECTIVES[name].example()
    seen = CountedTarget(TARGET, jax.random.key(0), None)
    keys = loss.keys(jax.random.key(0))
    one = lambda key, q: expectation(lambda q: loss.program(q, seen, pathwise())).value(key, q)
    jaxpr = jax.make_jaxpr(jax.vmap(one, (0, None)))(keys, MODELS["gaussian"].q).jaxpr
    points = {"none": 0}.get(loss.cost, loss.points)
    assert loss.cost in ("none", "K", "K, with second derivatives")
    assert evaluated(jaxpr) == points


# -- wrong variants -------------------------------------------------------------------------------


class WithoutPath(Pathwise):
    """Wrong: the draw does not move with q."""

    def draw(self, q, key):
        return Draw(stop(law.draw(q, key)), {})


class WithoutPathInLogQ(StickingTheLanding):
    """Wrong: log q is a constant, not only its parameters."""

    def log_prob(self, q, x):
        return stop(super().log_prob(q, x))


class WithoutCredit(Score):
    """Wrong: the score is left out."""

    def combine(self, f, notes):
        return f


class BaselineOfTheDraw(Score):
    """Wrong: the baseline depends on the draw."""

    def draw(self, q, key):
        draw = super().draw(q, key)
        return draw._replace(notes=draw.notes | {"baseline": draw.value.sum() * 1.0})


class LeaveNoneOut(LeaveOneOut):
    """Wrong: the baseline of a draw includes its own f."""

    def combine(self, f, notes):
        right = super().combine(f, notes)
        return right - (1 - 1 / self.draws) * (right - stop(right))


class Uniform(Enumerate):
    """Wrong: values count the same."""

    def draw(self, q, key):
        draw = super().draw(q, key)
        return draw._replace(notes={"weight": jnp.full_like(draw.notes["weight"], 0.5)})


WRONG = {
    "pathwise": WithoutPath(),
    "sticking_the_landing": WithoutPathInLogQ(),
    "implicit": wrong.WithoutMinus(),
    "rejection": wrong.WithoutJacobian(0),
    "score": WithoutCredit(),
    "score(baseline)": BaselineOfTheDraw(running_mean(0.3)),
    "score(draws)": LeaveNoneOut(3),
    "enumerate_support": Uniform(),
    "measure_valued": wrong.Reversed(),
    "rebar": wrong.WithoutScore(jnp.array(0.5), jnp.array(1.0)),
    "relax": wrong.WithoutCondition(wrong.Network(jnp.array([3.0, 0.3]))),
    "quasi_monte_carlo": wrong.NotShifted(4),
    "antithetic": wrong.ReflectedAtZero(4),
    "kernel_control_variates": wrong.NotStein(8, None, 1e-4),
    "doubly_reparameterised": wrong.WithoutSecond(),
}


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("how", [n for n, r in ESTIMATORS.items() if not r.example().biased])
def test_wrong_variants_are_rejected(how):
    """By the comparison that the estimator itself passes in the matrix."""
    assert isinstance(WRONG[how], type(ESTIMATORS[how].example()))
    name, model = PLAINEST.get(how, "negative_elbo(entropy='mc')"), OWN.get(how, SERVED[how][0])
    loss = OBJECTIVES[name].example()
    assert not compare(loss, WRONG[how], model, reference(name, model))


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("name", EXACT)
def test_wrong_functionals_are_rejected(name):
    """A tenth too much."""
    good = reference(name, "gaussian")
    bad = lambda q: 1.1 * good(q)
    assert not compare(OBJECTIVES[name].example(), pathwise(), "gaussian", bad)


@pytest.mark.usefixtures("unoptimised")
def test_an_objective_that_is_registered_is_tested(monkeypatch):
    """Without a functional, against its score-function gradient."""
    monkeypatch.setattr(objective._base, "_REGISTRY", dict(OBJECTIVES))

    def squares(q, target):
        return (objective.sample(q, pathwise()) ** 2).sum()

    objective.register("squares", lambda: objective.Program(squares), "bounds nothing")
    assert "squares" not in OBJECTIVES
    loss = objective.registered()["squares"].example()
    assert compare(loss, pathwise(), "gaussian", None)


# -- more of the functionals ----------------------------------------------------------------------


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize(
    ("alpha", "f"), [(1.0, lambda lw: -lw.mean()), (-1, lambda lw: -0.5 * mean_exp(2.0 * lw))]
)
def test_renyi_elsewhere(alpha, f):
    exact = linearised(lambda q: of_weights(f)(MODELS["gaussian"], q), MODELS["gaussian"].q)
    found = compare(objective.renyi(alpha, K), pathwise(), "gaussian", exact)
    assert found, str(found)


@pytest.mark.usefixtures("unoptimised")
def test_gradient_of_log_variance_is_that_of_the_kl():
    found = compare(
        objective.log_variance(K), score(), "table", reference("negative_elbo", "table")
    )
    assert np.abs(found.z[1:]).max() < found.limit
    assert not found  # the value is another one


@pytest.mark.usefixtures("unoptimised")
def test_sticking_the_landing_is_for_the_elbo():
    """For others it is biased, and so it is refused."""
    iwae = compare(
        objective.iwae(K), sticking_the_landing(), "gaussian", reference("iwae", "gaussian")
    )
    assert not iwae
    with pytest.raises(RitzError, match=r"StickingTheLanding .* biased .*Importance.*pathwise\(\)"):
        ritz.fit(TARGET, objective=objective.iwae(4), estimator=sticking_the_landing(), steps=10)


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize("make", [objective.forward_kl, objective.log_variance])
def test_constant_draws_of_relaxed_categories(make):
    """The log mass is that of a one-hot draw, as the estimator has it."""
    q = dist.Categorical(logits=jnp.array([0.2, -0.4, 0.5]))
    run = lambda q: make(K).program(q, OneHot(TARGET, jax.random.key(0), None), rebar())
    name = make.__name__
    slope = jax.grad(lambda t: EXACT[name](MODELS["table"], Table(t)))(q.logits)
    value = EXACT[name](MODELS["table"], Table(q.logits))
    found = check_unbiased(run, q, exact=lambda q: value + slope @ (q.logits - stop(q.logits)))
    assert found, str(found)


class OneHot(Density):
    def log_density(self, x):
        return super().log_density((x @ jnp.arange(3.0))[None])


def test_fisher_divergence_refuses_discrete_families():
    with pytest.raises(RitzError, match=r"Fisher needs .* Table .* use negative_elbo\(\)"):
        attempt(objective.fisher_divergence(), score(), "table")


def with_a_coin(y):
    z = numpyro.sample("z", dist.Bernoulli(0.4))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)


def only_a_coin(y):
    numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Bernoulli(0.4)), 1.0), obs=y)


@pytest.mark.parametrize("model", [with_a_coin, only_a_coin])
@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (objective.fisher_divergence(), r"Fisher needs .*draws discrete.* use negative_elbo\(\)"),
        (objective.tail_adaptive(4), r"TailAdaptive .*cannot serve discrete.* negative_elbo\(\)"),
    ],
)
def test_drawn_discrete_sites_are_refused_where_slopes_are_needed(model, loss, says):
    with pytest.raises(RitzError, match=says):
        ritz.fit(model, (np.array([0.3, 1.0]),), discrete="score", objective=loss, steps=1)


def test_fisher_divergence_refuses_targets_with_drawn_discrete_sites():
    target = ritz.target.from_numpyro(with_a_coin, (np.array([0.3, 1.0]),), discrete="score")
    seen = Density(target, jax.random.key(0), None)
    q = MeanField(jnp.zeros(2), jnp.zeros(2))
    with pytest.raises(RitzError, match=r"site 'z' is discrete and drawn; use negative_elbo\(\)"):
        expectation(lambda q: objective.fisher_divergence().program(q, seen, pathwise())).value(
            jax.random.key(0), q
        )


def test_tail_adaptive_takes_a_product_whose_parts_are_differentiable():
    both = estimator.per_part(pathwise(), pathwise())
    objective.tail_adaptive().check(both)


# -- limits of biased objectives ------------------------------------------------------------------


def tilted(lw, weight, power):
    """Weights of a sum under q w^power, normalised."""
    return jax.nn.softmax(power * lw + jnp.log(weight))


def forward_in_the_limit(lp, lq, weight):
    held = stop(tilted(lp - lq, stop(weight), 1.0))
    return held @ (lp - lq) - stop(jax.nn.logsumexp(lp - lq + jnp.log(weight)))


def thermodynamic_in_the_limit(lp, lq, weight):
    return -sum(tilted(lp - lq, weight, b) @ (lp - lq) for b in (0.0, 1 / 3, 2 / 3)) / 3


def wake_in_the_limit(lp, lq, weight):
    held = stop(tilted(lp - lq, stop(weight), 1.0))
    return -stop(jax.nn.logsumexp(lp - lq + jnp.log(weight))) - held @ (lq - stop(lq))


mean_of = lambda lw, weight: jax.nn.logsumexp(lw + jnp.log(weight))
# What they tend to, of log densities and weights of points.
IN_THE_LIMIT = {
    "iwae": (objective.iwae, lambda lp, lq, w: -mean_of(lp - lq, w)),
    "renyi": (
        lambda draws: objective.renyi(0.5, draws),
        lambda lp, lq, w: -2.0 * mean_of(0.5 * (lp - lq), w),
    ),
    "chi_square": (objective.chi_square, lambda lp, lq, w: 0.5 * mean_of(2.0 * (lp - lq), w)),
    "thermodynamic": (
        lambda draws: objective.thermodynamic(draws, 3),
        thermodynamic_in_the_limit,
    ),
    "forward_kl": (objective.forward_kl, forward_in_the_limit),
    "wake_sleep": (objective.wake_sleep, wake_in_the_limit),
}
NO_LIMIT = {"tail_adaptive"}
# Not where weights have no variance ("gamma"), or squares of weights so much ("mixture") that with
# a thousand draws they are not yet O(1/K); nor with a baseline that has not learned.
IN_K = [
    pytest.param(name, how, marks=[] if how == "pathwise" else pytest.mark.slow)
    for name in IN_THE_LIMIT
    for how in ESTIMATORS
    if how not in {"rejection", "score(baseline)"}
    and (name, how) != ("chi_square", "implicit")
    and not any(getattr(ESTIMATORS[how].example(), a) for a in ("biased", "factorised", "detaches"))
]


class Normalised(Density):
    """Of log density 0 on average over q's points, so that scores meet small numbers only."""

    log_z: jax.Array

    def log_density(self, x):
        return super().log_density(jnp.asarray(x, float)) - self.log_z


def test_every_biased_objective_has_a_limit_in_k():
    biased = {name for name, part in OBJECTIVES.items() if part.example().bias}
    assert biased == set(IN_THE_LIMIT) | NO_LIMIT


@pytest.mark.usefixtures("unoptimised")
@pytest.mark.parametrize(("name", "how"), IN_K)
def test_biased_objectives_are_right_in_the_limit_of_k(name, how):
    """Less what falls as 1/K there is no sign of the bias that two draws show."""
    (make, limit), by = IN_THE_LIMIT[name], ESTIMATORS[how].example()
    case = MODELS[OWN.get(how, SERVED[how][0])]
    constant = name in ("forward_kl", "wake_sleep")

    def of(f, q, log_z=0.0):
        hold = stop if constant else lambda x: x
        lp, lq = logs(case, q, hold(case.points(q)))
        return f(lp - log_z, lq, hold(case.weights(q)))

    log_z = of(lambda lp, lq, w: mean_of(lp - lq, w), case.q)
    exact = linearised(lambda q: of(limit, q, log_z), case.q)
    seen = Normalised(TARGET, jax.random.key(0), None, log_z)

    def found(k, draws):
        run = lambda q: make(k).program(q, seen, by)
        return check_unbiased(run, case.q, exact=exact, draws=draws, comparisons=len(IN_K))

    two, near = found(2, 20_000), extrapolated(found(256, 2000), found(128, 2000))
    assert near, str(near)
    seen_with_two = np.abs(two.estimate - two.reference) > near.limit * near.se
    assert (seen_with_two & (np.abs(two.z) > two.limit)).any(), str(two)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimised")
def test_the_gradient_of_tail_adaptive_tends_as_it_says():
    """Ranks become the tail's probabilities; with beta = -1/2 what is left falls as K^-1/2."""
    grid = jnp.linspace(-7.0, 7.0, 4001)[:, None]
    weight = jax.nn.softmax(-0.5 * grid[:, 0] ** 2)
    seen = Density(PLAIN, jax.random.key(0), None)

    def limit(q):
        x, held = q.loc + jnp.exp(q.log_scale) * grid, jax.tree.map(stop, q)
        lw = jax.vmap(PLAIN.log_density)(x) - jax.vmap(held.log_prob)(x)
        order = jnp.argsort(-lw)
        tail = jnp.cumsum(weight[order]) - 0.5 * weight[order]
        return -(weight[order] * stop(0.5 * tail**-0.5)) @ lw[order]

    def found(k):
        loss = objective.tail_adaptive(k, -0.5)
        assert loss.bias == "O(K^-0.5)"
        run = lambda q: loss.program(q, seen, pathwise())
        return check_unbiased(run, WIDE_Q, exact=limit, draws=2**18 // k)

    some, more = found(256), extrapolated(found(1024), found(256))
    assert (np.abs(more.z) <= more.limit)[1:].all(), str(more)
    assert (np.abs(some.z) > some.limit)[1:].any(), str(some)


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
    "wake-sleep": (objective.wake_sleep(4), -LOG_Z),
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


# -- bad input ------------------------------------------------------------------------------------


def test_tail_adaptive_needs_paths():
    with pytest.raises(RitzError, match=r"TailAdaptive needs .*pathwise\(\)"):
        ritz.fit(PLAIN, objective=objective.tail_adaptive(), estimator=score(), steps=10)


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
    "wake-sleep": objective.wake_sleep(32),
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
