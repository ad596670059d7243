"""Natural gradient for Gaussian families: Newton's steps on expectations."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily, FullRank, LowRank, MeanField
from ritz.solver._base import AbstractSolver, check_elbo, check_moves
from ritz.solver._gaussian import full_rank_of
from ritz.solver._low_rank import low_rank_of


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
    """The Gaussian so far, what was found there, and the step size that is tried next."""

    params: PyTree
    found: Whitened
    step_size: Float[Array, ""]


class NaturalGradient(AbstractSolver):
    """See `natural_gradient`.

    Attributes:
        step_size: the largest.
        draws: pairs of draws a step, or None for the fixed rule.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at"})
    families: ClassVar[tuple[str, ...]] = ("full_rank", "mean_field", "low_rank")
    guarantees: ClassVar[str] = "exact on Gaussian targets; the same in any units"
    steps: ClassVar[int] = 50
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
        unknown = Whitened(
            jnp.asarray(jnp.finfo(dtype).max / 4, dtype),
            jnp.zeros(d, dtype),
            _precision(q) if isinstance(q, LowRank) else same,
        )
        return NaturalGradientState(problem.params, unknown, self.step_size.astype(dtype))

    def step(
        self, problem: Any, state: NaturalGradientState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[NaturalGradientState, dict[str, Array]]:
        q = paramax.unwrap(problem.family_at(state.params))
        tried = _moved(q, state.found, state.step_size)
        noise = _noise(_width(q), self.draws, key, q.loc.dtype)
        there = _expected(problem, tried, noise, self.draws, key, batch)
        if self.draws is not None:
            new = NaturalGradientState(tried, there, state.step_size)
            return new, {"loss": there.loss}
        # The rule is fixed, so that a larger loss is no noise: the step was too long.
        slack = 10.0 * jnp.finfo(there.loss.dtype).eps * jnp.abs(state.found.loss)
        good = jnp.isfinite(there.score).all() & (there.loss <= state.found.loss + slack)
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)
        longer = jnp.minimum(2.0 * state.step_size, self.step_size.astype(q.loc.dtype))
        size = jnp.where(good, longer, 0.25 * state.step_size)
        new = NaturalGradientState(pick(tried, q), pick(there, state.found), size)
        return new, {"loss": new.found.loss, "step_size": state.step_size}

    def evaluations(self, problem: Any, state: NaturalGradientState, steps: int) -> float | None:
        return 2.0 * steps * (_width(problem.family) if self.draws is None else self.draws)


def _moved(q: AbstractFamily, found: Whitened, rho: Float[Array, ""]) -> AbstractFamily:
    r"""One step of size rho.

    In whitened coordinates the precision is I, and moves to :math:`W' = (1-\rho) I + \rho W`.
    Where that has an eigenvalue that is not positive, a second-order term keeps it above 1/2.
    """
    if isinstance(q, MeanField):
        whole = found.curvature.ndim == 2
        diagonal = jnp.diagonal(found.curvature) if whole else found.curvature
        precision = _positive(rho * (diagonal - 1.0))
        step = _newton(found, rho) if whole else rho * found.score / precision
        scale = jnp.exp(q.log_scale)
        return MeanField(q.loc + scale * step, q.log_scale - 0.5 * jnp.log(precision))
    if isinstance(q, LowRank):
        return _moved_low_rank(q, found, rho)
    assert isinstance(q, FullRank)
    values, vectors = jnp.linalg.eigh(found.curvature)
    precision = _positive(rho * (values - 1.0))
    tril = q.scale_tril
    step = rho * vectors @ ((vectors.T @ found.score) / precision)
    return full_rank_of(q.loc + tril @ step, tril @ (vectors / jnp.sqrt(precision)))


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

    With its diagonal alone the means move as in Jacobi's method: where the target is correlated
    they take as many steps as its condition number. Directions along which the log density curves
    upwards, or not at all, are scaled by its absolute curvature, or by that of q.
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


def _noise(d: int, draws: int | None, key: Any, dtype: Any) -> Float[Array, "n d"]:
    """One of each antithetic pair of standard normals, or the axes of the fixed rule."""
    if draws is None:
        return math.sqrt(d) * jnp.eye(d, dtype=dtype)
    return jax.random.normal(jax.random.fold_in(key, 0), (draws, d), dtype)


def _expected(
    problem: Any, q: Any, noise: Array, draws: int | None, key: Any, batch: Any
) -> Whitened:
    r"""Expectations from gradients alone, at :math:`m \pm L\varepsilon`.

    By Stein's lemma :math:`L^\top\mathbb{E}[\nabla^2 f]L = \mathbb{E}[\varepsilon\,
    (L^\top\nabla f)^\top]`; on a quadratic f, the fixed rule is exact.
    """
    data_key = jax.random.fold_in(key, 1)
    full = isinstance(q, FullRank)
    scale = q.scale_tril if full else jnp.exp(q.log_scale)
    out = noise @ scale.T if full else noise[:, : q.dim] * scale
    if isinstance(q, LowRank):
        out = out + (noise[:, q.dim :] @ q.factor.T) * scale
    points = jnp.concatenate([q.loc + out, q.loc - out])
    values, scores = jax.vmap(lambda x: problem.score_at(x, data_key, batch))(points)
    white = scores @ scale if full else scores * scale
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

    In the low-rank family the step is that of the full-rank one, followed by the nearest member.

    By default the points are those of the symmetric rule of degree three, 2d a step, and a step
    that raises the loss is taken back and retried at a quarter of its size; the answer then
    differs from the best Gaussian by the rule's error, which grows with the target's fourth
    derivatives and with d. With `draws`, it is random, and does not retry.

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
        raise RitzError(
            f"natural_gradient: step_size={step_size} arrived, expected a number above 0 and at "
            "most 1"
        )
    if draws is not None:
        whole_number("draws", draws, 1)
    return NaturalGradient(jnp.asarray(float(step_size)), draws)
