"""Computing once what is equal along an axis.

Where a model sees a discrete site at one of its values, all elements of a plate have that value:
`loc[z]` is one number, a thousand times. Along such an axis arrays are kept at size one until
something needs them whole.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jax.extend.core.primitives import jit_p

# Primitives whose result at an index depends on their operands at that index alone.
ELEMENTWISE = frozenset(
    word
    for line in (
        "abs add and atan2 cbrt ceil clamp convert_element_type copy cos cosh digamma div eq erf",
        "erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p",
        "logistic lt max min mul ne neg nextafter not or pow rem round rsqrt select_n sign sin",
        "sinh sqrt square stop_gradient sub tan tanh xor",
    )
    for word in line.split()
)
REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and"})


class Narrow(NamedTuple):
    """An array with its size along some axes left at one.

    Attributes:
        array: the array; along an axis where it is shorter than `shape`, all entries are equal.
        shape: the shape that it stands for.
    """

    array: Any
    shape: tuple[int, ...]

    @property
    def whole(self) -> Any:
        """The array itself."""
        return jnp.broadcast_to(self.array, self.shape)


def narrowed(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same function of one pytree, which computes once what is equal along an axis."""

    def run(args: Any) -> Any:
        closed, out = jax.make_jaxpr(f, return_shape=True)(args)
        found = _evaluate(closed.jaxpr, closed.consts, [_full(x) for x in jax.tree.leaves(args)])
        return jax.tree.unflatten(jax.tree.structure(out), [v.whole for v in found])

    return run


def _full(x: Any) -> Narrow:
    return Narrow(x, jnp.shape(x))


def _evaluate(jaxpr: Any, consts: Any, args: list[Narrow]) -> list[Narrow]:
    env: dict[Any, Narrow] = {v: _full(c) for v, c in zip(jaxpr.constvars, consts, strict=True)}
    env.update(zip(jaxpr.invars, args, strict=True))
    read = lambda v: _full(v.val) if isinstance(v, Literal) else env[v]
    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _apply(eqn, [read(v) for v in eqn.invars]), strict=True))
    return [read(v) for v in jaxpr.outvars]


def _apply(eqn: Any, given: list[Narrow]) -> list[Narrow]:
    name = eqn.primitive.name
    if eqn.primitive is jit_p:
        inner = eqn.params["jaxpr"]
        return _evaluate(inner.jaxpr, inner.consts, given)
    if name == "broadcast_in_dim" and len(given) == 1:
        return [
            _broadcast(given[0], eqn.params["shape"], map(int, eqn.params["broadcast_dimensions"]))
        ]
    if name in ELEMENTWISE:
        return [_elementwise(eqn, given)]
    if name in REDUCTIONS and all(
        jnp.shape(v.array)[a] == v.shape[a] for v in given for a in eqn.params["axes"]
    ):
        return [Narrow(eqn.primitive.bind(given[0].array, **eqn.params), eqn.outvars[0].aval.shape)]
    if name == "gather":
        return [_gather(eqn, *given)]
    values = eqn.primitive.bind(
        *(v.whole for v in given), **eqn.primitive.get_bind_params(eqn.params)
    )
    return [_full(v) for v in (values if eqn.primitive.multiple_results else [values])]


def _broadcast(x: Narrow, shape: tuple[int, ...], axes: Iterable[int]) -> Narrow:
    """Only the rank grows; where an axis of size one is repeated, it stays so."""
    sizes = dict(zip(axes, jnp.shape(x.array), strict=True))
    small = tuple(sizes.get(axis, 1) for axis in range(len(shape)))
    return Narrow(jnp.reshape(x.array, small), tuple(shape))


def _elementwise(eqn: Any, given: list[Narrow]) -> Narrow:
    arrays = [v for v in given if v.shape]
    sizes = jnp.broadcast_shapes(*(jnp.shape(v.array) for v in arrays)) if arrays else ()
    same = [jnp.broadcast_to(v.array, sizes) if v.shape else v.array for v in given]
    return Narrow(eqn.primitive.bind(*same, **eqn.params), eqn.outvars[0].aval.shape)


def _gather(eqn: Any, operand: Narrow, indices: Narrow) -> Narrow:
    """Rows found once where all indices along an axis are equal."""
    numbers = eqn.params["dimension_numbers"]
    rows = list(operand.shape)
    where = [*jnp.shape(indices.array)[:-1], indices.shape[-1]]
    pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    for a, b in pairs:  # axes that go together
        if jnp.shape(operand.array)[a] == where[b] == 1:
            rows[a] = 1
        else:
            where[b] = indices.shape[b]
    found = eqn.primitive.bind(
        jnp.broadcast_to(operand.array, rows), jnp.broadcast_to(indices.array, where), **eqn.params
    )
    return Narrow(found, eqn.outvars[0].aval.shape)
