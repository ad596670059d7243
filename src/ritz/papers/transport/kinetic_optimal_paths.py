"""One function of one number says which Gaussian path moves a data set with the least energy.

Flow matching takes noise to data along x_t = alpha x_1 + sigma x_0, and any schedule will do. The
kinetic energy of the velocity that it learns depends on the data through the separation function
alone: how much of a point a noisy copy still tells, by the ratio of data to noise. With it the best
schedule is a geodesic. Where points stand far apart, few in many dimensions, it is the straight
line (Cond-OT); where they are dense it is far from it.

Paper: N. Shaul, R. Chen, M. Nickel, M. Le and Y. Lipman, "On kinetic optimal probability paths for
generative models", ICML 2023, arXiv:2306.06626 (sections 3 to 5).

Scaled down: Gaussian clouds of n points in d dimensions, n / sqrt(d) from 0.03 to 2,900, and
handwritten digits, instead of ImageNet. All velocities are the exact marginal ones of the points,
so that nothing is trained. The diffusion schedule (VP) has the usual rates, 0.1 to 20; the
trigonometric one preserves variance too.

Data: clouds made here from the seed; the 1,797 digits of 8 x 8 pixels of scikit-learn. All are
normalised to mean zero and a mean square of one a coordinate.

Thresholds: the catalogue's. Energies are midpoint sums over 100 times of means over 512 draws, the
same for every schedule and other ones than those that estimate the separation. The separation is
averaged over the angle arctan(alpha / sigma), over all of (0, pi/2): no sooner than at a ratio of
about 1 / sqrt(d) can it rise from zero.

Wrong variant: the schedule is solved with the separation itself as the squared speed, as if the
marginal velocity had the conditional one's noise in full. Where points are few, or the data are the
digits, it costs nothing that shows.
"""

from typing import Any

import numpy as np

from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import (
    Path,
    data_separation,
    kinetic_energy,
    kinetic_optimal,
    linear,
    normalised,
    trigonometric,
    variance_preserving,
)
from ritz.transport._kinetic import geodesic

SEEDS = (0, 1)
CLOUDS = ((4, 16384), (16, 1024), (64, 64), (1024, 16), (4096, 2))
DRAWS = 512
DENSE, APART = "4096 in 2", "4 in 16384"


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def solved(x: Any, seed: int) -> Path:
    """The kinetic-optimal schedule of a data set."""
    return kinetic_optimal(x, draws=DRAWS, seed=seed)


# -- the baselines: measured in the same run ------------------------------------------------------


def baselines() -> dict[str, Path]:
    """Cond-OT, and schedules that preserve variance."""
    return {
        "Cond-OT": linear(),
        "VP": variance_preserving(),
        "trigonometric": trigonometric(),
    }


# -- the wrong variant: what the checks must catch ------------------------------------------------


def separation_as_speed(x: Any, seed: int) -> Path:
    """The geodesic of r'^2 + r^2 lambda theta'^2."""
    return geodesic(lambda s, separation: separation, x, DRAWS, seed)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Energies of schedules on data sets from sparse to dense."""
    draws = DRAWS // 8 if quick else DRAWS
    solve = separation_as_speed if wrong else solved
    energies: dict[str, list[list[float]]] = {}
    separation, shown = [], {}
    for seed in seeds:
        for name, x in _sets(seed).items():
            path = solve(x, seed)
            each = [path, *baselines().values()]
            found = [kinetic_energy(p, x, draws=draws, seed=1_000_000 + seed) for p in each]
            energies.setdefault(name, []).append(found)
            shown[name] = _coefficients(path)
            if name == APART:
                middle = np.tan((np.arange(200) + 0.5) / 200 * 0.5 * np.pi)
                known = data_separation(x, middle, draws, 2_000_000 + seed)
                separation.append(float(known.mean()))
    table = {name: np.asarray(v) for name, v in energies.items()}
    excess = {name: (v[:, :1] / v[:, 1:]).max(axis=0) for name, v in table.items()}
    checks = (
        Check(
            name="largest energy as a share of a fixed schedule's",
            value=float(np.max(list(excess.values()))),
            direction="<=",
            threshold=1.005,
            compared="the solved schedule's with Cond-OT's and two VP ones', all data sets",
        ),
        Check(
            name="energy as a share of Cond-OT's, dense points in a plane",
            value=float((table[DENSE][:, 0] / table[DENSE][:, 1]).max()),
            direction="<=",
            threshold=0.9,
            compared="4,096 points in 2 dimensions",
        ),
        Check(
            name="separation short of one, few points in many dimensions",
            value=1.0 - float(np.min(separation)),
            direction="<=",
            threshold=0.02,
            compared="4 points in 16,384 dimensions, averaged over the angle",
        ),
    )
    figures = {}
    for name, v in table.items():
        for label, value in zip(("solved", *baselines()), v.mean(axis=0), strict=True):
            figures[f"{name}: {label}"] = float(value)
    return Result(checks, seeds, figures, {"energies": table, "paths": shown})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """The schedules, and their energies."""
    with canvas(1, 2, size=(9.0, 3.6)) as (figure, axes):
        ax, bars = axes[0]
        for name, (alpha, sigma) in result.curves["paths"].items():
            ax.plot(sigma, alpha, label=name)
        ax.plot([1.0, 0.0], [0.0, 1.0], color="black", lw=1.0, ls=":", label="Cond-OT")
        ax.set(xlabel="weight of the noise", ylabel="weight of the data")
        ax.legend(fontsize=7)
        table = result.curves["energies"]
        at = np.arange(len(table))
        for k, label in enumerate(("solved", *baselines())):
            heights = [v[:, k].mean() for v in table.values()]
            bars.bar(at + 0.2 * (k - 1.5), heights, 0.2, label=label)
        bars.set(ylabel="kinetic energy a dimension", xticks=at)
        bars.set_xticklabels(list(table), rotation=20, fontsize=7)
        bars.legend(fontsize=7)
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _sets(seed: int) -> dict[str, Any]:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()

    rng = np.random.default_rng(seed)
    sets = {f"{n} in {d}": normalised(rng.normal(size=(n, d))) for n, d in CLOUDS}
    return sets | {"digits": normalised(digits.data)}


def _coefficients(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import jax

    t = np.linspace(0.0, 1.0, 201, dtype=np.float32)
    noise, data, _ = jax.vmap(path.at)(jax.numpy.asarray(t))
    return np.asarray(data), np.asarray(noise)
