"""Markov steps between the layers of a flow keep what the layers alone lose, and stay exact.

A coupling flow is a homeomorphism: it cannot tear a Gaussian into two wells, and trained on the
energy alone it settles in one. Metropolis steps on energies interpolated between the Gaussian's
and the target's, put between the same layers, populate both. Each step adds its log ratio of
backward and forward probabilities to the weight of a path, so that averages over reweighted paths
are exact although nobody knows the density of a draw.

Paper: H. Wu, J. Koehler and F. Noe, "Stochastic normalizing flows", NeurIPS 2020, arXiv:2002.06707.

Scaled down: the paper's double well u(x) = x1^4/4 - 3 x1^2 + c x1 + x2^2/2, and an image-shaped
density, both in two dimensions as there. Both flows have the same three blocks of two couplings,
and are trained on the path-space KL divergence from the energy alone, with the same draws and
steps; the stochastic one has 20 Metropolis steps a block. The chains make as many steps on the
target itself, from the same Gaussian.

The paper's c = 1 gives the right well 0.8% of the mass. To leave it out costs 0.008 nats, so that
nothing trained on that divergence keeps it (measured: flows of either kind lose it). Here c = 0.2,
and the wells differ by 0.96 kT. The paper adds maximum likelihood on draws from both wells; then
six couplings alone come near the least error that a thousand independent draws allow (measured:
0.07 to 0.12, least 0.065; with Metropolis steps 0.08 to 0.21). In two dimensions the claim about
errors is one about training without such draws.

Data: made here; the image is drawn by formulas and interpolated.

Thresholds: the catalogue's. An error is the root mean square over seeds of the free-energy
difference of 10,000 reweighted draws; half a mean weight is added to each well, so that an empty
one has an error of 8.9 and not infinity. Estimates are compared with quadrature in standard
errors, of that difference and of log Z, which no wrong weight keeps.

Wrong variant: the Metropolis steps' path probabilities are left out, as if each step left the
weight alone.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

import ritz
from ritz.family import StochasticFlow, stochastic_flow
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = tuple(range(5))
BLOCKS, MARKOV = 3, 20
DRAWS = 10_000
TRAIN: dict[str, Any] = {"steps": 1500, "draws": 64, "lr": 0.002, "progress": False}
TILT = 0.2
SIDE, PIXELS, BINS = 3.0, 64, 16  # the image covers [-3, 3] squared


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def fit_flow(target: Any, markov: int, seed: int, steps: int, kind: Any = StochasticFlow) -> Any:
    """A trained flow with `markov` Metropolis steps a block; none makes it a coupling flow."""

    def family(target: Any, start: Any) -> StochasticFlow:
        q = stochastic_flow(target, start, BLOCKS, markov, "metropolis", scale=1.0)
        return kind(**{f.name: getattr(q, f.name) for f in dataclasses.fields(q)})

    settings: dict[str, Any] = TRAIN | {"steps": steps}
    return ritz.fit(target, family=family, seed=seed, **settings)


def estimates(fit: Any, seed: int) -> np.ndarray:
    """The difference of right and left well and log Z, with their standard errors beneath."""
    x, log_w = draw(fit, DRAWS, seed)
    w = np.exp(log_w - log_w.max())
    difference, error = _difference(w, x[:, 0] > 0.0)
    log_z = np.log(w.mean()) + log_w.max()
    return np.array([[difference, log_z], [error, w.std() / w.mean() / DRAWS**0.5]])


def draw(fit: Any, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws and their log-weights."""

    def one(key: Any) -> Any:
        x, log_q = paramax.unwrap(fit.q).sample_and_log_prob(key)
        return x, fit.target.log_density(x) - log_q

    keys = jax.random.split(jax.random.key(1_000_000 + seed), n)
    x, log_w = jax.jit(jax.vmap(one))(keys)
    return np.asarray(x, np.float64), np.asarray(log_w, np.float64)


# -- the baseline: measured in the same run -------------------------------------------------------


def chains(target: Any, seed: int) -> float:
    """The difference from the ends of Metropolis chains of as many steps, from the same start."""
    rng = np.random.default_rng(seed)
    density = jax.jit(jax.vmap(target.log_density))
    x = rng.normal(size=(DRAWS, 2)).astype(np.float32)
    at = np.asarray(density(x))
    for _ in range(BLOCKS * MARKOV):
        tried = (x + 0.5 * rng.normal(size=x.shape)).astype(np.float32)
        there = np.asarray(density(tried))
        yes = np.log(rng.uniform(size=DRAWS)) < there - at
        x, at = np.where(yes[:, None], tried, x), np.where(yes, there, at)
    return _difference(np.ones(DRAWS), x[:, 0] > 0.0)[0]


# -- the wrong variant: what the checks must catch ------------------------------------------------


