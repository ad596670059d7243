"""Flows: how near they come, and what a step costs.

KL divergences from each flow, and from the best full-rank Gaussian, to a banana, Neal's funnel in 2
and 10 dimensions and two moons, whose log Z are known (the moons' by a sum over a grid): each
family with its default sizes, trained by the same objective, steps and draws. On the moons each
starts wide (scale 2) and is annealed for nine tenths of its steps: from a narrow start, or let in
at once, every family finds one of them. A training step against
the same FlowJAX distribution in a hand-written `lax.scan` with the same Adam, schedule and number
of draws, in 2, 10 and 100 dimensions: medians of interleaved runs, and seconds to trace and
compile. Writes flows.json.

    python bench/flows.py [--steps 8000] [--repeats 7] [--out bench/results/flows.json]
"""

import argparse
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax

import ritz
from ritz.family import registered
from ritz.objective import Problem, annealed, negative_elbo

FLOWS = ("planar", "radial", "sylvester", "coupling", "iaf", "maf", "spline", "bnaf")
DRAWS = 16
TIMED = {2: 4000, 10: 2000, 100: 400}  # steps in a run, by dimension
STEP_DRAWS = 4


def banana(x: Any) -> Any:
    """x_1 standard normal, x_2 around x_1 squared."""
    bent = (x[1] - x[0] ** 2 + 1.0) / 0.5
    return -0.5 * (x[0] ** 2 + bent**2) - np.log(2.0 * np.pi * 0.5)


def funnel(x: Any) -> Any:
    """Neal's: the log variance of all others is the first, of sd 3."""
    v, rest = x[0], x[1:]
    others = -0.5 * rest**2 * jnp.exp(-v) - 0.5 * v - 0.5 * np.log(2.0 * np.pi)
    return -0.5 * (v / 3.0) ** 2 - np.log(3.0) - 0.5 * np.log(2.0 * np.pi) + others.sum()


def moons(x: Any) -> Any:
    """Two crescents of a circle of radius 2."""
    r = jnp.sqrt((x**2).sum() + 1e-12)
    sides = [-0.5 * ((x[0] - at) / 0.5) ** 2 for at in (-2.0, 2.0)]
    return -0.5 * ((r - 2.0) / 0.2) ** 2 + jnp.logaddexp(*sides)


def normal(x: Any) -> Any:
    """On which no run ends early, whatever the seed: what a step costs is the same on any."""
    return -0.5 * ((x - 1.0) ** 2).sum()


def log_z(density: Callable[[Any], Any]) -> float:
    line = np.linspace(-6.0, 6.0, 1601)
    points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    values = np.asarray(jax.vmap(density)(jnp.asarray(points, jnp.float32)), float)
    return float(np.log(np.exp(values).sum() * (line[1] - line[0]) ** 2))


def targets() -> dict[str, tuple[Callable[[Any], Any], int, float]]:
    """Log density, dimensions and log Z."""
    return {
        "banana": (banana, 2, 0.0),
        "funnel, d = 2": (funnel, 2, 0.0),
        "funnel, d = 10": (funnel, 10, 0.0),
        "two moons": (moons, 2, log_z(moons)),
    }


def divergence(density: Any, d: int, log_z: float, family: str, steps: int) -> dict[str, float]:
    began, plain, modes = time.perf_counter(), negative_elbo(DRAWS, entropy="mc"), density is moons
    build = functools.partial(registered()[family].build, **({"scale": 2.0} if modes else {}))
    fit = ritz.fit(
        ritz.target.from_log_density(density, jnp.zeros(d)),
        family=build,
        objective=annealed(plain, steps=9 * steps // 10) if modes else plain,
        steps=steps,
        progress=False,
    )
    weights = np.asarray(fit.log_weights(40_000), float)
    return {
        "kl": log_z - weights.mean(),
        "se": weights.std() / len(weights) ** 0.5,
        "khat": fit.khat,
        "us_a_step": 1e6 * fit.info["run_seconds"] / steps,
        "compile_seconds": fit.info["compile_seconds"],
        "seconds": time.perf_counter() - began,
    }


def hand_written(distribution: Any, density: Any, steps: int) -> tuple[Callable[[Any], Any], Any]:
    """A scan of Adam steps, as one writes it, and its first parameters."""
    frozen = lambda leaf: isinstance(leaf, paramax.NonTrainable)
    params, static = eqx.partition(distribution, eqx.is_inexact_array, is_leaf=frozen)
    adam = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    def loss(params: Any, key: Any) -> Any:
        q = paramax.unwrap(eqx.combine(params, static))
        keys = jax.random.split(key, STEP_DRAWS)
        x, log_q = jax.vmap(lambda k: q.sample_and_log_prob(k))(keys)
        return (log_q - jax.vmap(density)(x)).mean()

    def step(carry: Any, key: Any) -> Any:
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params, key)
        update, state = adam.update(grad, state, params)
        return (optax.apply_updates(params, update), state), value

    def run(params: Any, key: Any) -> Any:
        return jax.lax.scan(step, (params, adam.init(params)), jax.random.split(key, steps))

    return run, params


