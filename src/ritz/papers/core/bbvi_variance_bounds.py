"""A pathwise gradient's second moment is bounded by the gap to the optimum, from both sides.

Stochastic gradient descent converges if E|g|^2 <= 2A (F - F*) + B |grad F|^2 + C. For the negative
evidence lower bound F, location-scale families z = m + Cu and pathwise gradients this holds with
constants in closed form: the gradient in C is that of the energy times u, which is small where z is
near the mode, and F knows how far z is. With u in all rows of a Cholesky factor the second moment
grows as d, with one entry of u in each row (mean field) at most as its root. Diagonals C_ii =
phi(s_i) of slope at most 1, such as softplus, keep the upper bound.

Paper: Kim, Wu, Oh and Gardner, "Practical and matching gradient variance bounds for black-box
variational Bayesian inference", ICML 2023, arXiv:2303.10472. The moments of u: Domke, "Provable
gradient variance guarantees for black-box variational inference", NeurIPS 2019, arXiv:1906.08241.

The bounds: write F = E f + h with the negative log joint f, L-smooth with mode a, and the negative
entropy h; and F = E f' + KL(q || p'), where f' exceeds its least value f'* at a' by at least mu / 2
times the squared distance. For one draw of a normal u (kurtosis k = 3), with J = d + k for Cholesky
factors and 2k sqrt(d) + 1 for mean field,
    E|g|^2 <= |grad F|^2 + (4 L^2 J / mu) (F - f'*) + 2 L^2 J |a - a'|^2,
where F - f'* = (F - F*) + (F* - f'*). The lower bound is derived here, it is not the paper's: for a
quadratic f of Hessian H >= l I and a linear map,
    E|g|^2 >= |grad F|^2 + 2 l (E f - f*) = |grad F|^2 + l ((m - a)'H(m - a) + tr(C'HC)),
since the location's gradient v + HCu, v = H(m - a), varies by tr(C'H^2 C) and the diagonal's
(v + HCu)_i u_i by |v|^2 at least: its parts odd and even in u are uncorrelated.

Scaled down: no runs of gradient descent, which the paper has too. 7 seeds for each d = 2, 4 to 256,
two targets and two families are 224 parameter points, with linear and softplus maps in turn and
10,000 draws each; locations lie 0.1 to 3 sds from the mode, scales are 0.05 to 1 sd. The prior is
N(0, I); p' is N(0, 2I), and the other half of the log prior gives f' its quadratic growth.

Data: quadratics with random axes and precisions from 1 to 4; breast_cancer, the leading principal
components of its features, squares and products, all standardised.

Thresholds: the catalogue's. Ratios to bounds are the worst of all points. F and its gradient are
exact, by quadrature of each row's logit for the logistic target. The lower bound is compared
without |grad F|^2, which both sides share; in two dimensions it can nearly be attained, so three
standard errors are added to the measured variance. The exponent is that of the variance over
F - F* on quadratics, where F* is known, by regression of its logarithm over all points.

Wrong variant: J = 1, as if the gradient in the scale were no larger than that in the location.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

import ritz
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS, DRAWS, KURTOSIS = tuple(range(7)), 10_000, 3.0
DIMENSIONS = (2, 4, 8, 16, 32, 64, 128, 256)
FAMILIES = ("mean field", "Cholesky")
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(24)


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


class Point(NamedTuple):
    """Parameters: location, factor C, and the slope of phi at each of its diagonal entries."""

    loc: Any
    factor: Any
    slope: Any
    cholesky: bool


@functools.partial(jax.jit, static_argnums=0)
def squared_gradients(energy: Callable[..., Any], data: Any, point: Any, noise: Any) -> Any:
    """Squared norms of the one-draw gradients of F in all parameters, for each row of noise.

    The gradient in C_ij is that in z_i times u_j, less the entropy's 1 / C_ii where i = j. So they
    need not be formed: there are 33,000 of them in 256 dimensions.
    """
    z = point.loc + noise @ point.factor.T
    at_z = jax.vmap(lambda z: jax.grad(energy)(z, *data))(z)
    diagonal = point.slope * (at_z * noise - 1.0 / jnp.diag(point.factor))
    below = (at_z**2 * (jnp.cumsum(noise**2, axis=1) - noise**2)).sum(1)  # columns j < i
    return (at_z**2).sum(1) + (diagonal**2).sum(1) + jnp.where(point.cholesky, below, 0.0)


def quadratic(z: Any, mode: Any, precision: Any) -> Any:
    """The negative log joint of a Gaussian target."""
    return 0.5 * (z - mode) @ precision @ (z - mode)


def logistic(w: Any, rows: Any) -> Any:
    """The negative log joint of a logistic regression, for features times labels of -1 or 1."""
    return 0.5 * w @ w - jax.nn.log_sigmoid(rows @ w).sum()


def moment_factor(d: int, cholesky: bool) -> float:
    """J: how much larger the gradient in all parameters is than the energy's."""
    return d + KURTOSIS if cholesky else 2.0 * KURTOSIS * d**0.5 + 1.0


