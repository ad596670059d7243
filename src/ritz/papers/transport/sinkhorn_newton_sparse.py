"""A few sparse Newton steps on the dual finish what takes Sinkhorn's sweeps thousands.

At small regularisation Sinkhorn's sweeps converge linearly, at a rate near one. But the plan then
has few entries that matter, so that the Hessian of the dual is nearly sparse: with the largest
entries alone, Newton's equations are solved by conjugate gradients at little cost, and the steps
converge almost as fast as Newton's own.

Paper: X. Tang, M. Shavlovsky, H. Rahmanian, E. Tardini, K. Thekumparampil, T. Xiao and L. Ying,
"Accelerating Sinkhorn algorithm with sparse Newton iterations", ICLR 2024, arXiv:2401.12253.

Scaled down: the paper's two problems at its sizes: assignment of 500 to 500 at uniform random
costs, and pairs of MNIST images as distributions over their pixels, at squared distances (in image
widths). The regularisation of each is the first below 1/600 or 0.0006, by steps of 0.85, at which
Sinkhorn needs 5,000 sweeps; those where it should need less than 4,000, from the second singular
value of the plan, are passed over. The paper fixes it (1/1200), where sweeps differ by seed from
3,000 to 100,000 and more.

Data: random costs made here from the seed; MNIST test images ("mnist10k").

Thresholds: the catalogue's, each for the worst of ten instances. Iterations are sweeps and Newton
steps together. Seconds are of compiled programs: both run an easy problem of the same shape first.
Sinkhorn is OTT-JAX's, in the log domain; conjugate-gradient iterations are recorded as a figure.

Wrong variant: the blocks off the diagonal are left out of the Hessian altogether. The dual still
rises and marginals come near, but a step is then no better than a sweep.
"""

import functools
import time
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from ritz.data import load
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import Plan, sinkhorn, sinkhorn_newton

SEEDS = (0, 1, 2, 3, 4)
POINTS, TOLERANCE = 500, 1e-10
KINDS = ("random", "MNIST")
FIRST = {"random": 1.0 / 600.0, "MNIST": 6e-4}
PREDICTED, LEAST, MOST = 4000, 5000, 60_000


class Instance(NamedTuple):
    """Costs, weights and regularisation."""

    cost: np.ndarray
    a: np.ndarray
    b: np.ndarray
    epsilon: float


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def newton(at: Instance, tolerance: float = TOLERANCE, neighbours: int = 5) -> Plan:
    """The plan by sparse Newton steps."""
    given = (at.cost, None, at.a, at.b)
    return sinkhorn_newton(
        *given, epsilon=at.epsilon, tolerance=tolerance, steps=1000, neighbours=neighbours
    )


# -- the baseline: measured in the same run -------------------------------------------------------


def sweeps(at: Instance) -> Plan:
    """The plan by Sinkhorn's sweeps."""
    given = (at.cost, None, at.a, at.b)
    return sinkhorn(*given, epsilon=at.epsilon, tolerance=TOLERANCE, steps=MOST)


# -- the wrong variant: what the checks must catch ------------------------------------------------


