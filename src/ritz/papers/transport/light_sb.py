"""A mixture for a potential solves the Schrödinger bridge without simulation or networks.

The bridge's plan has the density p0(x) exp(<x, y> / eps) v(y) / c(x). Where v is a mixture of
Gaussians, the normaliser c, the conditional law of y and the drift of the bridge are closed-form,
and the divergence from the best plan is, up to a constant, the mean of log c over the source less
the mean of log v over the target. Between Gaussians, where the best plan is known, the fitted joint
distribution is within 1% of it.

Paper: A. Korotin, N. Gushchin and E. Burnaev, "Light Schrödinger Bridge", ICLR 2024,
arXiv:2310.01174. The plan between Gaussians: H. Janati, B. Muzellec, G. Peyre and M. Cuturi,
NeurIPS 2020, arXiv:2006.02572.

Scaled down: 10,000 samples a side, and Gaussians in 2 and 8 dimensions (the paper goes to 128, and
to latent spaces of images). Means are normal, eigenvalues of the covariances between 0.5 and 2, in
random directions. Components are five full matrices, of which one would do: the fit must find that
out. The picture is the paper's other example, a Gaussian pushed to a Swiss roll.

Data: made here from the seed.

Thresholds: the catalogue's; each holds for the worst of four settings. The error is the squared
Bures-Wasserstein distance between joint means and covariances, over the target's variance. Joint
moments are those of the closed-form conditional law over 50,000 new samples of the source, with the
source's own moments known. The independent coupling has the same marginals as the best plan. The
seconds are those of the slowest fit, compilation included.

Wrong variant: the cost without its half, |x - y|^2, which is the same as twice the epsilon. Its
samples have the right distribution; only the plan is wrong.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ritz
from ritz.papers._base import Check, Result
from ritz.plot import canvas
from ritz.transport import GaussianPlan, gaussian_plan, light_bridge

SEEDS = (0, 1, 2)
SETTINGS = tuple((d, epsilon) for d in (2, 8) for epsilon in (0.1, 1.0))
SAMPLES, NEW = 10_000, 50_000
COMPONENTS = 5
ROLL = {"components": 50, "epsilon": 0.1}


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def bridge(x0: np.ndarray, x1: np.ndarray, epsilon: float, components: int, seed: int) -> Any:
    """A fitted bridge."""
    family = light_bridge(x0, epsilon=epsilon, components=components)
    return ritz.fit(ritz.target.from_samples(x1), family=family, seed=seed, progress=False)


def joint(q: Any, x: np.ndarray, mean0: np.ndarray, cov0: np.ndarray) -> GaussianPlan:
    """The moments of (x, y), from the conditional moments at samples of the source."""
    weights, means, covariances = jax.jit(jax.vmap(q.conditional))(jnp.asarray(x))
    weights, means = np.asarray(weights, float), np.asarray(means, float)
    spread = np.asarray(covariances, float)[0]  # the same at each x
    y = np.einsum("nk,nki->ni", weights, means)
    within = np.einsum("nk,kij->ij", weights, spread) / len(x)
    apart = means - y[:, None]
    within += np.einsum("nk,nki,nkj->ij", weights, apart, apart) / len(x)
    # The linear part of the mean is taken with the known moments of x: less noise.
    design = np.c_[np.ones(len(x)), x - mean0]
    (mean1, *slope), *_ = np.linalg.lstsq(design, y, rcond=None)
    rest = y - design @ np.vstack([mean1, slope])
    cross = cov0 @ np.asarray(slope)
    cov1 = np.asarray(slope).T @ cross + rest.T @ rest / len(x) + within
    return GaussianPlan(np.r_[mean0, mean1], np.block([[cov0, cross], [cross.T, cov1]]))


# -- the baseline: measured in the same run -------------------------------------------------------


def independent(plan: GaussianPlan) -> GaussianPlan:
    """The coupling of independent x and y, with the plan's marginals."""
    d = len(plan.mean) // 2
    block = np.kron(np.eye(2), np.ones((d, d)))
    return GaussianPlan(plan.mean, plan.covariance * block)


# -- the wrong variant: what the checks must catch ------------------------------------------------