def training_step(family: str, d: int, repeats: int) -> dict[str, float]:
    steps = TIMED[d]
    target = ritz.target.from_log_density(normal, jnp.zeros(d))
    q = registered()[family].build(target, jnp.zeros(d))
    run, params = hand_written(q.distribution, normal, steps)
    began = time.perf_counter()
    theirs = jax.jit(run).lower(params, jax.random.key(0)).compile()
    compiling = time.perf_counter() - began
    objective = negative_elbo(STEP_DRAWS, entropy="mc")
    problem = Problem(target, q, objective, ritz.estimator.pathwise())
    plain, clipped = ritz.solver.adam(0.02, steps), ritz.solver.adam(0.02, steps, q.clip)
    ours = lambda i, adam: ritz.solver.run(problem, adam, steps, jax.random.key(i), progress=False)
    first = ours(0, plain)
    assert first.stop_reason == ours(0, clipped).stop_reason == "steps", first.message
    seconds: list[list[float]] = [[], [], []]
    for i in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(theirs(params, jax.random.key(i)))
        seconds[0].append((time.perf_counter() - began) / steps)
        seconds[1].append(ours(i, plain).run_seconds / steps)
        seconds[2].append(ours(i, clipped).run_seconds / steps)
    hand, own, with_clip = map(statistics.median, seconds)
    return {
        "parameters": sum(array.size for array in q.arrays),
        "us_a_step": 1e6 * own,
        "hand_written_us_a_step": 1e6 * hand,
        "ratio": own / hand,
        "ratio, gradients clipped": with_clip / hand,
        "compile_seconds": first.compile_seconds,
        "hand_written_compile_seconds": compiling,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="*", default=FLOWS)
    parser.add_argument("--out", type=Path, default=Path("bench/results/flows.json"))
    args = parser.parse_args()
    found: dict[str, Any] = {"kl": {}, "step": {}}
    for name, (density, d, known) in targets().items():
        rows = found["kl"][name] = {}
        for family in ("full_rank", *args.only):
            rows[family] = r = divergence(density, d, known, family, args.steps)
            r["share of full_rank"] = r["kl"] / rows["full_rank"]["kl"]
            print(
                f"{name:15s} {family:10s} KL {r['kl']:.4f} ± {r['se']:.4f}, "
                f"{r['share of full_rank']:.3f} of full-rank's, k-hat {r['khat']:.2f}, "
                f"{r['us_a_step']:.0f} us a step, {r['seconds']:.1f} s",
                flush=True,
            )
    for family in args.only:
        for d in TIMED:
            found["step"][f"{family}, d = {d}"] = r = training_step(family, d, args.repeats)
            print(
                f"{family:10s} d = {d:3d}: {r['us_a_step']:8.1f} us a step against "
                f"{r['hand_written_us_a_step']:8.1f}, ratio {r['ratio']:.2f}, with "
                f"gradients clipped {r['ratio, gradients clipped']:.2f}; compiled in "
                f"{r['compile_seconds']:.1f} s against {r['hand_written_compile_seconds']:.1f}",
                flush=True,
            )
    found["machine"] = {"python": platform.python_version(), "jax": jax.__version__}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
