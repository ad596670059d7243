"""The one loop: compiled chunks of steps inside, Python between them."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key, PyTree

from ritz._compile import spent
from ritz._errors import RitzError, whole_number
from ritz._mesh import agreed, writes
from ritz.solver._base import AbstractSolver, BatchSource
from ritz.solver._budget import Budget
from ritz.solver._checkpoint import Checkpoint, Kept, forward, seen
from ritz.solver._history import History
from ritz.solver._loop import CHUNK, Loop
from ritz.solver._progress import Progress

_SECONDS_A_CHUNK = 0.5
# Why a run may have ended as it was meant to.
OK = ("steps", "converged", "callback", "data ended")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        state: the solver's last finite state.
        history: scalars by step.
        stop_reason: "steps", "converged", "budget", "callback", "interrupted", "not finite", "data
            ended" or "callback failed".
        message: one line that explains the stop.
        steps: steps made in all, those before `start` included.
        compile_seconds: time spent tracing and compiling.
        run_seconds: time spent in steps.
        compiled: whether anything was compiled.
    """

    state: PyTree
    history: History
    stop_reason: str
    message: str
    steps: int
    compile_seconds: float
    run_seconds: float
    compiled: bool

    @property
    def ok(self) -> bool:
        """Whether the run ended as it was meant to."""
        return self.stop_reason in OK


