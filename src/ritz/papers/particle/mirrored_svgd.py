"""Stein's operator in mirror coordinates keeps particles inside a simplex, and near its law.

SVGD in a simplex's own coordinates steps over the edge and must be projected back, where particles
pile up: a posterior whose mass lies along the edges is lost. Moving the dual coordinates of an
entropic mirror map by the mirrored Stein direction never leaves the simplex, and with a kernel that
follows the mirror's metric particles also resolve what happens near an edge.

Paper: J. Shi, C. Liu and L. Mackey, "Sampling with mirrored Stein operators", ICLR 2022,
arXiv:2106.12506.

Scaled down: nothing; 20 categories, 50 particles and 1,000 steps as in the paper's section 6.1,
with Adam for all three methods. Their rates are tuned, each on its own, on seeds that are not the
recorded ones (1000 and 1001), by the energy distance.

Data: made here. The sparse Dirichlet posterior has a prior concentration of 0.1 and counts 90, 5, 5
and zeros; the quadratic target is :math:`\\exp(-\\theta' A \\theta / (2\\sigma^2))` with
sigma = 0.01 and A a random positive semidefinite matrix of norm one (seed 0). Draws to compare with
are exact for the first; for the second they are those of four long chains of NUTS.

Thresholds: the catalogue's. The energy distance is in the simplex's own coordinates, unscaled.

Wrong variant: the mirrored operator without the divergence of the inverse metric, as if the metric
were constant.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.distributions import constraints
from scipy.spatial.distance import cdist

import ritz
from ritz.papers._base import Check, Result
from ritz.particle._mirrors import Entropy
from ritz.plot import canvas

SEEDS = (0, 1, 2, 3, 4)
TUNED_ON = (1000, 1001)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
STEPS = 1000
PARTICLES = 50
CATEGORIES = 20


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


class Unhurried(ritz.particle.MirroredSVGD):
    """One that makes all the steps it is given."""

    def next_look(self, state: Any) -> Any:
        return None


def mirrored(
    kind: Any, target: Any, adaptive: bool, rate: float, start: Any, steps: int
) -> np.ndarray:
    """Particles on the simplex, by SVMD where the kernel follows the metric, else by MSVGD."""
    kernel, moves = ritz.particle.imq(), adam(rate)
    solver = kind(kernel=kernel, metric=None, optimiser=moves, adaptive=adaptive)
    x = jax.vmap(lambda p: target.unconstrain({"theta": p}))(start)
    family = ritz.family.Particles(x, True)
    fit = ritz.fit(target, family=family, solver=solver, steps=steps, progress=False)
    q: Any = fit.q
    drawn = jax.vmap(target.constrain)(q.points)["theta"]
    return np.asarray(drawn, np.float64)


def adam(rate: float) -> Any:
    """With the rate as an array, so that another one compiles nothing."""
    return optax.chain(
        optax.scale_by_adam(),
        optax.stateless(_times(jnp.asarray(-rate))),
    )


def _times(number: Any) -> Any:
    return lambda updates, params: jax.tree.map(lambda u: number * u, updates)


# -- the baseline: measured in the same run -------------------------------------------------------


def projected(target: Any, rate: float, start: Any, steps: int) -> np.ndarray:
    """SVGD in the coordinates of the simplex, each step projected onto it."""
    density = lambda p: target.fn(jnp.append(p, 1.0 - p.sum()))
    plane = ritz.target.from_log_density(density, start[0, :-1])
    onto = adam(rate)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        moved, state = onto.update(updates, state, params)
        return jax.vmap(project)(params + moved) - params, state

    both = optax.GradientTransformation(onto.init, update)
    solver = _Unhurried(kernel=ritz.particle.imq(), metric=None, optimiser=both)
    family = ritz.family.Particles(start[:, :-1], True)
    fit = ritz.fit(plane, family=family, solver=solver, steps=steps, progress=False)
    q: Any = fit.q
    p = np.asarray(q.points, np.float64)
    return np.column_stack([p, 1.0 - p.sum(1)])


class _Unhurried(ritz.particle.SVGD):
    def next_look(self, state: Any) -> Any:
        return None


def project(p: Any) -> Any:
    """The nearest point of the simplex, a little inside so that its density is finite."""
    full = jnp.append(p, 1.0 - p.sum())
    ordered = jnp.sort(full)[::-1]
    excess = (jnp.cumsum(ordered) - 1.0) / jnp.arange(1, len(full) + 1)
    level = excess[jnp.maximum((ordered > excess).sum() - 1, 0)]
    inside = jnp.maximum(full - level, 1e-6)
    return (inside / inside.sum())[:-1]


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Flat(Entropy):
    """An entropy whose metric is taken for constant."""

    def divergence(self, theta: Any) -> Any:
        return jnp.zeros_like(theta)


class FlatMirrored(Unhurried):
    """The method with that mirror."""

    def frame(self, problem: Any, key: Any) -> Any:
        cloud, frame, cost = super().frame(problem, key)
        return cloud, frame._replace(mirror=Flat()), cost


# -- the experiment -------------------------------------------------------------------------------


def targets() -> dict[str, tuple[Any, np.ndarray]]:
    """By name, the target and draws of it."""
    alpha = np.full(CATEGORIES, 0.1)
    alpha[:3] += [90.0, 5.0, 5.0]
    root = np.random.default_rng(0).normal(size=(CATEGORIES, CATEGORIES))
    a = root @ root.T
    matrix = jnp.asarray(a / np.linalg.norm(a, 2))
    sparse = lambda p: ((jnp.asarray(alpha) - 1.0) * jnp.log(p)).sum()
    quadratic = lambda p: -0.5 * p @ matrix @ p / 0.01**2
    middle = jnp.full(CATEGORIES, 1.0 / CATEGORIES)
    of = lambda f: ritz.target.from_log_density(f, middle, constraints.simplex)
    exact = np.random.default_rng(1).dirichlet(alpha, 4000)
    second = of(quadratic)
    chains = ritz.fit(second, progress=False).refine("nuts")
    return {
        "Dirichlet": (of(sparse), exact),
        "quadratic": (second, np.asarray(chains.sample(4000))),
    }


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Energy distances of three methods on two targets, each at its own best rate."""
    steps = STEPS // 10 if quick else STEPS
    kind = FlatMirrored if wrong else Unhurried
    ratios, least, figures, curves = {"SVMD": [], "MSVGD": []}, np.inf, {}, {}
    for name, (target, draws) in targets().items():
        methods = {
            "SVMD": lambda r, s, t=target: mirrored(kind, t, True, r, s, steps),
            "MSVGD": lambda r, s, t=target: mirrored(kind, t, False, r, s, steps),
            "projected": lambda r, s, t=target: projected(t, r, s, steps),
        }
        found = {}
        for method, particles in methods.items():
            tuned = [
                np.mean([energy(particles(r, _start(s)), draws) for s in TUNED_ON]) for r in RATES
            ]
            rate = RATES[int(np.nanargmin(tuned))]
            clouds = [particles(rate, _start(s)) for s in seeds]
            found[method] = float(np.mean([energy(c, draws) for c in clouds]))
            figures |= {f"{name}: {method}": found[method], f"{name}: {method}, rate": rate}
            curves[f"{name}: {method}"] = clouds[0]
            if method != "projected":
                least = min(least, *(float(c.min()) for c in clouds))
        for method in ratios:
            ratios[method].append(found[method] / found["projected"])
        curves[f"{name}: draws"] = draws
    checks = (
        *(
            Check(
                name=f"energy distance of {method}, as a share of projected SVGD's",
                value=float(max(values)),
                direction="<=",
                threshold=0.5,
                compared=f"{method} with projected SVGD at their best rates, the larger of two",
            )
            for method, values in ratios.items()
        ),
        Check(
            name="least coordinate of any particle",
            value=least,
            direction=">=",
            threshold=1e-30,
            compared="mirrored particles with the edge of the simplex",
        ),
    )
    return Result(checks, seeds, figures=figures, curves=curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """The first coordinates of particles and of draws."""
    with canvas(2, 3, size=(9.0, 5.6)) as (figure, axes):
        for row, name in zip(axes, ("Dirichlet", "quadratic"), strict=True):
            draws = result.curves[f"{name}: draws"]
            for ax, method in zip(row, ("projected", "MSVGD", "SVMD"), strict=True):
                p = result.curves[f"{name}: {method}"]
                ax.plot(draws[:, 0], draws[:, 1], ".", ms=1, color="0.75", label="draws")
                ax.plot(p[:, 0], p[:, 1], "o", ms=3, label=method)
                ax.set(title=name, xlabel="p1", ylabel="p2")
                ax.legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def energy(x: np.ndarray, y: np.ndarray) -> float:
    """The energy distance."""
    if not np.isfinite(x).all():
        return np.inf
    return float(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())


def _start(seed: int) -> Any:
    return jnp.asarray(np.random.default_rng(seed).dirichlet(np.full(CATEGORIES, 5.0), PARTICLES))
