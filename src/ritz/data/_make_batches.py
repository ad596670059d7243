"""Make mini-batches of arrays or of an iterable."""

from collections.abc import Iterable, Mapping

from ritz._errors import RitzError
from ritz.data._array_batches import ArrayBatches
from ritz.data._batches import Batches
from ritz.data._check import describe, is_array
from ritz.data._stream_batches import StreamBatches
from ritz.data._table import Table, is_frame


def batches(
    data: object, size: int | None = None, *, total: int | None = None, seed: int = 0
) -> Batches:
    """Cut data into mini-batches, or take them as they come.

    Arrays are shuffled anew in every pass: batch s holds positions s * size to (s + 1) * size - 1
    of one endless sequence of shuffled passes, so every batch is full, every pass sees each row
    once, and batch s depends on `seed` and s alone.

    An iterable's batches pass through in its order, of any number of rows; it is started again
    when it ends, unless it is an iterator, which can be read once.

    Args:
        data: a tuple of arrays, or a dict of arrays by the model's argument names, of equally many
            rows (scalars in it go into every batch); or an iterable of such batches: a list, a
            generator, a DataLoader.
        size: rows of a batch, for arrays only.
        total: rows of one whole pass; needed for an iterable.
        seed: of the shuffling, for arrays only.

    Returns:
        the batches.

    Raises:
        RitzError: if a size is missing or too large, rows differ in number, an array cannot be
            used (see `bind`), an iterable yields nothing, or its batches differ in structure.

    >>> import numpy as np
    >>> cut = batches({"y": np.arange(10.0)}, 5)
    >>> sorted(np.concatenate([cut.get(cut.arrays, x)["y"] for x in cut.chunk(0, 2)]).tolist())
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    """
    if isinstance(data, Batches):
        raise RitzError("the data are batches already; pass them to fit as they are")
    if isinstance(data, Table) or is_frame(data):
        raise RitzError(
            "batches are cut from arrays, not from a table; bind it first: "
            "batches(bind(model, table).kwargs, size)"
        )
    if is_array(data):
        raise RitzError(
            f"the data are one array ({describe(data)}); pass a tuple, (array,), or a dict by the "
            "model's argument names"
        )
    if isinstance(data, Mapping):
        return ArrayBatches(dict(data), size, total, seed)
    if isinstance(data, tuple):
        return ArrayBatches(data, size, total, seed)
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise RitzError(
            f"batches are cut from a tuple or dict of arrays, or read from an iterable; a "
            f"{type(data).__name__} arrived"
        )
    if size is not None:
        raise RitzError(
            f"a {type(data).__name__} is read as a sequence of batches, which set their own size; "
            "leave size out, or pass a tuple or dict of arrays"
        )
    return StreamBatches(data, total)
