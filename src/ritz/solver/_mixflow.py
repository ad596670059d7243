"""How a mixed variational flow is tuned: its reference by gradients, its step size by search."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.estimator import pathwise
from ritz.objective import Problem, negative_elbo
from ritz.solver._base import AbstractSolver, check_elbo, check_moves
from ritz.solver._optax import OptaxState, adam

DRAWS = 4  # of the reference, in a step


class MixFlowState(NamedTuple):
    """The flow so far, Adam's averages, steps made, and the negative ELBO of its step size."""

    params: PyTree
    opt: PyTree
    made: Int[Array, ""]
    best: Float[Array, ""]


class MixFlowSolver(AbstractSolver):
    """See `mixflow`.

    Attributes:
        candidates: logarithms of the step sizes.
        train: steps of the reference before them.
        trajectories: orbits that a candidate's ELBO is averaged over.
        adam: the reference's solver.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_weights"})
    families: ClassVar[tuple[str, ...]] = ("mixflow",)
    guarantees: ClassVar[str] = "no worse than any of the step sizes tried, on the orbits drawn"
    candidates: Float[Array, " C"]
    train: int = eqx.field(static=True)
    trajectories: int = eqx.field(static=True)
    adam: AbstractSolver

    @property
    def steps(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Steps of the reference, and one for each candidate."""
        return self.train + len(self.candidates)

    def init(self, problem: Any, key: Key[Array, ""]) -> MixFlowState:
        check_moves(self, problem)
        check_elbo(self, problem)
        inner = _of_reference(problem)
        dtype = jax.tree.leaves(inner.params)[0].dtype
        opt = self.adam.init(inner, key).opt
        worst = jnp.asarray(jnp.finfo(dtype).max, dtype)
        return MixFlowState(problem.params, opt, jnp.zeros((), int), worst)

    def step(
        self, problem: Any, state: MixFlowState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[MixFlowState, dict[str, Array]]:
        trained = state.made < self.train
        new, loss = jax.lax.cond(
            trained,
            lambda: self._train(problem, state, key),
            lambda: self._try(problem, state),
        )
        step_size = jnp.exp(new.params.log_step)
        ended = new.made >= self.steps
        return new, {"loss": loss, "step_size": step_size, "converged": ended}

    def _train(self, problem: Any, state: MixFlowState, key: Array) -> tuple[MixFlowState, Array]:
        at = OptaxState(state.params.reference, state.opt)
        moved, info = self.adam.step(_of_reference(problem), at, key)
        params = eqx.tree_at(lambda q: q.reference, state.params, moved.params)
        return MixFlowState(params, moved.opt, state.made + 1, state.best), info["loss"]

    def _try(self, problem: Any, state: MixFlowState) -> tuple[MixFlowState, Array]:
        """The same orbits' starts for every candidate, so that these are compared, not draws."""
        log_step = self.candidates[state.made - self.train].astype(state.best.dtype)
        tried = eqx.tree_at(lambda q: q.log_step, state.params, log_step)
        keys = jax.random.split(jax.random.key(0), self.trajectories)
        log_weights = jax.vmap(problem.family_at(tried).trajectory)(keys)[1]
        loss = -log_weights.mean()
        better = loss < state.best  # not so where an orbit left the finite numbers
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), tried, state.params)
        best = jnp.where(better, loss, state.best)
        return MixFlowState(kept, state.opt, state.made + 1, best), best

    def evaluations(self, problem: Any, state: MixFlowState, steps: int) -> float | None:
        q = problem.family
        tried = max(0, steps - self.train)
        orbit = 2.0 * (q.length - 1) * q.leapfrog + 1.0
        return DRAWS * min(steps, self.train) + tried * self.trajectories * orbit


def _of_reference(problem: Any) -> Problem:
    return Problem(problem.target, problem.family.reference, negative_elbo(DRAWS), pathwise())


def mixflow(
    train: Any = 2000,
    candidates: Any = None,
    trajectories: Any = 16,
    lr: Any = 0.02,
) -> MixFlowSolver:
    r"""Tunes a mixed variational flow.

    First the reference maximises its own ELBO, by Adam: a map that preserves p leaves
    :math:`\mathrm{KL}(T^n q_0 \,\|\, p)` as it is, and by convexity that of the average is no
    larger, so that this bounds the flow's ELBO from below. Then the leapfrog step is the one, of
    those given, with the largest ELBO, estimated from the same orbits for each; nothing
    differentiates through these, which are chaotic. Xu, Chen and Campbell 2023 (section 6).

    Args:
        train: steps of the reference; 0 leaves it as it is.
        candidates: step sizes to try, in units of the reference's scale; by default 15 from 0.01
            to 1.
        trajectories: orbits a candidate.
        lr: Adam's rate.

    Raises:
        RitzError: for a number that is not positive.

    >>> len(mixflow(candidates=[0.1, 0.2]).candidates)
    2
    """
    whole_number("train", train, 0)
    whole_number("trajectories", trajectories, 1)
    sizes = np.geomspace(0.01, 1.0, 15) if candidates is None else np.asarray(candidates, float)
    if sizes.ndim != 1 or not sizes.size or not (np.isfinite(sizes) & (sizes > 0.0)).all():
        raise RitzError(f"mixflow: candidates={candidates!r} arrived, expected positive numbers")
    return MixFlowSolver(
        candidates=jnp.log(jnp.asarray(sizes)),
        train=int(train),
        trajectories=int(trajectories),
        adam=adam(lr, max(int(train), 1)),
    )
