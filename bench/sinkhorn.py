"""Entropic plans: sparse Newton steps against OTT-JAX's Sinkhorn, to the same marginal error.

Random assignment at uniform costs, and points of two Gaussians in two dimensions at half the
squared distance. Iterations, and wall time of compiled programs as the median of repeated runs;
compilation is that of a first run less a second, on an easy problem of the same shape. In float64.
Writes sinkhorn.json.

    python bench/sinkhorn.py [--repeats 3] [--out bench/results/sinkhorn.json]
"""

import argparse
import functools
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ritz.transport import Plan, sinkhorn, sinkhorn_newton

TOLERANCE = 1e-8
# Of clouds of 500 a solution by Newton steps takes more than a minute.
SIZES = {"assignment": (100, 200, 500), "clouds": (100, 200)}
EPSILONS = {"assignment": (1e-2, 3e-3, 1e-3), "clouds": (1e-1, 1e-2, 1e-3)}
MOST = 5_000  # sweeps


def cost(kind: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    if kind == "assignment":
        return rng.uniform(size=(n, n))
    x, y = rng.normal(size=(n, 2)), 1.0 + rng.normal(size=(n, 2)) @ [[1.0, 0.5], [0.0, 0.7]]
    return 0.5 * ((x[:, None] - y) ** 2).sum(-1)


def measured(solver: Callable[..., Plan], costs: np.ndarray, epsilon: float, n: int) -> Any:
    seconds = []
    for at in (float(costs.max()), float(costs.max()), *[epsilon] * n):
        began = time.perf_counter()
        found = solver(costs, epsilon=at)
        seconds.append(time.perf_counter() - began)
        if found.iterations >= MOST and at == epsilon:
            break  # long enough to need no median
    return found, {
        "iterations": found.iterations,
        "inner_iterations": found.inner_iterations,
        "marginal_error": found.marginal_error,
        "converged": found.converged,
        "seconds": statistics.median(seconds[2:]),
        "compile_seconds": max(seconds[0] - seconds[1], 0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/sinkhorn.json"))
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore", "after .* iterations", RuntimeWarning)
    newton = functools.partial(sinkhorn_newton, tolerance=TOLERANCE)
    sweeps = functools.partial(sinkhorn, tolerance=TOLERANCE, steps=MOST)
    found: dict[str, Any] = {"tolerance": TOLERANCE, "rows": {}}
    found["machine"] = {"python": platform.python_version(), "jax": jax.__version__}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for kind, epsilons in EPSILONS.items():
        for n in SIZES[kind]:
            costs = cost(kind, n)
            for epsilon in epsilons:
                mine, new = measured(newton, costs, epsilon, args.repeats)
                other, old = measured(sweeps, costs, epsilon, args.repeats)
                apart = float(np.abs(np.asarray(mine.plan) - np.asarray(other.plan)).max())
                row = {
                    "newton": new,
                    "sinkhorn": old,
                    "ratio of seconds": new["seconds"] / old["seconds"],
                    "plans apart": apart,
                }
                found["rows"][f"{kind}, n = {n}, epsilon = {epsilon:g}"] = row
                print(
                    f"{kind:10s} n = {n:4d}, epsilon {epsilon:6g}: {new['iterations']:4d} steps "
                    f"({new['inner_iterations']:5d} inner) in {new['seconds']:7.3f} s against "
                    f"{old['iterations']:5d} sweeps{'' if old['converged'] else ' (not enough)'} "
                    f"in {old['seconds']:7.3f} s, ratio {row['ratio of seconds']:.3f}; "
                    f"plans {apart:.1e} apart",
                    flush=True,
                )
                args.out.write_text(json.dumps(found, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
