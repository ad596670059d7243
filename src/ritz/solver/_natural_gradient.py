"""Natural gradient for Gaussian families: Newton's steps on expectations."""

import functools
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz._mesh import split_draws
from ritz.family import AbstractFamily, FullRank, LowRank, MeanField
from ritz.solver._base import AbstractSolver, check_elbo, check_moves
from ritz.solver._gaussian import full_rank_of
from ritz.solver._low_rank import low_rank_of
from ritz.solver._side_by_side import side_by_side

# How near to the optimum a run ends: in standard deviations, and in shares of variances.
_CLOSE = {jnp.dtype("float32"): 1e-4, jnp.dtype("float64"): 1e-5}
# Or after as many steps in a row that gain less than this many nats.
_IDLE, _GAIN = 5, 1e-3
# Where a step as short as this is taken back there is nothing to gain.
_SHORT = 1e-4


class Whitened(NamedTuple):
    r"""What a step must know of the target, in the coordinates :math:`x = m + L\varepsilon`.

    Attributes:
        loss: the negative ELBO.
        score: :math:`L^\top\,\mathbb{E}_q \nabla\log\tilde p(x)`.
        curvature: :math:`-L^\top\,\mathbb{E}_q \nabla^2\log\tilde p(x)\,L`, or its diagonal
            where a few random draws see no more.
    """

    loss: Float[Array, ""]
    score: Float[Array, " d"]
    curvature: Array


class NaturalGradientState(NamedTuple):
    """Where a run stands.

    Attributes:
        params: the Gaussian so far.
        root: L, whose product with its transpose is the covariance; for the full-rank family any
            such root, for others the scale of each coordinate.
        axes: the directions of the fixed rule, orthonormal rows.
        found: what was found there.
        step_size: that is tried next.
        idle: how many steps in a row gained next to nothing.
    """

    params: PyTree
    root: Array
    axes: Array
    found: Whitened
    step_size: Float[Array, ""]
    idle: Int[Array, ""]


