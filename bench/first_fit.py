"""How long until a posterior: import, first fit, second fit, a step; against NumPyro and plain JAX.

One model and data for all: logistic regression, 1000 rows × 20 columns, 5,000 mean-field steps of
Adam with one draw a step. Each figure is a median over fresh processes. Writes first_fit.json.

    python bench/first_fit.py [--repeats 5] [--out bench/results/first_fit.json]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROWS, COLUMNS, STEPS, LR = 1000, 20, 5000, 0.01
LONG = 100_000


def data(seed: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    p = 1.0 / (1.0 + np.exp(-x @ rng.normal(size=COLUMNS)))
    return x, (rng.uniform(size=ROWS) < p).astype(np.float32)


def model(x: Any, y: Any = None) -> None:
    import numpyro
    import numpyro.distributions as dist

    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([COLUMNS]).to_event(1))
    b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    with numpyro.plate("rows", ROWS):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)


def compilations() -> list[int]:
    """A one-element list that counts XLA compilations from now on."""
    import jax

    count = [0]

    def listen(event: str, *_: Any, **__: Any) -> None:
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    return count


def fit_ritz(seed: int, steps: int) -> Any:
    import optax

    import ritz

    return ritz.fit(
        model,
        data(seed),
        family="mean_field",
        draws=1,
        steps=steps,
        solver=optax.adam(LR),
        seed=seed,
    )


def run_ritz() -> dict[str, float]:
    import jax  # noqa: F401
    import numpy as np

    import ritz  # noqa: F401

    count, out = compilations(), {}
    began = time.perf_counter()
    fit = fit_ritz(0, STEPS)
    out["first_fit"] = time.perf_counter() - began
    mean = fit.mean()
    out["first_mean"] = time.perf_counter() - began
    out["compilations_first"] = count[0]
    count[0], began = 0, time.perf_counter()
    fit = fit_ritz(1, STEPS)
    out["second_fit"] = time.perf_counter() - began
    out["compilations_second"] = count[0]
    mean = fit.mean()
    out["second_mean"] = time.perf_counter() - began
    out["compilations_second_mean"] = count[0]
    out["step"] = fit_ritz(1, LONG).info["run_seconds"] / LONG
    out["check"] = float(np.linalg.norm(mean["w"]))
    return out


def run_numpyro() -> dict[str, float]:
    import jax
    import numpy as np
    import numpyro
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    def fit(seed: int, steps: int) -> tuple[Any, Any]:
        guide = AutoNormal(model)
        svi = SVI(model, guide, numpyro.optim.Adam(LR), Trace_ELBO())
        x, y = data(seed)
        result = svi.run(jax.random.key(seed), steps, x, y=y, progress_bar=False)
        jax.block_until_ready(result.params)
        return guide, result.params

    count, out = compilations(), {}
    for name, seed in (("first", 0), ("second", 1)):
        count[0], began = 0, time.perf_counter()
        guide, params = fit(seed, STEPS)
        out[f"{name}_fit"] = time.perf_counter() - began
        draws = guide.sample_posterior(jax.random.key(2), params, sample_shape=(4000,))
        mean = {k: np.asarray(v).mean(0) for k, v in draws.items()}
        out[f"{name}_mean"] = time.perf_counter() - began
        out[f"compilations_{name}"] = count[0]
    out["check"] = float(np.linalg.norm(mean["w"]))
    return out


def run_jax() -> dict[str, float]:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    adam = optax.adam(LR)
    d = COLUMNS + 1

    def loss(params: Any, key: Any, x: Any, y: Any) -> Any:
        loc, log_scale = params
        z = loc + jnp.exp(log_scale) * jax.random.normal(key, (d,))
        logits = x @ z[:-1] + z[-1]
        prior = -0.5 * (z[:-1] @ z[:-1]) - 0.5 * (z[-1] / 5.0) ** 2
        return -(jnp.sum(y * logits - jax.nn.softplus(logits)) + prior + log_scale.sum())

    def fit(params: Any, key: Any, x: Any, y: Any, steps: int) -> Any:
        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            value, grad = jax.value_and_grad(loss)(params, key, x, y)
            update, state = adam.update(grad, state, params)
            return (optax.apply_updates(params, update), state), value

        keys = jax.random.split(key, steps)
        (params, _), losses = jax.lax.scan(step, (params, adam.init(params)), keys)
        return params, losses

    run = jax.jit(fit, static_argnums=4)
    start = (jnp.zeros(d), jnp.full(d, -2.3))
    out = {}
    for name, seed in (("first", 0), ("second", 1)):
        began = time.perf_counter()
        params, _ = jax.block_until_ready(run(start, jax.random.key(seed), *data(seed), STEPS))
        out[f"{name}_fit"] = time.perf_counter() - began
    x, y = (jnp.asarray(v) for v in data(1))
    jax.block_until_ready(run(start, jax.random.key(1), x, y, LONG))
    times = []
    for seed in range(3):
        began = time.perf_counter()
        jax.block_until_ready(run(start, jax.random.key(seed), x, y, LONG))
        times.append(time.perf_counter() - began)
    out["step"] = statistics.median(times) / LONG
    out["check"] = float(np.linalg.norm(params[0][:-1]))
    return out


def run_memory(steps: int) -> dict[str, float]:
    fit_ritz(0, steps)
    return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def run_predict(draws: int) -> dict[str, float]:
    import numpy as np

    kept = fit_ritz(0, 500).predict(n=draws, reduce=lambda draw: draw["y"].mean())
    assert np.shape(kept) == (draws,)
    return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def run_import(module: str) -> dict[str, float]:
    began = time.perf_counter()
    imported = __import__(module)
    if module == "ritz":
        _ = imported.fit  # the engine is imported when it is first used
    return {"import": time.perf_counter() - began}


def child(*args: str) -> dict[str, float]:
    """Run one measurement in a fresh process."""
    env = os.environ | {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
    done = subprocess.run(
        [sys.executable, __file__, *args], capture_output=True, text=True, env=env, check=False
    )
    if done.returncode:
        sys.exit(f"measuring {' '.join(args)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {k: statistics.median(row[k] for row in rows) for k in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", default="bench/results/first_fit.json")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        what, *rest = args.child
        runs = {"ritz": run_ritz, "numpyro": run_numpyro, "jax": run_jax}
        if what in runs:
            print(json.dumps(runs[what]()))
        elif what == "memory":
            print(json.dumps(run_memory(int(rest[0]))))
        elif what == "predict":
            print(json.dumps(run_predict(int(rest[0]))))
        else:
            print(json.dumps(run_import(rest[0])))
        return

    rows: dict[str, list[dict[str, float]]] = {}
    child("--child", "import", "ritz")  # warms the file cache
    for _ in range(args.repeats):  # in turn, so that a change of the machine's speed hits all
        for name in ("numpyro", "ritz"):
            rows.setdefault(f"import {name}", []).append(child("--child", "import", name))
        for name in ("numpyro", "ritz", "jax"):
            rows.setdefault(name, []).append(child("--child", name))
    out: dict[str, Any] = {name: medians(values) for name, values in rows.items()}
    for steps in (STEPS, 10 * STEPS, 100 * STEPS):
        out[f"memory {steps}"] = child("--child", "memory", str(steps))
    for draws in (100, 10_000, 100_000):
        out[f"predict memory {draws}"] = child("--child", "predict", str(draws))
    predict = [out[f"predict memory {d}"]["peak_mib"] for d in (100, 100_000)]
    r, n, j = out["ritz"], out["numpyro"], out["jax"]
    peak = [out[f"memory {s}"]["peak_mib"] for s in (STEPS, 100 * STEPS)]
    out["ratios"] = ratios = {
        "import / numpyro": (out["import ritz"]["import"] / out["import numpyro"]["import"], 1.4),
        "first fit / numpyro": (r["first_fit"] / n["first_fit"], 0.6),
        "first fit and mean / numpyro": (r["first_mean"] / n["first_mean"], 0.6),
        "second fit / numpyro": (r["second_fit"] / n["second_fit"], 0.2),
        "second fit and mean / numpyro": (r["second_mean"] / n["second_mean"], 0.2),
        "compilations of the second fit": (r["compilations_second_mean"], 0),
        "step / plain JAX": (r["step"] / j["step"], 1.1),
        "peak memory, 100 × the steps": (peak[1] / peak[0], 1.1),
        "peak memory of predict, 1000 × the draws": (predict[1] / predict[0], 1.1),
    }
    out["machine"] = {"python": platform.python_version(), "cpus": os.cpu_count()}
    for name in sorted(out):
        if name not in ("ratios", "machine"):
            figures = ", ".join(f"{k} {v:.4g}" for k, v in out[name].items())
            print(f"{name}: {figures}")
    for name, (value, limit) in ratios.items():
        print(f"{name:42} {value:7.3f}  to reach {limit:g}: {'yes' if value <= limit else 'NO'}")
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(out, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
