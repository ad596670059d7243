"""A mode by L-BFGS, and the curvature there: Laplace's approximation of costly log densities."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError
from ritz.solver._base import AbstractSolver, check_moves
from ritz.solver._gaussian import needs_all_data
from ritz.solver._laplace import doubt, member
from ritz.solver._lbfgs import Memory, descend, empty, line_search, remember, root
from ritz.solver._trust_region import UNBOUNDED, curvature_of, dense_step, rounding

# After as many steps in a row that gain less, in nats, the Hessian is looked at, or the run ends.
_IDLE, _GAIN, _ENOUGH = 3, 1e-6, 3e-2
# Points that a search looks at, without a Hessian half or a quarter; values may then be as rough.
_TRIALS, _ROUGH = 30, 100.0
# So near, in sds, Newton's step has led to the mode.
_CLOSE = 1e-3


class LBFGSState(NamedTuple):
    """Where a search stands.

    Attributes:
        params: of the Gaussian there; its scales are those of the start until the search has ended.
        x: the point.
        value: minus the log density.
        grad: of that.
        memory: of the inverse Hessian.
        idle: how many steps in a row have gained nothing beyond rounding.
        far: the distance to the mode in sds; `UNBOUNDED` until the search has ended.
        negative: along how many directions the log density curves upwards there.
        cost: gradient evaluations so far.
    """

    params: PyTree
    x: Float[Array, " d"]
    value: Float[Array, ""]
    grad: Float[Array, " d"]
    memory: Memory
    idle: Array
    far: Float[Array, ""]
    negative: Array
    cost: Float[Array, ""]


class LBFGS(AbstractSolver):
    """See `lbfgs`.

    Attributes:
        hessian: whether the curvature is computed at the end.
    """

    hessian: bool = eqx.field(static=True, default=True)
    families: ClassVar[tuple[str, ...]] = ("full_rank", "mean_field", "low_rank")
    guarantees: ClassVar[str] = "a mode and the curvature there; exact on Gaussian targets"
    steps: ClassVar[int] = 1000

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"score_at", "hvp_at"} if self.hessian else {"score_at"})

    def init(self, problem: Any, key: Key[Array, ""]) -> LBFGSState:
        check_moves(self, problem)
        loc = problem.params.loc
        # The first step goes nowhere and sees where that is: one program less to compile.
        value, grad = jnp.asarray(jnp.finfo(loc.dtype).max / 4), jnp.zeros_like(loc)
        none, unknown = jnp.zeros((), int), jnp.asarray(UNBOUNDED, loc.dtype)
        memory, cost = empty(grad, _pairs(loc)), jnp.zeros((), loc.dtype)
        return LBFGSState(problem.params, loc, value, grad, memory, none, unknown, none, cost)

    def step(
        self, problem: Any, state: LBFGSState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[LBFGSState, dict[str, Array]]:
        needs_all_data(self, batch)
        first = (state.memory.rho == 0).all()
        fresh = empty(state.grad, _pairs(state.x))
        # Of a gradient that was not known when the memory was made.
        known = jax.tree.map(lambda a, b: jnp.where(first, a, b), fresh, state.memory)
        step = descend(known, state.grad)

        def evaluate(share: Array) -> tuple[Array, Array]:
            value, score = problem.score_at(state.x + share * step)
            return -value, -score

        trials = _TRIALS if self.hessian else jnp.where(first, _TRIALS // 2, _TRIALS // 4)
        found = line_search(evaluate, state.value, state.grad, step, trials)
        moved = found.share > 0
        x = state.x + found.share * step
        seen = remember(known, x - state.x, found.grad - state.grad)
        # Where no point along the step is lower, the memory is wrong: once more without it.
        memory = jax.tree.map(lambda a, b: jnp.where(moved, a, b), seen, fresh)
        rough = _ROUGH * jnp.finfo(x.dtype).eps * jnp.abs(found.value)
        least = jnp.maximum(rounding(found.value), _GAIN)
        least = least if self.hessian else jnp.maximum(rough, _ENOUGH)
        idle = jnp.where(state.value - found.value < least, state.idle + 1, 0)
        flat = -(step @ state.grad) < rounding(state.value)
        near = jnp.where(moved, idle >= _IDLE, first | flat)
        q = paramax.unwrap(problem.family_at(state.params))
        at = (x, found.value, found.grad)
        stay = (eqx.tree_at(lambda q: q.loc, q, x), *at, state.far, state.negative)
        end = (lambda: _there(problem, q, *at)) if self.hessian else lambda: _told(q, memory, *at)
        params, x, value, grad, far, negative = jax.lax.cond(near, end, lambda: stay)
        # What gained next to nothing may have been a narrow valley, which the Hessian leaves.
        ended = near & ((far < _CLOSE) | (found.value - value < rounding(found.value)))
        idle = jnp.where(near, 0, idle)
        cost = state.cost + found.tried + jnp.where(near & self.hessian, x.shape[0] + 1, 0)
        new = LBFGSState(params, x, value, grad, memory, idle, far, negative, cost)
        return new, {"loss": new.value, "converged": ended}

    def evaluations(self, problem: Any, state: LBFGSState, steps: int) -> float | None:
        return float(state.cost)

    def caution(self, state: LBFGSState) -> str | None:
        far = float(state.far)
        if far > 0.5 * UNBOUNDED:
            return (
                "the search for a mode had not ended, and the scales are those of the start; "
                "give it more steps"
            )
        return doubt(state.negative, far)


def _pairs(x: Float[Array, " d"]) -> int:
    """How many steps are remembered; next to a costly gradient they are cheap."""
    return min(max(4 * x.shape[0], 10), 100)


def _there(
    problem: Any, q: Any, x: Float[Array, " d"], value: Float[Array, ""], grad: Float[Array, " d"]
) -> tuple[Any, ...]:
    """One step of Newton's from where the search ended, and the Gaussian of the curvature."""
    # One column after another: log densities that are searched this way may take much memory.
    hessian = -jax.lax.map(lambda v: problem.hvp_at(x, v), jnp.eye(x.shape[0], dtype=x.dtype))
    known = jnp.isfinite(hessian).all()
    curvature = curvature_of(jnp.where(known, hessian, jnp.eye(x.shape[0], dtype=x.dtype)))
    nearer = x + dense_step(curvature, grad, jnp.asarray(UNBOUNDED, x.dtype)).step
    there, score = problem.score_at(nearer)
    good = known & jnp.isfinite(score).all() & (-there <= value + rounding(value))
    pick = lambda new, old: jnp.where(good, new, old)
    x, value, grad = pick(nearer, x), pick(-there, value), pick(-score, grad)
    far = jnp.where(known, jnp.sqrt(curvature.decrement(grad)), 0.1 * UNBOUNDED)
    wrong = jnp.asarray(curvature.wrong, int)
    return member(q, x, curvature), x, value, grad, far, wrong


