"""The programs of the one loop: how a chunk of steps is made, compiled and replayed."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array, PyTree

from ritz._compile import Program, compile
from ritz._errors import RitzError
from ritz._mesh import mesh_of, place, split_rows
from ritz.solver._base import AbstractSolver

CHUNK = 2000


class Loop:
    """One run's programs."""

    def __init__(self, problem: Any, solver: AbstractSolver, key: Array, batches: Any) -> None:
        self.problem, self.solver, self.key, self.batches = problem, solver, key, batches
        self.capacity = CHUNK if batches is None else min(CHUNK, batches.capacity)
        self.mesh = mesh_of(problem)
        self.arrays = None if batches is None else self._held(batches.arrays)
        self.programs: dict[Any, Program] = {}
        self.compiled = False
        self.replaying: Any = None

    def _held(self, arrays: Any) -> Any:
        return place(jax.tree.map(jnp.asarray, arrays), self.mesh)

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
            batch = None if self.batches is None else split_rows(self.batches.get(arrays, x))
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
