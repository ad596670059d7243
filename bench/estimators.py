"""What gradient estimators cost, how noisy they are, and what a program adds to hand-written JAX.

Overhead: the gradient of a chain of 1, 10 and 100 choices (every other one a coin with its score
function, the others pathwise normals), as a program and unrolled by hand; medians of interleaved
runs of 64 draws, and seconds to compile; with --genjax also what genjax adds. Variance: four
tasks, every registered estimator that serves them: variance of the gradient (summed over
parameters), seconds of a gradient, and their product over that of the score function. Writes
estimators.json.

    python bench/estimators.py [--repeats 30] [--draws 2000] [--out bench/results/estimators.json]
        [--genjax PYTHON, of an environment that has genjax]
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import ritz
from ritz.estimator import pathwise, registered, score
from ritz.objective import expectation, sample

BATCH = 64


# -- overhead -------------------------------------------------------------------------------------


def chain(theta: Any) -> Any:
    """Coins and normals in turn, each depending on the one before."""
    x, total = 0.0, 0.0
    for i in range(len(theta)):
        if i % 2:
            x = sample(dist.Normal(theta[i] * x, 1.0), pathwise())
        else:
            z = sample(dist.Bernoulli(logits=theta[i] + 0.1 * x), score())
            x = 0.5 * x + z
        total = total + (x - 0.3) ** 2
    return total / len(theta)


def chain_by_hand(theta: Any, key: Any) -> Any:
    """The same surrogate: each score meets all costs after it."""
    x, score_so_far, total = 0.0, 0.0, 0.0
    stop = jax.lax.stop_gradient
    for i in range(len(theta)):
        draw = jax.random.fold_in(key, i)
        if i % 2:
            x = theta[i] * x + jax.random.normal(draw)
        else:
            coin = dist.Bernoulli(logits=theta[i] + 0.1 * x)
            z = stop(coin.sample(draw))
            score_so_far = score_so_far + coin.log_prob(z)
            x = 0.5 * x + z
        cost = (x - 0.3) ** 2
        total = total + cost + stop(cost) * (score_so_far - stop(score_so_far))
    return total / len(theta)


def compiled(f: Callable[..., Any], theta: Any) -> tuple[Any, float]:
    keys = jax.random.split(jax.random.key(0), BATCH)
    grads = jax.jit(jax.vmap(f, in_axes=(None, 0)))
    began = time.perf_counter()
    program = grads.lower(theta, keys).compile()
    return lambda: jax.block_until_ready(program(theta, keys)), time.perf_counter() - began


def overhead(sites: int, repeats: int) -> dict[str, float]:
    theta = jnp.linspace(-0.5, 0.5, sites)
    program = lambda theta, key: expectation(chain).grad(key, theta)
    pairs = [compiled(f, theta) for f in (program, jax.grad(chain_by_hand))]
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


def tasks() -> dict[str, tuple[Callable[..., Any], Any]]:
    """Programs of parameters and an estimator, and where they are evaluated."""
    rng = np.random.default_rng(0)
    digits = ritz.data.load("digits")
    image = jnp.asarray(digits["x"][0] / 16.0)
    decoder = jnp.asarray(rng.normal(size=(16, len(image))) * 0.5)

    def bernoulli_layer(params: Any, how: Any) -> Any:
        z = sample(dist.Bernoulli(logits=params), how).astype(float)
        logits = (z - 0.5) @ decoder
        log_lik = image * jax.nn.log_sigmoid(logits) + (1.0 - image) * jax.nn.log_sigmoid(-logits)
        q = jax.nn.sigmoid(params)
        return -log_lik.sum() + (q * jnp.log(2.0 * q) + (1.0 - q) * jnp.log(2.0 - 2.0 * q)).sum()

    counts = jnp.asarray(rng.poisson(3.0, (20, 5)), float)

    def gamma_poisson(params: Any, how: Any) -> Any:
        z = sample(dist.Gamma(jnp.exp(params[0]), jnp.exp(params[1])), how)
        return -(counts.sum(0) * jnp.log(z) - 20.0 * z - 0.3 * z).sum()

    cancer = ritz.data.load("breast_cancer")
    x = jnp.asarray((cancer["x"] - cancer["x"].mean(0)) / cancer["x"].std(0))[:, :10]
    sign = jnp.where(jnp.asarray(cancer["y"]) == 1, 1.0, -1.0)

    def logistic(params: Any, how: Any) -> Any:
        w = sample(dist.Normal(params[0], jnp.exp(params[1])), how)
        return -jax.nn.log_sigmoid(sign * (x @ w)).sum() + 0.5 * w @ w

    y = jnp.asarray(rng.normal(size=50) + 3.0 * rng.integers(0, 2, 50))
    means = jnp.array([0.0, 3.0])

    def mixture(params: Any, how: Any) -> Any:
        z = sample(dist.Bernoulli(logits=params), how).astype(int)
        return 0.5 * ((y - means[z]) ** 2).sum()

    flat = jnp.stack([jnp.zeros(10), jnp.full(10, -1.0)])
    shapes = jnp.stack([jnp.full(5, 1.1), jnp.zeros(5)])
    return {
        "Bernoulli layer": (bernoulli_layer, jnp.zeros(16)),
        "Gamma-Poisson": (gamma_poisson, shapes),
        "logistic regression": (logistic, flat),
        "mixture": (mixture, jnp.zeros(50)),
    }


def estimators() -> dict[str, Any]:
    """The registered estimators, the score function first."""
    every = {name: entry.example() for name, entry in registered().items()}
    return {"score": every.pop("score"), **every}


def measured(program: Any, params: Any, how: Any, draws: int, repeats: int) -> tuple[float, float]:
    wanted = expectation(lambda params: program(params, how))
    one = lambda key: jax.flatten_util.ravel_pytree(wanted.grad(key, params))[0]
    many = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=BATCH))
    keys = jax.random.split(jax.random.key(1), draws)
    variance = float(np.asarray(many(keys), float).var(0).sum())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(many(keys))
        seconds.append(time.perf_counter() - began)
    return variance, statistics.median(seconds) / draws


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/estimators.json"))
    parser.add_argument("--genjax")
    args = parser.parse_args()
    overhead(2, 3)  # the first compilation warms caches of XLA itself
    found: dict[str, Any] = {"overhead": {}, "estimators": {}}
    for sites in (1, 10, 100):
        found["overhead"][str(sites)] = ratios = overhead(sites, args.repeats)
        print(f"{sites:4d} sites: step {ratios['step']:.2f}, compile {ratios['compile']:.2f}")
    for task, (program, params) in tasks().items():
        rows = found["estimators"][task] = {}
        for name, how in estimators().items():
            try:
                variance, seconds = measured(
                    program, params, how, args.draws, args.repeats // 5 or 1
                )
            except ritz.RitzError as refused:
                rows[name] = {"refused": str(refused)}
                continue
            biased = " (biased)" if how.biased else ""
            rows[name] = {"variance": variance, "seconds": seconds, "biased": how.biased}
            first = rows["score"]
            rows[name]["product"] = variance * seconds / (first["variance"] * first["seconds"])
            print(
                f"{task:20s} {name + biased:28s} variance {variance:10.4g}, "
                f"{seconds * 1e6:7.2f} us, "
                f"product {rows[name]['product']:.3g}"
            )
    if args.genjax:
        command = [args.genjax, str(Path(__file__).parent / "genjax_peer.py"), str(args.repeats)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found["genjax"] = json.loads(done.stdout.splitlines()[-1])
        print("genjax:", found["genjax"])
    found["machine"] = {"python": platform.python_version(), "jax": jax.__version__}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
