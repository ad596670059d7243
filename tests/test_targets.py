"""Targets: their densities, maps and starts against exact answers, and what they refuse."""

import functools
import json
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.distributions import constraints, transforms
from numpyro.infer import Predictive
from numpyro.infer.reparam import (
    CircularReparam,
    ExplicitReparam,
    LocScaleReparam,
    ProjectedNormalReparam,
    TransformReparam,
)
from numpyro.infer.util import log_likelihood, potential_energy
from scipy import stats

import ritz
from ritz.target import from_batches, from_log_density, from_numpyro
from ritz.target._constraints import constraint, describe

RNG = np.random.default_rng(0)
Y = RNG.normal(size=8)
Y32 = jnp.asarray(Y, jnp.float32)
X = RNG.normal(size=(8, 3))
GRID = RNG.normal(size=(4, 3))
COIN = RNG.uniform(size=8) < 0.5
COUNT = RNG.poisson(3.0, size=8)
GROUP = np.array([0, 0, 1, 1, 2, 2, 2, 0])
SOME = np.arange(8) < 5


# -- models whose density NumPyro's own potential energy gives ---------------------------------

ZOO: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {}


def zoo(*args: Any, **kwargs: Any) -> Callable[..., Any]:
    def add(model: Any) -> Any:
        ZOO[model.__name__] = (model, args, kwargs)
        return model

    return add


@zoo(Y)
def scalars(y):
    m = numpyro.sample("m", dist.Normal(0.0, 3.0))
    s = numpyro.sample("s", dist.HalfCauchy(2.0))
    numpyro.sample("y", dist.Normal(m, s), obs=y)


@zoo(X, COIN)
def vector_and_matrix(X, y):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    a = numpyro.sample("a", dist.StudentT(4.0, jnp.zeros(2), 1.0))
    W = numpyro.sample("W", dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(2))
    numpyro.sample("y", dist.Bernoulli(logits=X @ b + a.sum() + W.sum()), obs=y)


@zoo(GRID)
def nested_plates(y):
    with numpyro.plate("col", 3, dim=-1):
        c = numpyro.sample("c", dist.Gamma(2.0, 1.0))
        with numpyro.plate("row", 4, dim=-2):
            r = numpyro.sample("r", dist.Normal(c, 1.0))
            v = numpyro.sample("v", dist.Dirichlet(jnp.ones(3)))
            numpyro.sample("y", dist.Normal(r + v[..., 0], 1.0), obs=y)


@zoo()
def supports():
    numpyro.sample("gamma", dist.Gamma(2.0, 3.0))
    numpyro.sample("beta", dist.Beta(2.0, 3.0))
    numpyro.sample("log_normal", dist.LogNormal(0.0, 1.0).expand([2]))
    numpyro.sample("pareto", dist.Pareto(1.5, 3.0))
    numpyro.sample("above", dist.TruncatedNormal(0.0, 1.0, low=-1.0))
    numpyro.sample("below", dist.TruncatedNormal(0.0, 1.0, high=2.0))
    numpyro.sample("between", dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=2.0))
    numpyro.sample("angle", dist.VonMises(0.0, 2.0))
    numpyro.sample("inverse", dist.InverseGamma(3.0, 2.0))


@zoo()
def structured_supports():
    numpyro.sample("simplex", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))
    numpyro.sample("cholesky", dist.LKJCholesky(3, 2.0))
    base = dist.Normal(jnp.zeros(3), 1.0).to_event(1)
    ordered = dist.TransformedDistribution(base, transforms.OrderedTransform())
    numpyro.sample("ordered", ordered)
    numpyro.sample("zero_sum", dist.ZeroSumNormal(1.0, (4,)))
    numpyro.sample("zero_sum_2", dist.ZeroSumNormal(1.0, (3, 4)))


@zoo()
def dynamic_bounds():
    a = numpyro.sample("a", dist.Uniform(0.0, 3.0))
    b = numpyro.sample("b", dist.Uniform(0.0, a))
    c = numpyro.sample("c", dist.Uniform(-b, a + jnp.arange(3.0)))
    numpyro.sample("d", dist.TruncatedNormal(0.0, 1.0, low=c[0]))


@zoo(Y)
def improper(y):
    m = numpyro.sample("m", dist.ImproperUniform(constraints.real, (), ()))
    s = numpyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))
    o = numpyro.sample("o", dist.ImproperUniform(constraints.ordered_vector, (), (3,)))
    with numpyro.plate("rows", 8):
        z = numpyro.sample("z", dist.ImproperUniform(constraints.greater_than(-1.0), (), ()))
        numpyro.sample("y", dist.Normal(m + z, s), obs=y)
    numpyro.factor("prior", -0.5 * jnp.sum(o**2) - s - z.sum())


@zoo()
def transformed():
    steps = [transforms.AffineTransform(1.0, 2.0), transforms.ExpTransform()]
    numpyro.sample("u", dist.TransformedDistribution(dist.Normal(0.0, 1.0), steps))
    affine = transforms.LowerCholeskyAffine(jnp.ones(2), 2.0 * jnp.eye(2))
    base = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    numpyro.sample("v", dist.TransformedDistribution(base, affine))
    with numpyro.plate("p", 2):
        numpyro.sample("w", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
    numpyro.sample("walk", dist.GaussianRandomWalk(1.0, 4))
    numpyro.sample("mixed", dist.MatrixNormal(jnp.zeros((2, 2)), jnp.eye(2), jnp.eye(2)))
    numpyro.sample("drawn", dist.Gamma(1.0, 1.0), sample_shape=(3,))


def centered(y):
    t = numpyro.sample("t", dist.HalfNormal(2.0))
    with numpyro.plate("n", 8):
        a = numpyro.sample("a", dist.Normal(1.0, t))
        affine = transforms.AffineTransform(a, t)
        b = numpyro.sample("b", dist.TransformedDistribution(dist.Normal(0.0, 1.0), affine))
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def decentered(y, **config):
    return handlers.reparam(centered, config=config)(y)


full = {"a": LocScaleReparam(0.0), "b": TransformReparam()}
ZOO["reparam"] = (handlers.reparam(centered, config=full), (Y,), {})
half = {"a": LocScaleReparam(0.5), "t": ExplicitReparam(transforms.SoftplusTransform().inv)}
ZOO["reparam_in_part"] = (handlers.reparam(centered, config=half), (Y,), {})


def angles(y):
    a = numpyro.sample("a", dist.VonMises(0.0, 2.0))
    b = numpyro.sample("b", dist.ProjectedNormal(jnp.array([1.0, 2.0, 0.0])))
    numpyro.sample("y", dist.VonMises(a + b[0], 3.0), obs=y)


around = {"a": CircularReparam(), "b": ProjectedNormalReparam()}
ZOO["reparam_circular"] = (handlers.reparam(angles, config=around), (Y / 3,), {})


@zoo(Y)
def factors_and_deterministic(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    d = numpyro.deterministic("d", 2 * m)
    numpyro.factor("vector", -jnp.abs(d) * jnp.ones(3))
    with numpyro.plate("n", 8):
        e = numpyro.deterministic("e", d + jnp.zeros(8))
        numpyro.factor("in_plate", -(e**2))
        numpyro.sample("y", dist.Normal(d, 1.0), obs=y)


@zoo(Y)
def scan_with_latents(y):
    def step(level, y_t):
        x = numpyro.sample("x", dist.Normal(level, 1.0))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.deterministic("xs", x * s)
        numpyro.sample("y", dist.Normal(x, s), obs=y_t)
        return x, None

    scan(step, 0.0, y)


@zoo(Y)
def scan_with_plates(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))

    def step(level, y_t):
        with numpyro.plate("k", 3):
            x = numpyro.sample("x", dist.Normal(level, scale))
            q = numpyro.sample("q", dist.Dirichlet(jnp.ones(2)))
        numpyro.factor("pull", -(x**2).sum())
        e = numpyro.sample("e", dist.LogNormal(jnp.zeros(2), 1.0).to_event(1))
        numpyro.sample("y", dist.Normal(x.sum() + e[0], 1.0), obs=y_t)
        return x + q[:, 0], x

    scan(step, jnp.zeros(3), y)


@zoo(Y)
def scan_with_dynamic_bounds(y):
    def step(level, y_t):
        u = numpyro.sample("u", dist.Uniform(-jnp.exp(jnp.tanh(level)), 1.0 + level**2))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y_t)
        return jnp.tanh(u), None

    scan(step, 0.0, y)


