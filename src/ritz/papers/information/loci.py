"""Cause and effect differ by how well noise of a location and a scale explains the other.

If Y = f(X) + g(X) N with N independent of X, then hardly ever does such a model hold from Y to X
too. So fit both directions and keep the better one. With a Gaussian p(y | x) in its natural
parameters, f / g^2 and 1 / g^2, the log-likelihood is concave in both together, where regressing
first the mean and then the size of residuals is neither. A model whose noise cannot change its
scale (additive noise) pays for the scale in both directions, and is misled.

Paper: A. Immer, C. Schultheiss, J. Vogt, B. Schölkopf, P. Bühlmann and A. Marx, "On the
identifiability and estimation of causal location-scale noise models", ICML 2023, arXiv:2210.09054.

Scaled down: the feature-map estimator only. Features are cubic B-splines, positive, 12 of them;
weights of 1 / g^2 are positive, under a ridge and a weak Gamma(2, 1e-3) prior that keeps them off
zero; the sum stays concave, and Newton's method finds its one mode. The paper chooses the strength
of regularisation by evidence; here it is weak and fixed. The baseline is the ridge regression on
the same features with one variance.

Data: made here from the seeds, 20 location-scale and 20 additive pairs a seed, 500 rows each. f is
a draw of a Gaussian process, X is normal or uniform; log g is another draw, with sd 1, or constant.
N is normal with sd 0.4, f has sd 1. Both variables are standardised, so that a normal model of the
first one counts the same in each direction.

Thresholds: the catalogue's, by total log-likelihood; ten seeds are its 200 pairs. The choice by
independence of residuals (HSIC, Gaussian kernels at median distances) is asked for the same 0.9.
The sd of N decides what is hard: at 0.25 additive noise is right on 0.85 of location-scale pairs
and the gap is 0.145; at 0.5 some additive pairs are nearly linear and 0.03 to 0.045 are lost there.

Wrong variant: the log-likelihood of standardised residuals without the log of their scale, a
forgotten Jacobian.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import BSpline

import ritz
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = tuple(range(10))
PAIRS = 20  # of each kind and seed
ROWS = 500
FEATURES = 12
RIDGE = 1e-3
STEPS = 30


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


class LocationScale(eqx.Module):
    """Penalised negative log-likelihood of many regressions, each with weights of its own."""

    params: Any  # (regressions, 2, features): weights of f / g^2, and of 1 / g^2
    features: Any  # (regressions, rows, features)
    y: Any  # (regressions, rows)
    oracles = frozenset({"loss", "grad", "hessian"})

    def natural(self, params: Any) -> tuple[Any, Any]:
        both = params @ self.features.mT
        return both[:, 0], both[:, 1]

    def loss(self, params: Any) -> Any:
        rows = log_likelihood(*self.natural(params), self.y)
        return -rows.sum(1) - log_prior(params[:, 0], params[:, 1]).sum(1)

    def grad(self, params: Any) -> Any:
        return jax.grad(lambda params: self.loss(params).sum())(params)

    def hessian(self, params: Any) -> Any:
        """Rows share the weights only through their two natural parameters."""
        rows = jnp.array(_second(log_likelihood)(*self.natural(params), self.y))
        weights = jnp.array(_second(log_prior)(params[:, 0], params[:, 1]))
        inner = jnp.einsum("ijrn,rnk,rnl->rikjl", rows, self.features, self.features)
        return -inner - jnp.einsum("ijrk,kl->rikjl", weights, jnp.eye(FEATURES))


def log_likelihood(first: Any, precision: Any, y: Any) -> Any:
    """Of f / g^2 and 1 / g^2, but for log(2 pi) / 2; concave in both together."""
    return 0.5 * (jnp.log(precision) - precision * y**2 - first**2 / precision) + first * y


def log_prior(first: Any, precision: Any) -> Any:
    """A ridge on weights of the first, and Gamma(2, 1e-3) on those of the second."""
    return jnp.log(precision) - 1e-3 * precision - 0.5 * RIDGE * first**2


class NewtonState(NamedTuple):
    """Weights of all regressions."""

    params: Any


class Newton(ritz.solver.AbstractSolver):
    """Newton's method for many convex problems at once, the best of twelve step sizes each."""

    needs: ClassVar[frozenset[str]] = frozenset({"loss", "grad", "hessian"})

    def init(self, problem: Any, key: Any) -> NewtonState:
        return NewtonState(problem.params)

    def step(self, problem: Any, state: NewtonState, key: Any, batch: Any = None) -> Any:
        params, n = state.params, state.params[0].size
        hessian = problem.hessian(params).reshape(-1, n, n)
        grad = problem.grad(params).reshape(-1, n, 1)
        direction = jnp.linalg.solve(hessian, grad).reshape(params.shape)
        sizes = 0.5 ** jnp.append(jnp.arange(11.0), jnp.inf)
        tries = params - sizes[:, None, None, None] * direction
        losses = jax.lax.map(problem.loss, tries)  # not a number where a precision is negative
        best, each = jnp.nanargmin(losses, axis=0), jnp.arange(len(params))
        return NewtonState(tries[best, each]), {"loss": losses[best, each].sum()}


