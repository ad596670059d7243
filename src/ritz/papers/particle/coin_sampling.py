"""Particles that bet on their directions need no learning rate, and lose next to nothing by that.

A coordinate of a particle that bets a share of its winnings on the next direction, as a gambler
does on coins, moves as far as a well-tuned step would: SVGD with such bets comes within a third of
the discrepancy of SVGD with the best of nine fixed steps, which range over eight powers of ten and
most of which fail.

Paper: L. Sharrock and C. Nemeth, "Coin sampling: gradient-based Bayesian inference without learning
rates", ICML 2023, arXiv:2301.11294.

Scaled down: nothing of the method; 100 particles, in float64, and plain steps (the paper's AdaGrad
has a rate as well).

Data: breast_cancer of scikit-learn, standardised, with a N(0, 1) prior on 30 slopes and an
intercept; a banana and a mixture of two Gaussians in the plane. Particles start as normals with
their own seed.

Discrepancy: the root of the V-statistic with the inverse multiquadric kernel of scale the root of
the dimension. A step that leaves the finite numbers counts as infinitely bad.

Thresholds: the catalogue's. The share for steps is the smallest number of bad ones over the three
targets, of medians over seeds.

Wrong variant: the reward is left out of what is bet, so that a coordinate bets a constant wealth:
positions stay bounded by the first steps' scale.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer

import ritz
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = (0, 1, 2, 3, 4)
STEPS = 1000
PARTICLES = 100
RATES = tuple(10.0**k for k in range(-5, 4))


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


class Unhurried(ritz.particle.SVGD):
    """SVGD that makes all the steps it is given."""

    def next_look(self, state: Any) -> Any:
        return None


class Louder(Unhurried):
    """The same with every direction a hundred times as long."""

    def direction(self, z: Any, scores: Any) -> Any:
        phi, loss = super().direction(z, scores)
        return 100.0 * phi, loss


def cloud(target: Any, optimiser: Any, start: Any, steps: int, kind: Any = Unhurried) -> Any:
    """Particles after some steps."""
    solver = kind(ritz.particle.rbf("median/log n"), None, optimiser)
    family = ritz.family.Particles(start, True)
    fit = ritz.fit(target, family=family, solver=solver, steps=steps, progress=False)
    q: Any = fit.q
    return None if fit.stop_reason == "not finite" else np.asarray(q.points)


# -- the baseline: measured in the same run -------------------------------------------------------


def plain(rate: float) -> Any:
    """Fixed steps, whose rate is an array so that another one compiles nothing."""
    at = jnp.asarray(rate)
    return optax.stateless(lambda updates, params: jax.tree.map(lambda g: -at * g, updates))


# -- the wrong variant: what the checks must catch ------------------------------------------------


def without_reward() -> Any:
    """Coins that bet a constant wealth."""
    right = ritz.particle.coin()

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        poor = state._replace(reward=jax.tree.map(jnp.zeros_like, state.reward))
        moved, new = right.update(updates, poor, state.start)  # no displacement, no reward
        return state.start + moved - params, new

    return optax.GradientTransformation(right.init, update)


# -- the experiment -------------------------------------------------------------------------------


def banana(x: Any) -> Any:
    """N(0, 4) bent."""
    return -0.5 * (x[0] ** 2 / 4.0 + (x[1] - 0.25 * x[0] ** 2) ** 2 / 0.25)


def mixture(x: Any) -> Any:
    """Two Gaussians, with weights of 0.4 and 0.6."""
    means, log_weights = jnp.array([[-2.0, 0.0], [2.0, 1.0]]), jnp.log(jnp.array([0.4, 0.6]))
    return jax.nn.logsumexp(log_weights - 0.5 * ((x - means) ** 2).sum(-1) / 0.64)


def targets() -> dict[str, Any]:
    """By name."""
    x, y = load_breast_cancer(return_X_y=True)
    x = np.asarray(x)
    x = (x - x.mean(0)) / x.std(0)
    design, labels = jnp.asarray(np.column_stack([x, np.ones(len(x))])), jnp.asarray(y * 1.0)

    def logistic(b: Any) -> Any:
        logit = design @ b
        return (labels * logit - jax.nn.softplus(logit)).sum() - 0.5 * (b**2).sum()

    of = ritz.target.from_log_density
    return {
        "banana": of(banana, jnp.zeros(2)),
        "mixture": of(mixture, jnp.zeros(2)),
        "logistic": of(logistic, jnp.zeros(31)),
    }


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Coins, nine steps, and coins with louder directions, on three targets."""
    jax.config.update("jax_enable_x64", True)  # for positions that agree to 1e-6
    steps = STEPS // 5 if quick else STEPS
    bets = without_reward() if wrong else ritz.particle.coin()
    shares, bad, moved, curves, figures = [], [], 0.0, {}, {}
    for name, target in targets().items():
        coins, fixed = [], []
        for seed in seeds:
            start = jnp.asarray(np.random.default_rng(seed).normal(size=(PARTICLES, target.dim)))
            first = cloud(target, bets, start, steps)
            coins.append(_discrepancy(target, first))
            fixed.append(
                [_discrepancy(target, cloud(target, plain(r), start, steps)) for r in RATES]
            )
            if seed == seeds[0]:
                louder = cloud(target, bets, start, steps, Louder)
                moved = max(moved, _apart(first, louder))
        coin, rates = np.median(coins), np.median(fixed, axis=0)
        shares.append(coin / rates.min())
        bad.append(int((rates > 1.5 * coin).sum()))
        curves[name] = {"coin": coin, "rates": rates}
        figures |= {f"{name}: coins": float(coin), f"{name}: best step": float(rates.min())}
        figures[f"{name}: best rate"] = RATES[int(rates.argmin())]
    checks = (
        Check(
            name="largest discrepancy of coins, as a share of the best step's",
            value=float(max(shares)),
            direction="<=",
            threshold=1.3,
            compared="coin SVGD with the best of nine steps, medians over seeds, of three targets",
        ),
        Check(
            name="steps that are worse than 1.5 times coins, at least",
            value=float(min(bad)),
            direction=">=",
            threshold=4.0,
            compared="nine steps with coin SVGD, on the target where most of them do well",
        ),
        Check(
            name="how far positions move for directions a hundred times as long",
            value=float(moved),
            direction="<=",
            threshold=1e-6,
            compared="coin SVGD with itself, after all steps",
        ),
    )
    return Result(checks, seeds, figures=figures, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Discrepancy by step, and that of coins."""
    with canvas(1, 3, size=(9.5, 3.2)) as (figure, axes):
        for ax, (name, found) in zip(axes[0], result.curves.items(), strict=True):
            shown = np.where(np.isfinite(found["rates"]), found["rates"], np.nan)
            ax.loglog(RATES, shown, "o-", label="SVGD")
            ax.axhline(found["coin"], color="black", lw=1.0, label="coin SVGD")
            ax.set(title=name, xlabel="step", ylabel="kernel Stein discrepancy")
            ax.legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _discrepancy(target: Any, points: Any) -> float:
    if points is None or not np.isfinite(points).all():
        return np.inf
    objective = ritz.objective.stein_discrepancy(float(target.dim) ** 0.5)
    q = ritz.family.Particles(jnp.asarray(points), True)
    found = float(_of(objective, q, target))
    return float(np.sqrt(max(found, 0.0))) if np.isfinite(found) else np.inf


@eqx.filter_jit
def _of(objective: Any, q: Any, target: Any) -> Any:
    return objective.loss(q, target, jax.random.key(0))


def _apart(one: Any, two: Any) -> float:
    return float(np.abs(one - two).max())
