"""Gradients of the ELBO against NumPyro's estimators of the same.

Summed: a mixture of three normals at 1,000 points, and a hidden Markov model of three states over
500 steps, against TraceEnum_ELBO. Pathwise: logistic regression on 569 tumours, against
Trace_ELBO. Score: sixteen coins under a decoder of 64 pixels, against TraceGraph_ELBO. Each with
one draw and an independent family; seconds to compile, the median seconds of 64 gradients over
interleaved runs, and where there is noise the variance of the gradient, summed over the
parameters that both have. Needs funsor (`pip install -c constraints.txt -e '.[bench]'`). Writes
against_numpyro.json.

    python bench/against_numpyro.py [--repeats 30] [--out bench/results/against_numpyro.json]
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from numpyro.infer.autoguide import AutoNormal

import ritz
from ritz.estimator import pathwise, score
from ritz.family import mean_field
from ritz.objective import Problem, expectation, negative_elbo, sample_and_log_prob
from ritz.target import from_numpyro, library

PARALLEL = {"enumerate": "parallel"}


def mixture(y: Any) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    loc = numpyro.sample("loc", dist.Normal(jnp.zeros(3), 3.0).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights), infer=PARALLEL)
        numpyro.sample("y", dist.Normal(loc[z], sd), obs=y)


def markov(y: Any) -> None:
    stay = numpyro.sample("stay", dist.Dirichlet(jnp.ones((3, 3)) + 5.0 * jnp.eye(3)).to_event(1))
    loc = numpyro.sample("loc", dist.Normal(jnp.zeros(3), 3.0).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))

    def step(z: Any, y_t: Any) -> tuple[Any, None]:
        z = numpyro.sample("z", dist.Categorical(stay[z]), infer=PARALLEL)
        numpyro.sample("y", dist.Normal(loc[z], sd), obs=y_t)
        return z, None

    scan(step, 0, y)


def coins(y: Any) -> None:
    with numpyro.plate("units", 16):
        z = numpyro.sample("z", dist.Bernoulli(0.5))
    numpyro.factor("pixels", pixels(z, y))


def pixels(z: Any, y: Any) -> Any:
    decoder = 0.5 * np.random.default_rng(0).normal(size=(16, y.size))
    logits = (z - 0.5) @ decoder
    return (y * jax.nn.log_sigmoid(logits) + (1.0 - y) * jax.nn.log_sigmoid(-logits)).sum()


def gradients_of_ritz(model: Any, args: Any, entropy: str) -> Callable[[Any], Any]:
    """The gradient in the location of an independent normal, as a function of a key."""
    target = from_numpyro(model, args)
    problem = Problem(
        target, mean_field(target, jnp.zeros(target.dim)), negative_elbo(1, entropy), pathwise()
    )
    return lambda key: problem.grad(problem.params, key)[0].loc


def gradients_of_numpyro(model: Any, args: Any, elbo: Any) -> Callable[[Any], Any]:
    """The same of an AutoNormal guide."""
    free = handlers.block(handlers.seed(model, 0), hide=["z"])
    guide = AutoNormal(free, init_loc_fn=numpyro.infer.init_to_uniform(radius=0.0))
    svi = SVI(model, guide, numpyro.optim.Adam(0.01), elbo)
    start = svi.optim.get_params(svi.init(jax.random.key(0), *args).optim_state)

    def gradient(key: Any) -> Any:
        loss = lambda p: elbo.loss(key, svi.constrain_fn(p), model, guide, *args)
        found = jax.grad(loss)(start)
        return jnp.concatenate([v.ravel() for name, v in found.items() if name.endswith("_loc")])

    return gradient


def coins_of_ritz(y: Any, how: Any) -> Callable[[Any], Any]:
    def program(logits: Any) -> Any:
        z, log_q = sample_and_log_prob(dist.Bernoulli(logits=logits), how)
        return log_q - 16.0 * jnp.log(0.5) - pixels(z, y)

    return lambda key: expectation(program).grad(key, jnp.zeros(16))


def coins_of_numpyro(y: Any, elbo: Any) -> Callable[[Any], Any]:
    def guide(y: Any) -> None:
        logits = numpyro.param("logits", jnp.zeros(16))
        with numpyro.plate("units", 16):
            numpyro.sample("z", dist.Bernoulli(logits=logits))

    return lambda key: jax.grad(lambda p: elbo.loss(key, {"logits": p}, coins, guide, y))(
        jnp.zeros(16)
    )


def tasks() -> dict[str, tuple[int, Callable[[Any], Any], Callable[[Any], Any]]]:
    """Draws at once, the gradient of Ritz, and that of NumPyro."""
    rng = np.random.default_rng(0)
    points = np.array([-3.0, 0.0, 4.0])[rng.integers(0, 3, 1000)] + rng.normal(size=1000)
    chain = np.cumsum(rng.random(500) < 0.05) % 3 + rng.normal(size=500)
    cancer = library.get("logistic_breast_cancer")
    args = tuple(cancer.data().values())
    image = jnp.asarray(ritz.data.load("digits")["x"][0] / 16.0)
    enum = TraceEnum_ELBO
    both = lambda m, a, elbo, entropy: (
        gradients_of_ritz(m, a, entropy),
        gradients_of_numpyro(m, a, elbo),
    )
    one_graph = coins_of_numpyro(image, TraceGraph_ELBO())
    return {
        "summed: mixture, 1,000 points": (1, *both(mixture, (points,), enum(), "mc")),
        "summed: hidden Markov, 500 steps": (1, *both(markov, (chain,), enum(), "mc")),
        "pathwise: logistic regression": (64, *both(cancer.model, args, Trace_ELBO(), "mc")),
        "score: coins": (64, coins_of_ritz(image, score()), one_graph),
        "score, leave one out of 2: coins": (64, coins_of_ritz(image, score(draws=2)), one_graph),
    }


def compiled(gradient: Callable[[Any], Any], keys: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    program = jax.jit(jax.vmap(gradient)).lower(keys).compile()
    return program, time.perf_counter() - began


def measured(n: int, pair: list[Callable[[Any], Any]], repeats: int) -> dict[str, float]:
    keys = jax.random.split(jax.random.key(1), n)
    programs, compiling = zip(*(compiled(f, keys) for f in pair), strict=True)
    seconds: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for program, times in zip(programs, seconds, strict=True):
            began = time.perf_counter()
            for _ in range(20):
                jax.block_until_ready(program(keys))
            times.append((time.perf_counter() - began) / (20 * n))
    ours, theirs = (statistics.median(times[1:]) for times in seconds)
    many = jax.random.split(jax.random.key(2), (2000 // n, n))
    variances = [
        float(np.concatenate([np.asarray(p(k)) for k in many]).var(axis=0).sum()) for p in programs
    ]
    return {
        "seconds": ours,
        "numpyro_seconds": theirs,
        "step": ours / theirs,
        "compile": compiling[0] / compiling[1],
        "variance": variances[0] / variances[1],
        "variance x cost": variances[0] / variances[1] * ours / theirs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("bench/results/against_numpyro.json"))
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for name, (n, *pair) in tasks().items():
        found[name] = r = measured(n, pair, args.repeats)
        print(
            f"{name:34s} {r['seconds'] * 1e6:7.1f} us against {r['numpyro_seconds'] * 1e6:7.1f}; "
            f"ratios: step {r['step']:.2f}, compile {r['compile']:.2f}, "
            f"variance {r['variance']:.3g}, variance x cost {r['variance x cost']:.3g}"
        )
    versions = {"numpyro": numpyro.__version__, "jax": jax.__version__}
    found["machine"] = {"python": platform.python_version(), **versions}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
