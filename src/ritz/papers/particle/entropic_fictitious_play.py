"""Mixing a law with its proximal Gibbs measure closes the duality gap at the rate it is mixed at.

Entropic fictitious play minimises a convex functional of a law of parameters plus its negative
entropy: at each step a share gamma of the law is replaced by the Gibbs measure of the functional's
derivative there. For a mean of losses of predictions that derivative needs one number an example,
so that particles of earlier steps need not be kept; and these numbers are a dual solution, whose
gap certifies how far the law is from the best.

Paper: A. Nitanda, K. Oko, T. Suzuki and D. Wu, "Primal and dual analysis of entropic fictitious
play for finite-sum problems", 2023, arXiv:2303.02957.

Scaled down: the laws are of one or two parameters, so that quadrature gives the exact measures and
the optimum; the paper trains two-layer networks by particles only. Three rates of mixing on nodes;
particles at 0.05. The baseline keeps the particles of all steps, with their weights, and is the
same algorithm on the same keys: what differs is what its state holds. Memory is that of the arrays
in the state; the share of a history that drops steps with weights below 1e-3 is a figure.

Data: made here from the seed: 60 inputs and a noisy curve, seen through tanh(theta x) and through
2 tanh(a x + b). Digits 3 and 8 of scikit-learn, by the logistic loss and 65 parameters a particle,
are a figure: there is no quadrature there.

Thresholds: the catalogue's. The loss is what particles know: the risk of the mixture with weight
decay, without the entropy; beside it stands the excess of the whole objective, integrated on the
nodes, at the Gibbs measure of their dual numbers, as a share of the risk (the objective itself has
no natural zero). The check takes the worse of the two. On two seeds the errors were at most 0.028,
and the rates 2.7 to 4 times the nominal one: near the optimum a gap is the square of a distance.
Mixed too fast for its entropy it does not converge: with an entropy of 0.05, features of 3 tanh
and gamma up to 0.1 the rate was 0.06 of the nominal one.

Wrong variant: predictions are overwritten by those of the last Gibbs measure, not mixed. The law
is still mixed, and its loss falls at first.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import ritz
from ritz.papers._base import Check, Result
from ritz.particle import FictitiousPlay, ParticleFictitiousPlay, fictitious_play, finite_sum
from ritz.plot import canvas

SEEDS = (0, 1, 2)
RATES = (0.02, 0.04, 0.08)
RATE = 0.05  # of the particles
STEPS = 400  # on nodes
EXAMPLES = 60
PARTICLES = 400
ROUNDS = 200  # of particles
SETTINGS = {"decay": 0.02, "entropy": 0.1}
NODES = {1: [jnp.linspace(-10.0, 10.0, 801)], 2: [jnp.linspace(-7.0, 7.0, 113)] * 2}


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def problem_of(dim: int, seed: int) -> Any:
    """A curve seen through neurons of one or two parameters."""
    rng = np.random.default_rng((seed, dim))
    x = rng.uniform(-2.0, 2.0, EXAMPLES)
    curve = np.tanh(1.5 * x) if dim == 1 else np.sin(1.5 * x) + 0.5
    y = curve + 0.1 * rng.normal(size=EXAMPLES)
    if dim == 1:
        feature = lambda theta, x: jnp.tanh(theta[0] * x)
    else:
        feature = lambda theta, x: 2.0 * jnp.tanh(theta[0] * x + theta[1])
    return finite_sum(feature, x, y, dim=dim, **SETTINGS)


def on_nodes(problem: Any, rate: float, steps: int, wrong: bool) -> Any:
    """Its run with exact measures."""
    solver = fictitious_play(rate, nodes=NODES[problem.dim])
    if wrong:
        solver = OverwrittenOnNodes(solver.rate, solver.nodes, solver.volume)
    return _run(problem, solver, steps, 0)


def with_particles(problem: Any, steps: int, seed: int, wrong: bool) -> Any:
    """Its run with particles, of which those of the last step are held."""
    solver: Any = fictitious_play(RATE, particles=PARTICLES)
    if wrong:
        solver = Overwritten(solver.rate, solver.moves, solver.length, solver.particles)
    return _run(problem, solver, steps, seed)


# -- the baseline: measured in the same run -------------------------------------------------------


class HistoryState(NamedTuple):
    """Particles of all steps, and how much each step weighs."""

    params: Any
    weights: Any
    at: Any


class KeepsHistory(ParticleFictitiousPlay):
    """The mixture as a weighted list of all particles; nothing is known but through them."""

    room: int = eqx.field(static=True)

    def init(self, problem: Any, key: Any) -> HistoryState:
        first = super().init(problem, key).params
        held = jnp.zeros((self.room + 1, *first.shape)).at[0].set(first)
        weights = jnp.zeros(self.room + 1).at[0].set(1.0)
        return HistoryState(held, weights, jnp.zeros((), jnp.int32))

    def step(self, problem: Any, state: HistoryState, key: Any, batch: Any = None) -> Any:
        mean = lambda f: (
            state.weights @ jax.lax.map(lambda each: jax.vmap(f)(each).mean(axis=0), state.params)
        )
        predictions, square = mean(problem.features), mean(lambda theta: theta @ theta)
        small = (
            super()
            .init(problem, key)
            ._replace(params=state.params[state.at], predictions=predictions, square=square)
        )
        new, info = super().step(problem, small, key)
        at = state.at + 1
        weights = ((1.0 - self.rate) * state.weights).at[at].set(self.rate)
        return HistoryState(state.params.at[at].set(new.params), weights, at), info


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Overwritten(ParticleFictitiousPlay):
    """Forgets the mixture's predictions."""

    def step(self, problem: Any, state: Any, key: Any, batch: Any = None) -> Any:
        new, info = super().step(problem, state, key)
        found = jax.vmap(problem.features)(new.params).mean(axis=0)
        return new._replace(predictions=found, square=(new.params**2).sum(axis=1).mean()), info


