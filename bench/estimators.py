"""What gradient estimators cost, how noisy they are, and what a program adds to hand-written JAX.

Overhead: the gradient of a chain of 1, 10 and 100 choices (every other one a coin with its score
function, the others pathwise normals), as a program and unrolled by hand; medians of ratios in
interleaved runs of 64 draws, and seconds to compile; with genjax also what genjax adds.

Variance: the four tasks of `tasks.py`, and every registered estimator that serves them, NumPyro's
ELBOs and genjax's estimators: variance of the gradient (summed over parameters), seconds of a
gradient, and their product over that of the score function written by hand in the same JAX. Mean
gradients are held against the exact one: a row whose distance no chance explains says so, and has
no product unless its estimator is declared biased. Writes estimators.json.

    python bench/estimators.py [--repeats 30] [--draws 2000] [--out bench/results/estimators.json]
        [--genjax PYTHON, of an environment that has genjax; .venv-genjax is found by itself]
"""

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import numpyro_peer
from tasks import BATCH, Gradient, Task, by_hand, inputs, measured, tasks

import ritz
from ritz.estimator import pathwise, registered, running_mean, score
from ritz.objective import expectation, sample, sample_and_log_prob

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
    # A call of one choice is some 20 us, mostly dispatch, which drifts: many short rounds in turn,
    # and the median of the rounds' own ratios.
    ratios: list[float] = []
    for i in range(repeats * max(1, 100 // sites)):
        seconds = [0.0, 0.0]
        for which in (0, 1) if i % 2 else (1, 0):
            began = time.perf_counter()
            for _ in range(20 if sites < 100 else 2):
                pairs[which][0]()
            seconds[which] = time.perf_counter() - began
        ratios.append(seconds[0] / seconds[1])
    return {"step": statistics.median(ratios), "compile": pairs[0][1] / pairs[1][1]}


# -- variance and cost ----------------------------------------------------------------------------


def negative_elbo(q: Any, how: Any, log_joint: Any) -> Any:
    z, log_q = sample_and_log_prob(q, how)
    return log_q - log_joint(z * 1.0).sum()


FAMILIES = {  # first the form in which most of the estimators serve a choice
    "Bernoulli layer": [lambda p: dist.Bernoulli(logits=p)],
    "Gamma-Poisson": [lambda p: dist.Gamma(jnp.exp(p[0]), jnp.exp(p[1]))],
    "logistic regression": [
        lambda p: dist.Normal(p[0], jnp.exp(p[1])).to_event(1),
        lambda p: dist.Normal(p[0], jnp.exp(p[1])),
    ],
    "mixture": [lambda p: dist.Bernoulli(logits=p)],
}


def estimators(name: str, task: Task) -> dict[str, Any]:
    """The registered estimators; a baseline that learns is where learning would bring it."""
    every = {name: entry.example() for name, entry in registered().items()}
    return every | {"score(baseline)": score(running_mean(learned(name, task)))}


def learned(name: str, task: Task) -> float:
    """Where the derivative in a baseline, which is linear in it, is 0 on average."""
    q, keys = FAMILIES[name][0](task.params), jax.random.split(jax.random.key(2), 1000)

    def slope(at: float) -> Any:
        run = lambda how: negative_elbo(q, how, task.log_joint)
        one = lambda key: expectation(run).grad(key, score(running_mean(at))).baseline.mean
        return jax.jit(jax.vmap(one))(keys).mean()

    at_0, at_1 = slope(0.0), slope(1.0)
    return float(at_0 / (at_0 - at_1))


def gradient(name: str, task: Task, how: Any) -> Gradient:
    """In the first form that the estimator serves; else the last one's refusal."""

    def form(family: Any) -> Gradient:
        run = lambda p: negative_elbo(family(p), how, task.log_joint)
        return lambda key, params: expectation(run).grad(key, params)

    for family in FAMILIES[name][:-1]:
        try:
            jax.eval_shape(form(family), jax.random.key(0), task.params)
            return form(family)
        except ritz.RitzError:
            continue
    return form(FAMILIES[name][-1])


def judged(row: dict[str, Any], entries: int, biased: bool) -> dict[str, Any]:
    """With whether its mean is exact, as far as four standard errors a number can tell."""
    if "refused" in row:
        return row
    limit = -NormalDist().inv_cdf(NormalDist().cdf(-4.0) / entries)
    row |= {"biased": biased, "exact": row["z"] < limit}
    if not biased and not row["exact"]:
        del row["product"]
    return row


def said(task: str, name: str, row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"{task:20s} {name:34s} refused: {row['refused'][:90]}"
    about = f"product {row['product']:.3g}" if "product" in row else "WRONG: its mean is not exact,"
    bias = f" off by {row['bias']:.1%}{' (declared)' * row['biased']}" * (not row["exact"])
    numbers = f"variance {row['variance']:9.3g}, {row['seconds'] * 1e6:7.2f} us"
    return f"{task:20s} {name:34s} {numbers}, {about}{bias}"


def from_genjax(python: str, data: Any, args: Any) -> dict[str, Any]:
    """What `genjax_peer.py` measures in its environment, or why it did not."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/data.npz", **data)
        script = Path(__file__).parent / "genjax_peer.py"
        command = [python, script, f"{folder}/data.npz", str(args.repeats), str(args.draws)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def variances(args: Any, data: Any, theirs: Any) -> dict[str, Any]:
    """Rows by task, those of genjax among them."""
    found: dict[str, Any] = {}
    for name, task in tasks(data).items():
        own = estimators(name, task)
        rows = {"score, by hand": by_hand(task)}
        rows |= {f"Ritz {k}": gradient(name, task, how) for k, how in own.items()}
        rows |= numpyro_peer.gradients(name, task, data)
        measures = measured(task, rows, args.draws, max(3, args.repeats // 5))
        peers = theirs.get(name, {})
        peers = {
            k.replace("score, by hand", "score, by hand in its JAX"): v for k, v in peers.items()
        }
        biased = {f"Ritz {k}" for k, how in own.items() if how.biased}
        found[name] = {
            k: judged(row, task.params.size, k in biased) for k, row in (measures | peers).items()
        }
        for k, row in found[name].items():
            print(said(name, k, row), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/estimators.json"))
    parser.add_argument("--genjax", default=".venv-genjax/bin/python")
    args = parser.parse_args()
    overhead(2, 3)  # the first compilation warms caches of XLA itself
    found: dict[str, Any] = {"overhead": {}}
    for sites in (1, 10, 100):
        found["overhead"][str(sites)] = ratios = overhead(sites, args.repeats)
        print(f"{sites:4d} sites: step {ratios['step']:.2f}, compile {ratios['compile']:.2f}")
    data = inputs(ritz.data.load)
    genjax: dict[str, Any] = {"failed": f"there is no {args.genjax}"}
    if Path(args.genjax).exists():
        genjax = from_genjax(args.genjax, data, args)
    found["estimators"] = variances(args, data, genjax.pop("estimators", {}))
    found["genjax"] = genjax
    print("genjax:", genjax)
    found["machine"] = {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpyro": numpyro_peer.VERSION,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
