"""Particles: steps of SVGD against BlackJAX's, and how near each method comes for its gradients.

Speed: a logistic regression (breast_cancer, 31 coordinates), whose gradients both have to pay for,
and a Gaussian of as many coordinates, whose gradients cost next to nothing; the Gaussian kernel
with the median rule, Adam; steps per second in a compiled loop after compilation, medians of
repeated runs, each number of particles in a process of its own; what does not fit in memory is told
so. Peak memory of the process, in MiB, is recorded too.

Accuracy: for the posteriors of tests/posteriors, in float64, with each method of `ritz.particle`
that takes any target and with Gaussian solvers, errors of means (reference sds) and of log sds, the
verdict, and gradients of the log density, at several numbers of steps (no more once a run took
longer than the limit); the figure shows the median of the larger error, of all posteriors, by
gradients. Writes particles.json and particles.png.

    python bench/particles.py --speed [--counts 100 300 1000 3000 10000]
    python bench/particles.py --accuracy [--only NAME ...] [--limit SECONDS]
    python bench/particles.py --table
"""

import argparse
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "particles.json"
COUNTS = (100, 300, 1000, 3000, 10_000)
REPEATS = 5
# Steps of one timed run, such that the slower of the two takes seconds.
TIMED = {100: (2000, 200), 300: (1000, 40), 1000: (200, 6), 3000: (40, 2), 10_000: (6, 1)}
STEPS = (30, 100, 300, 1000, 3000)
PARTICLES = 200


def logistic() -> Any:
    """The log density, in JAX."""
    import jax
    import jax.numpy as jnp
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    design, labels = jnp.asarray(np.column_stack([x, np.ones(len(x))])), jnp.asarray(y * 1.0)

    def log_density(b: Any) -> Any:
        logit = design @ b
        return (labels * logit - jax.nn.softplus(logit)).sum() - 0.5 * (b**2).sum()

    return log_density


def gaussian() -> Any:
    """With scales from 0.5 to 2."""
    import jax.numpy as jnp

    scales = jnp.exp2(jnp.linspace(-1.0, 1.0, 31))
    return lambda b: -0.5 * ((b / scales) ** 2).sum()


TARGETS = {"logistic": logistic, "gaussian": gaussian}


def seconds_of(n: int, who: str, on: str) -> dict[str, float]:
    """Seconds a step, and peak memory; in a process of its own."""
    import jax
    import jax.numpy as jnp
    import optax

    log_density = TARGETS[on]()
    start = jnp.asarray(np.random.default_rng(0).normal(size=(n, 31)), jnp.float32)
    steps = TIMED[n][who == "blackjax"] if n in TIMED else 10
    if who == "ritz":
        import ritz
        from ritz.estimator import pathwise
        from ritz.objective import Problem, stein_discrepancy
        from ritz.particle import rbf, svgd

        target = ritz.target.from_log_density(log_density, jnp.zeros(31))
        q = ritz.family.Particles(start, True)
        problem = Problem(target, q, stein_discrepancy(), pathwise())
        solver = svgd(rbf("median/log n"), metric=None, optimiser=optax.adam(0.01))
        state = solver.init(problem, jax.random.key(0))

        def one(state: Any, key: Any) -> Any:
            return solver.step(problem, state, key)[0], None

    else:
        import blackjax

        made = blackjax.svgd(jax.grad(log_density), optax.adam(0.01))
        state = made.init(start, {"length_scale": jnp.asarray(1.0)})

        def one(state: Any, key: Any) -> Any:
            return made.step(state), None

    keys = jax.random.split(jax.random.key(1), steps)
    program = jax.jit(lambda state, keys: jax.lax.scan(one, state, keys)[0])
    began = time.perf_counter()
    jax.block_until_ready(program(state, keys))
    first = time.perf_counter() - began
    taken = []
    for _ in range(REPEATS if first < 20 else 1):
        began = time.perf_counter()
        jax.block_until_ready(program(state, keys))
        taken.append((time.perf_counter() - began) / steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": statistics.median(taken), "first": first, "peak MiB": peak}


def speed(counts: list[int]) -> dict[str, Any]:
    """Each in a process of its own, as memory is one of the figures."""
    found: dict[str, Any] = {}
    for on, n in itertools.product(TARGETS, counts):
        row: dict[str, Any] = {}
        for who in ("ritz", "blackjax"):
            command = [sys.executable, __file__, "--one", str(n), who, on]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=600)
                last = done.stdout.strip().splitlines()[-1:] or [""]
                row[who] = json.loads(last[0]) if done.returncode == 0 else "out of memory"
            except subprocess.TimeoutExpired:
                row[who] = "more than 600 s"
        if all(isinstance(v, dict) for v in row.values()):
            row["ratio"] = row["blackjax"]["seconds"] / row["ritz"]["seconds"]
        found[f"{on}, {n}"] = row
        print(on, n, row, flush=True)
    return found


def methods() -> dict[str, Any]:
    """By name, what `ritz.fit` is told."""
    from ritz.particle import (
        coin,
        imq,
        langevin,
        natural_svgd,
        particles,
        rbf,
        svgd,
        wasserstein_flow,
    )

    cloud = particles(PARTICLES)
    of = lambda solver: {"family": cloud, "solver": solver}
    return {
        "SVGD": of(svgd()),
        "SVGD, median/log n": of(svgd(rbf("median/log n"))),
        "SVGD, IMQ": of(svgd(imq())),
        "coin SVGD": of(svgd(optimiser=coin())),
        "natural SVGD (50)": {"family": particles(50), "solver": natural_svgd()},
        "Wasserstein, blob": of(wasserstein_flow("blob")),
        "Wasserstein, function": of(wasserstein_flow("function")),
        "Langevin": of(langevin(keep=20, every=1)),
        "kinetic Langevin": of(langevin(0.2, friction=2.0, keep=20, every=1)),
        "natural gradient": {"family": "full_rank", "solver": "natural_gradient"},
        "Adam, full rank": {"family": "full_rank", "solver": "adam"},
    }