class OverwrittenState(NamedTuple):
    """Masses, features, and the predictions that stand for the mixture's."""

    params: Any
    table: Any
    predictions: Any


class OverwrittenOnNodes(FictitiousPlay):
    """Forgets the mixture's predictions; what it records is of the mixture."""

    def init(self, problem: Any, key: Any) -> OverwrittenState:
        masses, table = super().init(problem, key)
        return OverwrittenState(masses, table, masses @ table)

    def step(self, problem: Any, state: Any, key: Any, batch: Any = None) -> Any:
        _, info = super().step(problem, state, key)
        duals = problem.duals(state.predictions)
        gibbs = problem.gibbs(duals, state.table, self.nodes, self.volume).masses
        mixed = state.params + self.rate * (gibbs - state.params)
        return OverwrittenState(mixed, state.table, gibbs @ state.table), info


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Rates of the gap on nodes, and losses and memory of particles."""
    steps, rounds = (STEPS // 4, ROUNDS // 4) if quick else (STEPS, ROUNDS)
    share, errors, memory, pruned, same = [], [], [], [], []
    figures: dict[str, float] = {}
    gaps, risks = {}, {}
    for dim in (1, 2):
        for seed in seeds:
            problem = problem_of(dim, seed)
            for rate in RATES:
                done = on_nodes(problem, rate, steps, wrong)
                gap = np.asarray(done.history.columns["gap"], float)
                share.append(_decades(gap) / math.log(1.0 / (1.0 - rate)))
                gaps[dim, rate, seed] = gap
            best = on_nodes(problem, RATE, 2 * steps, False)
            optimum = {name: float(v[-1]) for name, v in best.history.columns.items()}
            done = with_particles(problem, rounds, seed, wrong)
            risk = np.asarray(done.history.columns["loss"], float)
            free = _objective(problem, done.state.predictions)
            excess = (free - optimum["loss"]) / optimum["risk"]
            errors.append([abs(risk[-1] / optimum["risk"] - 1.0), abs(excess)])
            risks[dim, seed] = risk / optimum["risk"]
            figures[f"risk at the optimum, {dim} parameters, seed {seed}"] = optimum["risk"]
            figures[f"gap at the optimum, {dim} parameters, seed {seed}"] = optimum["gap"]
            baseline = _with_history(problem, rounds, seed)
            memory.append(_bytes(done.state) / _bytes(baseline.state))
            kept = int((np.asarray(baseline.state.weights) > 1e-3).sum())
            pruned.append(memory[-1] * (len(baseline.state.weights)) / kept)
            kept_risk = float(baseline.history.columns["loss"][-1])
            same.append(abs(kept_risk / optimum["risk"] - 1.0))
    found = np.asarray(errors)
    figures |= {
        "risk, largest error": float(found[:, 0].max()),
        "objective, largest excess": float(found[:, 1].max()),
        "risk with history, largest error": max(same),
        "memory as a share of the pruned history": max(pruned),
        "mean rate of the gap": float(np.mean(share)),
    }
    figures |= {} if quick or wrong else _digits(seeds[0])
    rate, off = float(min(share)), float(found.max())
    checks = (
        Check("rate of the gap over log 1/(1 - gamma)", rate, ">=", 0.8, "the nominal, on nodes"),
        Check("relative error of particles' loss", off, "<=", 0.05, "with the optimum on nodes"),
        Check("memory as a share of history's", max(memory), "<=", 0.3, "bytes of both states"),
    )
    return Result(checks, seeds, figures, {"gaps": gaps, "risks": risks})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Gaps by step and rate, with the nominal rate; particles' losses over the optimum."""
    curves = result.curves
    colours = dict(zip(RATES, ("#0072B2", "#D55E00", "#009E73"), strict=True))
    with canvas(1, 3, size=(10.0, 3.2)) as (figure, axes):
        for (dim, rate, seed), gap in curves["gaps"].items():
            ax, steps = axes[0, dim - 1], np.arange(len(gap))
            first = seed == result.seeds[0]
            label = f"gamma {rate:g}" if first else None
            ax.semilogy(gap / gap[0], color=colours[rate], lw=1.0, label=label)
            if first:
                ax.semilogy((1.0 - rate) ** steps, color=colours[rate], ls=":")
            ax.set(ylim=(1e-6, 2.0), xlabel="step", title=f"{dim} parameter{'s' * (dim - 1)}")
        axes[0, 0].set(ylabel="gap over its first; dots (1 - gamma)^k")
        axes[0, 0].legend()
        for (dim, _), risk in curves["risks"].items():
            axes[0, 2].semilogy(risk, lw=1.0, color=list(colours.values())[dim - 1])
        axes[0, 2].axhline(1.0, color="black", lw=1.0)
        axes[0, 2].set(xlabel="step", ylabel="particles' risk over the optimum's")
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _run(problem: Any, solver: Any, steps: int, seed: int) -> Any:
    key = jax.random.key(seed)
    return ritz.solver.run(problem, solver, steps, key, progress=False, strict=True)