class NaturalGradient(AbstractSolver):
    """See `natural_gradient`.

    Attributes:
        step_size: the largest.
        draws: pairs of draws a step, or None for the fixed rule.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at"})
    families: ClassVar[tuple[str, ...]] = ("full_rank", "mean_field", "low_rank")
    guarantees: ClassVar[str] = "exact on Gaussian targets; the same in any units"
    steps: ClassVar[int] = 100
    step_size: Float[Array, ""]
    draws: int | None = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> NaturalGradientState:
        check_moves(self, problem)
        check_elbo(self, problem)
        dtype = jax.tree.leaves(problem.params)[0].dtype
        q, d = problem.family, problem.family.dim
        if isinstance(q, LowRank) and self.draws is not None:
            raise RitzError(
                f"natural_gradient: draws={self.draws} arrived for a low-rank family, whose "
                "curvature takes the fixed rule; leave out draws, or use family='full_rank'"
            )
        # The first step sees where it stands; until then nothing is known.
        same = jnp.eye(d, dtype=dtype) if _sees_all(q, self.draws) else jnp.ones(d, dtype)
        same = _precision(q) if isinstance(q, LowRank) else same
        unknown = Whitened(jnp.finfo(dtype).max / jnp.asarray(4, dtype), jnp.zeros(d, dtype), same)
        root = _root(paramax.unwrap(q))
        size, idle = self.step_size.astype(dtype), jnp.zeros((), int)
        axes = jnp.asarray(_axes(_width(q) if self.draws is None else 0), dtype)
        return NaturalGradientState(problem.params, root, axes, unknown, size, idle)

    def step(
        self, problem: Any, state: NaturalGradientState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[NaturalGradientState, dict[str, Array]]:
        q = paramax.unwrap(problem.family_at(state.params))
        tried, root = _moved(q, state.root, state.found, state.step_size)
        noise = math.sqrt(_width(q)) * state.axes
        if self.draws is not None:
            shape = (self.draws, _width(q))
            noise = jax.random.normal(jax.random.fold_in(key, 0), shape, q.loc.dtype)
        there = _expected(problem, tried, root, noise, self.draws, key, batch)
        if self.draws is not None:
            new = state._replace(params=tried, root=root, found=there)
            return new, {"loss": there.loss}
        # The rule is fixed, so that a larger loss is no noise: the step was too long.
        slack = 10.0 * jnp.finfo(there.loss.dtype).eps * jnp.abs(state.found.loss)
        good = jnp.isfinite(there.score).all() & (there.loss <= state.found.loss + slack)
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        longer = jnp.minimum(2.0 * state.step_size, self.step_size.astype(q.loc.dtype))
        size = jnp.where(good, longer, 0.25 * state.step_size)
        gained = state.found.loss - there.loss
        small = jnp.where(good, gained < _GAIN, state.step_size < _SHORT)
        idle = jnp.where(small, state.idle + 1, jnp.where(good, 0, state.idle))
        done = good & (_residual(q, there) < _CLOSE[there.loss.dtype]) | (idle >= _IDLE)
        params, root, found = pick((tried, root, there), (q, state.root, state.found))
        new = NaturalGradientState(params, root, state.axes, found, size, idle)
        info = {"loss": new.found.loss, "step_size": state.step_size}
        return new, info | {"converged": done}

    def evaluations(self, problem: Any, state: NaturalGradientState, steps: int) -> float | None:
        return 2.0 * steps * (_width(problem.family) if self.draws is None else self.draws)


def _residual(q: Any, there: Whitened) -> Float[Array, ""]:
    """The largest entry of what is zero at the optimum; infinite where that is unknown."""
    if isinstance(q, LowRank):
        return jnp.asarray(jnp.inf, there.loss.dtype)
    off = there.curvature - jnp.eye(q.dim, dtype=there.loss.dtype)
    if isinstance(q, MeanField):
        off = jnp.diagonal(off)
    step = there.score if isinstance(q, FullRank) else _newton(there, jnp.ones(()))
    return jnp.maximum(jnp.abs(step).max(), jnp.abs(off).max())


def _root(q: Any) -> Array:
    return q.scale_tril if isinstance(q, FullRank) else jnp.exp(q.log_scale)


def _moved(
    q: AbstractFamily, root: Array, found: Whitened, rho: Float[Array, ""]
) -> tuple[AbstractFamily, Array]:
    r"""One step of size rho, and the root of the new covariance.

    In whitened coordinates the precision is I, and moves to :math:`W' = (1-\rho) I + \rho W`.
    Where that has an eigenvalue that is not positive, a second-order term keeps it above 1/2.

    The full-rank root moves to :math:`L W'^{-1/2}`, not to the triangular one: the fixed rule's
    loss depends on its axes, and is stationary along such moves where the step is zero.
    """
    if isinstance(q, MeanField):
        whole = found.curvature.ndim == 2
        diagonal = jnp.diagonal(found.curvature) if whole else found.curvature
        precision = _positive(rho * (diagonal - 1.0))
        step = _newton(found, rho) if whole else rho * found.score / precision
        q = MeanField(q.loc + root * step, q.log_scale - 0.5 * jnp.log(precision))
        return q, jnp.exp(q.log_scale)
    if isinstance(q, LowRank):
        q = _moved_low_rank(q, found, rho)
        return q, jnp.exp(q.log_scale)
    assert isinstance(q, FullRank)
    values, vectors = jnp.linalg.eigh(found.curvature)
    precision = _positive(rho * (values - 1.0))
    step = rho * vectors @ ((vectors.T @ found.score) / precision)
    loc = q.loc + root @ step
    root = root @ (vectors / jnp.sqrt(precision)) @ vectors.T
    return full_rank_of(loc, root), root


def _moved_low_rank(q: LowRank, found: Whitened, rho: Float[Array, ""]) -> LowRank:
    r"""The step of a full-rank Gaussian, and back to the nearest member of the family.

    All in the coordinates of S, where the precision is :math:`(I + WW^\top)^{-1}`.
    """
    values, vectors = jnp.linalg.eigh((1.0 - rho) * _precision(q) + rho * found.curvature)
    floor = 10.0 * q.dim * jnp.finfo(values.dtype).eps * jnp.abs(values).max()
    size = jnp.maximum(jnp.abs(values), floor)
    scale = jnp.exp(q.log_scale)
    step = rho * vectors @ ((vectors.T @ found.score) / size)
    return low_rank_of(q.loc + scale * step, scale, q.factor, (vectors * size) @ vectors.T)


def _precision(q: LowRank) -> Float[Array, "d d"]:
    """That of q in the coordinates of S."""
    inner = jnp.eye(q.rank, dtype=q.loc.dtype) + q.factor.T @ q.factor
    return jnp.eye(q.dim, dtype=q.loc.dtype) - q.factor @ jnp.linalg.solve(inner, q.factor.T)


def _width(q: Any) -> int:
    """Of the standard normal that q is a linear image of."""
    return q.dim + (q.rank if isinstance(q, LowRank) else 0)


def _newton(found: Whitened, rho: Float[Array, ""]) -> Float[Array, " d"]:
    r"""The step of a mean-field mean, by the whole curvature.

    With its diagonal alone the means move as in Jacobi's method, in as many steps as the condition
    number. Directions along which the log density curves upwards, or not at all, are scaled by its
    absolute curvature, or by that of q.
    """
    curvature = found.curvature
    scale = jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(curvature)), 1e-3))
    values, vectors = jnp.linalg.eigh(curvature / scale[:, None] / scale)
    floor = 10.0 * values.shape[0] * jnp.finfo(values.dtype).eps
    size = jnp.maximum(jnp.abs(values), floor)
    return rho * (vectors @ ((vectors.T @ (found.score / scale)) / size)) / scale


def _positive(change: Array) -> Array:
    return 1.0 + change + jnp.where(1.0 + change > 0.0, 0.0, 0.5 * change**2)


def _sees_all(q: Any, draws: int | None) -> bool:
    """Whether a step knows the whole curvature, not its diagonal alone."""
    return draws is None or isinstance(q, FullRank)


@functools.lru_cache(maxsize=8)
def _axes(d: int) -> np.ndarray:
    """Directions drawn uniformly, at right angles to one another; the same in every run.

    Along the coordinates themselves a point would be sqrt(d) standard deviations out in one of
    them and at the mean in all others; in these directions it is about one out in each.
    """
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))
    return (q * np.sign(np.diag(r))).T


def _expected(
    problem: Any, q: Any, root: Array, noise: Array, draws: int | None, key: Any, batch: Any
) -> Whitened:
    r"""Expectations from gradients alone, at :math:`m \pm L\varepsilon`.

    By Stein's lemma :math:`L^\top\mathbb{E}[\nabla^2 f]L = \mathbb{E}[\varepsilon\,
    (L^\top\nabla f)^\top]`; on a quadratic f, the fixed rule is exact.
    """
    data_key = jax.random.fold_in(key, 1)
    full = isinstance(q, FullRank)
    out = noise @ root.T if full else noise[:, : q.dim] * root
    if isinstance(q, LowRank):
        out = out + (noise[:, q.dim :] @ q.factor.T) * root
    points = split_draws(jnp.concatenate([q.loc + out, q.loc - out]))
    score = lambda x: problem.score_at(x, data_key, batch)
    at_once = side_by_side(score, points, problem.target)
    if len(points) <= at_once:
        values, scores = jax.vmap(score)(points)
    else:
        values, scores = jax.lax.map(score, points, batch_size=at_once)
    white = scores @ root if full else scores * root
    half = 0.5 * (white[: len(noise)] - white[len(noise) :])
    if _sees_all(q, draws):
        outer = noise[:, : q.dim].T @ half / len(noise)
        curvature = -0.5 * (outer + outer.T)
    else:
        curvature = -(noise * half).mean(axis=0)
    return Whitened(-values.mean() - q.entropy(), white.mean(axis=0), curvature)


def natural_gradient(step_size: float | int = 1.0, draws: int | None = None) -> NaturalGradient:
    r"""Natural-gradient variational inference for Gaussian families, from gradients alone.

    In the natural parameters of :math:`q = \mathcal{N}(m, S^{-1})` a step of size
    :math:`\rho` of the negative ELBO's natural gradient reads

    .. math:: S &\leftarrow (1-\rho)\,S - \rho\,\mathbb{E}_q\nabla^2\log\tilde p(x), \\
              m &\leftarrow m + \rho\,S^{-1}\,\mathbb{E}_q\nabla\log\tilde p(x).

    The expectations of Hessians come from gradients at pairs of points (Stein's lemma). On a
    Gaussian target one step of size 1 is exact. Where S would not be positive definite, the
    second-order term of Lin, Schmidt and Khan 2020 keeps it so. The steps are invariant under
    affine changes of coordinates. In the mean-field family S is diagonal, but the mean moves by
    the whole expected Hessian, which the same gradients tell: on a Gaussian target it is exact
    after one step, however strong the correlations; only the random variant has no more than the
    diagonal.

    In the low-rank family the step is that of the full-rank one, followed by the nearest member. By
    default the points are those of the symmetric rule of degree three, 2d a step, turned once and
    for all as Genz and Monahan 1998 turn theirs at random, and a step that raises the loss is
    taken back and retried at a quarter of its size; the answer then differs from the best Gaussian
    by the rule's error, which grows with the target's fourth derivatives. The run ends where
    neither the next step of the mean, in standard deviations of q, nor
    :math:`L^\top\mathbb{E}_q\nabla^2\log\tilde p\,L + I` has an entry above 1e-5 (1e-4 in float32),
    or after five steps in a row that gain less than 0.001 nats. With `draws`, it is random, and
    neither retries nor ends by itself.

    Args:
        step_size: :math:`\rho`, at most 1.
        draws: pairs of draws a step in place of the fixed rule; for the full-rank family at
            least as many as dimensions, and a step size well below 1.

    Returns:
        the solver, for the families "full_rank", "mean_field" and "low_rank".

    Raises:
        RitzError: for a step size outside (0, 1], or fewer than one draw; when it runs, for
            another family or objective.

    Khan and Rue, "The Bayesian learning rule", 2023 (section 4); Lin, Schmidt and Khan, "Handling
    the positive-definite constraint in the Bayesian learning rule", 2020.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(2))
    >>> fit = ritz.fit(target, family="full_rank", solver=natural_gradient(), steps=3)
    >>> bool(abs(jnp.exp(fit.q.log_scale) - 0.5).max() < 1e-4)
    True
    """
    if not (math.isfinite(step_size) and 0 < step_size <= 1):
        where = "a number above 0 and at most 1"
        raise RitzError(f"natural_gradient: step_size={step_size} arrived, expected {where}")
    if draws is not None:
        whole_number("draws", draws, 1)
    return NaturalGradient(jnp.asarray(float(step_size)), draws)