def without_half(x0: np.ndarray, x1: np.ndarray, epsilon: float, k: int, seed: int) -> Any:
    """A bridge whose cost is the squared distance itself."""
    return bridge(x0, x1, 2.0 * epsilon, k, seed)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Random pairs of Gaussians, and one Swiss roll for the picture."""
    fitted, n = without_half if wrong else bridge, NEW // 10 if quick else NEW
    errors, apart = np.zeros((2, len(SETTINGS), len(seeds)))
    seconds, lines = [], []
    for i, (d, epsilon) in enumerate(SETTINGS):
        for j, seed in enumerate(seeds):
            rng = np.random.default_rng((seed, d))
            (m0, s0), (m1, s1) = _gaussian(rng, d), _gaussian(rng, d)
            x0, x1, new = (
                rng.multivariate_normal(m, s, size)
                for m, s, size in ((m0, s0, SAMPLES), (m1, s1, SAMPLES), (m0, s0, n))
            )
            best = gaussian_plan(m0, s0, m1, s1, epsilon)
            fit = fitted(x0, x1, epsilon, COMPONENTS, seed)
            seconds.append(fit.info["total_seconds"])
            found = joint(fit.q, new, m0, s0)
            errors[i, j] = _distance(found, best) / np.trace(s1)
            apart[i, j] = _distance(independent(best), best) / np.trace(s1)
            lines.append((best.covariance[:d, d:].ravel(), found.covariance[:d, d:].ravel()))
    error, baseline = errors.mean(1), apart.mean(1)
    checks = (
        Check(
            name="error of the joint plan",
            value=float(error.max()),
            direction="<=",
            threshold=0.01,
            compared="Bures-Wasserstein, over the target's variance; mean over seeds, worst of 4",
        ),
        Check(
            name="error as a share of the independent coupling's",
            value=float((error / baseline).max()),
            direction="<=",
            threshold=0.1,
            compared="the same; means over seeds, the worst of four settings",
        ),
        Check(
            name="seconds of a fit",
            value=float(max(seconds)),
            direction="<=",
            threshold=60.0,
            compared="the slowest of all, compilation included",
        ),
    )
    figures = {}
    for (d, epsilon), mine, other in zip(SETTINGS, error, baseline, strict=True):
        figures[f"error, d = {d}, epsilon = {epsilon:g}"] = float(mine)
        figures[f"independent, d = {d}, epsilon = {epsilon:g}"] = float(other)
    curves: dict[str, Any] = {"cross": [np.concatenate(v) for v in zip(*lines, strict=True)]}
    if not wrong:
        curves |= _roll(seeds[0])
        figures["Swiss roll: p of the two-sample test"] = curves.pop("p")
    return Result(checks, seeds, figures, curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Cross-covariances against the closed form, and a Gaussian pushed to a Swiss roll."""
    curves = result.curves
    with canvas(1, 3, size=(10.0, 3.4)) as (figure, axes):
        exact, found = curves["cross"]
        ax, ends = axes[0, 0], [exact.min(), exact.max()]
        ax.plot(ends, ends, color="black", lw=1.0)
        ax.plot(exact, found, ".", ms=3)
        ax.set(xlabel="cross-covariance of the best plan", ylabel="fitted", title="Gaussians")
        if "pushed" in curves:
            for ax, name in zip(axes[0, 1:], ("roll", "pushed"), strict=True):
                ax.plot(*curves[name].T, ".", ms=1.5)
                ax.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), title=name)
            for path in curves["paths"]:
                axes[0, 2].plot(*path.T, lw=0.7, color="#D55E00")
            titles = ("Swiss roll", "pushed samples, and paths of the bridge")
            for ax, title in zip(axes[0, 1:], titles, strict=True):
                ax.set(title=title, aspect="equal")
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _gaussian(rng: np.random.Generator, d: int) -> tuple[np.ndarray, np.ndarray]:
    """A mean and a covariance."""
    turn, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return rng.normal(size=d), (turn * rng.uniform(0.5, 2.0, d)) @ turn.T


def _distance(a: GaussianPlan, b: GaussianPlan) -> float:
    """Squared Bures-Wasserstein, |m - n|^2 + tr(A + B - 2 (A^1/2 B A^1/2)^1/2)."""
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ b.covariance @ root)
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    shift = ((a.mean - b.mean) ** 2).sum()
    return float(shift + traces - 2.0 * np.sqrt(np.maximum(middle, 0.0)).sum())


def _roll(seed: int) -> dict[str, Any]:
    """Samples of a Swiss roll, what a Gaussian is pushed to, and paths between them."""
    rng = np.random.default_rng(seed)
    angle = 1.5 * np.pi * (1.0 + 2.0 * rng.uniform(size=SAMPLES))
    roll = 0.13 * angle[:, None] * np.c_[np.cos(angle), np.sin(angle)]
    roll += 0.05 * rng.normal(size=roll.shape)
    fit = bridge(rng.normal(size=(SAMPLES, 2)), roll, ROLL["epsilon"], ROLL["components"], seed)
    keys = jax.random.split(jax.random.key(seed), 3000)
    pushed = np.asarray(jax.jit(jax.vmap(fit.q.sample))(keys))
    test = ritz.diagnose.energy_test(pushed[:1000], np.asarray(fit.target.held))
    steps = 200

    def path(x: Any, key: Any) -> Any:
        def move(x: Any, at: Any) -> Any:
            i, key = at
            noise = jnp.sqrt(ROLL["epsilon"] / steps) * jax.random.normal(key, x.shape)
            x = x + fit.q.drift(x, i / steps) / steps + noise
            return x, x

        return jax.lax.scan(move, x, (jnp.arange(steps), jax.random.split(key, steps)))[1]

    starts = jnp.asarray(rng.normal(size=(12, 2)), jnp.float32)
    return {
        "roll": roll[:3000],
        "pushed": pushed,
        "paths": np.asarray(jax.jit(jax.vmap(path))(starts, keys[:12])),
        "p": test.p_value,
    }
