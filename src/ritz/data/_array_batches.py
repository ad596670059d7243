"""Shuffled batches of arrays in memory."""

from typing import Any

import numpy as np

from ritz._errors import RitzError
from ritz.data._batch import Batch, leaves, map_arrays, merge, split
from ritz.data._batches import Batches


class ArrayBatches(Batches):
    """Batches of rows, shuffled anew in every pass; batch s is a function of the seed and s.

    Args:
        data: a tuple or dict of arrays with equally many rows, and of scalars.
        size: rows of a batch.
        total: the number of rows, if it is to be checked.
        seed: of the shuffling.

    Raises:
        RitzError: as `batches`.

    >>> cut = ArrayBatches((np.arange(6.0),), 2, None, 0)
    >>> cut.chunk(0, 3).shape
    (3, 2)
    """

    def __init__(self, data: Batch, size: int | None, total: int | None, seed: int) -> None:
        self.arrays, self.static = split("data", data)
        self.total = len(leaves(self.arrays)[0])
        if size is None:
            raise RitzError(f"size is missing: how many of the {self.total} rows make a batch?")
        if not 1 <= size <= self.total:
            raise RitzError(
                f"size is {size}; expected from 1 to {self.total}, the number of rows in the data"
            )
        if total is not None and total != self.total:
            raise RitzError(
                f"total is {total}, but the data have {self.total} rows; leave total out"
            )
        if seed < 0:
            raise RitzError(f"seed is {seed}; expected 0 or more")
        self.size = size
        self.seed = seed
        # A chunk of row numbers stays below 128 MiB however large the batches are.
        self.capacity = max(1, min(1000, 2**25 // size))
        # Short passes are shuffled many at a time: a generator costs more than a short shuffle.
        self._passes = max(1, 4096 // self.total)
        self._blocks: dict[int, np.ndarray] = {}

    def chunk(self, start: int, n: int) -> np.ndarray:
        if start < 0 or n < 1:
            raise RitzError(f"chunk({start}, {n}): expected a start from 0 and at least one batch")
        length = self._passes * self.total
        low, high = start * self.size, (start + n) * self.size
        first, last = low // length, (high - 1) // length
        order = np.concatenate([self._block(block) for block in range(first, last + 1)])
        # The next chunk begins where this one ends.
        self._blocks = {last: self._blocks[last]}
        return order[low - first * length : high - first * length].reshape(n, self.size)

    def _block(self, block: int) -> np.ndarray:
        if block not in self._blocks:
            rng = np.random.default_rng([self.seed, block])
            rows = np.tile(np.arange(self.total, dtype=np.int32), (self._passes, 1))
            self._blocks[block] = rng.permuted(rows, axis=1).reshape(-1)
        return self._blocks[block]

    def get(self, arrays: Any, x: Any) -> Batch:
        import jax.numpy as jnp

        def take(array: Any) -> Any:
            return jnp.asarray(array).at[x].get(mode="promise_in_bounds")

        return merge(map_arrays(take, arrays), self.static)

    def whole(self) -> Batch | None:
        return merge(self.arrays, self.static)

    def example(self) -> Batch:
        rows = self.chunk(0, 1)[0]
        return merge(map_arrays(lambda array: np.asarray(array[rows]), self.arrays), self.static)
