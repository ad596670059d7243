"""genjax's gradients: of the chain of `estimators.py`, and of the tasks in `tasks.py`.

genjax 0.10 needs JAX 0.5, so that it has an environment of its own (`pip install genjax`), and
`estimators.py --genjax PYTHON` runs this file there, with the arrays of the tasks in a file. It
prints JSON. Of its JAX, and so comparable with genjax's rows, is also the gradient by hand.

    PYTHON bench/genjax_peer.py DATA.npz REPEATS DRAWS
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from genjax import adev  # pyright: ignore[reportMissingImports]
from jax.scipy.special import gammaln
from jax.scipy.stats import norm
from tasks import BATCH, FACTORS, MEANS, SPREAD, Gradient, by_hand, coin, log_gamma, measured, tasks

stop = jax.lax.stop_gradient


# -- overhead -------------------------------------------------------------------------------------


def chain(*theta: Any) -> Any:
    x, total = 0.0, 0.0
    for i, t in enumerate(theta):
        if i % 2:
            x = adev.normal_reparam(t * x, 1.0)
        else:
            x = 0.5 * x + adev.flip_reinforce(jax.nn.sigmoid(t + 0.1 * x))
        total = total + (x - 0.3) ** 2
    return total / len(theta)


def chain_by_hand(theta: Any, key: Any) -> Any:
    x, scores, total = 0.0, 0.0, 0.0
    for i, t in enumerate(theta):
        draw = jax.random.fold_in(key, i)
        if i % 2:
            x = t * x + jax.random.normal(draw)
        else:
            logit = t + 0.1 * x
            z = stop(jax.random.bernoulli(draw, jax.nn.sigmoid(logit)))
            scores = scores + jax.nn.log_sigmoid(jnp.where(z, logit, -logit))
            x = 0.5 * x + z
        cost = (x - 0.3) ** 2
        total = total + cost + stop(cost) * (scores - stop(scores))
    return total / len(theta)


def compiled(f: Any, theta: Any) -> tuple[Any, float]:
    keys = jax.random.split(jax.random.key(0), BATCH)
    began = time.perf_counter()
    program = jax.jit(jax.vmap(f, in_axes=(None, 0))).lower(theta, keys).compile()
    seconds = time.perf_counter() - began
    return lambda: jax.block_until_ready(program(theta, keys)), seconds


def overhead(sites: int, repeats: int) -> dict[str, float]:
    theta = tuple(jnp.linspace(-0.5, 0.5, sites))
    wanted = adev.expectation(chain)
    pairs = [
        compiled(lambda theta, key: wanted.grad_estimate(key, theta), theta),
        compiled(jax.grad(chain_by_hand), theta),
    ]
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats):
        for (step, _), times in zip(pairs, seconds, strict=True):
            began = time.perf_counter()
            for _ in range(max(1, 200 // sites)):
                step()
            times.append(time.perf_counter() - began)
    ours, theirs = map(statistics.median, seconds)
    return {"step": ours / theirs, "compile": pairs[0][1] / pairs[1][1]}


# -- variance and cost ----------------------------------------------------------------------------


def by_row(program: Any) -> Callable[..., Any]:
    """Of a sum over rows: genjax does not know that they are independent, so each is its own."""

    def gradient(key: Any, params: Any, *data: Any) -> Any:
        keys = jax.random.split(key, len(data[0]))
        one = lambda key, *args: adev.expectation(lambda p: program(p, *args[1:])).grad_estimate(
            key, (args[0],)
        )[0]
        axis = 0 if params.ndim == 2 else 1
        return jax.vmap(one, in_axes=(0, axis, *(0 for _ in data)), out_axes=axis)(
            keys, params, *data
        )

    return gradient


def coins(flip: Any, data: Any) -> Gradient:
    def program(logits: Any) -> Any:
        z = jnp.stack([flip(jax.nn.sigmoid(logits[0, i])) * 1.0 for i in range(16)])
        pixels = coin((z - 0.5) @ data["decoder"], data["image"]).sum()
        return coin(logits[0], z).sum() - pixels - 16 * jnp.log(0.5)

    return lambda key, logits: adev.expectation(program).grad_estimate(key, (logits,))[0]


def counts(data: Any) -> Gradient:
    density = lambda z, a, b: log_gamma(a, b, z)
    draw = adev.reinforce(lambda key, a, b: jax.random.gamma(key, a) / b, density)

    def program(params: Any, y: Any) -> Any:
        a, b = jnp.exp(params)
        z = jnp.stack([draw(a[k], b[k]) for k in range(FACTORS)])
        rate = z @ data["loadings"]
        log_lik = (y * jnp.log(rate) - rate - gammaln(y + 1.0)).sum() + density(
            z, jnp.full(FACTORS, 0.5), jnp.full(FACTORS, 0.5)
        ).sum()
        return density(z, a, b).sum() - log_lik

    rows = by_row(program)
    return lambda key, params: rows(key, params, data["counts"])


def weights(draw: Any, data: Any) -> Gradient:
    def program(params: Any) -> Any:
        loc, scale = params[0, 0], jnp.exp(params[1, 0])
        w = draw(loc, scale)
        log_joint = jax.nn.log_sigmoid(data["signed"] @ w).sum() + norm.logpdf(w).sum()
        return norm.logpdf(w, loc, scale).sum() - log_joint

    return lambda key, params: adev.expectation(program).grad_estimate(key, (params,))[0]


def one_by_one(draw: Any) -> Any:
    return lambda loc, scale: jnp.stack([draw(loc[i], scale[i]) for i in range(10)])


def components(flip: Any, data: Any) -> Gradient:
    def program(logits: Any, y: Any) -> Any:
        z = flip(jax.nn.sigmoid(logits[0])) * 1.0
        zero, one = (norm.logpdf(y, m, SPREAD) + jnp.log(0.5) for m in MEANS)
        return coin(logits[0], z) - (1.0 - z) * zero - z * one

    rows = by_row(program)
    return lambda key, logits: rows(key, logits, data["lengths"])


def gradients(data: Any) -> dict[str, dict[str, Gradient]]:
    """By task and estimator; flip_enum of 16 coins that meet would take 2^16 runs."""
    flips = {"flip_reinforce": adev.flip_reinforce, "flip_mvd": adev.flip_mvd}
    enum = {"flip_enum": adev.flip_enum, "flip_enum_parallel": adev.flip_enum_parallel}
    normals = {
        "normal_reparam": one_by_one(adev.normal_reparam),
        "normal_reparam of a vector": adev.normal_reparam,
        "mv_normal_diag_reparam": adev.mv_normal_diag_reparam,
        "normal_reinforce": one_by_one(adev.normal_reinforce),
    }
    return {
        "Bernoulli layer": {k: coins(v, data) for k, v in flips.items()},
        "Gamma-Poisson": {"reinforce": counts(data)},
        "logistic regression": {k: weights(v, data) for k, v in normals.items()},
        "mixture": {k: components(v, data) for k, v in (flips | enum).items()},
    }


def main(path: str, repeats: int, draws: int) -> None:
    overhead(2, 3)  # the first compilation warms caches of XLA itself
    found: dict[str, Any] = {"overhead": {str(n): overhead(n, repeats) for n in (1, 10)}}
    data = {k: jnp.asarray(v) for k, v in np.load(path).items()}
    every, found["estimators"] = gradients(data), {}
    for name, task in tasks(data).items():
        rows = {f"genjax {k}": v for k, v in every[name].items()}
        rows = {"score, by hand": by_hand(task)} | rows
        found["estimators"][name] = measured(task, rows, draws, max(3, repeats // 5))
    found["versions"] = {"genjax": version("genjax"), "jax": jax.__version__}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
