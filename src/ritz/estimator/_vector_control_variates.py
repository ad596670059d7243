"""Control variates for several related integrals at once, by coupled kernel regressions."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number


class VectorControlVariates(eqx.Module):
    r"""Estimates of T integrals, and the control variates behind them.

    Attributes:
        mean: the estimates.
        coupling: B, how the tasks go together.
        points: where the integrands were evaluated.
        scores: of each task's target there.
        weights: of each point, for standardised integrands.
        scale: their standard deviations.
        length: of the kernel.
    """

    mean: Float[Array, " T"]
    coupling: Float[Array, "T T"]
    points: Float[Array, "T m d"]
    scores: Float[Array, "T m d"]
    weights: Float[Array, "T m"]
    scale: Float[Array, " T"]
    length: Float[Array, ""]

    def control(
        self, task: int, x: Float[Array, "n d"], score: Float[Array, "n d"]
    ) -> Float[Array, " n"]:
        """A task's control variate at other points, whose mean under its target is zero.

        Args:
            task: its number.
            x: the points.
            score: of the task's target there.
        """
        each = jax.vmap(lambda y, at: langevin_kernel(x, y, score, at, self.length))
        kernels = each(self.points, self.scores)  # (T, n, m)
        mixed = jnp.einsum("t,tnm,tm->n", self.coupling[task], kernels, self.weights)
        return self.scale[task] * mixed


def langevin_kernel(
    x: ArrayLike, y: ArrayLike, at_x: ArrayLike, at_y: ArrayLike, length: ArrayLike
) -> Float[Array, "n m"]:
    r"""The Stein kernel of two targets with scores s and s', of mean zero over either argument.

    .. math:: \mathcal{S}_x \mathcal{S}'_y e^{-\|x - y\|^2 / 2\ell^2}, \qquad
        \mathcal{S} h = \nabla \cdot h + h^\top s.

    Args:
        x: points of one target, (n, d).
        y: points of the other, (m, d).
        at_x: the first one's score at its points.
        at_y: the second one's.
        length: :math:`\ell`.
    """
    x, y, at_x, at_y = map(jnp.asarray, (x, y, at_x, at_y))
    apart = x[:, None] - y[None]
    squares = (apart**2).sum(-1) / length**2
    scores = ((at_x[:, None] - at_y[None]) * apart).sum(-1)
    slopes = (x.shape[1] - squares + scores) / length**2
    return jnp.exp(-0.5 * squares) * (slopes + at_x @ at_y.T)


def vector_control_variates(
    values: ArrayLike,
    points: ArrayLike,
    scores: ArrayLike,
    *,
    length: Any,
    ridge: Any,
    coupled: bool = True,
    steps: Any = 20,
) -> VectorControlVariates:
    r"""Estimate T related integrals, each with the points of all.

    Task t has the integrand :math:`f_t`, the target :math:`p_t`, of which only the score is
    needed, and m points. Its estimate is the intercept of the ridge regression

    .. math:: f_t(x) \approx c_t + \sum_{u, j} B_{tu}\, \beta_{uj}\, k_{tu}(x, x_{uj}),

    for the Stein kernels :math:`k_{tu}` of `langevin_kernel`, whose means are zero. The coupling B
    is learned: the regression for B, and the B of Frobenius norm :math:`\sqrt T` that makes the
    penalty :math:`\mathrm{tr}(B^{-1} F)` least for the inner products F, are solved in turn.
    Integrands are standardised first. Where all tasks have the same points and targets, and no
    ridge, coupling changes nothing; for one integral use `kernel_control_variates`.

    Sun, Barp and Briol 2023, "Vector-valued control variates" (section 4); Oates, Girolami and
    Chopin 2017 for a task alone; Dinuzzo et al. 2011 for the update of B.

    Args:
        values: each task's integrand at its points, (T, m); not constant.
        points: of each task, (T, m, d).
        scores: :math:`\nabla \log p_t` there, (T, m, d).
        length: of the Gaussian kernel; `likeliest_kernel` finds one.
        ridge: added to the diagonal of the kernel's matrix.
        coupled: False keeps B at the identity: each task alone.
        steps: updates of B.

    Returns:
        the estimates, B, and the control variates. It can be mapped over with `jax.vmap`.

    Raises:
        RitzError: for arrays whose shapes do not fit together, a length or ridge that is not
            positive, or fewer than one step.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(2, 30, 1))  # of standard normals, whose score is -x
    >>> y = np.stack([np.sin(x[0, :, 0]) + 1.0, 2.0 * np.sin(x[1, :, 0])])
    >>> found = vector_control_variates(y, x, -x, length=1.5, ridge=1e-3)
    >>> bool(abs(found.mean - jnp.array([1.0, 0.0])).max() < 0.02)  # the points' means: 0.2 off
    True
    """
    values, points, scores = map(jnp.asarray, (values, points, scores))
    if values.ndim != 2 or points.shape[:-1] != values.shape or scores.shape != points.shape:
        raise RitzError(
            f"values of shape {values.shape}, points of {points.shape} and scores of "
            f"{scores.shape} arrived, expected (T, m), (T, m, d) and (T, m, d)"
        )
    for name, value in (("length", length), ("ridge", ridge)):
        if isinstance(value, int | float) and not 0.0 < value < math.inf:
            raise RitzError(f"{name}={value!r} arrived, expected a positive number")
    whole_number("steps", steps, 1)
    return _fitted(values, points, scores, length, ridge, steps if coupled else 0)


@functools.partial(jax.jit, static_argnums=5)  # so that a second call compiles nothing
def _fitted(
    values: Array, points: Array, scores: Array, length: Any, ridge: Any, steps: int
) -> VectorControlVariates:
    middle, scale = values.mean(1), values.std(1)
    y = ((values - middle[:, None]) / scale[:, None]).reshape(-1)
    tasks, m, d = points.shape
    x, at = points.reshape(-1, d), scores.reshape(-1, d)
    kernel = langevin_kernel(x, x, at, at, length)
    task = jnp.repeat(jnp.eye(tasks, dtype=y.dtype), m, axis=0)

    def regression(coupling: Array) -> tuple[Array, Array]:
        matrix = kernel * (task @ coupling @ task.T) + ridge * jnp.eye(len(y), dtype=y.dtype)
        solved = jnp.linalg.solve(matrix, jnp.concatenate([y[:, None], task], 1))
        left, right = solved[:, 0], solved[:, 1:]
        intercepts = jnp.linalg.solve(task.T @ right, task.T @ left)
        return intercepts, left - right @ intercepts

    def update(_: Any, coupling: Array) -> Array:
        weights = task * regression(coupling)[1][:, None]
        inner = coupling @ (weights.T @ kernel @ weights) @ coupling
        roots, vectors = jnp.linalg.eigh(inner)
        # tr(B^-1 F) is least, for a norm of B, at B = F^(1/3) up to a factor.
        roots = jnp.cbrt(jnp.maximum(roots, 1e-12 * roots[-1]))
        roots = roots * (tasks / (roots**2).sum()) ** 0.5
        return (vectors * roots) @ vectors.T

    alone = jnp.eye(tasks, dtype=y.dtype)
    coupling = jax.lax.fori_loop(0, steps, update, alone)
    intercepts, weights = regression(coupling)
    return VectorControlVariates(
        mean=intercepts * scale + middle,
        coupling=coupling,
        points=points,
        scores=scores,
        weights=weights.reshape(tasks, m),
        scale=scale,
        length=jnp.asarray(length, points.dtype),
    )


def likeliest_kernel(
    values: ArrayLike,
    points: ArrayLike,
    scores: ArrayLike,
    lengths: Any,
    ridges: Any,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The length and ridge of largest marginal likelihood among some, summed over the tasks.

    Of a Gaussian process with a flat prior on its mean, its scale at the maximum, for each task
    alone.

    Args:
        values: as for `vector_control_variates`.
        points: likewise.
        scores: likewise.
        lengths: that are tried.
        ridges: that are tried with each.

    Returns:
        the two.
    """
    values, points, scores = map(jnp.asarray, (values, points, scores))
    pairs = jnp.array([(length, ridge) for length in lengths for ridge in ridges])
    length, ridge = pairs[_evidence(values, points, scores, pairs).argmax()]
    return length, ridge


@jax.jit
def _evidence(values: Array, points: Array, scores: Array, pairs: Array) -> Array:
    """The log marginal likelihood of all tasks at each pair, up to a constant."""
    z = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)

    def one(x: Array, at: Array, z: Array, pair: Array) -> Array:
        m = len(z)
        kernel = langevin_kernel(x, x, at, at, pair[0])
        factor = jnp.linalg.cholesky(kernel + pair[1] * jnp.eye(m, dtype=z.dtype))
        both = jnp.stack([jnp.ones(m, z.dtype), z], 1)
        ones, left = jax.scipy.linalg.solve_triangular(factor, both, lower=True).T
        rest = left @ left - (ones @ left) ** 2 / (ones @ ones)
        halves = (m - 1) * jnp.log(rest) + jnp.log(ones @ ones)
        return -0.5 * halves - jnp.log(jnp.diag(factor)).sum()

    tasks = jax.vmap(one, in_axes=(0, 0, 0, None))
    return jax.lax.map(lambda pair: tasks(points, scores, z, pair).sum(), pairs)