@zoo(Y)
def cond_with_latents(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    low = lambda _: numpyro.sample("z", dist.Gamma(2.0, 1.0))
    high = lambda _: numpyro.sample("z", dist.Gamma(3.0, 1.0))
    z = cond(m > 0, high, low, None)
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


@zoo(Y, SOME)
def masked_data(y, mask):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with handlers.mask(mask=mask):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


@zoo(Y)
def scaled(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with handlers.scale(scale=2.5):
        numpyro.sample("k", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(m, s), obs=y)


@zoo(Y)
def mixtures(y):
    m = numpyro.sample("m", dist.Normal(jnp.zeros(2), 1.0))
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    parts = dist.Categorical(jnp.array([0.3, 0.7]))
    numpyro.sample("z", dist.MixtureSameFamily(parts, dist.Normal(jnp.array([0.0, 1.0]), 1.0)))
    numpyro.sample("g", dist.MixtureGeneral(parts, [dist.Gamma(1.0, 1.0), dist.LogNormal(0, 1)]))
    with numpyro.plate("n", 8):
        mixture = dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(m, 1.0))
        numpyro.sample("y", mixture, obs=y)


@zoo(Y, 2 * Y, scale=2.0, z=Y, name="text")
def any_arguments(*args, scale=1.0, **kwargs):
    m = numpyro.sample("m", dist.Normal(0.0, scale))
    for i, y in enumerate(args):
        numpyro.sample(f"y{i}", dist.Normal(m, 1.0), obs=y)
    numpyro.sample("z", dist.Normal(m, 1.0), obs=kwargs["z"])


def with_arguments(y, design, *, settings):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(settings["width"]), settings["sd"]))
    numpyro.sample("y", dist.Normal(design["X"] @ b, 1.0), obs=y)


settings = {"width": 3, "sd": 2.0, "names": np.array(["a", "b", "c"])}
ZOO["nested_arguments"] = (
    functools.partial(with_arguments, Y),
    ({"X": X},),
    {"settings": settings},
)


@zoo(3, Y, "normal", 2.0, True)
def python_arguments(K, y, kind, sd, wanted):
    if wanted and kind == "normal":
        a = numpyro.sample("a", dist.Normal(jnp.zeros(K), sd))
        numpyro.sample("y", dist.Normal(a.sum(), 1.0), obs=y)


@zoo(GROUP, Y)
def python_values(g, y):
    groups, seen = int(g.max()) + 1, np.unique(g)
    assert list(seen) == list(range(groups))
    with numpyro.plate("groups", groups):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", len(y)) as rows:
        numpyro.sample("y", dist.Normal(a[g[rows]], 1.0), obs=y[rows])


ZOO["python_values_of_jax"] = (
    lambda g, y: numpyro.sample(
        "y", dist.Normal(numpyro.sample("a", dist.Normal(jnp.zeros(g.max() + 1), 1.0))[g], 1), obs=y
    ),
    (jnp.asarray(GROUP), Y32),
    {},
)


@zoo(np.array([0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 0.0]), Y)
def python_values_of_floats(g, y):
    a = numpyro.sample("a", dist.Normal(jnp.zeros(int(np.max(g)) + 1), 1.0))
    numpyro.sample("y", dist.Normal(a[g.astype(int)], 1.0), obs=y)


@zoo(Y32, COUNT, COIN, np.float64(2.0), np.int64(3))
def dtypes(y, counts, coin, sd, n):
    m = numpyro.sample("m", dist.Normal(0.0, sd))
    with numpyro.plate("n", n):
        numpyro.sample("k", dist.Gamma(1.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)
    numpyro.sample("counts", dist.Poisson(jnp.exp(m)), obs=counts)
    numpyro.sample("coin", dist.Bernoulli(logits=m), obs=coin)
    numpyro.sample("real", dist.Normal(m, 1.0), obs=counts)


@zoo(Y[:1])
def plates_of_one(y):
    with numpyro.plate("a", 1, dim=-2), numpyro.plate("b", 1):
        m = numpyro.sample("m", dist.Gamma(1.0, 1.0))
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


@zoo(Y)
def conditioned(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(m, s), obs=y)


ZOO["conditioned"] = (handlers.condition(conditioned, {"s": jnp.array(0.7)}), (Y,), {})


ZOO["scoped"] = (handlers.scope(conditioned, prefix="outer"), (Y,), {})


class Model:
    """A model need not be a function."""

    def __call__(self, y):
        m = numpyro.sample("m", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


ZOO["object"] = (Model(), (Y,), {})
lifted = lambda y: numpyro.sample("y", dist.Normal(numpyro.param("w", 0.0), 1.0), obs=y)
ZOO["lifted"] = (handlers.lift(lifted, prior={"w": dist.HalfNormal(1.0)}), (Y,), {})


def build(name: str) -> Any:
    return from_numpyro(*ZOO[name])


def free(target: Any, x: Any) -> dict[str, Any]:
    return {site.name: site.take(x) for site in target.sites}


def points(target: Any, n: int = 3, seed: int = 1) -> Any:
    return jnp.asarray(0.7 * np.random.default_rng(seed).normal(size=(n, target.dim)))


# -- the density, its Jacobian and the round trip ------------------------------------------------

# Where NumPyro cannot trace a model that computes sizes from its data, one that is given them.
TRACEABLE = {
    "python_values": (lambda y: python_values_given(jnp.asarray(GROUP), y, 3), (Y,)),
    "python_values_of_jax": (lambda g, y: python_values_given(g, y, 3), (jnp.asarray(GROUP), Y32)),
}


def python_values_given(g, y, groups):
    with numpyro.plate("groups", groups):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a[g], 1.0), obs=y)


def numpyro_density(name: str, target: Any, x: Any) -> Any:
    model, args, kwargs = ZOO[name]
    model, args = TRACEABLE.get(name, (model, args))
    return -potential_energy(model, args, kwargs, free(target, x))


def zero_sum_basis(n: int) -> np.ndarray:
    """An orthonormal basis of the vectors of length n that sum to zero."""
    return np.linalg.svd(np.eye(n) - 1 / n)[0][:, : n - 1]


# Coordinates in which a support has a volume, for sites that have more entries than dimensions.
CHARTS: dict[str, Callable[[Any], Any]] = {
    "simplex": lambda v: v[:-1],
    "cholesky": lambda v: v[jnp.tril_indices(3, -1)],
    "zero_sum": lambda v: zero_sum_basis(4).T @ v,
    "zero_sum_2": lambda v: zero_sum_basis(3).T @ v @ zero_sum_basis(4),
    "q": lambda v: v[..., 0],
    "v": lambda v: v[..., :-1],
    "w": lambda v: v[:-1],
}