def run(
    problem: Any,
    solver: AbstractSolver,
    steps: Any,
    key: Key[Array, ""],
    *,
    batches: BatchSource | None = None,
    state: PyTree = None,
    start: int = 0,
    history: History | None = None,
    callbacks: Any = (),
    progress: bool | float | None = None,
    strict: bool = False,
    checkpoint: Checkpoint | None = None,
    budget: Budget | None = None,
) -> Result:
    """Run a solver on a problem.

    The steps run in compiled chunks of up to 2,000; step t draws from `fold_in(key, t)`, so that
    the result does not depend on how steps fall into chunks, and `steps=n` equals two runs of
    n/2 with `state` and `start` handed on. A second run of equal parts and shapes compiles
    nothing. If a chunk ends with a number that is not finite it is replayed up to the step where
    that began, and the run stops with the last finite state.

    Args:
        problem: whatever the solver understands. If it has `explain(state, key, batch)`, that
            names what was not finite; if it has `oracles`, they are checked against
            `solver.needs`; if it has `at(step)`, each step sees what that gives.
        solver: the algorithm.
        steps: how many steps to make.
        key: the source of all randomness.
        batches: data for each step.
        state: where to go on from, instead of `solver.init`.
        start: the number of steps already made.
        history: the record to go on from.
        callbacks: each is called between chunks as `callback(state, steps, info)`; one that
            returns True stops the run.
        progress: a bar: None shows it in a terminal or notebook only; a number is the interval
            in seconds.
        strict: raise where the run would otherwise return with a `stop_reason` that is not ok.
        checkpoint: a file that the state is written to between chunks and at the end, and from
            which the run goes on where it is there already: `steps` are those of both in all.
            Batches of an iterable must then start from the first; those seen are read again.
        budget: what the run may cost at most; what it has cost is counted there at its end. Steps
            made before, by `start` or in the checkpoint, are not.

    Returns:
        a `Result`.

    Raises:
        RitzError: for a solver and problem that do not fit, a checkpoint that is damaged or of
            another run, or, if `strict`, a failed run.
    """
    _check(problem, solver, steps, callbacks)
    spent_at_start = spent()
    loop = Loop(problem, solver, key, batches)
    record = History() if history is None else history
    done, stop, message, run_seconds, paid = start, "steps", "", 0.0, 0.0
    info: dict[str, float] = {}
    before, ended = start - record.steps, False

    def save(final: bool) -> None:
        if checkpoint is None or not (final or checkpoint.due) or not writes(loop.mesh):
            return
        # An interrupt may have come between a state and its record; then the last file stays.
        if done > start and done - record.steps == before:
            stands = (stop, message) if stop in OK else ("steps", "")
            stands = ("converged", "") if ended and stop != "callback" else stands
            at = seen(batches, done)
            checkpoint.save(Kept(state, record, done, run_seconds, *stands, at))

    try:
        if state is None:
            state = loop.init()
        if checkpoint is not None:
            kept = checkpoint.open(_identity(solver, start + steps, key), state)
            if kept is not None:
                state, record, done, run_seconds, stop, message, _ = kept
                forward(batches, kept)
        if budget is not None:
            paid = solver.evaluations(problem, state, done) or 0.0
        with Progress(progress if writes(loop.mesh) else False, steps, start) as bar:
            per_step = None
            while stop == "steps":
                state, settled = solver.look(problem, state, record)
                if settled:
                    stop = "converged"
                if settled or done >= start + steps:
                    break
                # A solver looks at fixed steps, not where time has cut the chunks.
                until = solver.next_look(state) or start + steps
                size = _next_size(per_step, min(until, start + steps) - done)
                if budget is not None:
                    within = budget.steps(solver, problem, state, paid, done, per_step)
                    size = size if within is None else min(size, within)
                size = agreed(size, loop.mesh)
                if size == 0:
                    stop, message = "budget", f"the budget of {budget} ended after {done} steps"
                    break
                spent_before = spent()
                began = time.perf_counter()
                new, columns, finite, made = loop.chunk(state, done, size)
                elapsed = time.perf_counter() - began - (spent() - spent_before)
                run_seconds += elapsed
                if made == 0:
                    stop, message = "data ended", f"the batches ended after {done} steps"
                    break
                if not finite:
                    columns.pop("converged", None)
                    new, good, message = loop.replay(state, done, made, columns)
                    state, done, stop = new, done + good, "not finite"
                    record.append({k: v[:good] for k, v in columns.items()})
                    break
                state, done = new, done + made
                ended = bool(columns.pop("converged", [False])[-1])
                record.append(columns)
                info = {k: float(v[-1]) for k, v in columns.items()}
                per_step = elapsed / made
                bar.update(done, columns)
                save(final=False)
                stop, message = _call(callbacks, state, done, info, strict)
                if stop == "steps" and ended:
                    stop = "converged"
    except KeyboardInterrupt:
        if state is None or strict:
            raise
        stop, message = "interrupted", f"interrupted after {done} steps; the fit so far is kept"
    finally:
        save(final=True)
    if budget is not None:
        budget.spend((solver.evaluations(problem, state, done) or 0.0) - paid)
    if stop in ("not finite", "callback failed"):
        if strict:
            raise RitzError(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    elif not message:
        message = solver.caution(state) or ""
    return Result(
        state, record, stop, message, done, spent() - spent_at_start, run_seconds, loop.compiled
    )


def _identity(solver: AbstractSolver, end: int, key: Array) -> dict[str, Any]:
    """What makes a run the one that a checkpoint is of."""
    numbers = np.asarray(jax.random.key_data(key)).tolist()
    kind = str(jax.random.key_impl(key))
    return {"solver": type(solver).__name__, "number of steps": end, "key": f"{numbers} ({kind})"}


def _call(
    callbacks: Iterable[Callable[..., Any]], state: PyTree, done: int, info: Any, strict: bool
) -> tuple[str, str]:
    for callback in callbacks:
        try:
            answer = callback(state, done, info)
        except Exception as error:  # somebody else's code must not cost the run its result
            if strict:
                raise
            reason = f"{type(error).__name__}: {error}"
            return "callback failed", f"a callback failed after {done} steps ({reason})"
        if answer is True:
            return "callback", f"a callback stopped the run after {done} steps"
    return "steps", ""


def _check(problem: Any, solver: AbstractSolver, steps: Any, callbacks: Any) -> None:
    whole_number("steps", steps, 0)
    if not isinstance(callbacks, Iterable):
        raise RitzError(
            f"callbacks arrived as {type(callbacks).__name__}, expected a list: "
            "callbacks=[function]"
        )
    oracles = getattr(problem, "oracles", None)
    if oracles is None:
        return
    lacking = sorted(solver.needs - oracles)
    if lacking:
        own = getattr(getattr(problem, "family", None), "solver", None)
        instead = f"use solver={own!r}" if own else "ritz.solver.adam() needs only grad"
        raise RitzError(
            f"{type(solver).__name__} needs {', '.join(lacking)}, which this "
            f"{type(problem).__name__} cannot offer (it has {', '.join(sorted(oracles))}); "
            f"{instead}"
        )
    if getattr(problem, "revises", False) and not solver.revises:
        raise RitzError(
            f"{type(solver).__name__} takes no step in which {type(problem.objective).__name__} "
            "sets its own parameters; use ritz.solver.adam() or an Optax transformation"
        )
    for oracle in sorted(solver.needs) if hasattr(problem, "refuses") else ():
        reason = problem.refuses(oracle)
        if reason is not None:
            raise RitzError(
                f"{type(solver).__name__} needs {oracle}, second derivatives of the log density, "
                f"which this one lacks ({reason}); solver='pathfinder' and "
                "solver='natural_gradient' need its gradient alone"
            )


def _next_size(per_step: float | None, left: int) -> int:
    """A short first chunk measures; later ones take about half a second."""
    if per_step is None:
        return min(left, 10)
    return max(1, min(left, CHUNK, int(_SECONDS_A_CHUNK / max(per_step, 1e-9))))