def accuracy(names: list[str], limit: float) -> dict[str, Any]:
    """Errors by posterior, method and steps."""
    import warnings

    import jax

    jax.config.update("jax_enable_x64", True)
    from families import errors, target_of

    import ritz

    warnings.simplefilter("ignore", RuntimeWarning)  # a run that is not finite is told in its row
    found: dict[str, Any] = {}
    for name in names:
        target, rows = target_of(name), {}
        for method, told in methods().items():
            for steps in STEPS:
                if "natural SVGD" in method and steps > 300:
                    continue
                began = time.perf_counter()
                try:
                    fit = ritz.fit(target, **told, steps=steps, progress=False)
                    row = errors(name, fit.draws)
                    more = {"gradients": fit.info["evaluations"], "status": fit.status}
                    rows[f"{method}: {steps}"] = row | more
                    if fit.stop_reason == "converged" or time.perf_counter() - began > limit:
                        break
                except ritz.RitzError as error:
                    rows[f"{method}: {steps}"] = {"error": str(error)[:100]}
                    break
        fit = ritz.fit(target, progress=False)
        more = {"gradients": fit.info["evaluations"], "status": fit.status}
        rows["ritz.fit: default"] = errors(name, fit.draws) | more
        found[name] = rows
        jax.clear_caches()  # a process has room for so many programs only
        print(name, {k: round(v.get("mean_error", np.nan), 2) for k, v in rows.items()}, flush=True)
    return found


def off(row: dict[str, Any]) -> float:
    """The larger error, in units of what is right."""
    if "mean_error" not in row or not np.isfinite(row["mean_error"] + row["log_sd_error"]):
        return np.inf
    return max(row["mean_error"] / 0.1, row["log_sd_error"] / 0.2)


def by_method(models: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Median gradients and median error over posteriors, by method and steps.

    A run that had converged before stands for more steps as well.
    """
    out: dict[str, list[tuple[float, float]]] = {}
    names = dict.fromkeys(k.rpartition(": ")[0] for rows in models.values() for k in rows)
    for method in names:
        points = []
        for steps in STEPS if method != "ritz.fit" else ("default",):
            last = []
            for rows in models.values():
                mine = [k for k in rows if k.startswith(f"{method}: ")]
                if method != "ritz.fit":
                    mine = [k for k in mine if int(k.rpartition(": ")[2]) <= steps]
                if mine:
                    last.append(rows[mine[-1]])
            if last:
                cost = np.median([r.get("gradients") or np.nan for r in last])
                points.append((float(cost), float(np.median([off(r) for r in last]))))
        out[method] = points
    return out


def picture(models: dict[str, Any], path: Path) -> None:
    """Error by gradients."""
    from ritz.plot import canvas

    with canvas(size=(7.5, 4.6)) as (figure, axes):
        ax = axes[0, 0]
        for method, points in by_method(models).items():
            x, y = np.array(points).T
            style = "*" if method == "ritz.fit" else "o-"
            ax.loglog(x, y, style, ms=10 if method == "ritz.fit" else 4, label=method)
        ax.axhline(1.0, color="black", lw=0.8)
        ax.set(xlabel="gradients of the log density", ylabel="error over what is right (median)")
        ax.legend(fontsize=7, ncol=2)
        figure.savefig(path, dpi=150)


def table(found: dict[str, Any]) -> str:
    """Both parts."""
    lines = ["target, particles      ritz steps/s  blackjax steps/s  ratio  ritz MiB  blackjax MiB"]
    for name, row in found.get("speed", {}).items():
        of = lambda who, what, row=row: (
            f"{1 / row[who][what] if what == 'seconds' else row[who][what]:,.1f}"
            if isinstance(row[who], dict)
            else row[who]
        )
        ratio = f"{row['ratio']:.0f}" if "ratio" in row else ""
        lines.append(
            f"{name:17} {of('ritz', 'seconds'):>17} {of('blackjax', 'seconds'):>17} {ratio:>6} "
            f"{of('ritz', 'peak MiB'):>9} {of('blackjax', 'peak MiB'):>13}"
        )
    if "accuracy" in found:
        models = found["accuracy"]
        lines.append(f"\nmethod, median over {len(models)} posteriors          gradients: error")
        for method, points in by_method(models).items():
            told = "   ".join(f"{x:,.0f}: {y:.2g}" for x, y in points)
            lines.append(f"{method:24} {told}")
        rows = [(r, k) for rows in models.values() for k, r in rows.items() if "status" in r]
        sure = [r for r, k in rows if r["status"] == "ok"]
        wrong = sum(off(r) > 2.0 for r in sure)
        lines.append(f"ok said of {len(sure)} runs; {wrong} of these are wrong by twice the limits")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--accuracy", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--counts", type=int, nargs="*", default=list(COUNTS))
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--limit", type=float, default=40.0)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(seconds_of(int(args.one[0]), *args.one[1:])))
        return
    sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    found["machine"] = f"{platform.machine()}, {platform.python_version()}"
    if args.speed:
        found["speed"] = found.get("speed", {}) | speed(args.counts)
    if args.accuracy:
        from posteriors import POSTERIORS

        for name in args.only or list(POSTERIORS):
            found["accuracy"] = found.get("accuracy", {}) | accuracy([name], args.limit)
            args.out.write_text(json.dumps(found, indent=1) + "\n")
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    if "accuracy" in found:
        picture(found["accuracy"], args.out.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    main()