def diagonal_alone(at: Instance) -> Plan:
    """Steps whose Hessian knows of no coupling."""
    return newton(at, neighbours=0)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Both solvers on both problems."""
    solver = diagonal_alone if wrong else newton
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "after .* iterations", RuntimeWarning)
        rows = [_compared(kind, s, solver, quick) for kind in KINDS for s in seeds]
    found = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    share = found["iterations"] / found["sweeps"]
    times = found["seconds"] / found["sweeps' seconds"]
    checks = (
        Check(
            name="iterations as a share of Sinkhorn's",
            value=float(share.max()),
            direction="<=",
            threshold=0.1,
            compared="sweeps and Newton steps to a marginal error of 1e-10, worst of all",
        ),
        Check(
            name="seconds as a share of Sinkhorn's",
            value=float(times.max()),
            direction="<=",
            threshold=0.5,
            compared="wall time of the same, compilation apart, worst of all",
        ),
        Check(
            name="largest difference of plans",
            value=float(found["apart"].max()),
            direction="<=",
            threshold=1e-8,
            compared="entries of both final plans, the largest over all",
        ),
        Check(
            name="marginal error",
            value=float(found["error"].max()),
            direction="<=",
            threshold=TOLERANCE,
            compared="sums of absolute deviations of rows and columns, the largest",
        ),
        Check(
            name="least sweeps",
            value=float(found["sweeps"].min()),
            direction=">=",
            threshold=float(LEAST),
            compared="what Sinkhorn needed, whatever the solver above",
        ),
    )
    figures = {}
    for i, kind in enumerate(KINDS):
        part = slice(i * len(seeds), (i + 1) * len(seeds))
        for name in ("iterations", "inner", "sweeps", "seconds", "sweeps' seconds", "epsilon"):
            figures[f"{kind}: mean {name}"] = float(found[name][part].mean())
    return Result(checks, seeds, figures, found)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Iterations and seconds of both, instance by instance."""
    n = len(result.seeds)
    with canvas(1, 2, size=(8.0, 3.4)) as (figure, axes):
        pairs = (("sweeps", "iterations"), ("sweeps' seconds", "seconds"))
        for ax, (other, mine) in zip(axes[0], pairs, strict=True):
            for i, kind in enumerate(KINDS):
                part = slice(i * n, (i + 1) * n)
                x, y = result.curves[other][part], result.curves[mine][part]
                ax.loglog(x, y, "os"[i], mfc="none", label=kind)
            low = min(result.curves[other].min(), result.curves[mine].min())
            ends = np.array([low, 2.0 * result.curves[other].max()])
            ax.loglog(ends, ends, color="black", lw=1.0, label="equal")
            ax.loglog(ends, ends / 10.0, color="black", lw=0.8, ls=":", label="a tenth")
            ax.set(xlabel=f"Sinkhorn: {other}", ylabel=f"sparse Newton: {mine}")
        axes[0, 0].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _compared(kind: str, seed: int, solver: Any, quick: bool) -> dict[str, float]:
    at = _instance(kind, seed, quick)
    other, slow = _baseline(kind, seed, quick)
    mine, fast = _timed(solver, at)
    return {
        "iterations": mine.iterations,
        "inner": mine.inner_iterations,
        "sweeps": other.iterations,
        "seconds": fast,
        "sweeps' seconds": slow,
        "apart": float(np.abs(np.asarray(mine.plan) - np.asarray(other.plan)).max()),
        "error": max(mine.marginal_error, other.marginal_error),
        "epsilon": at.epsilon,
    }


@functools.cache
def _baseline(kind: str, seed: int, quick: bool) -> tuple[Plan, float]:
    """Long, and the same for the wrong variant."""
    return _timed(sweeps, _instance(kind, seed, quick))


def _timed(solver: Any, at: Instance) -> tuple[Plan, float]:
    """A plan and its seconds, after an easy problem of the same shape."""
    solver(at._replace(epsilon=float(at.cost.max())))
    began = time.perf_counter()
    found = solver(at)
    return found, time.perf_counter() - began


@functools.cache
def _instance(kind: str, seed: int, quick: bool) -> Instance:
    """A problem at the first regularisation that is hard enough for sweeps."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        even = np.full(POINTS, 1.0 / POINTS)
        at = Instance(rng.uniform(size=(POINTS, POINTS)), even, even, FIRST[kind])
    else:
        images = np.asarray(load("mnist10k")["images"], float)
        pixels = np.stack(np.divmod(np.arange(28 * 28), 28), axis=1) / 27.0
        one, other = (images[i].ravel() for i in rng.choice(len(images), 2, replace=False))
        cost = ((pixels[one > 0][:, None] - pixels[other > 0]) ** 2).sum(-1)
        a, b = one[one > 0] / one.sum(), other[other > 0] / other.sum()
        at = Instance(cost, a, b, FIRST[kind])
    while _predicted(at) < (PREDICTED // 20 if quick else PREDICTED):
        at = at._replace(epsilon=0.85 * at.epsilon)
    while not quick and sweeps(at).iterations < LEAST:
        at = at._replace(epsilon=0.85 * at.epsilon)
    return at


def _predicted(at: Instance) -> float:
    """Sweeps that take the error down by a factor of 5e8, at the rate near the end."""
    plan = np.asarray(newton(at, 1e-8).plan)
    scaled = plan / np.sqrt(at.a)[:, None] / np.sqrt(at.b)
    second = np.linalg.svd(scaled, compute_uv=False)[1]
    return 20.0 / max(-2.0 * np.log(min(second, 1.0)), 1e-12)