class Known(NamedTuple):
    """F, |grad F|^2 and E f - f* at a point."""

    objective: float
    gradient: float
    energy: float


def upper_bound(target: Any, at: Known, factor: float) -> float:
    """Of the second moment, for a target of smooth energy and quadratic growth."""
    least = target.energy(target.other, 0.5) - 0.5 * len(target.mode) * np.log(4.0 * np.pi)
    apart = 2.0 / target.growth * (at.objective - least) + ((target.mode - target.other) ** 2).sum()
    return at.gradient + 2.0 * target.smoothness**2 * factor * float(apart)


# -- the wrong variant: what the checks must catch ------------------------------------------------


def location_only(d: int, cholesky: bool) -> float:
    """The factor of the gradient in the location."""
    return 1.0


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Second moments at random points of two targets and two families, with their bounds."""
    factor = location_only if wrong else moment_factor
    draws = DRAWS // 10 if quick else DRAWS
    rows = []  # target, family, d, share of the upper bound, multiple of the lower, variance / gap
    for d in DIMENSIONS:
        regression = _Logistic(d)
        for seed in seeds:
            rng = np.random.default_rng((seed, d))
            noise = jax.random.normal(jax.random.key(seed), (draws, d))
            quadratics = _Quadratic(d, rng)
            for number, target in enumerate((quadratics, regression)):
                for cholesky in (False, True):
                    point = _point(target.mode, target.sd, cholesky, seed, rng)
                    at = _known(target, point)
                    draw = squared_gradients(target.joint, target.data, point, noise)
                    squares = np.asarray(draw, float)
                    moment, error = squares.mean(), squares.std() / draws**0.5
                    above = moment + 3.0 * error - at.gradient
                    tight = number == 0 and (point.slope == 1.0).all()
                    lower = above / (2.0 * quadratics.curvature * at.energy) if tight else np.nan
                    upper = upper_bound(target, at, factor(d, cholesky))
                    gap = np.nan if number else at.objective - quadratics.optimum(cholesky)
                    ratio = (moment - at.gradient) / gap
                    rows.append((number, cholesky, d, moment / upper, lower, ratio))
    number, cholesky, d, share, lower, ratio = np.array(rows, float).T
    exponents, figures = {}, {}
    for which, name in enumerate(FAMILIES):
        mine = (number == 0) & (cholesky == which)
        exponents[name] = float(np.polyfit(np.log(d[mine]), np.log(ratio[mine]), 1)[0])
        figures[f"exponent, {name}"] = exponents[name]
    below = exponents["Cholesky"] - exponents["mean field"]
    of = [float(share[number == i].max()) for i in (0, 1)]
    least, points = float(np.nanmin(lower)), "largest of all points"
    name, bound = "largest share of the upper bound", "second moment over the bound"
    growth = "exponents of variance over F - F* in d, quadratics"
    checks = (
        Check(f"{name}, quadratic", of[0], "<=", 1.0, f"{bound}, {points}"),
        Check(f"{name}, logistic", of[1], "<=", 1.0, f"{bound}, {points}"),
        Check("least multiple of the lower bound", least, ">=", 1.0, "variance, linear maps"),
        Check("Cholesky's exponent less mean field's", below, ">=", 0.3, growth),
    )
    which = 2 * number + cholesky
    return Result(checks, seeds, figures, {"d": d, "which": which, "ratio": ratio, "share": share})


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Variances over gaps, and shares of the upper bound, by dimension."""
    curves, sizes = result.curves, np.array(DIMENSIONS)
    with canvas(1, 2, size=(8.0, 3.4)) as (figure, (axes,)):
        for which, mark in enumerate("osD^"):
            target, family = ("quadratic", "logistic")[which // 2], FAMILIES[which % 2]
            mine = [(curves["which"] == which) & (curves["d"] == d) for d in sizes]
            if target == "quadratic":
                ratios = np.stack([curves["ratio"][m] for m in mine])
                line = axes[0].loglog(sizes, np.median(ratios, axis=1), mark, label=family)[0]
                axes[0].loglog(sizes, ratios, ".", ms=2, color=line.get_color())
            top = [curves["share"][m].max() for m in mine]
            axes[1].loglog(sizes, top, marker=mark, mfc="none", label=f"{target}, {family}")
        axes[0].set(title="quadratics", xlabel="dimension", ylabel="variance over gap")
        axes[1].axhline(1.0, color="black", lw=1.0)
        axes[1].set(title="share of the upper bound", xlabel="dimension", ylim=(1e-7, 3.0))
        axes[1].set(ylabel="largest of 7 points")
        axes[0].legend(loc="upper left")
        axes[1].legend(loc="lower left")
    return figure


# -- what the parts above need --------------------------------------------------------------------


def _point(mode: np.ndarray, sd: float, cholesky: bool, seed: int, rng: Any) -> Point:
    """A random point around a target's mode, as near and as wide for one seed in any dimension."""
    d, same = len(mode), np.random.default_rng(seed)
    away, wide = 10.0 ** same.uniform(-1.0, 0.5), 10.0 ** same.uniform(-1.0, 0.0)
    diagonal = sd * wide * rng.uniform(0.5, 1.0, size=d)
    factor = np.diag(diagonal)
    if cholesky:
        factor += np.tril(rng.normal(size=(d, d)), -1) * sd * wide / d**0.5
    # A softplus has the slope 1 - exp(-C) where its value is C.
    slope = np.ones(d) if seed % 2 == 0 else -np.expm1(-diagonal)
    return Point(mode + sd * away * rng.normal(size=d), factor, slope, cholesky)


def _known(target: Any, point: Point) -> Known:
    energy, at_loc, at_factor = target.expected(point)
    scales = np.diag(point.factor)
    diagonal = point.slope * (np.diag(at_factor) - 1.0 / scales)
    below = np.tril(at_factor, -1) if point.cholesky else 0.0
    gradient = float((at_loc**2).sum() + (diagonal**2).sum() + np.sum(below**2))
    entropy = float(np.log(scales).sum()) + 0.5 * len(scales) * np.log(2.0 * np.pi * np.e)
    return Known(energy - entropy, gradient, energy - target.energy(target.mode, 1.0))


class _Quadratic:
    """A Gaussian likelihood with mean y, under the prior N(0, I)."""

    sd, smoothness, curvature, growth = 0.5, 5.0, 2.0, 1.5

    def __init__(self, d: int, rng: np.random.Generator):
        axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
        self.likelihood = axes * np.geomspace(1.0, 4.0, d) @ axes.T
        self.y, identity = rng.normal(size=d), np.eye(d)
        self.precision = self.likelihood + identity
        self.mode = np.linalg.solve(self.precision, self.likelihood @ self.y)
        self.other = np.linalg.solve(self.likelihood + 0.5 * identity, self.likelihood @ self.y)
        self.joint, self.data = quadratic, (self.mode, self.precision)

    def energy(self, z: np.ndarray, prior: float) -> float:
        away = z - self.y
        return float(0.5 * away @ self.likelihood @ away + 0.5 * prior * z @ z)

    def optimum(self, cholesky: bool) -> float:
        """F*."""
        used = self.precision if cholesky else np.diag(np.diag(self.precision))
        log_det = float(np.linalg.slogdet(used)[1])
        return self.energy(self.mode, 1.0) + 0.5 * (log_det - len(used) * np.log(2.0 * np.pi))

    def expected(self, point: Point) -> Any:
        """E f, and its gradients in the location and the factor."""
        away = point.loc - self.mode
        at_loc, at_factor = self.precision @ away, self.precision @ point.factor
        above = 0.5 * float(away @ at_loc + (point.factor * at_factor).sum())
        return above + self.energy(self.mode, 1.0), at_loc, at_factor


class _Logistic:
    """Logistic regression on d features, under the prior N(0, I)."""

    sd, growth = 0.1, 0.5

    def __init__(self, d: int):
        self.rows = _components()[:, :d]
        self.mode, self.other = (self._mode(prior) for prior in (1.0, 0.5))
        self.smoothness = 1.0 + 0.25 * float(np.linalg.eigvalsh(self.rows.T @ self.rows).max())
        self.joint, self.data = logistic, (self.rows,)

    def energy(self, w: np.ndarray, prior: float) -> float:
        return float(np.logaddexp(0.0, -self.rows @ w).sum() + 0.5 * prior * w @ w)

    def _mode(self, prior: float) -> np.ndarray:
        slope = lambda w: prior * w - self.rows.T @ expit(-self.rows @ w)
        f, start = lambda w: self.energy(w, prior), np.zeros(self.rows.shape[1])
        return minimize(f, start, jac=slope, method="L-BFGS-B", options={"gtol": 1e-8}).x

    def expected(self, point: Point) -> Any:
        """E f, and its gradients in the location and the factor, from each row's logit."""
        factor, weights = point.factor, WEIGHTS / WEIGHTS.sum()
        spread = np.linalg.norm(self.rows @ factor, axis=1)
        at = (self.rows @ point.loc)[:, None] + spread[:, None] * NODES
        curved = (expit(at) * expit(-at)) @ weights
        squares = 0.5 * float(point.loc @ point.loc + (factor**2).sum())
        energy = float((np.logaddexp(0.0, -at) @ weights).sum()) + squares
        at_factor = self.rows.T @ (curved[:, None] * (self.rows @ factor)) + factor
        return energy, point.loc - self.rows.T @ (expit(-at) @ weights), at_factor


@functools.cache
def _components() -> np.ndarray:
    """Principal components of features and their products, with labels; the first has sd 1."""
    cancer = ritz.data.load("breast_cancer")
    scaled = lambda x: (x - x.mean(0)) / x.std(0)
    x = scaled(np.asarray(cancer["x"], float))
    pairs = np.triu_indices(x.shape[1])
    x = scaled(np.c_[x, x[:, pairs[0]] * x[:, pairs[1]]])
    left, sizes, _ = np.linalg.svd(x, full_matrices=False)
    signed = left * np.where(cancer["y"] == 1, 1.0, -1.0)[:, None]
    return signed * sizes / sizes[0] * len(x) ** 0.5
