"""One potential, trained as an energy, gives the whole entropic plan, without a second network.

The semi-dual of entropic transport has one potential f, and the plans are the conditional laws
proportional to exp((f(y) - c(x, y)) / eps). The ascent direction is the mean of grad f over data
less that over samples of the plans, which Langevin chains make, in training and afterwards. The
alternative that needs no training, Sinkhorn's plans of mini-batches pooled together, is biased:
partners are chosen among 64 points, however many batches there are.

Paper: P. Mokrov, A. Korotin, A. Kolesov, N. Gushchin and E. Burnaev, "Energy-guided entropic neural
optimal transport", ICLR 2024, arXiv:2304.06094. The plan between Gaussians: H. Janati, B. Muzellec,
G. Peyre and M. Cuturi, NeurIPS 2020, arXiv:2006.02572.

Scaled down: Gaussians in 8 dimensions (the paper goes to 128), 12,800 samples a side, a network of
two layers of 64, chains of 20 steps with Metropolis' rule. Without that rule, as in the paper,
training at a rate of 0.005 ran away for some seed (the mean error was above 1e10). The network
knows nothing of Gaussians: f is a perceptron without a quadratic term. Means are normal,
eigenvalues of the covariances between 0.5 and 2, in random directions.

Data: made here from the seed. A thousand more target samples are drawn, which the verdict keeps.

Threshold: the catalogue's, for errors averaged over seeds and both eps. An error is the squared
Bures-Wasserstein distance between the joint means and covariances of (x, y) and those of the best
plan, over half the target's variance. The learned plan's moments are those of 20,000 pushed new
samples, with the source's moments known; the pooled plan's are its own, with no draws made. Most of
the baseline's error is at eps = 0.1; the figures tell both.

Wrong variant: the chains forget where they started, as if every x were the mean. What is sampled
still has the target's distribution; only x and y have nothing to do with each other.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ritz
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import EnergyPlan, GaussianPlan, energy_plan, gaussian_plan, sinkhorn

SEEDS = (0, 1, 2)
EPSILONS = (0.1, 1.0)
DIMENSIONS, SAMPLES, NEW, BATCH = 8, 12_800, 20_000, 64
STEPS, RATE = 1000, 0.003


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def learned(data: Any, epsilon: float, steps: int, seed: int, kind: Any = EnergyPlan) -> Any:
    """A fitted plan."""
    builder = energy_plan(data["x"], epsilon=epsilon)

    def family(target: Any, start: Any) -> EnergyPlan:
        q = builder(target, start)
        return kind(**vars(q))

    settings: dict[str, Any] = {"steps": steps, "lr": RATE, "seed": seed, "progress": False}
    return ritz.fit(data["target"], family=family, **settings)


def joint(fit: Any, data: Any, seed: int) -> GaussianPlan:
    """Moments of new samples of the source, and of where they are pushed."""
    x = data["new"]
    keys = jax.random.split(jax.random.key(1_000_000 + seed), len(x))
    y = np.asarray(jax.jit(jax.vmap(fit.q.push))(jnp.asarray(x), keys), float)
    # The linear part of the mean is taken with the known moments of x: less noise.
    mean0, cov0 = data["mean0"], data["cov0"]
    design = np.c_[np.ones(len(x)), x - mean0]
    (mean1, *slope), *_ = np.linalg.lstsq(design, y, rcond=None)
    rest = y - design @ np.vstack([mean1, slope])
    cross = cov0 @ np.asarray(slope)
    cov1 = np.asarray(slope).T @ cross + rest.T @ rest / len(x)
    return GaussianPlan(np.r_[mean0, mean1], np.block([[cov0, cross], [cross.T, cov1]]))


# -- the baseline: measured in the same run -------------------------------------------------------


def pooled(data: Any, epsilon: float) -> GaussianPlan:
    """Moments of Sinkhorn's plans between batches of 64 of the same samples, pooled."""
    x, y = data["x"], np.asarray(data["target"].samples, float)[: len(data["x"])]
    cross = np.zeros((DIMENSIONS, DIMENSIONS))
    for i in range(0, len(x), BATCH):
        part = slice(i, i + BATCH)
        plan = sinkhorn(x[part], y[part], epsilon=epsilon, tolerance=1e-3).plan
        centred = x[part] - x.mean(0), y[part] - y.mean(0)
        cross += centred[0].T @ np.asarray(plan, float) @ centred[1] * BATCH / len(x)
    covariance = np.block([[np.cov(x.T), cross], [cross.T, np.cov(y.T)]])
    return GaussianPlan(np.r_[x.mean(0), y.mean(0)], covariance)


