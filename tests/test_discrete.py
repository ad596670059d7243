"""Discrete latent sites: exact marginals against every combination, and what is refused."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density
from scipy.special import logsumexp

import ritz
from ritz._errors import RitzError
from ritz.target import _factors, from_batches, from_numpyro
from ritz.target._factors import log_sum_exp

RNG = np.random.default_rng(0)
Y = np.concatenate([RNG.normal(-2.0, 1.0, 3), RNG.normal(2.0, 0.5, 4)])
GRID = RNG.normal(size=(2, 3))
X = RNG.normal(size=(9, 5))
OUT = X[:, 0] + RNG.normal(size=9)
COUNT = RNG.poisson(2.0, 4)
WIDE = RNG.normal(size=(9, 50))


def marginal(model: Any, args: Any, target: Any, x: Any) -> float:
    """The log density summed over every combination of the discrete sites' values."""
    return float(logsumexp(combinations(model, args, target, x)[0]))


def combinations(model: Any, args: Any, target: Any, x: Any) -> tuple[Any, dict[str, Any]]:
    """The log density at every combination of the discrete sites' values, and the values.

    NumPyro evaluates each; nothing is shared with what is tested but the continuous values.
    """
    values, log_det = jax.jit(lambda x: (target.constrain(x), target.log_det(x)))(x)
    fixed = {site.name: values[site.name] for site in target.sites}
    traced = handlers.trace(handlers.seed(handlers.substitute(model, fixed), 0)).get_trace(*args)
    choices = {}
    for name, site in traced.items():
        if site["type"] == "sample" and not site["is_observed"] and name not in fixed:
            value, base = np.asarray(site["value"]), site["fn"]
            while hasattr(base, "base_dist"):
                base = base.base_dist
            support = np.ravel(base.enumerate_support(expand=False))
            every = itertools.product(support, repeat=value.size)
            choices[name] = [np.array(c).reshape(value.shape) for c in every]
    together = [np.array(v) for v in zip(*itertools.product(*choices.values()), strict=True)]
    each = jax.jit(jax.vmap(lambda *found: _joint(model, args, fixed, choices, found)))
    return np.array(each(*together)) + log_det, dict(zip(choices, together, strict=True))


def _joint(model: Any, args: Any, fixed: Any, names: Any, found: Any) -> Any:
    return log_density(model, args, {}, fixed | dict(zip(names, found, strict=True)))[0]


def point(target: Any) -> Any:
    return jnp.asarray(np.random.default_rng(1).normal(0.0, 0.7, target.dim))


ZOO: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[str, ...]]] = {}


def zoo(*args: Any, plan: tuple[str, ...]) -> Callable[..., Any]:
    def add(model: Any) -> Any:
        ZOO[model.__name__] = (model, args, plan)
        return model

    return add


@zoo(Y, plan=("z: summed, 2 values, plate of 7",))
def mixture(y):
    w = numpyro.sample("w", dist.Beta(2.0, 3.0))
    loc = numpyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(w))
        numpyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


@zoo(
    GRID,
    plan=("g: summed, 2 values, plate of 3", "z: summed, 2 values, plate of 2, plate of 3"),
)
def nested_plates(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    with numpyro.plate("group", 3, dim=-1):
        g = numpyro.sample("g", dist.Categorical(jnp.array([0.3, 0.7])))
        shift = numpyro.sample("shift", dist.Normal(g - 0.5, 1.0))
        with numpyro.plate("row", 2, dim=-2):
            z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.5 * g))
            numpyro.sample("y", dist.Normal(m[g, z] + shift, 1.0), obs=y)
        numpyro.factor("pull", -0.1 * g * shift)


@zoo(Y[:3], plan=("a: summed, 2 values", "b: summed, 3 values", "z: summed, 3 values, plate of 3"))
def dependent(y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    p = jnp.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    a = numpyro.sample("a", dist.Bernoulli(0.3))
    b = numpyro.sample("b", dist.Categorical(p[a]))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(p[a]))
        numpyro.sample("y", dist.Normal(z - b, s), obs=y)


@zoo(Y, plan=("k: summed, 4 values",))
def outside(y):
    s = numpyro.sample("s", dist.HalfNormal(2.0))
    k = numpyro.sample("k", dist.DiscreteUniform(-1, 2))
    with numpyro.plate("rows", len(y)):
        e = numpyro.sample("e", dist.Normal(k, 1.0))
        numpyro.sample("y", dist.Normal(e, s), obs=y)


