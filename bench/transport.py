"""Log normalisers by learned samplers, annealed importance sampling and SMC, at equal evaluations.

Targets whose log Z is known: Neal's funnel (10 dimensions), nine Gaussians on a grid (2), eight
double wells side by side (16, 256 modes; log Z by quadrature); and posteriors, of posteriordb eight
schools, not centred (10), and logistic regression on the breast cancer data (31), with log Z by a
long annealed run from a Gaussian fit. Each learned sampler of `ritz.transport` trains on fresh
paths and then draws 2,000 log-weights; annealed importance sampling and adaptive tempered SMC, both
of BlackJAX's Hamiltonian steps, run 2,000 chains with as many evaluations of the density as
training and draws took together. All start at the same normal distribution. The step size of
annealing is the best of five, and a sampler's learning rate the better of two, by the mean
log-weight of a pilot (of a third of the steps), which is not counted. CMCD by log-variance makes
its first third of steps by the bound, which learns the noise that log-variance holds. Median over
seeds of |log Z error|, of log Z less the mean log-weight (no bound for SMC), and seconds with
compilation. Writes transport.json and transport.png.

    python bench/transport.py [--only NAME ...] [--seeds 3] [--table]
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc.resampling import systematic
from scipy.integrate import quad

import ritz
from ritz.objective import log_variance
from ritz.plot import canvas
from ritz.target import library
from ritz.transport import cmcd

HERE = Path(__file__).resolve().parent
OUT = HERE / "results" / "transport.json"
CHAINS, PATHS, TRAIN, STEPS, LEAPS = 2000, 64, 1500, 64, 5
RATES, PILOT = (0.02, 0.005), 1_000
SIZES = (0.05, 0.1, 0.2, 0.4, 0.8)  # of Hamiltonian steps, in units of the reference
WELLS = 8


def funnel(x: Any) -> Any:
    """Neal's: the log variance of all others is the first, of sd 3."""
    rest = jax.scipy.stats.norm.logpdf(x[1:], scale=jnp.exp(0.5 * x[0])).sum()
    return jax.scipy.stats.norm.logpdf(x[0], scale=3.0) + rest


def grid(x: Any) -> Any:
    """Nine Gaussians of variance 0.3."""
    middles = jnp.stack(jnp.meshgrid(*2 * [jnp.array([-5.0, 0.0, 5.0])]), -1).reshape(-1, 2)
    squared = ((x - middles) ** 2).sum(-1)
    return jax.nn.logsumexp(-0.5 * squared / 0.3) - jnp.log(9 * 2 * jnp.pi * 0.3)


def wells(x: Any) -> Any:
    """Double wells in the even coordinates, normal ones between them."""
    u, v = x[::2], x[1::2]
    return (-(u**4) + 6.0 * u**2 + 0.5 * u - 0.5 * v**2).sum()


def problems() -> dict[str, Any]:
    """Target, start, the reference's scale, and log Z."""
    one = quad(lambda u: np.exp(-(u**4) + 6.0 * u**2 + 0.5 * u), -6.0, 6.0, epsabs=0.0)[0]
    plain = ritz.target.from_log_density
    return {
        "funnel": (plain(funnel, jnp.zeros(10)), 1.0, 0.0),
        "grid": (plain(grid, jnp.zeros(2)), 4.0, 0.0),
        "many wells": (
            plain(wells, jnp.zeros(2 * WELLS)),
            1.5,
            WELLS * (np.log(one) + 0.5 * np.log(2.0 * np.pi)),
        ),
        "eight schools": (schools(), 1.0, None),
        "breast cancer": (posterior(), 0.5, None),
    }


