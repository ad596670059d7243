"""Control variates fitted to several integrals at once need fewer samples of each.

A Stein operator makes of any function h one whose mean is zero under the target, so that a kernel
for h gives one for control variates, and ridge regression with an intercept estimates an integral.
For several related integrals h is vector-valued with a kernel B_tu k(x, y): B tells how the tasks
go together, and is learned. Where tasks are sampled at points of their own, each then has the
points of all. The targets may differ: task t's operator uses its own score, and the matrix-valued
Stein kernel of tasks t and u is B_tu S_t S_u k, the one in x and the other in y.

Paper: Z. Sun, A. Barp and F.-X. Briol, "Vector-valued control variates", ICML 2023,
arXiv:2109.08944. The separate ones: C. Oates, M. Girolami and N. Chopin, "Control functionals for
Monte Carlo integration", JRSS B 2017. The update of B: F. Dinuzzo, C. Ong, P. Gehler and
G. Pillonetto, "Learning output kernels with block coordinate descent", ICML 2011.

Scaled down: the two synthetic experiments, without the ones on differential equations. The paper
descends by Adam on minibatches from zero and stops early; here both blocks of its objective are
minimised exactly in turn: the regression for B, and B for the regression. Its penalty on the square
of B's Frobenius norm gets the strength that keeps the norm of the identity, so that joint and
separate fits have one ridge. Length scale and ridge are those of largest marginal likelihood of the
separate tasks, in each repetition, and both fits use them.

Data: 100 repetitions a seed. Step functions of two fidelities (the paper's), f_L = 3 f_H - 1 and
f_H = 1[x >= 0], under N(0, 1), 40 points each. In two dimensions, cos(1.5 (x1 + x2)) + x1 under
N(0, I), and twice the cosine plus 1.5 x1 + 1 under N(0, 1.25 I), 20 points each: related, but
neither proportional nor with equal targets. The integrals are known.

Thresholds: the catalogue's. Mean squared errors are relative to plain Monte Carlo's, averaged over
tasks. A hundred repetitions of the step functions leave a standard error of 0.03 in the ratio of
joint to separate, about 0.74, so 1,000 are taken. "Vanishes" means within 5%: with a common point
set and no ridge the two estimates are equal, whatever B. Means of the control variates are over
fresh points of all repetitions, with a standard error over repetitions; the largest of four counts.

Wrong variant: the first task's score for all tasks, as one could when all have one target. Only the
second experiment can tell: the control variates of its second task have a mean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ritz.estimator import likeliest_kernel, vector_control_variates
from ritz.papers._base import Check, Result
from ritz.plot import canvas

SEEDS = tuple(range(10))
REPETITIONS = 100  # a seed
FRESH = 50  # points a repetition and task, where the control variates' mean is looked at
STEPS = 20
LENGTHS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
RIDGES = (0.1, 1.0, 10.0)
METHODS = ("Monte Carlo", "separate", "joint")


# -- the method: with Ritz's public API, so that it shows how one uses it -------------------------


def joint(values: Any, points: Any, scores: Any, length: Any, ridge: Any) -> Any:
    """All tasks together."""
    return vector_control_variates(values, points, scores, length=length, ridge=ridge, steps=STEPS)


# -- the baseline: measured in the same run -------------------------------------------------------


def separate(values: Any, points: Any, scores: Any, length: Any, ridge: Any) -> Any:
    """No coupling: control functionals for each integral alone."""
    return vector_control_variates(
        values, points, scores, length=length, ridge=ridge, coupled=False
    )


# -- the wrong variant: what the checks must catch ------------------------------------------------


def first_score_only(scores: tuple[Any, ...]) -> tuple[Any, ...]:
    """The first task's score for every task."""
    return scores[:1] * len(scores)


# -- the experiment -------------------------------------------------------------------------------