@zoo(X, OUT, plan=("z: summed, 2 values, 5 elements jointly (32 combinations)",))
def selection(X, y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("columns", X.shape[1]):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(X @ (z * beta), 1.0), obs=y)


@zoo(X[:, :2], OUT, plan=("z: summed, 2 values, 2 elements jointly (4 combinations)",))
def selection_as_wide_as_its_values(X, y):
    # With values in an axis of their own, the product would have a shape that fits.
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("columns", 2):
        z = numpyro.sample("z", dist.Bernoulli(0.4))
    numpyro.sample("y", dist.Normal(X @ (z * beta), 1.0).to_event(1), obs=y)


@zoo(Y[:5], plan=("z: summed, 2 values, 5 elements jointly (32 combinations)",))
def running_total(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):  # the plate says independent, the sum says otherwise
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(m * jnp.cumsum(z), 1.0), obs=y)


@zoo(GRID, plan=("z: summed, 2 values, plate of 3, 2 elements jointly (4 combinations)",))
def running_total_in_groups(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", 3, dim=-1), numpyro.plate("row", 2, dim=-2):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(m * jnp.cumsum(z, axis=0), 1.0), obs=y)


@zoo(
    GRID,
    plan=(
        "r: summed, 2 values, 2 elements jointly (4 combinations)",
        "c: summed, 2 values, plate of 3",
    ),
)
def crossed(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    rows, columns = numpyro.plate("rows", 2, dim=-2), numpyro.plate("columns", 3, dim=-1)
    with rows:
        r = numpyro.sample("r", dist.Bernoulli(0.3))
    with columns:
        c = numpyro.sample("c", dist.Bernoulli(0.6))
    with rows, columns:
        numpyro.sample("y", dist.Normal(m[r, c], 1.0), obs=y)


@zoo(
    Y[:3],
    plan=(
        "e: summed, 2 values, 3 elements jointly (8 combinations)",
        "u: summed, 2 values, 2 elements jointly (4 combinations)",
    ),
)
def without_plates(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    e = numpyro.sample("e", dist.Bernoulli(jnp.array([0.2, 0.5, 0.7])).to_event(1))
    u = numpyro.sample("u", dist.Bernoulli(jnp.array([0.2, 0.5])))
    numpyro.sample("y", dist.Normal(m + e * u.sum(), 1.0), obs=y)


@zoo(COUNT, plan=("n: summed, 4 values, plate of 4", "z: summed, 2 values, plate of 4"))
def counts(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("rows", len(y)):
        n = numpyro.sample("n", dist.Binomial(3, p))
        with handlers.mask(mask=jnp.arange(len(y)) > 1):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
        with handlers.scale(scale=0.7):
            numpyro.sample("y", dist.Poisson(0.1 + rate * n * (1 + z)), obs=y)


@zoo(GRID, plan=("z: summed, 2 values, plate of 2",))
def rows_of_vectors(y):
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([2, 3]).to_event(2))
    with numpyro.plate("rows", 2):
        z = numpyro.sample("z", dist.Categorical(jnp.array([0.4, 0.6])))
        numpyro.sample("y", dist.Normal(loc[z], 1.0).to_event(1), obs=y)


# -- states in a scan --------------------------------------------------------------------------

SERIES = np.random.default_rng(4).normal(size=6)
PAIRS = np.random.default_rng(5).normal(size=(3, 2))


def parameters():
    P = numpyro.sample("P", dist.Dirichlet(jnp.ones((3, 3))).to_event(1))
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    return P, loc


@zoo(SERIES, plan=("z: summed, 3 values, scan of 6",))
def hidden_markov(y):
    P, loc = parameters()

    def step(z, y_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("y", dist.Normal(loc[z], 1.0), obs=y_t)
        return z, y_t

    scan(step, 0, y)


@zoo(SERIES[:4], plan=("first: summed, 3 values", "z: summed, 3 values, scan of 4"))
def unknown_start_and_use_of_the_end(y):
    P, loc = parameters()
    first = numpyro.sample("first", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))

    def step(z, y_t):
        z = numpyro.sample("z", dist.Categorical(P[z]))
        numpyro.sample("y", dist.Normal(loc[z], 1.0), obs=y_t)
        return z, None

    last, _ = scan(step, first, y)
    numpyro.sample("next", dist.Normal(loc[last], 1.0), obs=0.3)


@zoo(
    SERIES[:4],
    plan=(
        "regime: summed, 2 values",
        "z: summed, 3 values, scan of 4",
        "outlier: summed, 2 values, scan of 4",
    ),
)
def more_in_the_carry(y):
    P, loc = parameters()
    regime = numpyro.sample("regime", dist.Bernoulli(0.4))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))

    def step(carry, y_t):
        z, before, count = carry
        noise = numpyro.sample("noise", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Categorical(P[(z + regime) % 3]))
        outlier = numpyro.sample("outlier", dist.Bernoulli(0.1))
        mean = loc[z] + slope * before + 0.1 * count + noise
        numpyro.sample("y", dist.Normal(mean, 1.0 + 5.0 * outlier), obs=y_t)
        return (z, y_t, count + 1.0), None

    scan(step, (1, 0.0, 0.0), y)


@zoo(SERIES[:4], plan=("z: summed, 3 values, scan of 4",))
def in_reverse(y):
    P, loc = parameters()

    def step(carry, y_t):
        z = numpyro.sample("z", dist.Categorical(P[carry[0]]))
        numpyro.sample("y", dist.Normal(loc[z] + 0.1 * carry[1], 1.0), obs=y_t)
        return (z, carry[1] + 1.0), None

    scan(step, (1, 0.0), y, reverse=True)


@zoo(
    PAIRS[:, :, None],
    plan=(
        "a: summed, 2 values, scan of 3, plate of 2",
        "b: summed, 2 values, scan of 3, plate of 2",
    ),
)
def two_chains_in_a_plate(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0).expand([2, 2]).to_event(2))
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))

    def step(carry, y_t):
        with numpyro.plate("series", 2, dim=-2):
            a = numpyro.sample("a", dist.Bernoulli(p[0, carry[0]]))
            b = numpyro.sample("b", dist.Bernoulli(p[1, carry[1]]))
            with numpyro.plate("tones", 1, dim=-1):
                numpyro.sample("y", dist.Normal(loc[a, b], 1.0), obs=y_t)
        return (a, b), None

    start = jnp.zeros((2, 1), int)
    scan(step, (start, start), y)


