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


def responses(y: Any, least: int = 2) -> np.ndarray:
    """Outputs, shape (n,), in double precision; where there are two or more, not all alike.

    Raises:
        RitzError: for what is no column of finite numbers.
    """
    values = _numbers("y", y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or len(values) < least:
        raise RitzError(
            f"y of shape {np.shape(y)} arrived, expected (n,) with at least {least} values"
        )
    if least > 1 and np.ptp(values) == 0:
        raise RitzError(
            f"y is {values[0]:g} in every row; there is nothing to learn from a constant"
        )
    return values


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        found = np.asarray(value, float)
    except (TypeError, ValueError):
        raise RitzError(
            f"{name} arrived as {type(value).__name__} that holds no numbers; encode categories as "
            "columns of 0 and 1"
        ) from None
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        where = ", ".join(map(str, bad[0]))
        raise RitzError(
            f"{name} holds {found[tuple(bad[0])]} at index {where}, {len(bad)} such in all; drop "
            "these rows or fill them in"
        )
    return found
