"""A solver that watches the loss of rows kept aside, and gives the best parameters it has seen."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._compile import compile
from ritz._errors import whole_number
from ritz.solver._base import AbstractSolver
from ritz.solver._optax import optax_solver


class Watched(NamedTuple):
    """A run that is watched.

    Attributes:
        inner: where the solver stands.
        best: the parameters whose loss on the rows kept aside was the lowest.
        lowest: that loss.
        seen: steps at the last look.
        waited: looks since the lowest.
        found: looks that have been.
    """

    inner: Any
    best: PyTree
    lowest: Float[Array, ""]
    seen: Int[Array, ""]
    waited: Int[Array, ""]
    found: Int[Array, ""]

    @property
    def params(self) -> PyTree:
        return self.inner.params


class EarlyStopping(AbstractSolver):
    """See `early_stopping`.

    Attributes:
        solver: that moves the parameters.
        held: rows kept aside, as a batch.
        key: of the draws by which they are judged, the same at every look.
        every: steps between looks.
        patience: looks without a lower loss after which the run ends.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    guarantees: ClassVar[str] = "the lowest loss on rows kept aside, of those looked at"
    solver: Any
    held: Any
    key: Key[Array, ""]
    every: int = eqx.field(static=True)
    patience: int = eqx.field(static=True)

    @property
    def revises(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the solver that it watches."""
        return self.solver.revises

    def init(self, problem: Any, key: Key[Array, ""]) -> Watched:
        inner, zero = self.solver.init(problem, key), jnp.zeros((), jnp.int32)
        lowest = jnp.asarray(
            jnp.finfo(zero.astype(float).dtype).max
        )  # infinity would be told as a failed run
        return Watched(inner, inner.params, lowest, zero, zero, zero)

    def step(
        self, problem: Any, state: Watched, key: Key[Array, ""], batch: Any = None
    ) -> tuple[Watched, dict[str, Array]]:
        inner, info = self.solver.step(problem, state.inner, key, batch)
        return state._replace(inner=inner), info

    def next_look(self, state: Watched) -> int:
        return int(state.seen) + self.every

    def look(self, problem: Any, state: Watched, history: Any) -> tuple[Watched, bool]:
        if history.steps != int(state.seen) + self.every:
            return state, False
        value = self._judge(problem, state.params)
        better = value < float(state.lowest)
        count = state.seen.dtype
        state = state._replace(
            seen=jnp.asarray(history.steps, count),
            found=state.found + 1,
            waited=jnp.zeros((), count) if better else state.waited + 1,
        )
        if better:
            lowest = jnp.asarray(value, state.lowest.dtype)
            state = state._replace(best=state.params, lowest=lowest)
        return state, int(state.waited) >= self.patience

    def answer(self, state: Watched) -> PyTree:
        return state.best if int(state.found) else state.params

    def caution(self, state: Watched) -> str | None:
        if int(state.waited) or not int(state.found):
            return None
        return (
            f"the loss of rows kept aside was still falling after {int(state.seen):,} steps; use "
            "more epochs"
        )

    def evaluations(self, problem: Any, state: Watched, steps: int) -> float | None:
        return self.solver.evaluations(problem, state.inner, steps)

    def _judge(self, problem: Any, params: PyTree) -> float:
        # With the whole divergence, whatever a schedule has come to.
        def judged(problem: Any, params: Any, key: Any, held: Any) -> Any:
            return problem.loss(params, key, held)[0]

        args = (problem.at(jnp.asarray(np.iinfo(np.int32).max)), params, self.key, self.held)
        value = float(compile(judged, *args)(*args))
        return value if np.isfinite(value) else np.inf


def early_stopping(
    solver: Any, held: Any, *, every: Any = 100, patience: Any = 10, seed: Any = 0
) -> EarlyStopping:
    """A solver that ends when rows kept aside say so, with the best parameters it has seen.

    Args:
        solver: an Optax transformation or a solver of gradients.
        held: rows, as the objective takes a batch.
        every: steps between looks at them.
        patience: looks without a lower loss after which it ends.
        seed: of the draws by which they are judged.

    Raises:
        RitzError: for a number below one, or no solver.

    Prechelt, "Early stopping, but when?", 1998.

    >>> import optax
    >>> early_stopping(optax.adam(1e-3), {"x": jnp.zeros((5, 2))}, every=10).patience
    10
    """
    whole_number("every", every, 1)
    whole_number("patience", patience, 1)
    inner = solver if isinstance(solver, AbstractSolver) else optax_solver(solver)
    return EarlyStopping(inner, held, jax.random.key(seed), int(every), int(patience))