@zoo(PAIRS[:2], plan=("z: summed, 2 values, scan of 2, 2 elements jointly (4 combinations)",))
def coupled_chains(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0).expand([2]).to_event(1))

    def step(z, y_t):
        with numpyro.plate("series", 2):  # each moves with the other
            z = numpyro.sample("z", dist.Bernoulli(p[z[::-1]]))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y_t)
        return z, None

    scan(step, jnp.array([0, 1]), y)


@zoo(SERIES[:3], plan=("z: summed, 2 values, scan of 3, 2 elements jointly (4 combinations)",))
def chains_seen_together(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0).expand([2]).to_event(1))

    def step(z, y_t):
        numpyro.factor("held", -0.3 * z.sum())
        with numpyro.plate("series", 2):
            z = numpyro.sample("z", dist.Bernoulli(p[z]))
        numpyro.sample("y", dist.Normal(z.sum(), 1.0), obs=y_t)
        return z, None

    scan(step, jnp.array([0, 1]), y)


@zoo(
    SERIES[:4],
    plan=("z: summed, 2 values, scan of 4", "twice: depends on a summed site, left out"),
)
def nothing_carried(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))

    def step(carry, y_t):
        z = numpyro.sample("z", dist.Bernoulli(p))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y_t)
        numpyro.deterministic("twice", 2 * z)
        return carry, None

    scan(step, None, y)


@zoo(SERIES[:4], plan=("z: summed, 3 values, scan of 4",))
def seen_one_step_later(y):
    P, loc = parameters()

    def step(z, y_t):
        numpyro.sample("y", dist.Normal(loc[z], 1.0), obs=y_t)
        return numpyro.sample("z", dist.Categorical(P[z])), None

    scan(step, 2, y)


# -- the tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_marginals_are_exact(name):
    model, args, plan = ZOO[name]
    with jax.enable_x64(True):
        target = from_numpyro(model, args)
        assert target.plan is not None
        assert target.plan.lines == plan
        x = point(target)
        expected = marginal(model, args, target, x)
        value, grad = jax.jit(jax.value_and_grad(target.log_density))(x)
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-10)
        assert np.isfinite(grad).all()