# -- the wrong variant: what the checks must catch ------------------------------------------------


class Forgetful(EnergyPlan):
    """Chains of the plan at the source's mean, whatever x is."""

    def walk(self, z: Any, key: Any) -> Any:
        return super().walk(jnp.zeros_like(z), key)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Random pairs of Gaussians, at both regularisations."""
    kind, steps = Forgetful if wrong else EnergyPlan, STEPS // 10 if quick else STEPS
    errors, baseline = np.zeros((2, len(EPSILONS), len(seeds)))
    lines = []
    for j, seed in enumerate(seeds):
        data = _data(seed)
        for i, epsilon in enumerate(EPSILONS):
            given = (data["mean0"], data["cov0"], data["mean1"], data["cov1"])
            best = gaussian_plan(*given, epsilon)
            found = joint(learned(data, epsilon, steps, seed, kind), data, seed)
            other = _baseline(seed, epsilon)
            scale = 0.5 * np.trace(data["cov1"])
            errors[i, j] = _distance(found, best) / scale
            baseline[i, j] = _distance(other, best) / scale
            d = DIMENSIONS
            lines.append([p.covariance[:d, d:].ravel() for p in (best, found, other)])
    checks = (
        Check(
            name="error as a share of pooled mini-batch plans'",
            value=float(errors.mean() / baseline.mean()),
            direction="<=",
            threshold=0.5,
            compared="unexplained variance of the joint plan, means over seeds and both eps",
        ),
    )
    figures = {}
    for epsilon, mine, other in zip(EPSILONS, errors.mean(1), baseline.mean(1), strict=True):
        figures[f"error, eps = {epsilon:g}"] = float(mine)
        figures[f"error of mini-batches, eps = {epsilon:g}"] = float(other)
    curves = {"cross": np.asarray(lines).reshape(len(seeds), len(EPSILONS), 3, -1)}
    return Result(checks, seeds, figures, curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Cross-covariances of learned and pooled plans against those of the best plan."""
    with canvas(1, len(EPSILONS), size=(8.0, 3.6)) as (figure, axes):
        for i, (ax, epsilon) in enumerate(zip(axes[0], EPSILONS, strict=True)):
            exact, found, other = result.curves["cross"][:, i].swapaxes(0, 1).reshape(3, -1)
            ends = [exact.min(), exact.max()]
            ax.plot(ends, ends, color="black", lw=1.0)
            ax.plot(exact, other, "s", mfc="none", ms=3, label="pooled mini-batches")
            ax.plot(exact, found, "o", ms=3, label="learned")
            ax.set(title=f"eps = {epsilon:g}", xlabel="cross-covariance of the best plan")
        axes[0, 0].set(ylabel="found")
        axes[0, 0].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


@functools.cache
def _data(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    (m0, s0), (m1, s1) = _gaussian(rng), _gaussian(rng)
    # A thousand of these are kept aside by the target.
    y = rng.multivariate_normal(m1, s1, SAMPLES + 1000)
    return {
        "mean0": m0,
        "cov0": s0,
        "mean1": m1,
        "cov1": s1,
        "x": rng.multivariate_normal(m0, s0, SAMPLES),
        "new": rng.multivariate_normal(m0, s0, NEW),
        "target": ritz.target.from_samples(y),
    }


@functools.cache
def _baseline(seed: int, epsilon: float) -> GaussianPlan:
    """The same for the wrong variant."""
    return pooled(_data(seed), epsilon)


def _gaussian(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A mean and a covariance."""
    turn, _ = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))
    return rng.normal(size=DIMENSIONS), (turn * rng.uniform(0.5, 2.0, DIMENSIONS)) @ turn.T


def _distance(a: GaussianPlan, b: GaussianPlan) -> float:
    """Squared Bures-Wasserstein, |m - n|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)."""
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ b.covariance @ root)
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    shift = ((a.mean - b.mean) ** 2).sum()
    return float(shift + traces - 2.0 * np.sqrt(np.maximum(middle, 0.0)).sum())
