"""Make one random choice of a program."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ritz._errors import RitzError
from ritz.estimator import one_at_a_time, weights_one_at_a_time
from ritz.program._value import Record, Value, lifted

COMBINATIONS = 4096  # the most that are evaluated where a program mixes elements of a plate


def choose(
    op: Any, given: list[Value], key: Any, site: int, mixed: set[int]
) -> tuple[Value, Record]:
    """The values that an estimator puts in the place of a draw, and what it noted.

    Args:
        op: the operation.
        given: the arrays of distribution and estimator.
        key: of the program.
        site: the choice's number.
        mixed: plates whose elements the program mixes.
    """
    what, mapped, sizes = op.params["site"], op.params["mapped"], op.params["sizes"]
    estimator = what.static[1]

    def draw(key: Any, *leaves: Any) -> Any:
        q, own = what.rebuild(leaves)
        return own.draw(q, key)

    for level in reversed(range(len(sizes))):
        draw = jax.vmap(draw, in_axes=(0, *(0 if m else None for m in mapped[level])))
    key = jax.random.fold_in(key, site)
    keys = jax.random.split(key, sizes) if sizes else key
    (value, notes), stacked = lifted(lambda *leaves: draw(keys, *leaves), given)
    own = stacked
    if estimator.fixed and stacked:
        any_one = [v.array[(0,) * len(v.stacked)] for v in given]
        value, own = draw(keys, *any_one).value, ()
    if not estimator.stacked:
        return Value(value, stacked), Record(estimator, notes, stacked)
    front = lambda x, lead: jnp.moveaxis(x, lead + len(sizes), lead)
    value = front(value, len(own))
    notes = {name: front(note, len(stacked)) for name, note in notes.items()}
    plates = (*sizes, *what.plates)
    axes = sorted(p for p in mixed if plates[p] > 1)
    if axes and estimator.factorised:
        which = _combinations(value.shape[len(own)], [plates[p] for p in axes], what.name)
        value = _joint(value, len(own), axes, which)
        joined = {k: _joint(n, len(stacked), axes, which) for k, n in notes.items()}
        over = tuple(1 + len(stacked) + p for p in axes)
        notes = {name: note.prod(axis=over, keepdims=True) for name, note in joined.items()}
    elif axes and estimator.coordinatewise:
        over = [1 + p for p in axes]
        value = _within(lambda v: one_at_a_time(v, over, what.name), len(own))(value)
        weigh = _within(lambda w: weights_one_at_a_time(w, over), len(stacked))
        notes = {name: weigh(note) for name, note in notes.items()}
    return Value(value, (*own, site)), Record(estimator, notes, stacked)


def _within(f: Callable[[Array], Array], lead: int) -> Callable[[Array], Array]:
    """f under leading axes."""
    for _ in range(lead):
        f = jax.vmap(f)
    return f


def _combinations(k: int, sizes: list[int], name: str) -> np.ndarray:
    """Every combination of K values for each of n elements: (K^n, n)."""
    n = math.prod(sizes)
    if k**n > COMBINATIONS:
        raise RitzError(
            f"{name}: the program mixes {n} elements of {k} values each, which makes {k}^{n} "
            "combinations to sum; use score(), or keep the elements apart up to a sum (outside of "
            "cond and scan)"
        )
    return np.array(list(itertools.product(range(k), repeat=n)))


def _joint(x: Array, lead: int, axes: list[int], which: np.ndarray) -> Array:
    """(stacked, K, ...) with elements along `axes` to (stacked, combinations, ...)."""
    places = [lead + 1 + p for p in axes]
    moved = jnp.moveaxis(x, [lead, *places], range(1 + len(axes)))
    flat = moved.reshape(moved.shape[0], which.shape[1], *moved.shape[1 + len(axes) :])
    joint = flat[which, np.arange(which.shape[1])]
    joint = joint.reshape(len(which), *moved.shape[1:])
    return jnp.moveaxis(joint, range(1 + len(axes)), [lead, *places])