def _with_history(problem: Any, steps: int, seed: int) -> Any:
    own: Any = fictitious_play(RATE, particles=PARTICLES)
    solver = KeepsHistory(own.rate, own.moves, own.length, own.particles, steps)
    return _run(problem, solver, steps, seed)


def _decades(gap: np.ndarray) -> float:
    """The mean fall of log gap by step, over its first three decades or as far as it came."""
    below = np.flatnonzero(gap <= 1e-3 * gap[0])
    last = int(below[0]) if below.size else len(gap) - 1
    return math.log(gap[0] / gap[last]) / last


def _objective(problem: Any, predictions: Any) -> float:
    """Of the Gibbs measure of predictions' duals, on the nodes."""
    solver: Any = fictitious_play(1.0, nodes=NODES[problem.dim])
    first = solver.init(problem, jax.random.key(0))
    duals = problem.duals(predictions)
    masses = problem.gibbs(duals, first.table, solver.nodes, solver.volume).masses
    return float(solver.step(problem, first._replace(params=masses), jax.random.key(0))[1]["loss"])


def _bytes(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _digits(seed: int) -> dict[str, float]:
    """Digits 3 and 8 by neurons of 65 parameters: held-out accuracy, and the particles' gap."""
    from sklearn.datasets import load_digits

    images: Any = load_digits()
    pick = np.isin(images.target, (3, 8))
    x = (images.data[pick] - 8.0) / 8.0 / 8.0
    y = np.where(images.target[pick] == 3, 1.0, -1.0)
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = x[order], y[order]
    seen = slice(0, 250)
    feature = lambda theta, x: 10.0 * jnp.tanh(theta[:-1] @ x + theta[-1])
    problem = finite_sum(
        feature, x[seen], y[seen], dim=65, loss="logistic", decay=1e-3, entropy=1e-3
    )
    done = _run(problem, fictitious_play(RATE, particles=200, length=10), 200, seed)
    new = jax.vmap(lambda theta: jax.vmap(lambda x: feature(theta, x))(jnp.asarray(x[250:])))
    right = np.sign(np.asarray(new(done.state.params).mean(axis=0))) == y[250:]
    gap = np.asarray(done.history.columns["gap"], float)
    return {
        "digits, held-out accuracy": float(right.mean()),
        "digits, last gap over the first": float(gap[-1] / gap[0]),
    }
