"""A table: named columns of one length, with what is known about its text columns."""

import dataclasses
from typing import Any

import numpy as np

from ritz._errors import RitzError


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Named columns of one length.

    A missing cell is nan in a column of numbers and "" in a column of text.

    Attributes:
        columns: one-dimensional arrays by name, in file order.
        source: where they come from, for reports and errors.
        levels: for a text column whose categories were declared with an order: those categories.

    Raises:
        RitzError: if a column is not one-dimensional or the columns differ in length.

    >>> import numpy as np
    >>> Table({"y": np.array([1.0, 2.0])}, source="by hand").rows
    2
    """

    columns: dict[str, np.ndarray]
    source: str = "a table"
    levels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        first = ""
        for name, column in self.columns.items():
            if column.ndim != 1:
                raise RitzError(
                    f"column {name!r} of {self.source} has shape {column.shape}; a column is "
                    "one-dimensional"
                )
            first = first or name
            if len(column) != len(self.columns[first]):
                raise RitzError(
                    f"columns of {self.source} differ in length: {first!r} has "
                    f"{len(self.columns[first])} rows, {name!r} has {len(column)}"
                )

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return next((len(column) for column in self.columns.values()), 0)


def first_missing(column: np.ndarray) -> int | None:
    """Find the first missing cell of a column.

    Args:
        column: a column of a `Table`.

    Returns:
        its row, counted from 0, or None where no cell is missing.

    >>> first_missing(np.array([1.0, np.nan]))
    1
    """
    if column.dtype.kind == "f":
        missing = np.isnan(column)
    elif column.dtype.kind == "U":
        missing = column == ""
    else:
        return None
    return int(np.argmax(missing)) if missing.any() else None


def is_frame(value: object) -> bool:
    """Say whether a value is a pandas DataFrame, without importing pandas.

    Args:
        value: anything.

    Returns:
        whether it is one.

    >>> is_frame({"y": [1.0]})
    False
    """
    import sys

    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)


def from_frame(frame: Any) -> Table:
    """Turn a pandas DataFrame into a table; its index is left out.

    Args:
        frame: the DataFrame.

    Returns:
        the table. Whole numbers with missing cells become floats; objects that are all text
        become text.

    Raises:
        RitzError: if two columns share a name.

    >>> import pandas
    >>> from_frame(pandas.DataFrame({"county": ["AITKIN", "ANOKA"]})).columns["county"].dtype.kind
    'U'
    """
    names = [str(name) for name in frame.columns]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise RitzError(f"the DataFrame has two columns named {twice[0]!r}; rename one")
    columns: dict[str, np.ndarray] = {}
    levels: dict[str, tuple[str, ...]] = {}
    for position, name in enumerate(names):
        series = frame.iloc[:, position]
        if hasattr(series, "cat"):
            declared = list(series.cat.categories)
            if not series.cat.ordered:
                declared = sorted(declared, key=lambda level: (str(type(level)), level))
            levels[name] = tuple(str(level) for level in declared)
        columns[name] = _from_series(series)
    return Table(columns, source="the DataFrame", levels=levels)


def _from_series(series: Any) -> np.ndarray:
    kind = getattr(series.dtype, "kind", "O")
    if hasattr(series, "cat") or kind not in "biufcMm":
        missing = series.isna().to_numpy(dtype=bool)
        values = series.astype(object).to_numpy()
        if all(isinstance(value, bool) for value in values):
            return values.astype(bool)
        if hasattr(series, "cat") or all(isinstance(v, str) for v in values[~missing]):
            return np.array(
                ["" if gone else str(value) for value, gone in zip(values, missing, strict=True)],
                dtype=np.str_,
            )
        return values
    if kind in "biuf" and not isinstance(series.dtype, np.dtype):
        # pandas' nullable numbers would otherwise arrive as Python objects.
        if series.isna().any():
            return series.to_numpy(dtype=float, na_value=np.nan)
        return series.to_numpy(dtype=series.dtype.numpy_dtype)
    return np.asarray(series.to_numpy())
