"""An objective is a program, and each of its random choices has the estimator that suits it.

A variational objective is written as a program that samples and scores. Its gradient is derived
from the program: each choice names a strategy (pathwise, score function, enumeration, weak
derivative), and strategies compose. Families may be programs too, whose densities are estimated:
`marginal` integrates auxiliary choices out, and the objective is still a bound.

Paper: M. Becker, A. Lew, X. Wang, M. Ghavami, M. Huot, M. Rinard and V. Mansinghka, "Probabilistic
programming with programmable variational inference", PLDI 2024, arXiv:2406.15742. Estimators: A.
Lew, M. Huot, S. Staton and V. Mansinghka, "ADEV: sound automatic differentiation of expected values
of probabilistic programs", POPL 2023, arXiv:2212.06386.

Scaled down: one model of two choices, so that expectations are a sum over the discrete one and a
quadrature over the others, and the mean of 1e5 gradients is compared with the exact one.

Model: a coin z with p(z = 1) = 0.3, x given z normal with mean 2z - 1 and sd 1, y = 0.8 given x
normal with mean x and sd 0.7. Family: a coin, and a normal for each side, five parameters. The
hierarchical family makes x from an auxiliary normal r, with a normal proposal of r given x.
Programs: the ELBO; the importance-weighted ELBO of two draws; the wake phase, self-normalised over
two draws; hierarchical VI with two draws of r. The wake phase takes its draws as constants.

Thresholds: the catalogue's: 4 standard errors in 99% of coordinates, and 1.2 times the time of
1,000 gradients of the ELBO (score function and pathwise) written by hand in JAX.

Wrong variant: score function and measure-valued derivative leave out their own term, so that only
what differentiates through the cost is left.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ritz.estimator import (
    Draw,
    MeasureValued,
    Score,
    enumerate_support,
    measure_valued,
    pathwise,
    score,
)
from ritz.objective import expectation, importance, marginal, sample, sample_and_log_prob
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0,)
DRAWS = 100_000
Y = 0.8
PARAMS = {
    "z": jnp.array(0.3),
    "loc": jnp.array([-0.6, 0.9]),
    "log_sd": jnp.array([-0.2, 0.1]),
}
AUXILIARY = {"r": jnp.array([0.2, -0.1]), "x": jnp.array([0.8, -0.4]), "tau": jnp.array([0.3, 0.1])}


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def log_joint(z: Any, x: Any) -> Any:
    """log p(z, x, y)."""
    log_z, log_y = dist.Bernoulli(0.3).log_prob(z), dist.Normal(x, 0.7).log_prob(Y)
    return log_z + dist.Normal(2.0 * z - 1.0, 1.0).log_prob(x) + log_y


def family(params: Any, how: Any) -> tuple[Any, Any, Any]:
    """A draw of z and x, and its log density."""
    z, log_z = sample_and_log_prob(dist.Bernoulli(logits=params["z"]), how[0])
    side = z.astype(int)
    x, log_x = sample_and_log_prob(
        dist.Normal(params["loc"][side], jnp.exp(params["log_sd"][side])), how[1]
    )
    return z, x, log_z + log_x


def elbo(params: Any, how: Any) -> Any:
    z, x, log_q = family(params, how)
    return log_joint(z, x) - log_q


def iwelbo(params: Any, how: Any) -> Any:
    log_w = jax.vmap(lambda _: elbo(params, how))(jnp.arange(2))
    return jax.nn.logsumexp(log_w) - jnp.log(2.0)


def wake(params: Any, how: Any) -> Any:
    def one(_: Any) -> Any:
        z, x, held = family(jax.lax.stop_gradient(params), how)
        z, x = jax.lax.stop_gradient((z, x))
        return log_joint(z, x) - held, log_family(params, z, x)

    log_w, log_q = jax.vmap(one)(jnp.arange(2))
    return jax.nn.softmax(jax.lax.stop_gradient(log_w)) @ log_q


def log_family(params: Any, z: Any, x: Any) -> Any:
    """log q(z, x)."""
    side = jnp.asarray(z, int)
    sd = jnp.exp(params["log_sd"][side])
    log_z = dist.Bernoulli(logits=params["z"]).log_prob(z)
    return log_z + dist.Normal(params["loc"][side], sd).log_prob(x)


def hierarchical(params: Any, how: Any) -> Any:
    def made() -> None:
        r = sample(dist.Normal(params["r"][0], jnp.exp(params["r"][1])), how[1], name="r")
        sample(dist.Normal(params["x"][0] * r, jnp.exp(params["x"][1])), how[1], name="x")

    def proposal(x: Any) -> None:
        sample(dist.Normal(params["tau"][0] * x, jnp.exp(params["tau"][1])), how[1], name="r")

    x, log_q = sample_and_log_prob(marginal(made, "x", importance(2, proposal)))
    return marginal_joint(x) - log_q


def marginal_joint(x: Any) -> Any:
    """log p(x, y)."""
    return jnp.logaddexp(log_joint(jnp.array(0.0), x), log_joint(jnp.array(1.0), x))


# -- the baseline: measured in the same run -------------------------------------------------------


def by_hand(params: Any, key: Any) -> Any:
    """The ELBO's gradient with a score function for z and a pathwise x, in plain JAX."""

    def surrogate(params: Any) -> Any:
        first, second = jax.random.split(key)
        z = jax.random.bernoulli(first, jax.nn.sigmoid(params["z"])).astype(float)
        side = z.astype(int)
        sd = jnp.exp(params["log_sd"][side])
        x = params["loc"][side] + sd * jax.random.normal(second)
        log_z = jax.nn.log_sigmoid(jnp.where(z == 1.0, params["z"], -params["z"]))
        f = log_joint(z, x) - log_z - dist.Normal(params["loc"][side], sd).log_prob(x)
        return f + jax.lax.stop_gradient(f) * log_z

    return jax.grad(surrogate)(params)


