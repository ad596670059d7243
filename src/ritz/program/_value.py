"""Values that stand for several draws at once: leading axes, one for each stacked choice."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ritz._errors import RitzError
from ritz.estimator import detached
from ritz.program._align import Deps

COMBINATIONS = 65_536  # of choices that a program brings together, the most that are evaluated


class Value(NamedTuple):
    """A value in a run of a program.

    Attributes:
        array: its numbers; a leading axis for each stacked choice it depends on.
        stacked: these choices, in ascending order.
        deps: the choices that its mean still has to account for.
    """

    array: Any
    stacked: tuple[int, ...] = ()
    deps: Deps = {}  # noqa: RUF012


def lifted(f: Callable[..., Any], values: list[Value]) -> tuple[Any, tuple[int, ...]]:
    """f at every combination of the choices that its arguments depend on."""
    union = tuple(sorted({s for v in values for s in v.stacked}))
    if len(union) > 1:
        _check_size(values, union)
    for site in reversed(union):
        f = jax.vmap(f, in_axes=tuple(0 if site in v.stacked else None for v in values))
    return f(*(v.array for v in values)), union


def _check_size(values: list[Value], union: tuple[int, ...]) -> None:
    sizes = {s: v.array.shape[i] for v in values for i, s in enumerate(v.stacked)}
    if math.prod(sizes.values()) > COMBINATIONS:
        each = " × ".join(str(sizes[s]) for s in union)
        raise RitzError(
            f"the program brings together {len(union)} choices that are each evaluated at several "
            f"values, which makes {each} combinations, and at most {COMBINATIONS:,} are evaluated; "
            "use score() or pathwise() for some of them, or add them up one by one"
        )


def spread(array: Array, own: tuple[int, ...], union: tuple[int, ...]) -> Array:
    """An array with leading axes for `own`, with axes of size one for the rest of `union`."""
    absent = tuple(k for k, s in enumerate(union) if s not in own)
    return jnp.expand_dims(array, absent)


class Record(NamedTuple):
    """A random choice that has been made.

    Attributes:
        estimator: how it is estimated.
        notes: of its draw; leading axes for `stacked`, then K if the estimator is stacked, then
            the plates.
        stacked: stacked choices that the notes depend on, without itself, in ascending order.
    """

    estimator: Any
    notes: dict[str, Array]
    stacked: tuple[int, ...]


class Records(dict[int, Record]):
    """The choices that have been made, by number, and likelihood ratios of several at once."""

    def __init__(self, known: dict[int, Record] | None = None) -> None:
        super().__init__(known or {})
        self.sums: dict[tuple[int, ...], Any] = {(): 0.0}
        self.credits: dict[tuple[int, ...], Any] = {}

    def credit(self, sites: tuple[int, ...]) -> Any:
        """`detached` of all their log densities; a term mostly depends on one choice more."""
        if sites not in self.credits:
            self.credits[sites] = detached(self._total(sites))
        return self.credits[sites]

    def _total(self, sites: tuple[int, ...]) -> Any:
        known = next(n for n in range(len(sites), -1, -1) if sites[:n] in self.sums)
        for n in range(known, len(sites)):
            (note,) = self[sites[n]].notes.values()
            self.sums[sites[: n + 1]] = self.sums[sites[:n]] + (note.sum() if note.ndim else note)
        return self.sums[sites]


def settled(value: Value, records: Records) -> Any:
    """The mean of a value over the choices it depends on, later ones first.

    Its number estimates the mean, and its derivative the derivative of the mean. Likelihood
    ratios that are the same for all of the value come last, as one factor.
    """
    array, stacked = value.array, value.stacked
    whole = []
    for site in sorted(value.deps, reverse=True):
        record = records[site]
        if not record.estimator.combines:
            continue
        apart = any(axis is not None for axis in value.deps[site])
        if record.estimator.ratio and not record.stacked and not apart:
            whole.append(site)
            continue
        own = record.estimator.stacked
        union = tuple(sorted({*stacked, *record.stacked, *((site,) if own else ())}))
        f = spread(array, stacked, union)
        rank = jnp.ndim(f) - len(union)
        notes = {
            name: _placed(name, note, record, site, union, value.deps[site], rank)
            for name, note in record.notes.items()
        }
        if not own:
            array, stacked = record.estimator.combine(f, notes), union
            continue
        place = union.index(site)
        front = lambda x, place=place: jnp.moveaxis(x, place, 0)
        array = record.estimator.combine(front(f), {k: front(n) for k, n in notes.items()})
        stacked = tuple(s for s in union if s != site)
    if whole:
        array = array + array * records.credit(tuple(sorted(whole)))
    # Log densities may be wider than the value.
    dtype = jnp.result_type(value.array)
    return array.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else array


def _placed(
    name: str,
    note: Array,
    record: Record,
    site: int,
    union: tuple[int, ...],
    axes: tuple[int | None, ...],
    rank: int,
) -> Array:
    """A note with its plates at the axes of a value that go with them, others summed."""
    own = (*record.stacked, site) if record.estimator.stacked else record.stacked
    lead, plates = len(own), jnp.ndim(note) - len(own)
    mixed = tuple(lead + p for p in range(plates) if axes[p] is None)
    note = note.sum(axis=mixed) if name.startswith("log") else note.mean(axis=mixed)
    kept = [a for a in axes if a is not None]
    order = sorted(range(len(kept)), key=lambda p: kept[p])
    note = jnp.transpose(note, (*range(lead), *(lead + p for p in order)))
    note = jnp.expand_dims(note, tuple(lead + a for a in range(rank) if a not in kept))
    return jnp.expand_dims(note, tuple(k for k, s in enumerate(union) if s not in own))
