"""A program as a list of operations: nested calls inlined, branches with choices made selects."""

import dataclasses
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, Primitive
from jax.extend.core.primitives import cond_p, jit_p, select_n_p

from ritz._errors import RitzError
from ritz.program._scan import operands
from ritz.program._site import sample_p

UNROLLED = 16  # steps of a scan
INLINED = {"jit", "closed_call", "core_call", "remat2", "checkpoint"}


class Var:
    """A value of a program; identity tells it from others."""

    __slots__ = ("aval",)

    def __init__(self, aval: Any) -> None:
        self.aval = aval


class Constant:
    """A literal of a program."""

    __slots__ = ("aval", "val")

    def __init__(self, aval: Any, val: Any) -> None:
        self.aval, self.val = aval, val


@dataclasses.dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        primitive: of JAX.
        params: its static parameters.
        inputs: variables or literals.
        outputs: variables.
        guard: whether it selects between values one of which may be infinite, or no number.
    """

    primitive: Primitive
    params: dict[str, Any]
    inputs: list[Any]
    outputs: list[Var]
    guard: bool = False

    def bind(self, *values: Any) -> list[Any]:
        """The operation on values."""
        out = self.primitive.bind(*values, **self.primitive.get_bind_params(self.params))
        return list(out) if self.primitive.multiple_results else [out]


@dataclasses.dataclass(frozen=True)
class Graph:
    """A program.

    Attributes:
        ops: in their order.
        constants: values of variables that are neither inputs nor outputs of an operation.
        inputs: variables.
        outputs: variables or literals.
    """

    ops: list[Op]
    constants: dict[Var, Any]
    inputs: list[Var]
    outputs: list[Any]


def graph(closed: Any) -> Graph:
    """The operations of a closed jaxpr."""
    ops: list[Op] = []
    constants: dict[Var, Any] = {}
    inputs = [Var(v.aval) for v in closed.jaxpr.invars]
    outputs = _inline(closed, list(inputs), ops, constants)
    return Graph(_guarded(_needed(ops, outputs)), constants, inputs, outputs)


def _guarded(ops: list[Op]) -> list[Op]:
    """With the selects marked that may leave out what was made of an infinite constant."""
    found, marked = set(), []
    for op in ops:
        bad = not found.isdisjoint(op.inputs)
        if op.primitive is select_n_p:
            op = dataclasses.replace(op, guard=bad)
        elif bad or any(map(_is_infinite, op.inputs)):
            found.update(op.outputs)
        marked.append(op)
    return marked


def _is_infinite(v: Any) -> bool:
    return isinstance(v, Constant) and v.aval.dtype.kind == "f" and not np.isfinite(v.val).all()


def _needed(ops: list[Op], outputs: list[Any]) -> list[Op]:
    """Without operations that nothing comes of."""
    needed, kept = set(outputs), []
    for op in reversed(ops):
        if op.primitive is sample_p or not needed.isdisjoint(op.outputs):
            kept.append(op)
            needed.update(op.inputs)
    return kept[::-1]


def has_choices(jaxpr: Any) -> bool:
    """Whether a jaxpr, or one inside it, samples."""
    return any(eqn.primitive is sample_p or _samples(eqn) for eqn in jaxpr.eqns)


def op_samples(op: Op) -> bool:
    """Whether an operation samples inside."""
    return any(map(has_choices, _inside(op)))


def _inside(eqn: Any) -> list[Any]:
    return list(jax.extend.core.jaxprs_in_params(eqn.params))


def _inline(closed: Any, inputs: list[Any], ops: list[Op], constants: dict[Var, Any]) -> list[Any]:
    env: dict[Any, Any] = dict(zip(closed.jaxpr.invars, inputs, strict=True))
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        env[var] = Var(var.aval)
        constants[env[var]] = value
    read = lambda v: Constant(v.aval, v.val) if isinstance(v, Literal) else env[v]
    for eqn in closed.jaxpr.eqns:
        given = [read(v) for v in eqn.invars]
        name = eqn.primitive.name
        if name in INLINED and (eqn.primitive is jit_p or _samples(eqn)):
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            inner = inner if hasattr(inner, "consts") else jax.extend.core.ClosedJaxpr(inner, ())
            found = _inline(inner, given, ops, constants)
        elif eqn.primitive is cond_p and _samples(eqn):
            found = _branches(eqn, given, ops, constants)
        elif name == "scan" and eqn.params["length"] <= UNROLLED and _samples(eqn):
            found = _inline(_unrolled(eqn), given, ops, constants)
        else:
            if name != "scan" and _samples(eqn):
                raise RitzError(
                    f"a program samples inside {name}, which expectation cannot follow; use vmap, "
                    "scan, cond or plain Python"
                )
            found = [Var(v.aval) for v in eqn.outvars]
            ops.append(Op(eqn.primitive, eqn.params, given, found))
        env.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in closed.jaxpr.outvars]


def _samples(eqn: Any) -> bool:
    return any(map(has_choices, _inside(eqn)))


def _unrolled(eqn: Any) -> Any:
    """A short scan as the sequence of its steps, where choices of one step can be told apart."""
    p = eqn.params
    body = jax.extend.core.jaxpr_as_fun(p["jaxpr"])
    (consts, carries), length = operands(p), p["length"]

    def steps(*args: Any) -> list[Any]:
        fixed, carry, xs = args[:consts], args[consts : consts + carries], args[consts + carries :]
        rows: list[Any] = [None] * length
        for t in reversed(range(length)) if p["reverse"] else range(length):
            out = body(*fixed, *carry, *(x[t] for x in xs))
            carry, rows[t] = out[:carries], out[carries:]
        return [*carry, *(jnp.stack(y) for y in zip(*rows, strict=True))]

    return jax.make_jaxpr(steps)(*(v.aval for v in eqn.invars))


def _branches(eqn: Any, given: list[Any], ops: list[Op], constants: dict[Var, Any]) -> list[Any]:
    """Both branches run, and the predicate selects: choices in the other one have no effect.

    The operands of a branch that is not taken are constants, so that no derivative comes out of
    it: at values that it is not meant for, that may be infinite.
    """
    which, found = given[0], []
    for k, branch in enumerate(eqn.params["branches"]):
        held = jax.make_jaxpr(lambda which, *xs, k=k: [_if_taken(which, k, x) for x in xs])
        closed = held(*(v.aval for v in given))
        found.append(_inline(branch, _inline(closed, given, ops, constants), ops, constants))
    out = []
    for cases in zip(*found, strict=True):
        out.append(Var(cases[0].aval))
        ops.append(Op(select_n_p, {}, [which, *cases], [out[-1]]))
    return out


def _if_taken(which: Any, k: int, x: Any) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    taken = which if which.dtype == bool else which == k
    taken = ~taken if which.dtype == bool and k == 0 else taken
    return jnp.where(taken, x, jax.lax.stop_gradient(x))
