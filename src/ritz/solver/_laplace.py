"""Laplace's approximation: the Gaussian at the mode."""

import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz.family import FullRank, LowRank, MeanField
from ritz.solver._base import AbstractSolver, check_moves
from ritz.solver._gaussian import full_rank_of, needs_all_data
from ritz.solver._low_rank import low_rank_of
from ritz.solver._trust_region import (
    UNBOUNDED,
    Curvature,
    curvature_of,
    dense_step,
    is_done,
    search,
)

# As many columns of the Hessian at once.
_COLUMNS = 64


class LaplaceState(NamedTuple):
    """The Gaussian at a point, what is known of the target there, and how far to trust it.

    Attributes:
        params: the Gaussian's.
        x: the point.
        value: minus the log density.
        grad: of that.
        curvature: its Hessian.
        radius: of the next step.
        decrement: the squared distance to the mode, in units of the curvature.
        negative: how many eigenvalues of the Hessian are not positive.
        cost: gradient evaluations so far.
    """

    params: PyTree
    x: Float[Array, " d"]
    value: Float[Array, ""]
    grad: Float[Array, " d"]
    curvature: Curvature
    radius: Float[Array, ""]
    decrement: Float[Array, ""]
    negative: Array
    cost: Float[Array, ""]


class Laplace(AbstractSolver):
    """See `laplace`."""

    needs: ClassVar[frozenset[str]] = frozenset({"score_at", "hvp_at"})
    families: ClassVar[tuple[str, ...]] = ("full_rank", "mean_field", "low_rank")
    guarantees: ClassVar[str] = (
        "a mode and the curvature there; exact on Gaussian targets, the same in any units"
    )
    steps: ClassVar[int] = 100

    def init(self, problem: Any, key: Key[Array, ""]) -> LaplaceState:
        check_moves(self, problem)
        loc = problem.params.loc
        d, dtype = loc.shape[0], loc.dtype
        ones = jnp.ones(d, dtype)
        # The first step sees where it stands; until then nothing is known.
        return LaplaceState(
            problem.params,
            loc,
            jnp.asarray(jnp.finfo(dtype).max / 4, dtype),
            jnp.zeros(d, dtype),
            Curvature(ones, ones, jnp.eye(d, dtype=dtype)),
            jnp.asarray(UNBOUNDED, dtype),
            jnp.asarray(UNBOUNDED, dtype),
            jnp.zeros((), int),
            jnp.zeros((), dtype),
        )

    def step(
        self, problem: Any, state: LaplaceState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[LaplaceState, dict[str, Array]]:
        needs_all_data(self, batch)
        q = paramax.unwrap(problem.family_at(state.params))
        proposed = dense_step(state.curvature, state.grad, state.radius)

        def evaluate(share: Array) -> tuple[Array, Array]:
            value, score = problem.score_at(state.x + share * proposed.step)
            return -value, -score

        trial = search(evaluate, (state.value, state.grad), proposed, state.radius)
        x = state.x + trial.share * proposed.step
        value, grad = trial.found
        hessian = -_hessian(problem, x)
        seen = curvature_of(jnp.where(jnp.isfinite(hessian).all(), hessian, 0.0))
        known = jnp.isfinite(hessian).all()
        pick = lambda new, old: jnp.where(known, new, old)
        curvature = jax.tree.map(pick, seen, state.curvature)
        decrement = curvature.decrement(grad)
        negative = curvature.wrong
        # A saddle, where the decrement is small too, is left along its steepest direction.
        saddle = curvature.values[0] < -curvature.floor
        done = is_done(decrement, state.decrement, value) & (trial.share > 0) & ~saddle
        # Where no share of a step helps, the model is wrong down to rounding.
        done |= (trial.share == 0) & is_done(decrement, decrement, value)
        cost = state.cost + trial.tried + x.shape[0]
        d = x.shape[0]
        loss = value + curvature.half_log_det() - 0.5 * d * math.log(2.0 * math.pi)
        new = LaplaceState(
            member(q, x, curvature), x, value, grad, curvature, trial.radius, decrement, negative,
            cost,
        )  # fmt: skip
        return new, {"loss": loss, "decrement": jnp.sqrt(decrement), "converged": done}

    def evaluations(self, problem: Any, state: LaplaceState, steps: int) -> float | None:
        return float(state.cost)

    def caution(self, state: LaplaceState) -> str | None:
        return doubt(state.negative, math.sqrt(float(state.decrement)))


def doubt(negative: Any, far: float) -> str | None:
    """One line on a point that is no mode, if it is none.

    Args:
        negative: along how many directions the log density curves upwards there.
        far: the distance to the mode, in sds.
    """
    if negative > 0:
        return (
            f"the log density curves upwards in {int(negative)} directions where the search for a "
            "mode ended; their absolute curvature was used"
        )
    if far > 0.01:
        return f"no mode was found: the end is {far:.2g} sd from where it should be"
    return None


def _hessian(problem: Any, x: Float[Array, " d"]) -> Float[Array, "d d"]:
    row = lambda v: problem.hvp_at(x, v)
    axes = jnp.eye(x.shape[0], dtype=x.dtype)
    if x.shape[0] <= _COLUMNS:
        return jax.vmap(row)(axes)
    return jax.lax.map(row, axes, batch_size=_COLUMNS)


def member(q: Any, x: Float[Array, " d"], curvature: Curvature) -> Any:
    if isinstance(q, FullRank):
        return full_rank_of(x, curvature.root())
    if isinstance(q, LowRank):
        precision = (curvature.vectors * curvature.positive) @ curvature.vectors.T
        return low_rank_of(x, 1.0 / curvature.scale, q.factor, precision)
    # The diagonal of |H|, scaled back.
    diagonal = (curvature.vectors**2 @ curvature.positive) * curvature.scale**2
    return MeanField(x, -0.5 * jnp.log(diagonal))


def laplace() -> Laplace:
    r"""Laplace's approximation.

    .. math:: \hat x = \arg\max \log\tilde p(x), \qquad
        q = \mathcal{N}(\hat x, H^{-1}), \quad H = -\nabla^2\log\tilde p(\hat x).

    The mode is found by Newton's method within a trust region, in coordinates where the Hessian's
    diagonal is one; where the log density curves upwards, the absolute curvature is used, so that
    saddles and flat tails are left and infinite or undefined neighbours are avoided. The run ends
    where the Newton decrement :math:`(g^\top H^{-1} g)^{1/2}`, the distance to the mode in
    standard deviations, is 1e-7 (3e-5 in float32), or as small as rounding lets it be. The loss
    is minus Laplace's estimate of the log evidence,
    :math:`\log\tilde p(\hat x) + \tfrac d2\log 2\pi - \tfrac12\log\det H`.

    Where H is not positive definite at the end, the absolute values of its eigenvalues take its
    place, and the fit says so. The family "mean_field" gets the variances :math:`1/H_{ii}`, its
    own optimum on a Gaussian target: smaller than the marginal ones, which "full_rank" has. The
    family "low_rank" gets the member that is nearest to :math:`\mathcal{N}(\hat x, H^{-1})`.

    A step costs d + 1 gradients, and one for each point that a search looks at beyond the first.

    Returns:
        the solver, for the families "full_rank", "mean_field" and "low_rank".

    Raises:
        RitzError: when it runs, for another family, for data in batches, and for a target whose
            log density has no second derivatives.

    Tierney and Kadane, "Accurate approximations for posterior moments and marginal densities",
    1986; the method of optimisation follows Conn, Gould and Toint, "Trust region methods", 2000.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(2))
    >>> fit = ritz.fit(target, solver="laplace")
    >>> bool(abs(jnp.exp(fit.q.log_scale) - 0.5).max() < 1e-5)
    True
    """
    return Laplace()
