"""The one loop: compiled chunks of steps inside, Python between them."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, Key, PyTree

from ritz._compile import Program, compile, spent
from ritz._errors import RitzError, whole_number
from ritz.solver._base import AbstractSolver, BatchSource
from ritz.solver._checkpoint import Checkpoint, Kept, forward, seen
from ritz.solver._history import History
from ritz.solver._progress import Progress

CHUNK = 2000
_SECONDS_A_CHUNK = 0.5
# Why a run may have ended as it was meant to.
OK = ("steps", "converged", "callback", "data ended")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        state: the solver's last finite state.
        history: scalars by step.
        stop_reason: "steps", "converged", "callback", "interrupted", "not finite", "data ended" or
            "callback failed".
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

    Returns:
        a `Result`.

    Raises:
        RitzError: for a solver and problem that do not fit, a checkpoint that is damaged or of
            another run, or, if `strict`, a failed run.
    """
    _check(problem, solver, steps, callbacks)
    spent_at_start = spent()
    loop = _Loop(problem, solver, key, batches)
    record = History() if history is None else history
    done, stop, message, run_seconds = start, "steps", "", 0.0
    info: dict[str, float] = {}
    before, ended = start - record.steps, False

    def save(final: bool) -> None:
        if checkpoint is None or not (final or checkpoint.due):
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
        with Progress(progress, steps, start) as bar:
            per_step = None
            while done < start + steps and stop == "steps":
                size = _next_size(per_step, start + steps - done)
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


class _Loop:
    """One run's programs: how a chunk is made, compiled and replayed."""

    def __init__(self, problem: Any, solver: AbstractSolver, key: Array, batches: Any) -> None:
        self.problem, self.solver, self.key, self.batches = problem, solver, key, batches
        self.capacity = CHUNK if batches is None else min(CHUNK, batches.capacity)
        self.arrays = None if batches is None else jax.tree.map(jnp.asarray, batches.arrays)
        self.programs: dict[Any, Program] = {}
        self.compiled = False
        self.replaying: Any = None

    def init(self) -> PyTree:
        def first(problem: Any, solver: Any, key: Array) -> PyTree:
            return solver.init(problem, key)

        args = (self.problem, self.solver, self.key)
        if not self.solver.jittable:
            return first(*args)
        return self._program(first, *args)(*args)

    def _program(self, fn: Callable[..., Any], *args: Any) -> Program:
        program = compile(fn, *args)
        self.compiled |= not program.reused
        return program

    def chunk(
        self, state: PyTree, done: int, size: int
    ) -> tuple[PyTree, dict[str, np.ndarray], bool, int]:
        """Up to `size` steps: the state, scalars by step, whether all is finite, steps made."""
        xs = None
        if self.batches is not None:
            xs = self.batches.chunk(done, min(size, self.capacity))
            if xs is None:
                return state, {}, True, 0
            size = len(jax.tree.leaves(xs)[0])
        size = min(size, self.capacity)
        self.replaying = xs
        return self._steps(state, done, size, xs)

    def _steps(
        self, state: PyTree, done: int, size: int, xs: Any
    ) -> tuple[PyTree, dict[str, np.ndarray], bool, int]:
        if not self.solver.jittable:
            return self._host_steps(state, done, size, xs)
        xs = jax.tree.map(lambda v: _pad(np.asarray(v), self.capacity), xs)
        xs = jax.tree.map(jnp.asarray, xs)
        counts = (jnp.asarray(done), jnp.asarray(size))
        args = (self.problem, self.solver, state, self.key, *counts, self.arrays, xs)
        shape = tuple(np.shape(v) for v in jax.tree.leaves(xs))
        if shape not in self.programs:
            self.programs[shape] = self._program(self._body, *args)
        state, infos, finite, made = self.programs[shape](*args)
        made = int(made)
        columns = {name: np.asarray(v)[:made] for name, v in infos.items()}
        return state, columns, bool(finite), made

    def _body(
        self, problem: Any, solver: Any, state: Any, key: Any, done: Any, size: Any,
        arrays: Any, xs: Any,
    ) -> Any:  # fmt: skip
        keys = jax.vmap(lambda t: jax.random.fold_in(key, t))(done + jnp.arange(self.capacity))

        def step(i: Any, state: Any) -> Any:
            x = jax.tree.map(lambda v: v[i], xs)
            batch = None if self.batches is None else self.batches.get(arrays, x)
            return solver.step(_at(problem, done + i), state, keys[i], batch)

        dynamic, static = eqx.partition(state, eqx.is_array)
        dynamic = jax.tree.map(lambda v: jax.lax.convert_element_type(v, v.dtype), dynamic)
        # Traced once, for the shapes of its infos and for the loop.
        move = lambda i, dynamic: _arrays(step(i, eqx.combine(dynamic, static)))
        traced, shapes = jax.make_jaxpr(move, return_shape=True)(jnp.zeros_like(size), dynamic)
        _check_step(dynamic, shapes)
        infos = {k: jnp.zeros((self.capacity, *v.shape), v.dtype) for k, v in shapes[1].items()}

        def more(carry: Any) -> Any:
            i, _, infos = carry
            if "converged" not in infos:
                return i < size
            return (i < size) & ~infos["converged"][jnp.maximum(i - 1, 0)].astype(bool)

        def body(carry: Any) -> Any:
            i, dynamic, infos = carry
            flat = jaxpr_as_fun(traced)(i, *jax.tree.leaves(dynamic))
            new, info = jax.tree.unflatten(jax.tree.structure(shapes), flat)
            return i + 1, new, {k: infos[k].at[i].set(info[k]) for k in infos}

        made, dynamic, infos = jax.lax.while_loop(
            more, body, (jnp.zeros_like(size), dynamic, infos)
        )
        finite = _all_finite(dynamic) & jnp.isfinite(infos["loss"]).all()
        return eqx.combine(dynamic, static), infos, finite, made

    def _host_steps(
        self, state: PyTree, done: int, size: int, xs: Any
    ) -> tuple[PyTree, dict[str, np.ndarray], bool, int]:
        rows: list[dict[str, Any]] = []
        for i in range(size):
            x = jax.tree.map(lambda v, i=i: v[i], xs)
            batch = None if self.batches is None else self.batches.get(self.arrays, x)
            key = jax.random.fold_in(self.key, done + i)
            state, info = self.solver.step(_at(self.problem, done + i), state, key, batch)
            rows.append(info)
            if bool(info.get("converged", False)):
                break
        columns = {k: np.asarray([row[k] for row in rows]) for k in rows[0]}
        finite = bool(np.isfinite(columns["loss"]).all()) and _host_finite(state)
        return state, columns, finite, len(rows)

    def replay(
        self, state: PyTree, done: int, made: int, columns: dict[str, np.ndarray]
    ) -> tuple[PyTree, int, str]:
        """The last finite state of a chunk, how many of its steps led there, and why it ended."""
        xs = self.replaying
        bad = np.flatnonzero(~np.isfinite(columns["loss"]))
        high = int(bad[0]) if bad.size else made
        low, kept, middle = 0, state, high
        while low < high:  # the longest stretch of steps that leaves a finite state
            trial, _, _, _ = self._steps(state, done, middle, xs)
            if _host_finite(trial):
                low, kept = middle, trial
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        explain = getattr(self.problem, "explain", None)
        reason = "the loss is not finite"
        if explain is not None:
            x = jax.tree.map(lambda v: v[min(low, made - 1)], xs)
            batch = None if self.batches is None else self.batches.get(self.arrays, x)
            reason = explain(kept, jax.random.fold_in(self.key, done + low), batch)
        return kept, low, f"step {done + low} is not finite: {reason}; the state before it is kept"