def location_scale(features: Any, y: Any) -> Any:
    """f / g^2 and 1 / g^2 of each row, at each regression's mode."""
    start = jnp.stack([jnp.zeros((len(y), FEATURES)), jnp.ones((len(y), FEATURES))], axis=1)
    problem = LocationScale(start, features, y)
    key = jax.random.key(0)  # of no use: nothing is random
    found = ritz.solver.run(problem, Newton(), STEPS, key, progress=False, strict=True)
    return problem.natural(found.state.params)


def residuals(first: Any, precision: Any, y: Any) -> Any:
    """Standardised: (y - f) / g."""
    return jnp.sqrt(precision) * (y - first / precision)


# -- the baseline: measured in the same run -------------------------------------------------------


def additive(features: Any, y: Any) -> tuple[Any, Any]:
    """Log-likelihoods and residuals of ridge regressions with a single variance each."""

    def one(features: Any, y: Any) -> Any:
        gramian = features.T @ features + RIDGE * jnp.eye(FEATURES)
        left = y - features @ jnp.linalg.solve(gramian, features.T @ y)
        return -0.5 * (1.0 + jnp.log((left**2).mean())), left

    return jax.vmap(one)(features, y)


# -- the wrong variant: what the checks must catch ------------------------------------------------


def without_jacobian(first: Any, precision: Any, y: Any) -> Any:
    """The log-likelihood of (y - f) / g in place of that of y."""
    return -0.5 * residuals(first, precision, y) ** 2


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Directions of location-scale and of additive pairs, by both models and both scores."""
    score = without_jacobian if wrong else log_likelihood
    accuracy, figures = {}, {}
    curves: dict[str, Any] = {}
    for kind, varies in (("location-scale", 1.0), ("additive", 0.0)):
        pairs = [_pair(s, i, varies) for s in seeds for i in range(4 if quick else PAIRS)]
        with jax.enable_x64(True):
            found = [_scores(np.stack(pairs)[:, ::turn], score) for turn in (1, -1)]
        for name in found[0]:
            margin = np.asarray(found[0][name] - found[1][name])
            accuracy[kind, name] = float((margin > 0.0).mean())
            figures[f"accuracy on {kind} pairs, {name}"] = accuracy[kind, name]
            curves[f"{kind}, {name}"] = margin
        curves[kind] = pairs[0]
    ours, plain = "location-scale", "additive"
    right, loss = accuracy["location-scale", ours], accuracy["additive", plain]
    checks = (
        Check("direction accuracy", right, ">=", 0.9, "location-scale pairs, by likelihood"),
        Check(
            "direction accuracy by HSIC",
            accuracy["location-scale", f"{ours}, HSIC"],
            ">=",
            0.9,
            "location-scale pairs, by independence of residuals",
        ),
        Check(
            "accuracy above additive noise's",
            right - accuracy["location-scale", plain],
            ">=",
            0.15,
            "location-scale pairs, same features, by likelihood",
        ),
        Check(
            "accuracy lost to additive noise's",
            loss - accuracy["additive", ours],
            "<=",
            0.05,
            "additive pairs, same features, by likelihood",
        ),
    )
    return Result(checks, seeds, figures, curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """A pair of each kind, and how far the likelihoods of both directions are apart."""
    curves = result.curves
    with canvas(1, 3, size=(10.0, 3.2)) as (figure, (axes,)):
        for ax, kind in zip(axes[:2], ("location-scale", "additive"), strict=True):
            ax.plot(*curves[kind], "o", ms=2.5)
            ax.set(title=f"one pair, {kind}", xlabel="cause", ylabel="effect")
        for mark, name in zip("os", ("location-scale", "additive"), strict=True):
            margin = np.sort(curves[f"location-scale, {name}"])
            share = np.arange(len(margin)) / len(margin)
            axes[2].plot(margin, share, marker=mark, ms=3, mfc="none", label=f"{name} model")
        axes[2].axvline(0.0, color="black", lw=1.0)
        axes[2].set(title="location-scale pairs", ylabel="share of pairs")
        axes[2].set(xlabel="gain per row of the right direction")
        axes[2].legend()
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _pair(seed: int, index: int, varies: float) -> np.ndarray:
    """Cause and effect, standardised: (2, rows)."""
    rng = np.random.default_rng((seed, index, int(varies)))

    def smooth(x: np.ndarray) -> np.ndarray:
        """A draw of a Gaussian process with unit variance and length scale, standardised."""
        frequency, phase = rng.normal(size=100), rng.uniform(0.0, 2.0 * np.pi, size=100)
        f = np.cos(np.outer(x, frequency) + phase) @ rng.normal(size=100)
        return (f - f.mean()) / f.std()

    x = rng.normal(size=ROWS) if index % 2 else rng.uniform(-(3**0.5), 3**0.5, size=ROWS)
    y = smooth(x) + 0.4 * np.exp(varies * smooth(x)) * rng.normal(size=ROWS)
    return np.stack([(v - v.mean()) / v.std() for v in (x, y)])


def _splines(x: np.ndarray) -> np.ndarray:
    """Cubic B-splines of each row of x, with knots at quantiles: (regressions, rows, features)."""
    out = []
    for row in x:
        inner = np.quantile(row, np.linspace(0.0, 1.0, FEATURES - 2))
        knots = np.r_[[inner[0]] * 3, inner, [inner[-1]] * 3]
        out.append(BSpline.design_matrix(row, knots, 3).toarray())
    return np.stack(out)


def _scores(pairs: np.ndarray, score: Any) -> dict[str, np.ndarray]:
    """How well the second variable follows from the first, by model and by score."""
    x, y = jnp.asarray(pairs[:, 0]), jnp.asarray(pairs[:, 1])
    features = jnp.asarray(_splines(pairs[:, 0]))
    natural = location_scale(features, y)
    plain, left = additive(features, y)
    each = lambda both: _hsic(*both)
    dependence = jax.jit(lambda left: jax.lax.map(each, (x, left)))
    return {
        "location-scale": np.asarray(score(*natural, y).mean(1)),
        "additive": np.asarray(plain),
        "location-scale, HSIC": -np.asarray(dependence(residuals(natural[0], natural[1], y))),
        "additive, HSIC": -np.asarray(dependence(left)),
    }


def _second(f: Callable[..., Any]) -> Callable[..., Any]:
    """Second derivatives in the first two of elementwise f's arguments: [[aa, ab], [ba, bb]]."""

    def slope(f: Callable[..., Any], i: int) -> Callable[..., Any]:
        return jax.grad(lambda *args: f(*args).sum(), i)

    return lambda *args: [[slope(slope(f, i), j)(*args) for j in (0, 1)] for i in (0, 1)]


def _hsic(x: Any, y: Any) -> Any:
    """The Hilbert-Schmidt independence criterion of two samples."""

    def kernel(x: Any) -> Any:
        squares = (x[:, None] - x) ** 2
        k = jnp.exp(-squares / jnp.median(squares[::5, ::5]))
        return k - k.mean(0) - k.mean(1)[:, None] + k.mean()

    return (kernel(x) * kernel(y)).mean()