def schools() -> Any:
    """As in posteriordb."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from posteriors import POSTERIORS, load_data

    name = "eight_schools-eight_schools_noncentered"
    model = POSTERIORS[name]
    return ritz.target.from_numpyro(model.model, (), model.data(load_data(name)))


def posterior() -> Any:
    """The packaged logistic regression."""
    packaged = library.get("logistic_breast_cancer")
    data = packaged.data()
    return ritz.target.from_numpyro(packaged.model, (data["X"], data["y"]))


def learned() -> dict[str, dict[str, Any]]:
    """What `ritz.fit` is told."""
    loss = log_variance(PATHS)
    bound = ritz.objective.negative_elbo(PATHS, "mc")
    return {
        "PIS": {"family": "pis", "objective": bound},
        "PIS, log-variance": {"family": "pis", "objective": loss},
        "DIS": {"family": "dis", "objective": bound},
        "DIS, log-variance": {"family": "dis", "objective": loss},
        "CMCD": {"family": "cmcd", "objective": bound},
        "CMCD, log-variance": {"family": "cmcd", "objective": loss, "first": bound},
    }


def by_learning(
    told: dict[str, Any], target: Any, scale: float, rate: float, seed: int, steps: int = TRAIN
) -> np.ndarray:
    """Log-weights of a trained sampler."""
    name = told["family"]
    if name == "cmcd":
        family: Any = lambda target, start: cmcd(target, start, STEPS, scale)
    else:
        build = getattr(ritz.transport, name)
        family = lambda target, start: build(target, start, STEPS, scale)
    same = {"init": origin(target), "lr": rate, "seed": seed, "progress": False}
    if "first" in told:
        begun = ritz.fit(target, family=family, objective=told["first"], steps=steps // 3, **same)
        family, steps = begun.q, steps - steps // 3
    fit = ritz.fit(target, family=family, objective=told["objective"], steps=steps, **same)
    return np.asarray(fit.log_weights(CHAINS), np.float64)


def rate_of(told: dict[str, Any], target: Any, scale: float) -> float:
    """The learning rate whose pilot ends nearer."""
    mean = [by_learning(told, target, scale, r, PILOT, TRAIN // 3).mean() for r in RATES]
    return RATES[int(np.argmax(np.nan_to_num(mean, nan=-np.inf)))]


def evaluations() -> int:
    """Of the density, that a learned sampler takes: one a step of each path."""
    return (TRAIN * PATHS + CHAINS) * STEPS


def annealed(log_density: Any, base: Any, size: float, temperatures: int, keys: Any) -> np.ndarray:
    """Log-weights of annealed importance sampling, a Hamiltonian step at each temperature.

    `base` has the mean and the sds of the normal distribution that it starts at.
    """
    mean, sd = base
    normal = lambda x: jax.scipy.stats.norm.logpdf(x, mean, sd).sum()
    betas = jnp.linspace(0.0, 1.0, temperatures + 1)[1:]

    def one(key: Any) -> Any:
        first, rest = jax.random.split(key)
        x = mean + sd * jax.random.normal(first, mean.shape)

        def step(carry: Any, at: Any) -> Any:
            x, log_w = carry
            beta, key = at
            log_w = log_w + (log_density(x) - normal(x)) / temperatures
            tempered = lambda x: (1.0 - beta) * normal(x) + beta * log_density(x)
            move: Any = blackjax.hmc(tempered, size, sd**2, LEAPS)
            return (move.step(key, move.init(x))[0].position, log_w), None

        at = (betas, jax.random.split(rest, temperatures))
        return jax.lax.scan(step, (x, jnp.zeros(())), at)[0][1]

    program = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=500))
    return np.asarray(program(keys), np.float64)


def smc(log_density: Any, base: Any, size: float, budget: int, key: Any) -> float:
    """Log Z of adaptive tempered SMC; a pilot tells how many moves the budget allows."""
    mean, sd = base
    normal = lambda x: jax.scipy.stats.norm.logpdf(x, mean, sd).sum()
    parameters = {"step_size": size, "inverse_mass_matrix": sd**2, "num_integration_steps": LEAPS}
    shared = jax.tree.map(lambda v: jnp.asarray(v)[None], parameters)

    def run(moves: int, key: Any) -> tuple[float, int]:
        made: Any = blackjax.adaptive_tempered_smc(
            normal,
            lambda x: log_density(x) - normal(x),
            blackjax.hmc.build_kernel(),
            blackjax.hmc.init,
            shared | {"num_integration_steps": jnp.array([LEAPS])},
            systematic,
            0.7,
            num_mcmc_steps=moves,
        )
        first, key = jax.random.split(key)
        state = made.init(mean + sd * jax.random.normal(first, (CHAINS, len(mean))))
        step, log_z, count = jax.jit(made.step), 0.0, 0
        while float(state.tempering_param) < 1.0 and count < 300:
            key, now = jax.random.split(key)
            state, info = step(now, state)
            log_z, count = log_z + float(info.log_likelihood_increment), count + 1
        return log_z, count

    _, count = run(3, key)
    return run(max(1, budget // (CHAINS * LEAPS * count)), key)[0]


def reference(target: Any) -> float:
    """Log Z of a posterior near to Gaussian: long annealing from a Gaussian fit, whitened."""
    fit = ritz.fit(target, family="full_rank", solver="natural_gradient", progress=False)
    q: Any = fit.q
    loc, root = q.loc, q.scale_tril
    log_det = jnp.log(jnp.abs(jnp.diag(root))).sum()
    white = lambda z: target.log_density(loc + root @ z) + log_det
    base = (jnp.zeros(target.dim), jnp.ones(target.dim))
    log_w = annealed(white, base, 0.2, 200, jax.random.split(jax.random.key(99), CHAINS))
    return log_mean(log_w)


def origin(target: Any) -> Any:
    """The unconstrained zero, in the model's own terms."""
    return target.constrain(jnp.zeros(target.dim))


