"""Model arguments: arrays that are traced, and arrays whose values Python needs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Which arrays are held, by dtype kind, in the order in which `from_numpyro` tries them.
NOTHING, INTEGERS, EVERYTHING = "", "iub", "iubfc"


class Held:
    """An array that is part of the program; a pytree sees a leaf that is no array.

    Attributes:
        array: its values.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.view(_Indexable)

    def __repr__(self) -> str:
        return f"Held({self.array.dtype}, {self.array.shape})"


class _Indexable(np.ndarray):
    """A NumPy array that can also be indexed by a traced array, as in `group[rows]`."""

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, Tracer) for part in parts):
            return jnp.asarray(np.asarray(self))[index]
        return super().__getitem__(index)


def hold(arguments: Any, kinds: str) -> Any:
    """Arguments with some arrays held and the others as JAX arrays, which are traced.

    Args:
        arguments: a pytree.
        kinds: the NumPy dtype kinds to hold. Text and objects, which JAX cannot trace, always are.

    Returns:
        the pytree.

    >>> hold((np.arange(3), np.ones(2)), INTEGERS)
    (Held(int64, (3,)), Array([1., 1.], dtype=float32))
    """

    def one(value: Any) -> Any:
        if isinstance(value, Tracer) or not isinstance(value, np.ndarray | np.generic | jax.Array):
            return value
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return value  # random keys
        if value.dtype.kind in kinds or (value.dtype.kind in "USOMmV" and not _is_jax(value)):
            return Held(np.asarray(value))
        return jnp.asarray(value)

    return jax.tree.map(one, arguments)


def release(arguments: Any) -> Any:
    """Arguments as the model takes them; undoes `hold`.

    >>> release((Held(np.arange(3)), 2.0))[1]
    2.0
    """
    return jax.tree.map(lambda v: v.array if isinstance(v, Held) else v, arguments)


def _is_jax(value: Any) -> bool:
    return isinstance(value, jax.Array)
