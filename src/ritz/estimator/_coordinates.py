"""Elements that a program mixes, changed one at a time."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from ritz._errors import RitzError

EVALUATIONS = 4096  # the most that elements which a program mixes may take


def one_at_a_time(values: Array, axes: Sequence[int], name: str) -> Array:
    """A draw, then the same draw with one element changed, for each element and other value.

    Args:
        values: (K, …), the draw first; each element has values of its own.
        axes: those of the n elements.
        name: of the choice, for messages.

    Returns:
        (1 + n (K - 1), …).

    Raises:
        RitzError: for more evaluations than 4,096.
    """
    flat, n = _elements(values, axes)
    count = 1 + n * (len(values) - 1)
    if count > EVALUATIONS:
        raise RitzError(
            f"{name}: the program mixes {n} elements, each of which needs evaluations of its own: "
            f"{count:,} in all, and at most {EVALUATIONS:,} are made; use score(), or keep the "
            "elements apart up to a sum"
        )
    here = jnp.eye(n, dtype=bool).reshape(n, n, *(1,) * (flat.ndim - 2))
    changed = jnp.where(here, flat[1:, None], flat[0])
    every = jnp.concatenate([flat[:1], changed.reshape(-1, *flat.shape[1:])])
    apart = every.reshape(count, *(values.shape[a] for a in axes), *flat.shape[2:])
    return jnp.moveaxis(apart, range(1, 1 + len(axes)), axes)


def weights_one_at_a_time(weights: Array, axes: Sequence[int]) -> Array:
    """What the values of `one_at_a_time` count: (1 + n (K - 1), …), with axes of size one.

    Of each element the draw's weight is 1 plus something, and the sum of the others' is its
    opposite.
    """
    flat, _ = _elements(weights, axes)
    first = 1 + (flat[:1] - 1).sum(1)
    every = jnp.concatenate([first, flat[1:].reshape(-1, *flat.shape[2:])])
    return jnp.expand_dims(every, tuple(axes))


def _elements(x: Array, axes: Sequence[int]) -> tuple[Array, int]:
    moved = jnp.moveaxis(x, axes, range(1, 1 + len(axes)))
    n = math.prod(x.shape[a] for a in axes)
    return moved.reshape(len(x), n, *moved.shape[1 + len(axes) :]), n
