"""A control that both directions of annealed Langevin paths share tightens the bound on log Z.

Annealed Langevin steps lag behind the densities that they are to follow, and steps backward that
ignore the lag make a loose bound. A learned control, added to the drift forward and taken off the
drift backward, moves the paths along with the densities; its best value makes the path ratio
constant. A control in the steps backward alone tightens the bound, but leaves the paths behind.

Paper: F. Vargas, S. Padhy, D. Blessing and N. Nuesken, "Transport meets variational inference:
controlled Monte Carlo diffusions", ICLR 2024, arXiv:2307.01050 (section 3, figure 2).

Scaled down: 64 steps, as in the catalogue, networks of 32 units and a few thousand gradient steps
of 8 to 128 paths. The three samplers are one family with the control in both directions, in the
steps backward, or in none; each trains its reference, annealing path, step sizes and coordinates'
scales by the same objectives, steps, rate, draws and seeds: the bound, and on the grid the variance
of the log ratio after it. The bound's gradient goes along paths and hardly sees how much of the
mass each mode has: by the bound alone the mode in the middle, where paths begin, keeps three times
its ninth in all three samplers. A baseline counts with the better of its two bounds, after either
objective.

Data: Neal's funnel in ten dimensions and nine Gaussians on a grid, whose log Z is 0; logistic
regression on scikit-learn's breast cancer data, whose log Z is by annealed importance sampling from
a full-rank Gaussian fit, with Hamiltonian steps at 100 temperatures and 512 chains.

Thresholds: the catalogue's. A gap is log Z minus the mean log-weight of 4,000 draws, averaged over
seeds. A mode is covered if it has at least a quarter of its ninth of the draws.

Wrong variant: the control is added to the drift backward too, a forgotten change of sign.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

import ritz
from ritz.objective import log_variance, negative_elbo
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.target import library
from ritz.transport import CMCD, cmcd

SEEDS = (0, 1, 2)
STEPS, WIDTH, DRAWS = 64, 32, 4000
# Gradient steps on the grid by the log variance, at half the rate, and of it alone.
LEVELLED, ALONE = 1200, 1500
# Scale of the reference, learning rate, paths and gradient steps of training by the bound.
SETTINGS = {
    "funnel": (1.0, 0.05, 32, 2500),
    "grid": (2.0, 0.02, 128, 800),
    "breast cancer": (0.5, 0.05, 8, 1200),
}
VARIANCE = 0.3
MODES = np.stack(np.meshgrid([-5.0, 0.0, 5.0], [-5.0, 0.0, 5.0]), -1).reshape(-1, 2)


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def trained(name: str, control: str, seed: int, quick: bool = False, kind: Any = CMCD) -> list[Any]:
    """Fits by the bound, and on the grid by the log variance from there.

    The control is in "both" directions, in steps "backward", or in "none".
    """
    _, rate, paths, steps = SETTINGS[name]
    by_bound = negative_elbo(paths, "mc")
    fits = [fitted(name, control, seed, by_bound, rate, shorter(steps, quick), kind)]
    if name == "grid":
        of = (log_variance(paths), 0.5 * rate, shorter(LEVELLED, quick))
        fits.append(fitted(name, control, seed, *of, kind, fits[0].q))
    return fits


def fitted(
    name: str,
    control: str,
    seed: int,
    objective: Any,
    rate: float,
    steps: int,
    kind: Any,
    start: Any = None,
) -> Any:
    """One fit, from a new family or from a trained one."""

    def family(target: Any, at: Any) -> Any:
        q = cmcd(target, at, STEPS, SETTINGS[name][0], control, WIDTH)
        return q if kind is CMCD else kind(**vars(q))

    return ritz.fit(
        targets()[name],
        family=family if start is None else start,
        objective=objective,
        init=ZERO[name],
        steps=steps,
        lr=rate,
        seed=seed,
        progress=False,
    )


def shorter(steps: int, quick: bool) -> int:
    """Fewer steps, for looking."""
    return steps // 20 if quick else steps


def bound(fit: Any) -> float:
    """The mean log-weight."""
    return float(np.asarray(fit.log_weights(DRAWS), np.float64).mean())


# -- the baseline: measured in the same run -------------------------------------------------------


@functools.cache
def uncontrolled(name: str, control: str, seed: int, quick: bool) -> float:
    """The best bound without a control forward; once for the right and the wrong variant."""
    return max(map(bound, trained(name, control, seed, quick)))


# -- the wrong variant: what the checks must catch ------------------------------------------------


class SameSign(CMCD):
    """The control pushes both ways alike."""

    def look(self, at: Any, x: Any) -> Any:
        seen = super().look(at, x)
        drift = 0.5 * (seen.forward - x) / at.step + 0.5 * (seen.backward - x) / at.before
        push = (seen.forward - x) / at.step - drift
        return seen._replace(backward=x + at.before * (drift + push))


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Gaps of the bound on three targets, and the modes of the grid."""
    kind, checks, figures = SameSign if wrong else CMCD, [], {}
    curves: dict[str, Any] = {}
    for name in SETTINGS:
        exact = log_z(name)
        gap = lambda bounds, exact=exact: exact - float(np.mean(bounds))
        ours = gap([bound(trained(name, "both", s, quick, kind)[-1]) for s in seeds])
        langevin = gap([uncontrolled(name, "none", s, quick) for s in seeds])
        backward = gap([uncontrolled(name, "backward", s, quick) for s in seeds])
        for other, value, threshold in (("Langevin", langevin, 0.5), ("backward", backward, 1.0)):
            checks.append(
                Check(
                    name=f"{name}: gap as a share of {other}'s",
                    value=ours / value,
                    direction="<=",
                    threshold=threshold,
                    compared="log Z minus the mean log-weight, averaged over seeds",
                )
            )
        curves[name] = np.array([langevin, backward, ours])
        for label, value in zip(LABELS, curves[name], strict=True):
            figures[f"{name}: gap of {label}"] = float(value)
    alone = functools.partial(
        fitted,
        "grid",
        "both",
        objective=log_variance(SETTINGS["grid"][2]),
        rate=SETTINGS["grid"][1],
        steps=shorter(ALONE, quick),
        kind=kind,
    )
    fits = [alone(seed=s) for s in seeds]
    checks.append(
        Check(
            name="grid: modes that log-variance training covers",
            value=float(min(_modes(fit, s) for fit, s in zip(fits, seeds, strict=True))),
            direction=">=",
            threshold=9.0,
            compared="the fewest over seeds, of nine",
        )
    )
    return Result(tuple(checks), seeds, figures=figures, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """The gaps, by target."""
    with canvas(1, len(result.curves), size=(7.5, 2.8)) as (figure, axes):
        for ax, (name, gaps) in zip(axes[0], result.curves.items(), strict=True):
            ax.bar(LABELS, gaps, width=0.6)
            ax.set(title=name)
        axes[0, 0].set(ylabel="log Z minus the bound")
    return figure


# -- what the parts above need --------------------------------------------------------------------

LABELS = ("Langevin", "backward", "CMCD")


def funnel(x: Any) -> Any:
    """Neal's: the log variance of all others is the first, of sd 3."""
    v, rest = x[0], x[1:]
    others = -0.5 * rest**2 * jnp.exp(-v) - 0.5 * v - 0.5 * np.log(2.0 * np.pi)
    return -0.5 * (v / 3.0) ** 2 - np.log(3.0) - 0.5 * np.log(2.0 * np.pi) + others.sum()


def grid(x: Any) -> Any:
    """The log density of the nine Gaussians."""
    squared = ((x - jnp.asarray(MODES, x.dtype)) ** 2).sum(axis=-1)
    return jax.nn.logsumexp(-0.5 * squared / VARIANCE) - jnp.log(9 * 2 * jnp.pi * VARIANCE)


ZERO: dict[str, Any] = {
    "funnel": jnp.zeros(10),
    "grid": jnp.zeros(2),
    "breast cancer": {"intercept": 0.0, "beta": np.zeros(30)},
}


@functools.cache
def targets() -> dict[str, Any]:
    """The three, once for all fits."""
    packaged = library.get("logistic_breast_cancer")
    data = packaged.data()
    return {
        "funnel": ritz.target.from_log_density(funnel, jnp.zeros(10)),
        "grid": ritz.target.from_log_density(grid, jnp.zeros(2)),
        "breast cancer": ritz.target.from_numpyro(packaged.model, (data["X"], data["y"])),
    }


@functools.cache
def log_z(name: str) -> float:
    """Known, or by annealed importance sampling from the nearest Gaussian."""
    if name != "breast cancer":
        return 0.0
    target = targets()[name]
    fit = ritz.fit(target, family="full_rank", solver="natural_gradient", progress=False)
    return annealed_importance(target.log_density, paramax.unwrap(fit.q), 100, 512)


def annealed_importance(log_density: Any, q: Any, temperatures: int, chains: int) -> float:
    """The log of the mean weight of chains from a Gaussian q, with Hamiltonian steps.

    Positions are those of q's standard normal noise, in which its neighbours are round.
    """
    place = lambda z: q.loc + q.scale_tril @ z
    log_det = jnp.log(jnp.abs(jnp.diag(q.scale_tril))).sum()
    base = lambda z: -0.5 * (z @ z) - 0.5 * len(z) * jnp.log(2.0 * jnp.pi)
    end = lambda z: log_density(place(z)) + log_det
    betas = jnp.linspace(0.0, 1.0, temperatures + 1)[1:]

    def one(key: Any) -> Any:
        first, rest = jax.random.split(key)
        z = jax.random.normal(first, q.loc.shape)

        def step(carry: Any, at: Any) -> Any:
            z, log_w = carry
            beta, key = at
            log_w = log_w + (end(z) - base(z)) / temperatures
            energy = lambda z: -(1.0 - beta) * base(z) - beta * end(z)
            push, accept = jax.random.split(key)
            p = jax.random.normal(push, z.shape)

            def leap(at: Any, _: None) -> Any:
                z, p = at
                p = p - 0.1 * jax.grad(energy)(z)
                z = z + 0.2 * p
                return (z, p - 0.1 * jax.grad(energy)(z)), None

            new, spent = jax.lax.scan(leap, (z, p), None, 5)[0]
            ratio = energy(z) + 0.5 * (p @ p) - energy(new) - 0.5 * (spent @ spent)
            yes = jnp.log(jax.random.uniform(accept)) < ratio
            return (jnp.where(yes, new, z), log_w), None

        at = (betas, jax.random.split(rest, temperatures))
        return jax.lax.scan(step, (z, jnp.zeros(())), at)[0][1]

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=64))
    log_w = np.asarray(run(jax.random.split(jax.random.key(2_000_000), chains)), np.float64)
    return float(np.log(np.exp(log_w - log_w.max()).mean()) + log_w.max())


def _modes(fit: Any, seed: int) -> int:
    q = paramax.unwrap(fit.q)
    keys = jax.random.split(jax.random.key(1_000_000 + seed), DRAWS)
    x = np.asarray(jax.jit(jax.vmap(q.sample))(keys), np.float64)
    squared = ((x[:, None] - MODES) ** 2).sum(axis=-1)
    near = squared.argmin(axis=1)[squared.min(axis=1) < 9.0 * VARIANCE]
    return int((np.bincount(near, minlength=9) / len(x) >= 0.25 / 9).sum())
