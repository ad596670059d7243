"""Inputs and outputs as arrays, checked."""

from typing import Any

import numpy as np

from ritz._errors import RitzError


def table(x: Any, least: int = 2) -> np.ndarray:
    """Inputs, shape (n, d), in double precision.

    Raises:
        RitzError: for what is no table of finite numbers with so many rows at least.
    """
    rows = _numbers("x", x)
    rows = rows[:, None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or len(rows) < least or not rows.shape[1]:
        raise RitzError(
            f"x of shape {np.shape(x)} arrived, expected (n, d) with at least {least} rows"
        )
    return rows


def like(rows: np.ndarray, wanted: int) -> np.ndarray:
    """Rows of as many columns as those of training.

    Raises:
        RitzError: for others.
    """
    if rows.shape[1] != wanted:
        raise RitzError(f"inputs with {rows.shape[1]} columns arrived, expected {wanted} as in fit")
    return rows


def paired(rows: Any, values: Any) -> None:
    """Refuse another number of outputs than of rows.

    Raises:
        RitzError: naming both.
    """
    if len(rows) != len(values):
        raise RitzError(
            f"x holds {len(rows)} rows and y {len(values)} values; pass one value for each row"
        )


def responses(y: Any, least: int = 2) -> np.ndarray:
    """Outputs, shape (n,), in double precision; where there are two or more, not all alike.

    Raises:
        RitzError: for what is no column of finite numbers.
    """
    values = _column(y, least)
    if least > 1 and np.ptp(values) == 0:
        raise RitzError(
            f"y is {values[0]:g} in every row; there is nothing to learn from a constant"
        )
    return values


def _column(y: Any, least: int) -> np.ndarray:
    values = _numbers("y", y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or len(values) < least:
        raise RitzError(
            f"y of shape {np.shape(y)} arrived, expected (n,) with at least {least} values"
        )
    return values


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        found = np.asarray(value, float)
    except (TypeError, ValueError):
        how = "encode categories as columns of 0 and 1"
        if name == "y":
            how = "for labels give a likelihood such as bernoulli() or softmax(3)"
        raise RitzError(
            f"{name} arrived as {type(value).__name__} that holds no numbers; {how}"
        ) from None
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        where = ", ".join(map(str, bad[0]))
        raise RitzError(
            f"{name} holds {found[tuple(bad[0])]} at index {where}, {len(bad)} such in all; drop "
            "these rows or fill them in"
        )
    return found


def counts(y: Any) -> np.ndarray:
    """Counts, shape (n,).

    Raises:
        RitzError: for what is no column of whole numbers from 0 up.
    """
    values = _column(y, 1)
    bad = np.flatnonzero((values < 0) | (values != np.round(values)))
    if len(bad):
        raise RitzError(
            f"y holds {values[bad[0]]:g} at index {bad[0]}, {len(bad)} such in all; expected "
            "counts, whole numbers from 0 up"
        )
    return values


def classes(
    y: Any, known: Any = None, many: int | None = None, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of classes, shape (n,), and their labels in order.

    Args:
        y: labels of any kind.
        known: labels of training, for others.
        many: how many different ones there have to be.
        most: how many there may be.

    Raises:
        RitzError: for labels that are missing, too many, too few or not known.
    """
    found = np.asarray(y)
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.ndim != 1 or not len(found):
        raise RitzError(f"y of shape {found.shape} arrived, expected a label for each row, (n,)")
    missing = [i for i, v in enumerate(found) if v is None or v != v]
    if missing:
        raise RitzError(
            f"y holds {found[missing[0]]} at index {missing[0]}, {len(missing)} such in all; drop "
            "these rows"
        )
    labels = np.unique(found)
    if known is not None:
        new = [v for v in labels if v not in known]
        if new:
            had = ", ".join(map(str, known))
            raise RitzError(f"y holds {str(new[0])!r}, which training did not; it had {had}")
        return np.searchsorted(known, found).astype(float), known
    if len(labels) < 2:
        raise RitzError(f"y is {labels[0]!r} in every row; there is nothing to learn from it")
    wanted = many or most
    if (wanted and len(labels) > wanted) or (many and len(labels) < many):
        raise RitzError(
            f"y holds {len(labels)} classes ({', '.join(map(str, labels[:5]))}"
            f"{', …' if len(labels) > 5 else ''}), but the likelihood is of {wanted}; use one of "
            f"{len(labels)}, such as softmax({len(labels)})"
        )
    return np.searchsorted(labels, found).astype(float), labels