def test_a_sum_over_rows_belongs_inside_the_sum_over_values():
    """The same comparison rejects plates that are summed after the values instead of before."""
    model, args, _ = ZOO["outside"]
    with jax.enable_x64(True):
        target = from_numpyro(model, args)
        x = point(target)
        tables = target.plan.tables(lambda indices: target.factors(x, indices).factors)
        wrong = 0.0
        for f in _factors.eliminate(tables, (), ()):
            wrong += float(log_sum_exp(f.value, 0).sum() if f.dims else f.value.sum())
        assert abs(wrong - marginal(model, args, target, x)) > 0.1


def test_log_sum_exp_has_a_gradient_where_all_values_are_impossible():
    impossible = jnp.array([[-jnp.inf, -jnp.inf], [0.0, -jnp.inf]])
    value, pull = jax.vjp(lambda v: log_sum_exp(v, 1), impossible)
    np.testing.assert_array_equal(value, [-np.inf, 0.0])
    np.testing.assert_array_equal(pull(jnp.ones(2))[0], [[0.0, 0.0], [1.0, 0.0]])
    assert np.isnan(log_sum_exp(jnp.array([jnp.nan, 0.0]), 0))


def test_a_chain_needs_its_first_state():
    """The same comparison rejects a start that is free in place of the one that is given."""

    def free_start(y):
        P, loc = parameters()
        first = numpyro.sample("z0", dist.Categorical(jnp.ones(3) / 3))

        def step(z, y_t):
            z = numpyro.sample("z", dist.Categorical(P[z]))
            numpyro.sample("y", dist.Normal(loc[z], 1.0), obs=y_t)
            return z, None

        scan(step, first, y)

    with jax.enable_x64(True):
        target = from_numpyro(hidden_markov, (SERIES,))
        x = point(target)
        wrong = from_numpyro(free_start, (SERIES,)).log_density(x)
        assert abs(float(wrong) - marginal(hidden_markov, (SERIES,), target, x)) > 0.01


def test_long_chains_have_finite_gradients():
    target = from_numpyro(hidden_markov, (np.random.default_rng(6).normal(size=500),))
    value, grad = jax.jit(jax.value_and_grad(target.log_density))(point(target))
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("name", ["nested_plates", "selection", "more_in_the_carry", "crossed"])
def test_posterior_probabilities_are_exact(name):
    model, args, _ = ZOO[name]
    with jax.enable_x64(True):
        target = from_numpyro(model, args)
        x = point(target)
        found = jax.jit(lambda x: target.discrete_posterior(x))(x)
        logs, values = combinations(model, args, target, x)
        p = np.exp(logs - logsumexp(logs))
        for site in target.plan.sites:
            for k, value in enumerate(site.support):
                expected = np.tensordot(p, values[site.name] == value, axes=1)
                np.testing.assert_allclose(found[site.name][..., k], expected, atol=1e-10)


def test_batches_of_rows():
    y = np.random.default_rng(7).normal(size=20)
    target = from_batches(mixture, ritz.data.batches({"y": y}, 5))
    whole = from_numpyro(mixture, (y,))
    x = jnp.array([0.3, -1.0, 1.0])
    assert target.plan.lines == ("z: summed, 2 values, plate of 20",)
    np.testing.assert_allclose(target.log_density(x), whole.log_density(x), rtol=1e-5)
    parts = [target.log_density(x, batch={"y": jnp.asarray(part)}) for part in y.reshape(4, 5)]
    np.testing.assert_allclose(np.mean(parts), whole.log_density(x), rtol=1e-5)


def test_a_subsampled_plate_is_unbiased():
    def some(y):
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0))
        with numpyro.plate("rows", len(y), subsample_size=1) as rows:
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(loc * z, 1.0), obs=y[rows])

    target = from_numpyro(some, (Y,))
    x = jnp.array([0.7])
    keys = jax.random.split(jax.random.key(0), 4000)
    parts = jax.jit(lambda keys: jax.vmap(lambda key: target.log_density(x, key))(keys))(keys)
    error = np.std(parts) / len(parts) ** 0.5
    assert abs(np.mean(parts) - target.log_density(x)) < 4 * error