class WithoutPathProbabilities(StochasticFlow):
    """Metropolis steps that leave the weight alone."""

    def markov(self, path: Any, weight: Any, step: Any, key: Any) -> Any:
        new, ratio, log_prob = super().markov(path, weight, step, key)
        return new, jnp.zeros_like(ratio), log_prob


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """The double well's free-energy difference, and the histogram of the image's draws."""
    steps = TRAIN["steps"] // 10 if quick else TRAIN["steps"]
    kind = WithoutPathProbabilities if wrong else StochasticFlow
    well, exact = _double_well()
    errors: dict[str, list[float]] = {"stochastic": [], "coupling": [], "chains": []}
    standard = []
    for seed in seeds:
        mixed = estimates(fit_flow(well, MARKOV, seed, steps, kind), seed)
        alone = estimates(fit_flow(well, 0, seed, steps), seed)
        each = (mixed[0, 0], alone[0, 0], chains(well, seed))
        for name, value in zip(errors, each, strict=True):
            errors[name].append(value - exact[0])
        standard.append(np.abs(mixed[0] - exact) / mixed[1])
    rms = {name: float(np.sqrt(np.mean(np.square(v)))) for name, v in errors.items()}
    image, picture = _image()
    found: dict[str, list[float]] = {"stochastic": [], "coupling": []}
    shown = {}
    for seed in seeds:
        for name, markov in (("stochastic", MARKOV), ("coupling", 0)):
            fit = fit_flow(image, markov, seed, steps, kind if markov else StochasticFlow)
            x = draw(fit, 5 * DRAWS, seed)[0]
            found[name].append(_total_variation(x, picture))
            shown[name] = x
    variation = {name: float(np.mean(v)) for name, v in found.items()}
    checks = (
        Check(
            name="error as a share of the coupling flow's",
            value=rms["stochastic"] / rms["coupling"],
            direction="<=",
            threshold=0.5,
            compared="root mean square errors of the free-energy difference, the same couplings",
        ),
        Check(
            name="error as a share of the chains'",
            value=rms["stochastic"] / rms["chains"],
            direction="<=",
            threshold=0.7,
            compared="the same with Metropolis chains of as many steps on the target",
        ),
        Check(
            name="distance from quadrature in standard errors",
            value=float(np.max(standard)),
            direction="<=",
            threshold=3.0,
            compared="the largest over seeds, of reweighted differences and of log Z",
        ),
        Check(
            name="image: total variation as a share of the coupling flow's",
            value=variation["stochastic"] / variation["coupling"],
            direction="<=",
            threshold=0.7,
            compared="histograms of 50,000 unweighted draws with the image",
        ),
    )
    figures = {f"error: {name}": value for name, value in rms.items()}
    figures |= {f"image variation: {name}": value for name, value in variation.items()}
    return Result(checks, seeds, figures, {"picture": picture, **shown})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """The image, and histograms of both flows' draws."""
    names = ("picture", "coupling", "stochastic")
    with canvas(1, 3, size=(9.0, 3.0)) as (figure, axes):
        for ax, name in zip(axes[0], names, strict=True):
            value = result.curves[name]
            seen = value if name == "picture" else _histogram(value, PIXELS)
            ax.imshow(seen.T, origin="lower", cmap="Greys", vmin=0.0, vmax=seen.max() * 0.8)
            titles = ("target", "coupling flow alone", "with Metropolis steps")
            ax.set(xticks=[], yticks=[], title=titles[names.index(name)])
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _double_well() -> tuple[Any, np.ndarray]:
    """The target, and its free-energy difference and log Z by quadrature."""

    def energy(x: Any) -> Any:
        return 0.25 * x[0] ** 4 - 3.0 * x[0] ** 2 + TILT * x[0] + 0.5 * x[1] ** 2

    x = np.linspace(-6.0, 6.0, 20_001)
    mass = np.exp(-(0.25 * x**4 - 3.0 * x**2 + TILT * x))
    target = ritz.target.from_log_density(lambda x: -energy(x), jnp.zeros(2))
    log_z = np.log(mass.sum() * (x[1] - x[0]) * np.sqrt(2.0 * np.pi))
    return target, np.array([-np.log(mass[x > 0.0].sum() / mass[x < 0.0].sum()), log_z])


def _difference(w: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Minus the log ratio of the wells' weights, and its standard error."""
    floor = 0.5 * w.mean() / len(w)
    a, b = (w * right).mean() + floor, (w * ~right).mean() + floor
    return float(-np.log(a / b)), float(np.std(w * right / a - w * ~right / b) / len(w) ** 0.5)


def _image() -> tuple[Any, np.ndarray]:
    """A face: a ring, two eyes and a mouth; the target, and the masses of its pixels."""
    centre = (np.arange(PIXELS) + 0.5) / PIXELS * 2.0 * SIDE - SIDE
    x, y = np.meshgrid(centre, centre, indexing="ij")
    near = lambda distance, width: np.exp(-0.5 * (distance / width) ** 2)
    ring = near(np.hypot(x, y) - 2.3, 0.12)
    eyes = near(np.hypot(x - 0.85, y - 0.8), 0.22) + near(np.hypot(x + 0.85, y - 0.8), 0.22)
    mouth = near(np.hypot(x, y) - 1.2, 0.12) * (y < -0.35)
    picture = ring + 2.0 * eyes + mouth + 1e-3
    picture /= picture.sum()
    table = jnp.asarray(np.log(picture / picture.max()), jnp.float32)

    def log_density(p: Any) -> Any:
        at = (p + SIDE) / (2.0 * SIDE) * PIXELS - 0.5
        inside = jax.scipy.ndimage.map_coordinates(table, list(at), order=1, mode="nearest")
        return inside - 20.0 * (jnp.maximum(jnp.abs(p) - SIDE, 0.0) ** 2).sum()

    return ritz.target.from_log_density(log_density, jnp.zeros(2)), picture


def _histogram(x: np.ndarray, bins: int) -> np.ndarray:
    edges = np.linspace(-SIDE, SIDE, bins + 1)
    return np.histogram2d(x[:, 0], x[:, 1], bins=[edges, edges])[0] / len(x)


def _total_variation(x: np.ndarray, picture: np.ndarray) -> float:
    """Half the summed difference of the bins' masses; draws outside the image count in full."""
    seen = _histogram(x, BINS)
    masses = picture.reshape(BINS, PIXELS // BINS, BINS, PIXELS // BINS).sum((1, 3))
    return 0.5 * float(np.abs(seen - masses).sum() + 1.0 - seen.sum())