def jacobian(target: Any, x: Any) -> Any:
    """log|det dT/dx| by automatic differentiation of the map itself."""

    def coordinates(x: Any) -> Any:
        values = target.constrain(x)
        parts = []
        for site in target.sites:
            chart = CHARTS.get(site.name) if site.shape != site.unconstrained_shape else None
            parts.append(jnp.ravel(chart(values[site.name]) if chart else values[site.name]))
        return jnp.concatenate(parts)

    return jnp.linalg.slogdet(jax.jacfwd(coordinates)(x))[1]


def everything(name: str) -> dict[str, Any]:
    """What a model's target gives at some points, beside NumPyro's and JAX's answers."""
    target = build(name)
    constrained = any(site.support != "real" for site in target.sites)

    def at(x: Any) -> dict[str, Any]:
        values = target.constrain(x)
        return {
            "density": target.log_density(x),
            "numpyro": numpyro_density(name, target, x),
            "back": target.unconstrain({s.name: values[s.name] for s in target.sites}),
            "log_det": target.log_det(x),
            "jacobian": jacobian(target, x) if constrained else 0.0,
        }

    xs = points(target)
    out = jax.jit(jax.vmap(at))(xs)
    return {"x": xs, **jax.tree.map(np.asarray, out)}


@pytest.mark.parametrize("name", ZOO)
def test_density_jacobian_and_round_trip(name):
    with jax.enable_x64(True):
        got = everything(name)
    np.testing.assert_allclose(got["density"], got["numpyro"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(got["back"], got["x"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got["log_det"], got["jacobian"], rtol=1e-9, atol=1e-9)
    if np.any(got["log_det"]):  # the oracle tells a density without its Jacobian apart
        assert not np.allclose(got["density"] - got["log_det"], got["numpyro"], rtol=1e-3)


@pytest.mark.parametrize("name", ["scalars", "scan_with_latents", "python_values"])
def test_density_in_float32(name):
    got = everything(name)
    assert got["density"].dtype == np.float32
    np.testing.assert_allclose(got["density"], got["numpyro"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got["back"], got["x"], rtol=1e-4, atol=1e-4)


# -- densities written out by hand ----------------------------------------------------------------


def check_by_hand(model: Any, args: Any, by_hand: Callable[[dict[str, Any]], Any]) -> Any:
    """A target's density in the model's own parameters is the one written out."""
    with jax.enable_x64(True):
        target = from_numpyro(model, args)
        look = lambda x: (target.constrain(x), target.log_density(x) - target.log_det(x))
        values, density = jax.tree.map(np.asarray, jax.jit(jax.vmap(look))(points(target, 2)))
    for i in range(2):
        expected = by_hand({name: v[i] for name, v in values.items()})
        np.testing.assert_allclose(density[i], expected, rtol=1e-10)
    return target


def test_a_written_out_density():
    def by_hand(v):
        prior = stats.norm(0, 3).logpdf(v["m"]) + stats.halfcauchy(scale=2).logpdf(v["s"])
        return prior + stats.norm(v["m"], v["s"]).logpdf(Y).sum()

    check_by_hand(scalars, (Y,), by_hand)


def test_a_written_out_improper_density():
    def by_hand(v):
        prior = -0.5 * np.sum(v["o"] ** 2) - v["s"] - v["z"].sum()
        return prior + stats.norm(v["m"] + v["z"], v["s"]).logpdf(Y).sum()

    check_by_hand(improper, (Y,), by_hand)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_written_out_scan(reverse):
    """NumPyro hands a reversed scan its values back to front; here entry t belongs to y_t."""

    def model(y):
        def step(level, y_t):
            x = numpyro.sample("x", dist.LogNormal(level, 0.5))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
            return jnp.log(x), None

        scan(step, 0.3, y, reverse=reverse)

    def by_hand(v, reverse=reverse):
        total, level = 0.0, 0.3
        for t in range(7, -1, -1) if reverse else range(8):
            total += stats.lognorm(0.5, scale=np.exp(level)).logpdf(v["x"][t])
            total += stats.norm(v["x"][t], 1.0).logpdf(Y[t])
            level = np.log(v["x"][t])
        return total

    target = check_by_hand(model, (Y,), by_hand)
    assert target.sites[0].shape == (8,)
    with pytest.raises(AssertionError):
        check_by_hand(model, (Y,), functools.partial(by_hand, reverse=not reverse))


def test_a_written_out_nested_scan():
    """The same length inside and outside, so that mixing the two up would go unnoticed."""
    y = RNG.normal(size=(3, 3))

    def model(y):
        def outer(level, row):
            a = numpyro.sample("a", dist.Normal(level, 1.0))

            def inner(c, y_t):
                b = numpyro.sample("b", dist.LogNormal(c, 1.0))
                numpyro.sample("y", dist.Normal(b, 1.0), obs=y_t)
                return jnp.log(b), None

            return scan(inner, a, row)[0], None

        scan(outer, 0.0, y)

    def by_hand(v):
        total, level = 0.0, 0.0
        for i in range(3):
            total += stats.norm(level, 1).logpdf(v["a"][i])
            level = v["a"][i]
            for j in range(3):
                total += stats.lognorm(1, scale=np.exp(level)).logpdf(v["b"][i, j])
                total += stats.norm(v["b"][i, j], 1).logpdf(y[i, j])
                level = np.log(v["b"][i, j])
        return total

    check_by_hand(model, (y,), by_hand)


def test_bounds_of_unequal_rank_in_a_scan():
    """A bound that is one number and a bound for each entry of a plate as long as the scan."""

    def model(y):
        def step(level, y_t):
            with numpyro.plate("k", 8):
                u = numpyro.sample("u", dist.Uniform(0.0, 1.0 + level))
            numpyro.sample("y", dist.Normal(u.sum(), 1.0), obs=y_t)
            return u, None

        scan(step, jnp.arange(8.0), y)

    with jax.enable_x64(True):
        target = from_numpyro(model, (Y,))
        x = points(target, 1)[0]
        u = np.asarray(eqx.filter_jit(target.constrain)(x)["u"])
        upper = 1 + np.concatenate([np.arange(8.0)[None], u[:-1]])
        share = stats.logistic.cdf(np.asarray(x).reshape(8, 8))
        np.testing.assert_allclose(u, upper * share, rtol=1e-12)
        back = eqx.filter_jit(target.unconstrain)({"u": u})
        np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-9)
        density = -np.log(upper).sum() + stats.norm(u.sum(axis=1), 1.0).logpdf(Y).sum()
        jacobian = np.log(upper * share * (1 - share)).sum()
        got = eqx.filter_jit(target.log_density)(x)
        np.testing.assert_allclose(got, density + jacobian, rtol=1e-10)
        # A wrong one: the upper bounds' axes swapped, as broadcasting them late would.
        assert abs(density - -np.log(upper.T[::-1]).sum()) > 1.0


# -- where Ritz means to differ from NumPyro's potential energy ------------------------------------


def test_scale_and_mask_leave_the_jacobian_alone():
    """scale(2) squares a density; mask(False) makes it flat in the model's own parameter."""

    def squared():
        with handlers.scale(scale=2.0):
            numpyro.sample("s", dist.Gamma(3.0, 1.0))

    def flat():
        with handlers.mask(mask=False):
            numpyro.sample("s", dist.Gamma(3.0, 1.0))

    def improper_uniform():
        numpyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))

    with jax.enable_x64(True):
        x = jnp.array([0.4])
        target = from_numpyro(squared)
        expected = 2 * stats.gamma(3).logpdf(np.exp(0.4)) + 0.4
        np.testing.assert_allclose(target.log_density(x), expected, rtol=1e-12)
        np.testing.assert_allclose(target.log_det(x), 0.4)
        assert abs(-potential_energy(squared, (), {}, {"s": x[0]}) - expected) > 0.3
        same = from_numpyro(improper_uniform).log_density(x)
        np.testing.assert_allclose(from_numpyro(flat).log_density(x), same, rtol=1e-12)
        # The squared Gamma(3, 1) is an unnormalised Gamma(5, 2), whatever the parameterisation.
        grid = jnp.linspace(-12.0, 4.0, 2001)[:, None]
        p = np.exp(np.asarray(jax.vmap(target.log_density)(grid)))
        mean = np.sum(p * np.exp(grid[:, 0])) / np.sum(p)
        np.testing.assert_allclose(mean, 5 / 2, rtol=1e-6)


@pytest.mark.parametrize("positive", [False, True])
def test_observed_entries_of_an_obs_mask_site_are_proper(positive):
    """Those entries add a standard normal density, and the rest of the posterior is unchanged."""
    y = np.exp(Y) if positive else Y

    def model(y, seen):
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        with numpyro.plate("n", 8):
            fn = dist.LogNormal(m, 1.0) if positive else dist.Normal(m, 1.0)
            numpyro.sample("y", fn, obs=y, obs_mask=seen)

    with jax.enable_x64(True):
        target = from_numpyro(model, (y, SOME))
        look = jax.jit(lambda x: (target.constrain(x), target.log_density(x)))
        for x in points(target, 2):
            v, density = jax.tree.map(np.asarray, look(x))
            np.testing.assert_array_equal(v["y"], np.where(SOME, y, v["y_unobserved"]))
            fn = stats.lognorm(1.0, scale=np.exp(v["m"])) if positive else stats.norm(v["m"], 1.0)
            expected = stats.norm().logpdf(v["m"]) + fn.logpdf(v["y"]).sum()
            inner = np.asarray(target.sites[1].take(x))
            expected += (inner[~SOME].sum()) if positive else 0.0
            idle = stats.norm().logpdf(inner[SOME]).sum()
            np.testing.assert_allclose(density, expected + idle, rtol=1e-10)


# -- subsampled plates --------------------------------------------------------------------------


def indexed(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", len(y), subsample_size=3) as rows:
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y[rows])


def subsampled(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", len(y), subsample_size=3):
        batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(m, 1.0), obs=batch)


def local_latents(y):
    with numpyro.plate("n", len(y), subsample_size=3) as rows:
        s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        numpyro.factor("f", -s * w[..., 0])
        numpyro.sample("y", dist.Normal(s + w[..., 1], 1.0), obs=y[rows])


def one_of_two(y):
    c = numpyro.sample("c", dist.Normal(0.0, 1.0))
    with numpyro.plate("col", 2, dim=-1):
        a = numpyro.sample("a", dist.HalfNormal(1.0))
        with numpyro.plate("row", 4, subsample_size=2, dim=-2) as rows:
            u = numpyro.sample("u", dist.LogNormal(c, 1.0))
            numpyro.sample("y", dist.Normal(a + u, 1.0), obs=y.reshape(4, 2)[rows])


def two_of_two(y):
    with (
        numpyro.plate("col", 2, subsample_size=1, dim=-1) as cols,
        numpyro.plate("row", 4, subsample_size=3, dim=-2) as rows,
    ):
        u = numpyro.sample("u", dist.LogNormal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y.reshape(4, 2)[rows][:, cols])


def inside_a_scan(y):
    def step(level, y_t):
        x = numpyro.sample("x", dist.Normal(level, 1.0))
        with numpyro.plate("n", 4, subsample_size=2) as rows:
            s = numpyro.sample("s", dist.HalfNormal(1.0))
            numpyro.sample("y", dist.Normal(x + s, 1.0), obs=y_t[rows])
        return x, None

    scan(step, 0.0, y.reshape(2, 4))


SUBSAMPLED = [indexed, subsampled, local_latents, one_of_two, two_of_two, inside_a_scan]


def whole(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model with plates that are not subsampled, written with NumPyro's own primitives."""

    def plain(y):
        plate = numpyro.plate
        numpyro.plate = lambda name, size, subsample_size=None, dim=None: plate(name, size, dim=dim)
        try:
            model(y)
        finally:
            numpyro.plate = plate

    return plain


@pytest.mark.parametrize("model", SUBSAMPLED)
def test_subsampled_plates_have_the_right_scale(model):
    keys = jax.random.split(jax.random.key(3), 4000)
    with jax.enable_x64(True):
        target = from_numpyro(model, (Y,))
        x = points(target, 1)[0] + 1.0

        def look(x: Any) -> Any:
            full = target.log_density(x)
            args = (jnp.asarray(Y),)
            expected = -potential_energy(whole(model), args, {}, free(target, x))
            return full, expected, jax.vmap(lambda key: target.terms(x, key))(keys)

        full, expected, terms = jax.tree.map(np.asarray, jax.jit(look)(x))
    np.testing.assert_allclose(full, expected, rtol=1e-10)
    draws = np.sum([np.asarray(v) for v in terms.values()], axis=0)

    def z(draws: np.ndarray) -> float:
        return float((draws.mean() - full) / (draws.std() / len(draws) ** 0.5))

    assert draws.std() > 0.1
    assert abs(z(draws)) < 4
    # Wrong variants: the data unscaled, and a Jacobian of only the rows that were drawn.
    share = {"indexed": 3 / 8, "subsampled": 3 / 8, "local_latents": 3 / 8, "one_of_two": 1 / 2}
    share |= {"two_of_two": 3 / 8, "inside_a_scan": 1 / 2}
    unscaled = draws + (share[model.__name__] - 1) * np.asarray(terms["y"])
    assert abs(z(unscaled)) > 4
    for name, value in terms.items():
        if name in ("s log_det", "u log_det"):
            assert abs(z(draws + (share[model.__name__] - 1) * np.asarray(value))) > 4


def test_maps_of_subsampled_plates_see_all_rows():
    target = from_numpyro(local_latents, (Y,))
    values = jax.eval_shape(target.constrain, points(target, 1)[0])
    assert values["s"].shape == (8,)
    assert values["w"].shape == (8, 3)
    assert target.sites[0].dims == ("n",)
    np.testing.assert_allclose(eqx.filter_jit(target.observed_data)()["y"], Y, rtol=1e-6)


# -- batches ------------------------------------------------------------------------------------

ROWS = 12
XB, YB = RNG.normal(size=(ROWS, 2)), RNG.normal(size=ROWS)


def regression(X, y):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(2), 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.factor("f", -jnp.abs(y))
        numpyro.sample("y", dist.Normal(X @ b, s), obs=y)


def declares_rows(X, y, n):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(2), 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("rows", n, subsample_size=len(y)):
        numpyro.factor("f", -jnp.abs(y))
        numpyro.sample("y", dist.Normal(X @ b, s), obs=y)


def rows_times_columns(X, y):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(2), 1.0))
    with numpyro.plate("entries", X.size):
        numpyro.sample("x", dist.Normal(b.sum(), 1.0), obs=X.reshape(-1))
    with numpyro.plate("rows", len(y), dim=-2), numpyro.plate("columns", 2):
        numpyro.sample("y", dist.Normal(b, 1.0), obs=y[:, None])