def _told(
    q: Any,
    memory: Memory,
    x: Float[Array, " d"],
    value: Float[Array, ""],
    grad: Float[Array, " d"],
) -> tuple[Any, ...]:
    """The Gaussian of the inverse Hessian that the steps have told."""
    half = root(memory)
    cov = half @ half.T
    far = jnp.sqrt(grad @ cov @ grad)
    curvature = curvature_of(jnp.linalg.inv(cov))
    return member(q, x, curvature), x, value, grad, far, jnp.zeros((), int)


def lbfgs(*, hessian: Any = True) -> LBFGS:
    r"""Laplace's approximation, its mode found with gradients alone.

    .. math:: x_{k+1} = x_k - t_k H_k \nabla f(x_k), \qquad f = -\log\tilde p,

    with :math:`H_k` from the last steps, four a dimension but at most 100, and :math:`t_k` by a
    search that meets Wolfe's conditions and survives points where f is not finite. Where
    three steps in a row gain less than 1e-6 nats the Hessian is computed, by d products with
    vectors, one after another, for a step of Newton's and the covariance; the run ends where that
    step led to within 0.001 sd of the mode, or gained nothing beyond rounding. `laplace` computes a
    Hessian a step, which takes fewer steps, and more time where gradients are costly. The loss is
    f. Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.

    Args:
        hessian: whether it is computed. Without, the run ends where three steps in a row gain less
            than 0.03 nats (or 100 roundings of the loss), and the covariance is what its steps have
            told of the inverse Hessian: for those who ask for the mode alone.

    Returns:
        the solver, for the families "full_rank", "mean_field" and "low_rank", as `laplace`.

    Raises:
        RitzError: for `hessian` that is neither; when it runs, for another family, for data in
            batches, and with the Hessian for a log density that has no second derivatives.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(2))
    >>> fit = ritz.fit(target, solver="lbfgs")
    >>> bool(abs(jnp.exp(fit.q.log_scale) - 0.5).max() < 1e-4)
    True
    """
    if not isinstance(hessian, bool):
        raise RitzError(f"lbfgs: hessian={hessian!r} arrived, expected True or False")
    return LBFGS(hessian)
