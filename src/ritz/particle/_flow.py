"""Deterministic particle flows: a direction for each particle, and what is made of it."""

import abc
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError
from ritz.particle._frame import frame_of, scores_at
from ritz.solver import AbstractSolver, History, check_moves

# Adam's rates, in units of the posterior's sds, from stage to stage.
_RATES = (0.1, 0.03, 0.01)
# A stage ends where, in so many times its steps, means and sds moved by less than this, in sds.
_STILL, _LONGER = 0.02, 1.5
_FIRST = 100  # steps before the first look
# ... and, with somebody's own optimiser, where directions are no longer than this.
_SLOW = 0.05


class FlowState(NamedTuple):
    """Where a flow stands.

    Attributes:
        params: the cloud.
        frame: the coordinates in which it moves.
        opt: the state of the transformation.
        stage: which rate.
        began: steps before the stage.
        made: steps of it.
        looked: steps of the stage at the last look.
        middle: means at that look.
        spread: log sds at that look.
        pace: mean squares of the directions at the last step.
        cost: gradients so far.
        ended: whether it has converged.
    """

    params: PyTree
    frame: Any
    opt: PyTree
    stage: Int[Array, ""]
    began: Int[Array, ""]
    made: Int[Array, ""]
    looked: Int[Array, ""]
    middle: Float[Array, " d"]
    spread: Float[Array, " d"]
    pace: Float[Array, " d"]
    cost: Float[Array, ""]
    ended: Array


class AbstractFlow(AbstractSolver):
    r"""Particles that move along a direction, in coordinates whitened by the curvature at a mode.

    .. math:: z_i \leftarrow z_i + \eta\, u(\phi_i), \qquad x = m + L z,

    with u an Optax transformation of minus the direction; a constant linear map of the coordinates
    is a constant matrix-valued kernel (Wang, Tang, Bajaj and Liu 2019, section 3.1).

    Attributes:
        metric: see `frame_of`.
        optimiser: an Optax transformation; None for Adam whose rate falls in stages.
        slopes: whether directions have the units of gradients.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at"})
    families: ClassVar[tuple[str, ...]] = ("particles",)
    steps: ClassVar[int] = 20_000
    slopes: ClassVar[bool] = True
    metric: eqx.AbstractVar[Any]
    optimiser: eqx.AbstractVar[Any]

    def frame(self, problem: Any, key: Key[Array, ""]) -> tuple[Any, Any, Float[Array, ""]]:
        """The cloud where it starts, the coordinates, and what finding them cost."""
        return frame_of(problem, self.metric, key)

    @abc.abstractmethod
    def drive(
        self, problem: Any, state: FlowState, z: Float[Array, "n d"], key: Array, batch: Any
    ) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
        """Where each particle goes, and a number that says how far from right they are.

        Args:
            problem: whose scores drive them.
            state: where the flow stands.
            z: particles, in the frame's coordinates.
            key: of a subsample of the data.
            batch: of the data.
        """

    def init(self, problem: Any, key: Key[Array, ""]) -> FlowState:
        check_moves(self, problem)
        cloud, frame, cost = self.frame(problem, key)
        z = frame.whiten(cloud.points)
        zero = jnp.zeros((), jnp.int32)
        params = jax.tree.map(lambda _: cloud.points, problem.params)
        return FlowState(
            params, frame, self._moves.init(z), zero, zero, zero, zero, z.mean(axis=0),
            jnp.log(z.std(axis=0) + 1e-30), 0.0 * z[0], cost, jnp.zeros((), bool),
        )  # fmt: skip

    @property
    def _moves(self) -> Any:
        import optax

        return optax.scale_by_adam() if self.optimiser is None else self.optimiser

    def step(
        self, problem: Any, state: FlowState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[FlowState, dict[str, Array]]:
        z = state.frame.whiten(state.params.points)
        phi, loss = self.drive(problem, state, z, key, batch)
        update, opt = self._moves.update(-phi, state.opt, z)
        if self.optimiser is None:
            update = -jnp.asarray(_RATES, z.dtype)[state.stage] * update
        points = state.frame.colour(z + update)
        params = jax.tree.map(lambda _: points, state.params)
        cost = state.cost + jnp.asarray(len(z), state.cost.dtype)
        pace = (phi**2).mean(axis=0)
        new = state._replace(params=params, opt=opt, made=state.made + 1, pace=pace, cost=cost)
        return new, {"loss": loss}

    def evaluations(self, problem: Any, state: FlowState, steps: int) -> float | None:
        return float(state.cost)

    def next_look(self, state: FlowState) -> int:
        return int(state.began) + _due(int(state.looked))

    def look(self, problem: Any, state: FlowState, history: History) -> tuple[FlowState, bool]:
        if int(state.made) != _due(int(state.looked)):
            return state, False
        z = np.asarray(state.frame.whiten(state.params.points), np.float64)
        middle, spread = z.mean(axis=0), np.log(z.std(axis=0) + 1e-30)
        moved = np.abs(middle - np.asarray(state.middle)) * np.exp(-spread)
        wider = np.abs(spread - np.asarray(state.spread))
        still = int(state.looked) > 0 and max(moved.max(), wider.max()) < _STILL
        # Somebody's own steps may be so short that nothing seems to move.
        in_units = np.asarray(state.pace) * np.exp(2.0 * spread)
        pace = np.sqrt(in_units.mean())
        still &= self.optimiser is None or not self.slopes or bool(pace < _SLOW)
        last = self.optimiser is not None or int(state.stage) == len(_RATES) - 1
        dtype, count = state.middle.dtype, state.made.dtype
        state = state._replace(
            middle=jnp.asarray(middle, dtype), spread=jnp.asarray(spread, dtype), looked=state.made
        )
        if not still:
            return state, False
        if last:
            return state._replace(ended=jnp.ones((), bool)), True
        none = jnp.zeros((), count)
        return state._replace(
            stage=state.stage + 1, began=state.began + state.made, made=none, looked=none
        ), False

    def caution(self, state: FlowState) -> str | None:
        if bool(state.ended):
            return None
        made = int(state.began) + int(state.made)
        return f"the particles were still moving after {made:,} steps; use more steps"


class AbstractScoreFlow(AbstractFlow):
    """One whose direction is a function of the particles and of the scores at them."""

    @abc.abstractmethod
    def direction(
        self, z: Float[Array, "n d"], scores: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
        """See `drive`; both in the frame's coordinates."""

    def drive(
        self, problem: Any, state: FlowState, z: Float[Array, "n d"], key: Array, batch: Any
    ) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
        _, scores = scores_at(problem, state.params.points, key, batch)
        return self.direction(z, state.frame.pull(scores))


def _due(looked: int) -> int:
    return _FIRST if looked == 0 else int(np.ceil(_LONGER * looked))


def as_optimiser(name: str, optimiser: Any) -> Any:
    """An Optax transformation, or None.

    Raises:
        RitzError: for something else.
    """
    if optimiser is None or (hasattr(optimiser, "init") and hasattr(optimiser, "update")):
        return optimiser
    raise RitzError(
        f"{name}: optimiser arrived as {type(optimiser).__name__}, expected an Optax "
        "transformation such as optax.sgd(0.1), ritz.particle.coin(), or None"
    )
