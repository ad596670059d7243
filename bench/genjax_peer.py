"""genjax's gradients of the chain of `estimators.py`, over the same written by hand in its JAX.

genjax 0.10 needs JAX 0.5, so that it has an environment of its own (`pip install genjax`), and
`estimators.py --genjax PYTHON` runs this file there. It prints JSON.
"""

import json
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from genjax import adev  # pyright: ignore[reportMissingImports]

BATCH = 64
stop = jax.lax.stop_gradient


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


def measured(sites: int, repeats: int) -> dict[str, float]:
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


if __name__ == "__main__":
    measured(2, 3)  # the first compilation warms caches of XLA itself
    print(json.dumps({str(n): measured(n, int(sys.argv[1])) for n in (1, 10)}))
