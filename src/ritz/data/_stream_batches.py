"""Batches of an iterable, as they come."""

import itertools
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ritz._errors import RitzError
from ritz.data._batch import Batch, Static, leaves, map_arrays, merge, split
from ritz.data._batches import Batches
from ritz.data._check import is_array


class StreamBatches(Batches):
    """Batches of an iterable, in its order; one batch is read ahead.

    Args:
        source: yields tuples, lists or dicts of arrays, or single arrays.
        total: rows of one whole pass.

    Attributes:
        position: how many batches have been handed out.
        checksum: of all of them, so that an iterable that is read again can be recognised.

    Raises:
        RitzError: as `batches`.

    >>> stream = StreamBatches([(np.zeros(3),), (np.ones(2),)], 5)
    >>> stream.chunk(0, 10)[0].shape  # stops before the batch of another shape
    (1, 3)
    """

    position: int
    checksum: int

    def __init__(self, source: Iterable[Any], total: int | None) -> None:
        if total is None:
            raise RitzError(
                f"total is missing: how many rows does one whole pass over the "
                f"{type(source).__name__} have? pass total=…"
            )
        self.arrays = ()
        self.position = self.checksum = 0
        self._source = source
        self._iterator = iter(source)
        self._pulled = 0
        raw = self._advance()
        if raw is None:
            hint = "; was it read before?" if self._iterator is source else ""
            raise RitzError(f"the {type(source).__name__} yields no batch{hint}")
        self._first, self.static = self._clean(raw)
        self._next: Batch | None = self._first
        self.size = len(leaves(self._first)[0])
        if total < self.size:
            raise RitzError(
                f"total is {total}, but the first batch alone has {self.size} rows; total counts "
                "the rows of one whole pass"
            )
        self.total = total
        # A stacked chunk of large batches (images, say) stays below 256 MiB.
        weight = max(1, sum(array.nbytes for array in leaves(self._first)))
        self.capacity = max(1, min(32, 2**28 // weight))

    def chunk(self, start: int, n: int) -> Any:
        if start != self.position:
            raise RitzError(
                f"batch {start} was asked for, but the next one of this iterable is "
                f"{self.position}; an iterable is read in order: make it again, or pass arrays"
            )
        if n < 1:
            raise RitzError(f"chunk({start}, {n}): expected at least one batch")
        taken: list[Batch] = []
        while len(taken) < n and self._next is not None:
            if taken and _shapes(self._next) != _shapes(taken[0]):
                break
            taken.append(self._next)
            self._next = self._pull()
        if not taken:
            return None
        self.position += len(taken)
        for array in itertools.chain.from_iterable(map(leaves, taken)):
            self.checksum = zlib.crc32(array.tobytes(), self.checksum)
        columns = [np.stack(column) for column in zip(*map(leaves, taken), strict=True)]
        if isinstance(taken[0], dict):
            return dict(zip(taken[0], columns, strict=True))
        return tuple(columns)

    def get(self, arrays: Any, x: Any) -> Batch:
        return merge(x, self.static)

    def example(self) -> Batch:
        return merge(self._first, self.static)

    def _advance(self) -> Any:
        for raw in self._iterator:
            return raw
        self._iterator = iter(self._source)
        return None if self._iterator is self._source else next(self._iterator, None)

    def _pull(self) -> Batch | None:
        raw = self._advance()
        if raw is None:
            return None
        arrays, static = self._clean(raw)
        label = f"batch {self._pulled - 1}"
        was, now = _structure(self._first, self.static), _structure(arrays, static)
        if was != now:
            raise RitzError(
                f"{label} is {now}, but batch 0 is {was}; batches must be alike but for their "
                "number of rows"
            )
        for name, value in static.items():
            if value != self.static[name]:
                raise RitzError(
                    f"{label} has {name!r} = {value!r}, but batch 0 has {self.static[name]!r}; a "
                    "value that changes must be an array with one entry a row"
                )
        if isinstance(arrays, dict):
            return {name: arrays[name] for name in self._first}  # whatever this dict's order
        return arrays

    def _clean(self, raw: Any) -> tuple[Batch, Static]:
        label = f"batch {self._pulled}"
        self._pulled += 1
        if isinstance(raw, Mapping):
            raw = dict(raw)
        elif isinstance(raw, list):
            raw = tuple(raw)  # what a DataLoader yields
        elif is_array(raw):
            raw = (raw,)
        if not isinstance(raw, tuple | dict):
            raise RitzError(
                f"{label} is a {type(raw).__name__}; expected a tuple or dict of arrays"
            )
        arrays, static = split(label, raw)
        return map_arrays(np.asarray, arrays), static


def _shapes(arrays: Batch) -> list[Any]:
    return [(array.shape, array.dtype) for array in leaves(arrays)]


def _structure(arrays: Batch, static: Static) -> str:
    """Say in words what must not change from batch to batch."""
    axes = map_arrays(lambda array: f" of {array.ndim} axes", arrays)
    batch = merge(axes, dict.fromkeys(static, ""))
    items = sorted(batch.items()) if isinstance(batch, dict) else enumerate(batch)
    parts = ", ".join(f"{name!r}{about}" for name, about in items)
    return f"a {'dict' if isinstance(batch, dict) else 'tuple'} of {parts}"
