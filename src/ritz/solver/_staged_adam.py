"""Adam that lowers its rate, and ends, when the loss says so."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ritz._compile import compile
from ritz.family._base import in_units
from ritz.solver._base import AbstractSolver
from ritz.solver._gradient_step import gradient_step, revised
from ritz.solver._history import History
from ritz.solver._stopping import NATS, next_look, trend, worth

# What the rate is multiplied by from stage to stage.
_LOWER = 0.3
# By so many sds, and so much in the logarithm of an sd, may moments still move.
_DRIFT = 0.05
# They are compared with those of so many times fewer steps of the stage.
_LONGER = 1.5
# The most that they move in a stage that is left for a lower rate, at which they would move slower.
_MOVING = 0.3
# A stage whose moments do not come to rest is left after so many steps, or as many as all before.
_PATIENCE = 10_000
# Weight of a step in the running mean grows with its number to this power, less one.
_POWER = 4.0
# Draws that moments are those of; always the same, so that differences have little noise.
_DRAWS = 256


class StagedAdamState(NamedTuple):
    """Where a run stands.

    Attributes:
        params: the parameters.
        opt: the state of Optax's Adam.
        rate: the learning rate of this stage.
        began: the steps made before this stage.
        made: the steps made in it.
        mean: the mean of its parameters, the later ones counting more.
        before: that mean when `looked` of its steps were made; in a first look, the last stage's.
        looked: see there.
        drift: by how much the moments of the two differed.
        level: the loss that the last stage ended at; infinite in the first.
        se: its standard error.
        ended: whether the run has converged.
    """

    params: PyTree
    opt: PyTree
    rate: Float[Array, ""]
    began: Int[Array, ""]
    made: Int[Array, ""]
    mean: PyTree
    before: PyTree
    looked: Int[Array, ""]
    drift: Float[Array, ""]
    level: Float[Array, ""]
    se: Float[Array, ""]
    ended: Bool[Array, ""]


class StagedAdam(AbstractSolver):
    r"""Adam at a constant rate until that gains no more, then at a lower one, until none does.

    A stage ends when twice its steps would gain less than half the noise of one step's loss, or
    0.1 nats, by an upper limit (`ritz.solver._stopping`). The excess of a loss at rate
    :math:`\eta` is about proportional to :math:`\eta`, so that stages :math:`\eta` and
    :math:`0.3\,\eta` that differ by :math:`\Delta` leave :math:`0.43\,\Delta` to gain. The run has
    converged when that is below the same limits, and no mean of the family has moved by more than
    0.05 sds, nor the logarithm of an sd, within the stage and from the last one. The answer is the
    mean of the stage's parameters.

    Welandawe, Andersen, Vehtari and Huggins, "Robust, automated, and accurate black-box variational
    inference", 2022, lower the rate by predicted gains too.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    guarantees: ClassVar[str] = "a stationary point of the loss, up to what its noise hides"
    revises: ClassVar[bool] = True
    steps: ClassVar[int] = 50_000
    transformation: Any = eqx.field(static=True)
    lr: Float[Array, ""]

    def init(self, problem: Any, key: Key[Array, ""]) -> StagedAdamState:
        params = problem.params
        opt = self.transformation.init(in_units(params, -1.0))
        # Buffers of their own: the compiled loop must not be handed one array twice.
        copy = lambda: jax.tree.map(jnp.array, params)
        count, far = jnp.zeros((), jnp.int32), jnp.full_like(self.lr, jnp.finfo(self.lr.dtype).max)
        none, still = 0 * self.lr, jnp.zeros((), bool)
        return StagedAdamState(
            params, opt, self.lr, count, count, copy(), copy(), count, far, far, none, still
        )

    def step(
        self, problem: Any, state: StagedAdamState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[StagedAdamState, dict[str, Array]]:
        params = revised(problem, state.params, key, batch)
        grad, info = problem.grad(params, key, batch)
        given = (self.transformation, grad, state.opt, params)
        params, opt = gradient_step(*given, factor=-state.rate)
        made = state.made + 1
        share = jnp.minimum(1.0, _POWER / made)
        mean = jax.tree.map(lambda m, p: m + share.astype(m.dtype) * (p - m), state.mean, params)
        return state._replace(params=params, opt=opt, made=made, mean=mean), info

    def evaluations(self, problem: Any, state: StagedAdamState, steps: int) -> float | None:
        return None if problem.points is None else float(problem.points * steps)

    def answer(self, state: StagedAdamState) -> PyTree:
        # Until the first stage has ended the mean lags behind.
        return state.params if int(state.began) == 0 else state.mean

    def caution(self, state: StagedAdamState) -> str | None:
        if bool(state.ended):
            return None
        made = int(state.began) + int(state.made)
        return (
            f"Adam had not converged after {made:,} steps: the loss was still falling, or moments "
            "still moving; use more steps"
        )

    def next_look(self, state: StagedAdamState) -> int:
        return int(state.began) + next_look(int(state.made))

    def look(
        self, problem: Any, state: StagedAdamState, history: History
    ) -> tuple[StagedAdamState, bool]:
        made, first = int(state.made), int(state.began) == 0
        if made != next_look(made - 1):
            return state, False
        if int(state.looked) == 0 or made >= _LONGER * int(state.looked):
            drift = _moved(problem, state.mean, state.before)
            # Of a stage's first look it is the difference from the stage before.
            state = state._replace(
                drift=_like(drift, state.drift),
                before=state.mean,
                looked=_like(made, state.looked),
            )
        found = trend(history.loss[len(history) - made // history.every :])
        least = worth(found, _nats(problem))
        if not found.most < least:
            return state, False
        gain = float(state.level) - found.level
        left = _LOWER / (1 - _LOWER) * (gain + float(np.hypot(state.se, found.se)))
        drift, patience = float(state.drift), max(_PATIENCE, int(state.began))
        if not first and left < least and drift < _DRIFT:
            return state._replace(ended=jnp.ones((), bool)), True
        rests = drift < (_MOVING if first or left >= least else _DRIFT)
        if not rests and made < patience:
            return state, False
        return state._replace(
            rate=_LOWER * state.rate,
            began=state.began + state.made,
            made=_like(0, state.made),
            before=state.mean,
            mean=state.params,
            looked=_like(0, state.looked),
            level=_like(found.level, state.level),
            se=_like(found.se, state.se),
        ), False


def _like(value: Any, array: Array) -> Array:
    most = np.finfo(array.dtype).max if np.issubdtype(array.dtype, np.floating) else None
    return jnp.asarray(value if most is None else np.clip(value, -most, most), array.dtype)


def _nats(problem: Any) -> float:
    """A gain that is worth nothing: known only of a loss in nats."""
    from ritz.objective import NegativeELBO

    return NATS if isinstance(getattr(problem, "objective", None), NegativeELBO) else 0.0


def _moved(problem: Any, params: PyTree, before: PyTree) -> float:
    """The largest change of a mean, in sds, and of the logarithm of an sd; 0 where q has none."""
    q = getattr(problem, "family", None)
    if not {"sample", "sample_and_log_prob"} & getattr(q, "capabilities", frozenset()):
        return 0.0

    def moments(problem: Any, params: PyTree) -> Any:
        import paramax

        keys = jax.random.split(jax.random.key(0), _DRAWS)
        x = jax.vmap(paramax.unwrap(problem.family_at(params)).sample)(keys)
        x = jnp.asarray(x, jnp.result_type(float))
        return x.mean(axis=0), x.std(axis=0)

    program = compile(moments, problem, params, quick=True)
    (mean, sd), (mean_before, sd_before) = (
        [np.asarray(v, float) for v in program(problem, p)] for p in (params, before)
    )
    tiny = np.finfo(float).tiny
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        shift = np.abs(mean - mean_before) / np.maximum(sd, tiny)
        wider = np.abs(np.log(np.maximum(sd, tiny) / np.maximum(sd_before, tiny)))
    found = np.concatenate([shift.ravel(), wider.ravel()])
    return float(found.max()) if np.isfinite(found).all() else np.inf