# -- the wrong variant: what the checks must catch ------------------------------------------------


class WithoutScore(Score):
    """Differentiates the cost only."""

    def combine(self, f: Any, notes: Any) -> Any:
        return f


class WithoutBranches(MeasureValued):
    """Likewise: the weights of the branches are constants."""

    def draw(self, q: Any, key: Any) -> Draw:
        return jax.tree.map(jax.lax.stop_gradient, super().draw(q, key))


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Every program under every strategy against its exact gradient, then the time of a step."""
    plain = WithoutScore() if wrong else score()
    branches = WithoutBranches() if wrong else measure_valued()
    coins = {"enumerated": enumerate_support(), "score": plain, "leave one out": score(draws=2)}
    coins["measure-valued"] = branches
    normals = {"pathwise": pathwise(), "score": plain}
    both = {f"{c}, {n}": (coins[c], normals[n]) for c in coins for n in normals}
    both |= {"score, measure-valued": (plain, branches)}
    lone = {n: (None, how) for n, how in normals.items()}
    cases = [(p, f, PARAMS, both) for p, f in ((elbo, _elbo), (iwelbo, _iwelbo))]
    cases += [(wake, _wake, PARAMS, {"enumerated, pathwise": both["enumerated, pathwise"]})]
    cases += [(hierarchical, _hierarchical, AUXILIARY, lone)]
    draws = DRAWS // 20 if quick else DRAWS
    scores: dict[str, np.ndarray] = {}
    for program, exact, params, strategies in cases:
        with jax.enable_x64(True):
            doubled = jax.tree.map(lambda v: jnp.asarray(v, float), params)
            known = _flat(jax.grad(exact)(doubled))
        for name, how in strategies.items():
            found = [_gradients(program, params, how, seed, draws) for seed in seeds]
            mean, se = (np.concatenate(part) for part in zip(*found, strict=True))
            rounding = 1e-5 * np.maximum(np.abs(known), 1e-2)
            target, slack = np.tile(known, len(seeds)), np.tile(rounding, len(seeds))
            scores[f"{program.__name__}: {name}"] = (mean - target) / np.hypot(se, slack)
    every = np.concatenate(list(scores.values()))
    inside = float((np.abs(every) <= 4.0).mean())
    ratio = _time_ratio(both["score, pathwise"], 5 if quick else 40)
    checks = (
        Check("coordinates within 4 standard errors", inside, ">=", 0.99, "exact gradients"),
        Check("time of a step", ratio, "<=", 1.2, "the ELBO's by hand, medians"),
    )
    return Result(checks, seeds, {"largest z": float(np.abs(every).max())}, {"z": scores})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Distances from the exact gradient, by program and strategy."""
    scores = result.curves["z"]
    with canvas(size=(8.0, 5.2)) as (figure, axes):
        ax = axes[0, 0]
        for row, z in enumerate(scores.values()):
            ax.plot(np.clip(z, -20.0, 20.0), np.full(len(z), row), "o", mfc="none", color="C0")
        for limit in (-4.0, 4.0):
            ax.axvline(limit, color="black", lw=1.0)
        ax.set_yticks(range(len(scores)), list(scores))
        ax.set(xlabel="standard errors from the exact gradient")
    return figure