def run(seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
    """Step functions, the same with points in common, and oscillations in two dimensions."""
    repetitions = 10 if quick else REPETITIONS
    problems = {"step": _step, "step, shared points": _shared, "2-D": _oscillation}
    figures, errors, means = {}, {}, []
    curves: dict[str, Any] = {}
    with jax.enable_x64(True):
        for name, problem in problems.items():
            found, coupling, score = _estimates(problem(seeds, repetitions), seeds, wrong)
            if name != "step, shared points":
                means += [float(z) for z in score]
            plain = (found["Monte Carlo"] ** 2).mean(0)
            errors[name] = {m: float(((e**2).mean(0) / plain).mean()) for m, e in found.items()}
            figures |= {f"{name}: relative error, {m}": e for m, e in errors[name].items()}
            couplings = coupling[:, 0, 1] / np.sqrt(coupling[:, 0, 0] * coupling[:, 1, 1])
            figures[f"{name}: median correlation in B"] = float(np.median(couplings))
            curves[name] = {m: found[m] / plain**0.5 for m in METHODS}
    ratio = {name: e["joint"] / e["separate"] for name, e in errors.items()}
    both = ("step", "2-D")
    at = "MSE relative to Monte Carlo's"
    change, shared = "change by joining where points are shared", "step, shared points"
    largest = max(map(abs, means))
    checks = (
        *(Check(f"joint over separate, {n}", ratio[n], "<=", 0.8, at) for n in both),
        *(Check(f"joint over Monte Carlo, {n}", errors[n]["joint"], "<=", 0.3, at) for n in both),
        Check(change, abs(ratio[shared] - 1.0), "<=", 0.05, f"{at}, step functions"),
        Check("mean of a control variate in standard errors", largest, "<=", 3.0, "largest of all"),
    )
    return Result(checks, seeds, figures, curves)


# -- the figure: what the claim looks like --------------------------------------------------------


def plot(result: Result) -> Any:
    """Errors of every repetition by method, for each problem."""
    with canvas(1, 3, size=(10.0, 3.2)) as (figure, (axes,)):
        for ax, (name, errors) in zip(axes, result.curves.items(), strict=True):
            sizes = [np.abs(errors[method]).ravel() for method in METHODS]
            ax.boxplot(sizes, tick_labels=METHODS, whis=(5.0, 95.0), showfliers=False)
            ax.set(title=name, ylim=(0.0, 2.1))
        axes[0].set(ylabel="error over Monte Carlo's\nroot mean square")
    return figure


# -- what the parts above need --------------------------------------------------------------------


class _Tasks(NamedTuple):
    """Integrands and Gaussian targets N(0, variance I), their integrals, and points of each."""

    functions: tuple[Callable[[Any], Any], ...]
    variances: tuple[float, ...]
    truth: np.ndarray
    x: np.ndarray  # (repetitions, tasks, points, dimensions)


def _normal(seeds: tuple[int, ...], of: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normals for each seed, one after the other."""
    return np.concatenate([np.random.default_rng((s, of)).normal(size=shape) for s in seeds])


def _step(seeds: tuple[int, ...], repetitions: int) -> _Tasks:
    high = lambda x: 1.0 * (x[..., 0] >= 0.0)
    low = lambda x: 3.0 * high(x) - 1.0
    x = _normal(seeds, 0, (repetitions, 2, 40, 1))
    return _Tasks((low, high), (1.0, 1.0), np.array([0.5, 0.5]), x)


def _shared(seeds: tuple[int, ...], repetitions: int) -> _Tasks:
    tasks = _step(seeds, repetitions)
    return tasks._replace(x=np.repeat(tasks.x[:, :1], 2, axis=1))


def _oscillation(seeds: tuple[int, ...], repetitions: int) -> _Tasks:
    wave = lambda x: np.cos(1.5 * x.sum(-1))
    first = lambda x: wave(x) + x[..., 0]
    second = lambda x: 2.0 * wave(x) + 1.5 * x[..., 0] + 1.0
    variances = (1.0, 1.25)
    mean = [np.exp(-(1.5**2) * v) for v in variances]  # of the wave
    x = _normal(seeds, 1, (repetitions, 2, 20, 2)) * np.sqrt(variances)[:, None, None]
    return _Tasks((first, second), variances, np.array([mean[0], 2.0 * mean[1] + 1.0]), x)


def _estimates(
    tasks: _Tasks, seeds: tuple[int, ...], wrong: bool
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Errors by method, B, and means of the control variates in standard errors."""
    score = lambda v: jax.vmap(jax.grad(lambda x: -0.5 * x @ x / v))
    scores = tuple(jax.vmap(score(v)) for v in tasks.variances)
    if wrong:
        scores = first_score_only(scores)
    r, t, _, d = tasks.x.shape
    y = np.stack([f(tasks.x[:, i]) for i, f in enumerate(tasks.functions)], axis=1)
    own = lambda x: jnp.stack([s(jnp.asarray(x[:, i])) for i, s in enumerate(scores)], axis=1)
    data = jnp.asarray(y), jnp.asarray(tasks.x), own(tasks.x)
    likeliest = lambda y, x, at: likeliest_kernel(y, x, at, LENGTHS, RIDGES)
    best = jax.jit(jax.vmap(likeliest))(*data)
    together = jax.jit(jax.vmap(joint))(*data, *best)
    apart = jax.jit(jax.vmap(separate))(*data, *best)
    errors = {
        "Monte Carlo": y.mean(-1) - tasks.truth,
        "separate": np.asarray(apart.mean) - tasks.truth,
        "joint": np.asarray(together.mean) - tasks.truth,
    }
    new = _normal(seeds, 2, (r // len(seeds), t, FRESH, d))
    new *= np.sqrt(tasks.variances)[:, None, None]
    here, each = own(new), []
    for i in range(t):
        control = jax.vmap(lambda fitted, x, at, i=i: fitted.control(i, x, at).mean())
        each.append(np.asarray(control(together, jnp.asarray(new[:, i]), here[:, i])))
    mean = np.stack(each)  # (tasks, repetitions)
    standard = mean.mean(1) / (mean.std(1, ddof=1) / r**0.5)
    return errors, np.asarray(together.coupling), standard
