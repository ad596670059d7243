"""What a fit reads when it does not see all rows at every step."""

import abc
from typing import Any

from ritz.data._batch import Batch, Static, map_arrays
from ritz.data._check import is_array


class Batches(abc.ABC):
    """A source of mini-batches, read in chunks by a compiled loop.

    A loop takes `chunk(start, n)`, whose leading axis runs over steps, passes `arrays` and each
    slice of the chunk to compiled code, and there makes the batch with `get(arrays, x)`.

    Attributes:
        arrays: arrays that compiled code needs whole.
        total: rows of the whole data; a batch of n rows stands for total / n times its sum.
        size: rows of the first batch.
        capacity: at most this many batches should be asked for at once.
        static: values of the batch that are no arrays, the same in every batch.
    """

    arrays: Any
    total: int
    size: int
    capacity: int
    static: Static

    @abc.abstractmethod
    def chunk(self, start: int, n: int) -> Any:
        """Return batches `start` to `start + n - 1`, or fewer, stacked.

        Args:
            start: the number of the first batch.
            n: how many to return at most.

        Returns:
            a pytree of NumPy arrays with a leading axis of at most n; None where there are no
            more batches.

        Raises:
            RitzError: if they cannot be had.
        """

    @abc.abstractmethod
    def get(self, arrays: Any, x: Any) -> Batch:
        """Make one batch from `arrays` and one slice of a chunk; pure and traceable.

        Args:
            arrays: the attribute `arrays`, perhaps traced.
            x: one slice of a chunk along its leading axis, perhaps traced.

        Returns:
            the batch, static values included.
        """

    @abc.abstractmethod
    def example(self) -> Batch:
        """Return the first batch, as NumPy arrays; a stream does not lose it."""

    def whole(self) -> Batch | None:
        """Return all rows as one batch; None where they are not in memory."""
        return None

    def abstract(self, n: int) -> Batch:
        """Describe a batch of n rows without making one.

        Args:
            n: the number of rows.

        Returns:
            the batch with a `jax.ShapeDtypeStruct` for each array; static values as they are.
        """
        import jax

        def spec(value: Any) -> Any:
            if not is_array(value):
                return value
            dtype = jax.dtypes.canonicalize_dtype(value.dtype)
            return jax.ShapeDtypeStruct((n, *value.shape[1:]), dtype)

        return map_arrays(spec, self.example())