def log_mean(log_w: np.ndarray) -> float:
    """The log of the mean weight."""
    return float(np.logaddexp.reduce(log_w) - np.log(len(log_w)))


def measured(name: str, seeds: int) -> dict[str, Any]:
    """By method, what each seed gave."""
    target, scale, known = problems()[name]
    known = reference(target) if known is None else known
    density = target.log_density
    base = (jnp.zeros(target.dim), jnp.full(target.dim, scale))
    found: dict[str, Any] = {"log Z": known, "evaluations": evaluations(), "seeds": seeds}

    def row(method: str, estimate: Any, **more: float) -> None:
        each = []
        for seed in range(seeds):
            began = time.perf_counter()
            out = estimate(seed)
            seconds = time.perf_counter() - began
            if isinstance(out, float):
                each.append({"error": abs(out - known), "seconds": seconds})
            else:
                error, gap = abs(log_mean(out) - known), known - float(out.mean())
                each.append({"error": error, "gap": gap, "seconds": seconds})
        found[method] = {k: float(np.median([e[k] for e in each])) for k in each[0]} | more
        print(name, method, found[method], flush=True)
        jax.clear_caches()

    pilot = jax.random.split(jax.random.key(PILOT), 200)
    bounds = [annealed(density, base, size, 100, pilot).mean() for size in SIZES]
    size = SIZES[int(np.nanargmax(bounds))]
    found["step"] = size
    temperatures = evaluations() // (CHAINS * LEAPS)
    keys = lambda seed: jax.random.split(jax.random.key(seed), CHAINS)
    row("AIS", lambda seed: annealed(density, base, size, temperatures, keys(seed)))
    row("SMC", lambda seed: smc(density, base, size, evaluations(), jax.random.key(seed)))
    for method, told in learned().items():
        rate = rate_of(told, target, scale)
        row(method, functools.partial(by_learning, told, target, scale, rate), rate=rate)
    return found


def picture(found: dict[str, Any], path: Path) -> None:
    """The errors, by target."""
    with canvas(1, len(found), size=(2.9 * len(found), 3.2)) as (figure, axes):
        for ax, (name, rows) in zip(axes[0], found.items(), strict=True):
            rows = {k: v for k, v in rows.items() if isinstance(v, dict)}
            ax.barh(list(rows), [max(v["error"], 1e-4) for v in rows.values()])
            ax.set(title=name, xscale="log", xlabel="|error of log Z|")
            ax.invert_yaxis()
            if ax is not axes[0, 0]:
                ax.set(yticklabels=[])
        figure.savefig(path, dpi=110)


def table(found: dict[str, Any]) -> str:
    """Errors, gaps and seconds."""
    lines = []
    for name, rows in found.items():
        told = f"log Z {rows['log Z']:.3f}, {rows['evaluations']:,} evaluations"
        lines.append(f"\n{name}: {told}\n{'method':20} {'error':>9} {'gap':>9} {'seconds':>9}")
        for method, row in rows.items():
            if isinstance(row, dict):
                gap = f"{row['gap']:.3f}" if "gap" in row else ""
                lines.append(f"{method:20} {row['error']:9.3f} {gap:>9} {row['seconds']:9.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    if not args.table:
        for name in args.only or problems():
            found[name] = measured(name, args.seeds)
            args.out.write_text(json.dumps(found, indent=1) + "\n")
        picture(found, args.out.with_suffix(".png"))
    print(table(found))


if __name__ == "__main__":
    main()