def _at(problem: Any, step: Any) -> Any:
    """The problem at a step, where it changes with it."""
    return problem.at(step) if hasattr(problem, "at") else problem


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
    for oracle in sorted(solver.needs) if hasattr(problem, "refuses") else ():
        reason = problem.refuses(oracle)
        if reason is not None:
            raise RitzError(
                f"{type(solver).__name__} needs {oracle}, second derivatives of the log density, "
                f"which this one lacks ({reason}); solver='pathfinder' and "
                "solver='natural_gradient' need its gradient alone"
            )


def _check_step(dynamic: Any, shapes: Any) -> None:
    new, info = shapes
    if jax.tree.structure(new) != jax.tree.structure(dynamic):
        raise RitzError("the solver's step changed the structure of its state; keep it fixed")
    for old, out in zip(jax.tree.leaves(dynamic), jax.tree.leaves(new), strict=True):
        if old.shape != out.shape or old.dtype != out.dtype:
            raise RitzError(
                f"the solver's step turned an array of its state from {old.dtype}{old.shape} "
                f"into {out.dtype}{out.shape}; keep shapes and dtypes fixed"
            )
    for name, value in info.items():
        if value.shape != ():
            raise RitzError(
                f"the solver's info {name!r} has shape {value.shape}, expected a scalar"
            )
    if "loss" not in info:
        raise RitzError(
            f"the solver's info has {', '.join(info) or 'nothing'}, expected 'loss' too"
        )


def _arrays(stepped: tuple[Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    state, info = stepped
    return eqx.filter(state, eqx.is_array), {k: jnp.asarray(v) for k, v in info.items()}


def _all_finite(tree: Any) -> Any:
    leaves = [x for x in jax.tree.leaves(tree) if eqx.is_inexact_array(x)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all() if leaves else jnp.array(True)


def _host_finite(tree: Any) -> bool:
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree) if eqx.is_inexact_array_like(x)]
    return all(np.isfinite(x).all() for x in leaves)


def _pad(value: np.ndarray, length: int) -> np.ndarray:
    if len(value) == length:
        return value
    return np.concatenate([value, np.repeat(value[-1:], length - len(value), axis=0)])


def _next_size(per_step: float | None, left: int) -> int:
    """A short first chunk measures; later ones take about half a second."""
    if per_step is None:
        return min(left, 10)
    return max(1, min(left, CHUNK, int(_SECONDS_A_CHUNK / max(per_step, 1e-9))))