# -- what the parts above need --------------------------------------------------------------------

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(30)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def _grid(params: Any) -> tuple[Any, Any, Any, Any]:
    """z, x and q's weights on a grid of both sides, and log weights there."""
    p = jax.nn.sigmoid(params["z"])
    z = jnp.repeat(jnp.array([0.0, 1.0]), len(_NODES))
    sd = jnp.exp(params["log_sd"])
    x = (params["loc"][:, None] + sd[:, None] * _NODES).ravel()
    weight = (jnp.array([1.0 - p, p])[:, None] * _WEIGHTS).ravel()
    log_w = log_joint(z, x) - jax.vmap(lambda z, x: log_family(params, z, x))(z, x)
    return z, x, weight, log_w


def _elbo(params: Any) -> Any:
    _, _, weight, log_w = _grid(params)
    return weight @ log_w


def _iwelbo(params: Any) -> Any:
    _, _, weight, log_w = _grid(params)
    return weight @ (jnp.logaddexp(log_w[:, None], log_w) - jnp.log(2.0)) @ weight


def _wake(params: Any) -> Any:
    z, x, weight, log_w = jax.lax.stop_gradient(_grid(params))
    log_q = jax.vmap(lambda z, x: log_family(params, z, x))(z, x)
    first = jax.nn.sigmoid(log_w[:, None] - log_w)
    return weight @ (first * log_q[:, None] + (1.0 - first) * log_q) @ weight


def _hierarchical(params: Any) -> Any:
    (a, b), (c, d), (e, f) = params["r"], params["x"], params["tau"]
    r = (a + jnp.exp(b) * _NODES)[:, None, None]
    x = c * r + jnp.exp(d) * _NODES[:, None]
    other = e * x + jnp.exp(f) * _NODES
    joint = lambda r: (
        dist.Normal(a, jnp.exp(b)).log_prob(r) + dist.Normal(c * r, jnp.exp(d)).log_prob(x)
    )
    log_w = lambda r: joint(r) - dist.Normal(e * x, jnp.exp(f)).log_prob(r)
    log_q = jnp.logaddexp(log_w(r), log_w(other)) - jnp.log(2.0)
    w = jnp.asarray(_WEIGHTS)
    return jnp.einsum("i,j,k,ijk->", w, w, w, marginal_joint(x) - log_q)


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _gradients(
    program: Callable[..., Any], params: Any, how: Any, seed: int, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the gradients and its standard error, from sums in chunks."""
    wanted = expectation(lambda params: program(params, how))

    @jax.jit
    def chunk(keys: Any) -> Any:
        return jax.vmap(lambda key: wanted.grad(key, params))(keys)

    keys = jax.random.split(jax.random.key(seed), draws)
    parts = [jax.tree.leaves(chunk(keys[i : i + 5000])) for i in range(0, draws, 5000)]
    flat = [np.concatenate([np.reshape(x, (len(x), -1)) for x in part], 1) for part in parts]
    every = np.concatenate(flat).astype(float)
    return every.mean(0), every.std(0) / draws**0.5


def _time_ratio(how: Any, repeats: int) -> float:
    """Seconds of 1,000 gradients of the ELBO's program, over those written by hand."""
    wanted = expectation(lambda params: elbo(params, how))
    each = (lambda k: wanted.grad(k, PARAMS), lambda k: by_hand(PARAMS, k))
    steps = [jax.jit(jax.vmap(f)) for f in each]
    keys = jax.random.split(jax.random.key(0), 1000)
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for step, times in zip(steps, seconds, strict=True):
            began = time.perf_counter()
            for _ in range(20):
                jax.block_until_ready(step(keys))
            times.append(time.perf_counter() - began)
    return float(np.median(seconds[0][1:]) / np.median(seconds[1][1:]))
