"""Compile once: executables are found by what a program computes, not by who wrote it.

`jax.jit` recognises a program by the identity of its Python function, so two calls that
build equal parts (`optax.adam(0.01)` twice, a model defined again in a notebook cell) compile
twice. Here a function is traced (milliseconds), its jaxpr is reduced to a structural key, and
the executable (hundreds of milliseconds) is looked up by that key. Arrays that the function
closes over are lifted into arguments, so they may change without compiling either.
"""

import dataclasses
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.extend import core as jex_core

from ritz._mesh import copies, everywhere, mesh_of, ordinary, tracing

# Derivative rules inside a traced program are never applied again, and they are fresh function
# objects at every trace: of these calls only the primal program counts.
_CUSTOM_RULES = ("custom_jvp_call", "custom_vjp_call")
_CAPACITY = 256
_QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}

_executables: OrderedDict[Hashable, Any] = OrderedDict()
_objects: dict[Hashable, int] = {}
_lock = threading.Lock()
_spent = 0.0


def spent() -> float:
    """Seconds spent tracing and compiling in this process so far."""
    return _spent


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function, callable with arguments of the shapes it was compiled for.

    Attributes:
        trace_seconds: time spent tracing.
        compile_seconds: time spent in XLA; zero where an executable was found.
        reused: whether an executable was found.
    """

    trace_seconds: float
    compile_seconds: float
    reused: bool
    _executable: Any
    _consts: tuple[Any, ...]
    _out_tree: Any
    _out_static: Any
    _mesh: Any

    def __call__(self, *args: Any) -> Any:
        leaves = everywhere(jax.tree.leaves(eqx.filter(args, eqx.is_array)), self._mesh)
        leaves = self._executable(self._consts, leaves)
        if self._mesh is not None:
            leaves = [ordinary(leaf) for leaf in leaves]
        return eqx.combine(jax.tree.unflatten(self._out_tree, leaves), self._out_static)


def compile(fn: Callable[..., Any], *args: Any, quick: bool = False) -> Program:
    """Trace `fn` at `args` and return its executable, compiling only if none is equal.

    Arrays in `args` are traced; every other leaf is static and belongs to the program. A call
    of the result uses the array leaves of its arguments and the static leaves given here.

    Where arrays are on a mesh (see `_mesh`) the program runs there, with copies of all others on
    each device, and its results are ordinary arrays.

    Args:
        fn: a pure function of pytrees; its result may hold static leaves too.
        *args: example arguments.
        quick: compile with fewer optimisations, in about a quarter of the time; the program may
            be half as fast. For what runs once or a few times.

    Returns:
        a `Program`.

    >>> import jax.numpy as jnp
    >>> double = compile(lambda x: 2 * x, jnp.ones(3))
    >>> compile(lambda y: 2 * y, jnp.zeros(3)).reused
    True
    """
    started = time.perf_counter()
    dynamic, static = eqx.partition(args, eqx.is_array)
    leaves, in_tree = jax.tree.flatten(dynamic)
    out_static: list[Any] = []

    def flat(leaves: list[Any]) -> Any:
        out = fn(*eqx.combine(jax.tree.unflatten(in_tree, leaves), static))
        arrays, rest = eqx.partition(out, _is_arraylike)
        out_static.append(rest)
        return arrays

    mesh = mesh_of(leaves)
    with tracing(mesh, leaves):
        closed, out_shape = jax.make_jaxpr(flat, return_shape=True)(leaves)
    consts, leaves = everywhere((tuple(closed.consts), leaves), mesh)
    key = (quick, _key(closed.jaxpr, consts, leaves))
    traced = time.perf_counter()
    with _lock:
        executable = _executables.get(key)
        if executable is not None:
            _executables.move_to_end(key)
    reused = executable is not None
    if executable is None:

        def evaluate(consts: Any, leaves: Any) -> Any:
            lifted = jex_core.ClosedJaxpr(closed.jaxpr, list(consts))
            return jex_core.jaxpr_as_fun(lifted)(*leaves)

        out = None if mesh is None else copies(mesh)
        lowered = jax.jit(evaluate, out_shardings=out).lower(consts, leaves)
        executable = lowered.compile(compiler_options=_QUICK if quick else None)
        with _lock:
            # The jaxpr is kept with its executable: object identities in the key stay taken.
            _executables[key] = executable
            while len(_executables) > _CAPACITY:
                _executables.popitem(last=False)
    finished = time.perf_counter()
    global _spent
    _spent += finished - started
    return Program(
        trace_seconds=traced - started,
        compile_seconds=0.0 if reused else finished - traced,
        reused=reused,
        _executable=executable,
        _consts=consts,
        _out_tree=jax.tree.structure(out_shape),
        _out_static=out_static[-1],
        _mesh=mesh,
    )


def enable_compilation_cache(directory: str | None = None) -> str:
    """Keep compiled programs on disk, so that a new process does not compile them again.

    Args:
        directory: where; `~/.cache/ritz/xla` (or under `XDG_CACHE_HOME`) by default.

    Returns:
        the directory.
    """
    import os
    from pathlib import Path

    if directory is None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        directory = str(Path(base) / "ritz" / "xla")
    Path(directory).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return directory


def _is_arraylike(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _key(jaxpr: Any, consts: tuple[Any, ...], leaves: list[Any]) -> Hashable:
    placed = tuple(_placement(leaf) for leaf in (*consts, *leaves))
    config = (jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision)  # pyright: ignore
    return digest(jaxpr, {}, _object), placed, config


def _placement(leaf: Any) -> Hashable:
    sharding = getattr(leaf, "sharding", None)
    weak = bool(getattr(leaf, "weak_type", False))
    return (np.shape(leaf), str(getattr(leaf, "dtype", type(leaf))), weak, sharding)


def digest(jaxpr: Any, seen: dict[int, str], other: Callable[[Any], str]) -> str:
    """A hash of a jaxpr's content, with variables numbered in the order they appear.

    Args:
        jaxpr: without its constants.
        seen: hashes of jaxprs by identity, to be filled.
        other: the text of a parameter that is no number, text, array or jaxpr.

    Returns:
        the hash.
    """
    if id(jaxpr) in seen:
        return seen[id(jaxpr)]
    numbers: dict[Any, int] = {}
    lines: list[str] = []

    def atom(v: Any) -> str:
        if isinstance(v, jex_core.Literal):
            return f"{_token(v.val, seen, other)}:{v.aval.str_short()}"
        if v not in numbers:
            numbers[v] = len(numbers)
            return f"{numbers[v]}:{v.aval.str_short()}:{getattr(v.aval, 'weak_type', False)}"
        return str(numbers[v])

    lines += ["in", *(atom(v) for v in (*jaxpr.constvars, *jaxpr.invars))]
    for eqn in jaxpr.eqns:
        lines += [eqn.primitive.name, *(atom(v) for v in eqn.invars)]
        only_primal = eqn.primitive.name.startswith(_CUSTOM_RULES)
        for name in ("call_jaxpr",) if only_primal else sorted(eqn.params):
            lines += [name, _token(eqn.params[name], seen, other)]
        lines += ["->", *(atom(v) for v in eqn.outvars)]
    lines += ["out", *(atom(v) for v in jaxpr.outvars)]
    seen[id(jaxpr)] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return seen[id(jaxpr)]


def _token(value: Any, seen: dict[int, str], other: Callable[[Any], str]) -> str:
    """A text that two values share exactly where they mean the same program."""
    if hasattr(value, "eqns"):
        return digest(value, seen, other)
    if hasattr(value, "jaxpr"):
        consts = ",".join(_token(np.asarray(c), seen, other) for c in value.consts)
        return f"{digest(value.jaxpr, seen, other)}[{consts}]"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({','.join(_token(v, seen, other) for v in value)})"
    if isinstance(value, np.ndarray | np.generic):
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"array({value.dtype},{value.shape},{content})"
    if value is None or isinstance(value, int | float | complex | str | bytes | np.dtype):
        return f"{type(value).__name__}:{value!r}"
    return other(value)


def _object(value: Any) -> str:
    """A number for an object, by its equality in this process."""
    try:
        with _lock:
            # Kept for good: an object whose identity is its meaning must not be freed.
            return f"object{_objects.setdefault(value, len(_objects))}"
    except TypeError:
        return f"unhashable{id(value)}:{time.perf_counter_ns()}"
