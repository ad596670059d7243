"""Short texts that are the same, in every process, for what means the same."""

import functools
import hashlib
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ritz import _compile

_ADDRESS = re.compile(r" at 0x[0-9a-f]+|<locals>\.")


def fingerprint(value: Any) -> str:
    """A hash of any Python value: of numbers, of a function's code and what it closes over, of
    an object's class and attributes.

    >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 1)
    True
    >>> fingerprint(lambda x: x + 1) == fingerprint(lambda x: x + 2)
    False
    """
    return _hash(_text(value, (), {}).encode())


def program_fingerprint(fn: Callable[..., Any], *args: Any) -> str:
    """A hash of what a function computes at arguments of these shapes, constants included.

    >>> program_fingerprint(lambda x: x * 2.0, jnp.ones(3)) == program_fingerprint(
    ...     lambda y: y * 2.0, jnp.zeros(3)
    ... )
    True
    """
    dynamic, static = eqx.partition(args, eqx.is_array)

    def flat(dynamic: Any) -> Any:
        return jax.tree.leaves(fn(*eqx.combine(dynamic, static)))

    closed = jax.make_jaxpr(flat)(dynamic)
    text = _compile.digest(closed.jaxpr, {}, lambda value: _text(value, (), {}))
    return _hash(" ".join([text, *(_array(c) for c in closed.consts)]).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _array(value: Any) -> str:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    content = repr(array.tolist()) if array.dtype.hasobject else np.ascontiguousarray(array)
    bits = hashlib.sha256(content.encode() if isinstance(content, str) else content.tobytes())
    return f"array({array.dtype},{array.shape},{bits.hexdigest()})"


def _text(value: Any, above: tuple[int, ...], known: dict[int, tuple[Any, str]]) -> str:
    """What is hashed; `above` are the objects around it, `known` those that were met before."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return f"{type(value).__name__}:{value!r}"
    if id(value) in above or len(above) > 50:  # what refers to itself
        return type(value).__qualname__
    if id(value) not in known:
        text = _whole(value, lambda v: _text(v, (*above, id(value)), known))
        # With the object, so that its id stays taken.
        known[id(value)] = value, text if len(text) < 200 else _hash(text.encode())
    return known[id(value)][1]


def _whole(value: Any, part: Callable[[Any], str]) -> str:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array(value)
    kind = _name(type(value))
    if isinstance(value, Mapping):
        return f"{kind}{{{','.join(sorted(f'{part(k)}={part(v)}' for k, v in value.items()))}}}"
    if isinstance(value, set | frozenset):
        return f"{kind}({','.join(sorted(map(part, value)))})"
    if isinstance(value, tuple | list):
        return f"{kind}({','.join(map(part, value))})"
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return _name(value)
    if isinstance(value, types.CodeType):
        return part((value.co_code, value.co_names, value.co_varnames, value.co_consts))
    if isinstance(value, types.FunctionType):
        closed = [_cell(cell) for cell in value.__closure__ or ()]
        own = (value.__code__, value.__defaults__, value.__kwdefaults__, closed)
        return f"function {_name(value)}{part(own)}"
    if isinstance(value, types.MethodType):
        return f"method {part(value.__func__)}{part(value.__self__)}"
    if isinstance(value, functools.partial):
        return f"partial{part((value.func, value.args, value.keywords))}"
    if callable(value) and hasattr(value, "__wrapped__"):  # jitted, say
        return f"{kind}{part(value.__wrapped__)}"
    if hasattr(value, "__dict__") and not hasattr(value, "eqns"):
        return f"{kind}{part({k: v for k, v in vars(value).items() if not k.startswith('__')})}"
    return f"{kind}:{_ADDRESS.sub('', repr(value))}"


def _name(value: Any) -> str:
    """Without its module: a script's functions are those of `__main__` or not."""
    return getattr(value, "__qualname__", None) or getattr(value, "__name__", str(value))


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that is not bound yet
        return None