def test_two_regimes_of_the_nile():
    """The flow fell in 1899 (Cobb 1978): a chain of two states finds the year."""
    nile = ritz.data.load("nile")
    flow = (np.asarray(nile["volume"], float) - 900.0) / 150.0

    def model(y):
        stay = numpyro.sample("stay", dist.Beta(20.0, 1.0))
        loc = numpyro.sample("loc", dist.Normal(jnp.array([1.0, -1.0]), 1.0).to_event(1))
        sd = numpyro.sample("sd", dist.HalfNormal(1.0))

        def step(z, y_t):
            z = numpyro.sample("z", dist.Bernoulli(jnp.where(z == 1, stay, 1.0 - stay)))
            numpyro.sample("y", dist.Normal(loc[z], sd), obs=y_t)
            return z, None

        scan(step, 0, y)

    fit = ritz.fit(model, (flow,), steps=3000)
    assert "sites   z: summed, 2 values, scan of 100" in str(fit.summary())
    low = fit.discrete_posterior()["z"][:, 1]
    year = np.asarray(nile["year"])
    assert low[year < 1895].max() < 0.5
    assert low[year > 1902].min() > 0.5
    assert fit.khat < 0.7
    assert fit.predict(n=10)["y"].shape == (10, 100)


def test_a_fitted_mixture_predicts_and_names_its_rows():
    fit = ritz.fit(mixture, (Y,), steps=500, init={"loc": np.array([-2.0, 2.0])})
    found = fit.discrete_posterior()["z"]
    assert found.shape == (7, 2)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=1), Y > 0)
    assert fit.log_likelihood()["y"].shape == (4000, 7)
    assert fit.predict(n=10)["y"].shape == (10, 7)
    assert "z: summed, 2 values, plate of 7" in str(fit.summary())


def test_shared_sites_are_predicted_from_their_posterior():
    def model(y):
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        k = numpyro.sample("k", dist.Bernoulli(0.5))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(20.0 * k, 1.0 + s), obs=y)

    target = from_numpyro(model, (20.0 + Y,))
    drawn = jax.vmap(lambda key: target.predict(jnp.zeros(1), key, target.args, {})["y"])(
        jax.random.split(jax.random.key(0), 50)
    )
    assert drawn.mean(axis=1).min() > 10.0  # half of draws from the prior would be near zero


# -- what is refused ---------------------------------------------------------------------------


def accumulating(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))

    def step(total, y_t):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(m + total + z, 1.0), obs=y_t)
        return total + z, None

    scan(step, 0.0, y)


def path_used_outside(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))

    def step(z, _):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.5 * z))
        return z, z

    _, path = scan(step, 0, None, length=len(y))
    numpyro.sample("y", dist.Normal(m + path, 1.0), obs=y)


def scan_in_a_scale(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))

    def step(z, y_t):
        z = numpyro.sample("z", dist.Bernoulli(0.2 + 0.5 * z))
        numpyro.sample("y", dist.Normal(m + z, 1.0), obs=y_t)
        return z, None

    with handlers.scale(scale=0.5):
        scan(step, 0, y)


def bounded_by_a_state(y):
    z = numpyro.sample("z", dist.Bernoulli(0.2))
    numpyro.sample("u", dist.Uniform(0.0, 1.0 + z))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def unlike_bounds(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    with numpyro.plate("rows", len(y)):
        n = numpyro.sample("n", dist.Binomial(np.arange(len(y)), p))
        numpyro.sample("y", dist.Normal(n, 1.0), obs=y)


def seen_through_a_part(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    z = numpyro.sample("z", dist.Bernoulli(p))
    with numpyro.plate("rows", len(y), subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y[rows])


REFUSED = [
    (accumulating, r"the carry of a scan depends on the discrete site 'z' and on the previous"),
    (path_used_outside, r"site 'y' depends on what a scan with discrete sites returns"),
    (scan_in_a_scale, r"'z' is discrete and in a scan inside of a plate, scale or mask"),
    (bounded_by_a_state, r"the support of site 'u' depends on the discrete site 'z'"),
    (
        unlike_bounds,
        r"site 'n' is discrete \(Binomial\w*\) and not observed, and its values cannot",
    ),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_refusals_are_one_line(model, message):
    with pytest.raises(RitzError, match=message) as caught:
        from_numpyro(model, (Y,))
    assert "\n" not in str(caught.value)


def test_a_part_of_the_rows_says_nothing_of_a_site_outside_them():
    target = from_numpyro(seen_through_a_part, (Y,))
    assert np.isfinite(target.log_density(jnp.zeros(1)))
    with pytest.raises(RitzError, match="site 'z' is outside plate 'rows', of which a part"):
        target.log_density(jnp.zeros(1), key=jax.random.key(0))