def rows_of_series(X, y):
    """A scan over columns with a latent value a step, shared by all rows."""

    def step(level, x_t):
        level = numpyro.sample("level", dist.Normal(level, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("x", dist.Normal(level, 1.0), obs=x_t)
        return level, None

    scan(step, 0.0, X.T)


IN_ROWS = [
    (regression, {"X": XB, "y": YB}),
    (declares_rows, {"X": XB, "y": YB, "n": ROWS}),
    (rows_times_columns, {"X": XB, "y": YB}),
    (rows_of_series, {"X": XB, "y": YB}),
]


@pytest.mark.parametrize(("model", "data"), IN_ROWS)
def test_batches_of_an_epoch_average_to_the_whole(model, data):
    with jax.enable_x64(True):
        batches = ritz.data.batches(data, 4)
        target = from_batches(model, batches)
        x = points(target, 1)[0]
        picks = jnp.asarray(batches.chunk(0, 3))

        def look(x: Any) -> Any:
            at = lambda pick: target.terms(x, jax.random.key(0), batches.get(batches.arrays, pick))
            return (
                target.log_density(x),
                from_numpyro(model, (), data).log_density(x),
                jax.vmap(at)(picks),
            )

        held, full, terms = jax.tree.map(np.asarray, jax.jit(look)(x))
    assert target.has_full_density
    np.testing.assert_allclose(held, full, rtol=1e-12)
    mean = np.mean(np.sum([*terms.values()], axis=0))
    np.testing.assert_allclose(mean, full, rtol=1e-12)
    # Wrong variants: the rows counted once, and scaled twice.
    rows = np.mean(sum(v for name, v in terms.items() if name in ("x", "y", "f")))
    assert abs(mean - (2 / 3) * rows - full) > 0.1
    assert abs(mean + 2 * rows - full) > 0.1


def test_a_stream_of_ragged_batches_has_the_right_scale():
    parts = [slice(0, 5), slice(5, 10), slice(10, 12)]
    stream = [{"X": XB[p], "y": YB[p]} for p in parts]
    with jax.enable_x64(True):
        target = from_batches(regression, ritz.data.batches(stream, total=ROWS))
        assert not target.has_full_density
        x = points(target, 1)[0]
        declared = [b | {"n": ROWS} for b in stream]
        same = from_batches(declares_rows, ritz.data.batches(declared, total=ROWS))

        def look(x: Any) -> Any:
            each = [target.log_density(x, batch=b) for b in stream]
            also = [same.log_density(x, batch=b) for b in declared]
            full = from_numpyro(regression, (XB, YB)).log_density(x)
            return each, also, full, target.log_density(x), same.constrain(x)

        each, also, full, first, values = jax.tree.map(np.asarray, jax.jit(look)(x))
    np.testing.assert_allclose(np.average(each, weights=[5, 5, 2]), full, rtol=1e-12)
    assert abs(np.mean(each) - full) > 1e-4  # the weights of ragged batches matter
    np.testing.assert_allclose(also, each, rtol=1e-12)
    np.testing.assert_allclose(first, each[0], rtol=1e-12)  # it stands for the whole
    assert values["s"].shape == ()


def local(y):
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def local_declared(y):
    with numpyro.plate("rows", 12, subsample_size=len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def no_plate(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def no_plate_factor(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.factor("f", -jnp.sum((y - m) ** 2))


def prior_of_data(y):
    m = numpyro.sample("m", dist.Normal(y.mean(), 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def wrong_total(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 100, subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def fixed_size(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 4):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def one_more(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y) + 1):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=jnp.append(y, 0.0))


def sizes_of_data(y):
    with numpyro.plate("groups", int(abs(y).max()) + 1):
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(m.sum(), 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (local, r"site 'z' is local to each row of a batch; .*subsample_size"),
        (local_declared, r"site 'z' is local to each row of a batch"),
        (no_plate, r"site 'y' depends on the batch but is in no plate over its 4 rows.*12 rows"),
        (no_plate_factor, r"site 'f' depends on the batch but is in no plate"),
        (prior_of_data, r"site 'm' depends on the batch but is in no plate"),
        (wrong_total, r"plate 'rows' has size 100 .*12 rows; make its size 12"),
        (fixed_size, r"takes a batch of 4 rows but none of 5.*len\(y\)"),
        (one_more, r"plate 'rows' has size 5 at 4 rows and 6 at 5; .*multiple"),
        (sizes_of_data, r"line \d+ of test_targets.py.*add what the model needs to the batches"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_batches_whose_scale_is_unknown_are_refused(model, said):
    with pytest.raises(ritz.RitzError, match=said):
        from_batches(model, ritz.data.batches((YB,), 4))


def test_a_term_without_data_needs_no_plate_over_rows():
    def model(y):
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        numpyro.sample("pilot", dist.Normal(m, 1.0), obs=0.3)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    batches = ritz.data.batches((YB,), 12)  # as many as there are
    target = from_batches(model, batches)
    x = jnp.array([0.5])
    expected = from_numpyro(model, (YB,)).log_density(x)
    np.testing.assert_allclose(target.log_density(x, batch=(YB,)), expected, rtol=1e-6)


# -- refusals -----------------------------------------------------------------------------------


def discrete():
    z = numpyro.sample("z", dist.Geometric(0.5))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=0.0)


def delta():
    numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("d", dist.Delta(1.0))


def sphere():
    numpyro.sample("p", dist.ProjectedNormal(jnp.ones(3)))


def improper_sphere():
    numpyro.sample("p", dist.ImproperUniform(constraints.sphere, (), (3,)))


def complex_site():
    numpyro.sample("c", dist.ImproperUniform(constraints.complex, (), ()))


def nothing_latent(y):
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def raises(y):
    numpyro.sample("m", dist.Normal(0.0, 1.0))
    raise KeyError("no such column")


def wrong_matmul(X, y):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(5), 1.0))
    numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def wrong_plate(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 5):
        numpyro.sample("y", dist.Normal(m + jnp.zeros(8), 1.0), obs=y)


def wrong_data(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", 5):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def column_of_data(y):
    m = numpyro.sample("m", dist.Normal(jnp.zeros(8), 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y[:, None])


def branches(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    if m > 0:
        m = 2 * m
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def twice(y):
    numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("m", dist.Normal(0.0, 1.0))


def no_distribution(y):
    numpyro.sample("m", 3.0)


REFUSED = [
    (discrete, (), r"site 'z' is discrete \(Geometric.*\) and not observed; only finite supports"),
    (delta, (), r"site 'd' has a Delta distribution; write numpyro.deterministic\('d'"),
    (sphere, (), r"site 'p' has support sphere, which has no map from the reals; reparam"),
    (improper_sphere, (), r"site 'p' has support sphere, which has no map from the reals"),
    (complex_site, (), r"site 'c' is complex; sample its real and imaginary parts"),
    (nothing_latent, (Y,), r"model 'nothing_latent' has no latent site: nothing to infer"),
    (raises, (Y,), r"model 'raises' failed \(line \d+ of test_targets.py\): KeyError: 'no such"),
    (
        wrong_matmul,
        (X, Y),
        r"model 'wrong_matmul' failed \(line \d+ .*\): TypeError: .*\(3,\) and \(5,\)",
    ),
    (
        wrong_plate,
        (Y,),
        r"site 'y' \(line \d+ .*\): plate 'rows' has size 5 at dim -1, but the distribution has "
        r"batch shape \(8,\) and its data shape \(8,\); make the plate's size 8",
    ),
    (wrong_data, (Y,), r"site 'y': its data have shape \(8,\), but .* has shape \(5,\)"),
    (column_of_data, (Y,), r"site 'y': its data have shape \(8, 1\), but .* has shape \(8,\)"),
    (branches, (Y,), r"model 'branches' \(line \d+ .*\) needs the value of a traced array"),
    (twice, (Y,), r"site 'm' \(line \d+ .*unique names but got `m` duplicated"),
    (no_distribution, (Y,), r"site 'm' .*expected an instance of numpyro.distributions"),
    (lambda y: None, (Y,), r"model '<lambda>' has no latent site"),
    (scalars, (), r"model 'scalars' failed: TypeError: .*missing 1 required positional.*'y'"),
    (
        handlers.substitute(scalars, {"s": jnp.array(1.0)}),
        (Y,),
        r"site 's' has been given a value but is not observed; .*numpyro.handlers.condition",
    ),
]


@pytest.mark.parametrize(
    ("model", "args", "said"), REFUSED, ids=lambda v: getattr(v, "__name__", "")
)
def test_models_that_are_refused(model, args, said):
    with pytest.raises(ritz.RitzError, match=said) as caught:
        from_numpyro(model, args)
    assert "\n" not in str(caught.value)
    assert not getattr(caught.value, "__notes__", [])


# -- starting points ----------------------------------------------------------------------------


def test_the_start_is_near_the_prior_median():
    def model():
        numpyro.sample("normal", dist.Normal(50.0, 2.0).expand([100]).to_event(1))
        numpyro.sample("cauchy", dist.HalfCauchy(3.0))
        numpyro.sample("log_normal", dist.LogNormal(jnp.array([-9.0, 4.0]), 0.1))
        numpyro.sample("uniform", dist.Uniform(10.0, 20.0))
        numpyro.sample("t", dist.StudentT(1.0, 7.0, 0.1))  # no mean
        numpyro.sample("gamma", dist.Gamma(30.0, 2.0))
        numpyro.sample("inverse", dist.InverseGamma(30.0, 60.0))
        numpyro.sample("mvn", dist.MultivariateNormal(jnp.array([3.0, -3.0]), jnp.eye(2) * 1e-4))
        numpyro.sample("truncated", dist.TruncatedNormal(5.0, 0.1, low=0.0))
        numpyro.sample("flat", dist.ImproperUniform(constraints.greater_than(2.0), (), ()))
        numpyro.sample("share", dist.Dirichlet(jnp.array([1.0, 2.0, 3.0])))

    target = from_numpyro(model)
    x, how = target.start(jax.random.key(0))
    assert how == "the prior median"
    v = {name: np.asarray(value) for name, value in eqx.filter_jit(target.constrain)(x).items()}
    assert np.all(np.abs(v["normal"] - 50) < 1.0)
    assert len(np.unique(v["normal"])) == 100  # no symmetry between them
    expected = {"uniform": 15, "t": 7, "gamma": 15, "truncated": 5, "flat": 3, "cauchy": 3}
    for name, value in expected.items():
        np.testing.assert_allclose(v[name], value, rtol=0.2)
    np.testing.assert_allclose(v["log_normal"], np.exp([-9.0, 4.0]), rtol=0.1)
    np.testing.assert_allclose(v["inverse"], 2.0, rtol=0.1)
    np.testing.assert_allclose(v["mvn"], [3.0, -3.0], rtol=0.1)
    np.testing.assert_allclose(v["share"], [1 / 6, 2 / 6, 3 / 6], rtol=1e-4)
    np.testing.assert_array_equal(x, target.start(jax.random.key(1))[0])


def above_median(y):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.factor("side", jnp.where(m > 0.5, 0.0, -jnp.inf))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def far_from_the_prior(y):
    m = numpyro.sample("m", dist.Normal(0.0, 0.01))
    numpyro.factor("side", jnp.where(m > 0.5, 0.0, -jnp.inf))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "how"),
    [
        (above_median, "a draw from the prior"),
        (far_from_the_prior, "a uniform draw in unconstrained space"),
    ],
)
def test_the_start_falls_back(model, how):
    target = from_numpyro(model, (Y,))
    x, said = target.start(jax.random.key(0))
    assert said == how
    assert x[0] > 0.5
    assert np.isfinite(target.log_density(x))


def test_the_start_is_near_the_prior_inside_a_scan():
    def model(y):
        def step(level, y_t):
            x = numpyro.sample("x", dist.LogNormal(level, 0.1))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y_t)
            return jnp.log(x) + 1.0, None

        scan(step, 0.0, y)

    target = from_numpyro(model, (Y[:4],))
    values = target.constrain(target.start(jax.random.key(0))[0])
    np.testing.assert_allclose(np.log(values["x"]), np.arange(4.0), atol=0.2)


def two_sites(y):
    m = numpyro.sample("m", dist.Normal(0.0, 10.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(m, s.sum()), obs=y)


def quick(model: Any, data: Any, **kwargs: Any) -> Any:
    return ritz.fit(model, data, steps=kwargs.pop("steps", 1), progress=False, **kwargs)


def test_a_fit_starts_where_it_is_told():
    near = quick(two_sites, (Y,), init={"m": 7.0, "s": [3, 4]}, lr=1e-9)
    assert near.info["start"] == "the values given"
    np.testing.assert_allclose(near.target.constrain(near.q.loc)["s"], [3.0, 4.0], rtol=1e-5)
    part = quick(two_sites, (Y,), init={"m": 7}, lr=1e-9)
    assert part.info["start"] == "the values given, and the prior median"
    np.testing.assert_allclose(part.target.constrain(part.q.loc)["m"], 7.0, rtol=1e-5)
    again = quick(two_sites, (2 * Y[:5],), init=near, lr=1e-9)
    assert again.info["start"] == "an earlier fit"
    np.testing.assert_allclose(again.q.loc, near.q.loc, rtol=1e-5)
    assert again.target.observed[0].shape == (5,)
    with pytest.raises(ritz.RitzError, match="init is a fit of other sites"):
        quick(conditioned, (Y,), init=near)


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ({"s": [1.0, -1.0]}, r"site 's': the value given is outside its support positive, or"),
        ({"s": [1.0, 0.0]}, r"site 's': the value given is outside its support .* or on its edge"),
        ({"s": 1.0}, r"site 's' has shape \(2,\), but the value given has shape \(\)"),
        ({"s": [[1.0], [2.0, 3.0]]}, r"site 's': the value given is a ragged list"),
        ({"sigma": 1.0}, r"no latent site 'sigma': the target has m, s"),
        ({"m": "zero"}, r"site 'm': the value given has dtype <U4, expected numbers"),
        ({"m": np.nan}, r"site 'm': the value given is outside its support real"),
        (3.0, r"values arrived as float, expected a dict"),
    ],
)
def test_values_to_start_at_that_are_refused(init, said):
    with pytest.raises(ritz.RitzError, match=said):
        quick(two_sites, (Y,), init=init)


# -- a plain log density ------------------------------------------------------------------------


class Line(eqx.Module):
    slope: Any
    layers: list
    activation: Callable[..., Any] = jnp.tanh
    bias: Any = None


def gaussian(value: Any) -> Any:
    return -0.5 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(value) if hasattr(leaf, "ndim"))


EXAMPLES = {
    "number": (2.0, ["theta"]),
    "integer": (2, ["theta"]),
    "array": (np.ones((2, 3), np.float32), ["theta"]),
    "integer_array": (np.arange(3), ["theta"]),
    "dict": ({"b": 1.0, "a": np.ones(2)}, ["a", "b"]),
    "nested": ({"a": {"x": 1.0, "y": (2.0, np.ones(2))}}, ["a.x", "a.y.0", "a.y.1"]),
    "tuple": ((1.0, [np.ones(2)]), ["0", "1.0"]),
    "module": (Line(jnp.ones(2), [jnp.zeros(1), 1.0]), ["slope", "layers.0", "layers.1"]),
    "alike": ({"a.b": 1.0, "a": {"b": 2.0}}, ["['a']['b']", "['a.b']"]),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_log_densities_of_any_structure(name):
    example, names = EXAMPLES[name]
    target = from_log_density(gaussian, example)
    assert [site.name for site in target.sites] == names
    x = points(target, 1)[0]
    np.testing.assert_allclose(target.log_density(x), -0.5 * np.sum(np.square(x)), rtol=1e-5)
    packed = target.pack(target.constrain(x))
    assert jax.tree.structure(packed) == jax.tree.structure(example)
    np.testing.assert_allclose(target.unconstrain(target.unpack(packed)), x, rtol=1e-6)
    start, how = target.start(jax.random.key(0))
    assert how == "the example"
    flat = [np.ravel(leaf) for leaf in jax.tree.leaves(example) if not callable(leaf)]
    np.testing.assert_allclose(start, np.concatenate(flat))


def test_a_log_density_equals_the_model_of_the_same_density():
    def model(y):
        s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
        m = numpyro.sample("m", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(m.sum() + w[0], s), obs=y)

    def density(p):
        prior = dist.Gamma(2.0, 1.0).log_prob(p["s"]) + dist.Normal().log_prob(p["m"]).sum()
        prior += dist.Dirichlet(jnp.ones(3)).log_prob(p["w"])
        return prior + dist.Normal(p["m"].sum() + p["w"][0], p["s"]).log_prob(Y).sum()

    example = {"s": 1.0, "w": np.array([0.2, 0.3, 0.5]), "m": np.zeros(2)}
    kinds = {"s": constraints.positive, "w": constraints.simplex}  # m: real
    with jax.enable_x64(True):
        plain, target = from_log_density(density, example, kinds), from_numpyro(model, (Y,))

        @jax.jit
        def look(x: Any) -> Any:
            values = target.constrain(x)
            x_plain = plain.unconstrain(values)
            ours = (plain.log_density(x_plain), plain.log_det(x_plain))
            return ours, (target.log_density(x), target.log_det(x)), density(values)

        ours, theirs, without_jacobian = look(points(target, 1)[0])
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        assert abs(without_jacobian - ours[0]) > 0.1


def test_constraints_laid_out_like_the_example():
    nested = {"a": {"x": 1.0, "y": np.ones(2)}, "b": (0.5, 2.0)}
    target = from_log_density(
        gaussian,
        nested,
        {"a": constraints.positive, "b": (constraints.interval(0.0, 1.0), None)},
    )
    assert [site.support for site in target.sites] == ["positive"] * 2 + ["interval(0, 1)", "real"]
    line = Line(jnp.ones(2), [jnp.ones(1), 1.0])
    kinds = jax.tree.map(lambda _: constraints.positive, line)
    supports = [site.support for site in from_log_density(gaussian, line, kinds).sites]
    assert supports == ["positive"] * 3
    whole = from_log_density(gaussian, np.full(3, 1 / 3), constraints.simplex)
    assert whole.dim == 2


def test_closed_over_data_do_not_compile_again():
    def target(data):
        def density(p):
            return -jnp.sum((p - data) ** 2)

        return from_log_density(density, 0.0)

    first = quick(target(jnp.asarray(Y)), None)
    second = quick(target(jnp.asarray(2 * Y)), None)
    assert first.info["compiled"]
    assert not second.info["compiled"]


def not_finite_at_zero(p):
    return jnp.log(p) + -0.5 * p**2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: from_log_density(lambda p: p, np.ones(3)),
            r"returned shape \(3,\) at the example",
        ),
        (lambda: from_log_density(lambda p: (p, p), 1.0), r"returned tuple at the example"),
        (lambda: from_log_density(lambda p: None, 1.0), r"returned NoneType at the example"),
        (lambda: from_log_density(lambda p: 1j * p, 1.0), r"returned a complex number"),
        (lambda: from_log_density(lambda p: p["b"], {"a": 1.0}), r"fails at its example: 'b'"),
        (lambda: from_log_density(gaussian, {}), r"the example has no arrays"),
        (lambda: from_log_density(gaussian, None), r"the example has no arrays"),
        (lambda: from_log_density(gaussian, {"a": "text"}), r"example 'a' has dtype <U4"),
        (lambda: from_log_density(gaussian, {"a": True}), r"example 'a' has dtype bool"),
        (lambda: from_log_density(gaussian, {"a": np.nan}), r"example 'a' holds nan"),
        (
            lambda: from_log_density(gaussian, {"a": -1.0}, {"a": constraints.positive}),
            r"example 'a' = \[-1.\] is not inside its support positive",
        ),
        (
            lambda: from_log_density(gaussian, {"a": 0.0}, {"a": constraints.unit_interval}),
            r"example 'a' = \[0.\] is not inside its support unit interval",
        ),
        (
            lambda: from_log_density(gaussian, {"a": 1.0}, {"b": constraints.positive}),
            r"constraints name 'b', which the example lacks; it has 'a'",
        ),
        (
            lambda: from_log_density(gaussian, {"a": 1.0}, {"a": "positive"}),
            r"constraints of its part arrived as str; expected one of numpyro",
        ),
        (
            lambda: from_log_density(gaussian, (1.0, 2.0), [constraints.positive] * 2),
            r"constraints of the example arrived as list",
        ),
        (
            lambda: from_log_density(gaussian, 1.0, constraints.simplex),
            r"example 'theta' has shape \(\), but its constraint, simplex, is on arrays of 1 axes",
        ),
        (
            lambda: from_log_density(gaussian, np.ones(1), constraints.sphere),
            r"the constraint of 'theta', sphere, has no map from the reals",
        ),
        (
            lambda: from_log_density(gaussian, 1.0).log_density(jnp.zeros(1), batch=(Y,)),
            r"'gaussian' holds its own data and takes no batches",
        ),
        (
            lambda: from_log_density(gaussian, (1.0, 2.0)).unpack([1.0, 2.0]),
            r"values arrived with structure .*, expected that of the example",
        ),
        (
            lambda: from_log_density(lambda p: p / 0.0 - p / 0.0, 1.0).start(jax.random.key(0)),
            r"the log density '<lambda>' is nan; start elsewhere, or give init",
        ),
    ],
)
def test_log_densities_that_are_refused(make, said):
    with pytest.raises(ritz.RitzError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_log_density_that_is_not_finite_at_its_example():
    target = from_log_density(not_finite_at_zero, 0.0)
    x, how = target.start(jax.random.key(0))
    assert how == "a draw around the example"
    assert x[0] > 0


def test_a_log_density_starts_at_some_of_its_sites():
    target = from_log_density(gaussian, {"a": 1.0, "b": 2.0}, {"a": constraints.positive})
    fitted = quick(target, None, init={"a": 5.0}, lr=1e-9)
    np.testing.assert_allclose(fitted.target.constrain(fitted.q.loc)["a"], 5.0, rtol=1e-5)
    np.testing.assert_allclose(fitted.target.constrain(fitted.q.loc)["b"], 2.0, rtol=1e-5)


KINDS = [
    constraints.real,
    constraints.positive,
    constraints.unit_interval,
    constraints.interval(-1.0, 3.0),
    constraints.greater_than(2.0),
    constraints.less_than(2.0),
    constraints.independent(constraints.positive, 1),
    constraints.real_vector,
    constraints.simplex,
    constraints.ordered_vector,
    constraints.positive_ordered_vector,
    constraints.corr_cholesky,
    constraints.corr_matrix,
    constraints.lower_cholesky,
    constraints.positive_definite,
    constraints.zero_sum(1),
    constraints.softplus_positive,
    constraints.circular,
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_support_survives_a_file(kind):
    words, spec = describe(kind)
    assert spec is not None
    again = transforms.biject_to(constraint(tuple(json.loads(json.dumps(spec)))))
    free = jnp.array([0.3, -0.4, 0.9])
    np.testing.assert_array_equal(again(free), transforms.biject_to(kind)(free))
    assert words == words.lower()


# -- prediction, log likelihood, the data -------------------------------------------------------


def varied(X, y=None, coin=None):
    b = numpyro.sample("b", dist.Normal(jnp.zeros(3), 1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    mu = numpyro.deterministic("mu", X @ b)
    with numpyro.plate("rows", len(X)), handlers.scale(scale=3.0):
        numpyro.sample("y", dist.Normal(mu, s), obs=y)
        numpyro.sample("coin", dist.Bernoulli(logits=mu), obs=coin)


def test_log_likelihood_and_prediction_agree_with_numpyro():
    target = from_numpyro(varied, (X, Y, COIN))
    xs = points(target, 200)
    new = jnp.asarray(X[:5])

    @jax.jit
    @jax.vmap
    def look(x: Any, key: Any) -> Any:
        return target.constrain(x), target.log_likelihood(x), target.predict(x, key, (new,), {})

    values, ours, drawn = look(xs, jax.random.split(jax.random.key(0), 200))
    values = {name: np.asarray(v) for name, v in values.items()}
    latent = {name: values[name] for name in ("b", "s")}
    theirs = log_likelihood(varied, latent, jnp.asarray(X), jnp.asarray(Y), jnp.asarray(COIN))
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-4, atol=1e-4)  # not scaled by 3
    np.testing.assert_allclose(values["mu"], values["b"] @ X.T, rtol=1e-4, atol=1e-5)
    data = eqx.filter_jit(target.observed_data)()
    np.testing.assert_allclose(data["y"], Y, rtol=1e-6)
    np.testing.assert_array_equal(data["coin"], COIN)

    reference = Predictive(varied, latent)(jax.random.key(1), new)
    assert set(drawn) == {"y", "coin"}
    for name, value in drawn.items():
        assert value.shape == reference[name].shape == (200, 5)
    # Exact moments given the latent values, and a wrong mean that fails.
    z = (np.asarray(drawn["y"]) - values["mu"][:, :5]) / values["s"][:, None]
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert stats.kstest((z + 0.2).ravel(), "norm").pvalue < 1e-3
    share = stats.logistic.cdf(values["mu"][:, :5])
    score = (np.asarray(drawn["coin"]) - share).sum() / np.sqrt((share * (1 - share)).sum())
    assert abs(score) < 4


def test_prior_predictions_agree_with_numpyro():
    target = from_numpyro(varied, (X, Y, COIN))
    keys = jax.random.split(jax.random.key(0), 2000)
    ours = jax.jit(jax.vmap(lambda key: target.prior_predict(key)))(keys)
    theirs = Predictive(varied, num_samples=2000)(jax.random.key(1), jnp.asarray(X))
    assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in theirs.items()}
    for name in ("s", "y"):
        a, b = (np.asarray(d[name]).reshape(2000, -1)[:, 0] for d in (ours, theirs))
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    assert np.std(np.asarray(ours["y"])[:, 0]) > 0.5  # drawn, not the data


def test_sites_observed_inside_a_scan_are_redrawn():
    """Each step is predicted from its own latent value, in a reversed scan too."""

    def model(y, reverse):
        def step(level, y_t):
            x = numpyro.sample("x", dist.Normal(level, 1.0))
            y_t = numpyro.sample("y", dist.Normal(100 * x, 1.0), obs=y_t)
            return 0.5 * x, None

        scan(step, 0.0, y, reverse=reverse)

    for reverse in (False, True):
        target = from_numpyro(model, (Y, reverse))
        x = points(target, 1)[0]

        def look(x: Any, target: Any = target) -> Any:
            key = jax.random.key(0)
            drawn = target.predict(x, key, target.args, {})
            prior, each = target.prior_predict(key), target.log_likelihood(x)
            return drawn, target.constrain(x)["x"], prior, each["y"], target.observed_data()["y"]

        drawn, level, prior, each, data = jax.tree.map(np.asarray, jax.jit(look)(x))
        np.testing.assert_allclose(drawn["y"], 100 * level, atol=6)
        assert not np.allclose(drawn["y"], 100 * level[::-1], atol=6)
        assert not np.allclose(drawn["y"], Y, atol=6)
        np.testing.assert_allclose(prior["y"], 100 * prior["x"], atol=6)
        np.testing.assert_allclose(data, Y, rtol=1e-6)
        np.testing.assert_allclose(each, stats.norm(100 * level, 1.0).logpdf(Y), rtol=1e-4)


def test_data_in_no_plate_are_predicted_one_by_one():
    target = from_numpyro(conditioned, (Y,))
    x = points(target, 1)[0]
    key = jax.random.key(0)
    for drawn in (target.predict(x, key, target.args, {}), target.prior_predict(key)):
        assert drawn["y"].shape == (8,)
        assert len(np.unique(drawn["y"])) == 8


def test_a_required_argument_that_is_left_out_is_predicted():
    def model(X, y):
        b = numpyro.sample("b", dist.Normal(jnp.zeros(3), 1.0))
        numpyro.sample("y", dist.Normal(X @ b, 1e-3), obs=y)

    target = from_numpyro(model, (X, Y))
    x = points(target, 1)[0]
    drawn = target.predict(x, jax.random.key(0), (jnp.asarray(X[:2]),), {})
    np.testing.assert_allclose(drawn["y"], X[:2] @ np.asarray(x), atol=0.01)


def test_predictions_that_are_refused():
    target = from_numpyro(local, (YB,))
    x = points(target, 1)[0]
    with pytest.raises(ritz.RitzError, match=r"site 'z' has values of shape \(12,\), .*\(5,\)"):
        target.predict(x, jax.random.key(0), (jnp.zeros(5),), {})
    target = from_numpyro(varied, (X, Y, COIN))
    x = points(target, 1)[0]
    with pytest.raises(ritz.RitzError, match=r"model 'varied' failed .*: (TypeError|ValueError)"):
        target.predict(x, jax.random.key(0), (jnp.zeros((2, 7)),), {})
    with pytest.raises(ritz.RitzError, match=r"site 'm' .*ImproperUniform cannot be sampled"):
        from_numpyro(improper, (Y,)).prior_predict(jax.random.key(0))


def test_arguments_whose_values_a_model_needs_stay_out_of_tracing():
    target = from_numpyro(python_values, (GROUP, Y))
    assert target.sites[0].shape == (3,)
    assert [isinstance(a, jax.Array) for a in target.args] == [False, True]
    args, kwargs = target.prepare((GROUP[:5], Y[:5]), {})
    x = points(target, 1)[0]
    drawn = jax.jit(lambda x, y: target.predict(x, jax.random.key(0), (args[0], y), kwargs))(
        x, args[1]
    )
    assert drawn["y"].shape == (5,)

    def subsampled_groups(g, y):
        with numpyro.plate("groups", int(g.max()) + 1):
            a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y), subsample_size=4) as rows:
            numpyro.sample("y", dist.Normal(a[g[rows]], 1.0), obs=y[rows])

    target = from_numpyro(subsampled_groups, (GROUP, Y))
    expected = from_numpyro(python_values, (GROUP, Y)).log_density(x)
    np.testing.assert_allclose(target.log_density(x), expected, rtol=1e-5)


# -- size ---------------------------------------------------------------------------------------


def test_a_model_of_200_sites():
    def model(y):
        total = 0.0
        for i in range(200):
            total += numpyro.sample(f"a{i}", dist.HalfNormal(1.0) if i % 2 else dist.Normal())
        numpyro.sample("y", dist.Normal(total, 1.0), obs=y)

    target = from_numpyro(model, (Y,))
    assert target.dim == len(target.sites) == 200
    x = points(target, 1)[0]
    jaxpr = jax.make_jaxpr(target.log_density)(x)
    assert len(jaxpr.eqns) < 40 * 200  # linear in the sites
    ours = target.log_density(x)
    theirs = -potential_energy(model, (Y,), {}, free(target, x))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
