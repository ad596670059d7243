"""One batch: a tuple or dict of arrays with one entry a row, and of values that are no arrays."""

from collections.abc import Callable, Mapping
from typing import Any

from ritz._errors import RitzError
from ritz.data._check import check_value, is_array

Batch = tuple[Any, ...] | dict[str, Any]
Static = dict[str | int, Any]


def split(label: str, data: Batch) -> tuple[Batch, Static]:
    """Part a batch into its arrays, checked, and the rest by name or position.

    Args:
        label: what to call the batch in an error.
        data: the batch.

    Returns:
        the arrays, in the batch's own form, and the other values.

    Raises:
        RitzError: if it holds no array, one that cannot be used, or arrays of unequal length.

    >>> split("data", {"y": [1.0, 2.0], "scale": 3.0})
    ({'y': array([1., 2.])}, {'scale': 3.0})
    """
    items = data.items() if isinstance(data, Mapping) else enumerate(data)
    arrays: dict[Any, Any] = {}
    static: Static = {}
    for name, value in items:
        if isinstance(value, tuple | dict):
            raise RitzError(
                f"{name!r} in {label} is a {type(value).__name__}; expected an array. For a "
                "sequence of batches pass a list or a generator"
            )
        checked = check_value(f"{name!r} in {label}", value)
        (arrays if is_array(checked) else static)[name] = checked
    if not arrays:
        raise RitzError(f"{label} holds no array; expected arrays with one entry a row")
    _check_rows(label, arrays)
    return (arrays if isinstance(data, dict) else tuple(arrays.values())), static


def _check_rows(label: str, arrays: dict[Any, Any]) -> None:
    for name, array in arrays.items():
        if array.ndim == 0:
            raise RitzError(f"{name!r} in {label} is a single number; expected one entry a row")
    (first, reference), *others = arrays.items()
    for name, array in others:
        if len(array) != len(reference):
            raise RitzError(
                f"{label} has {len(reference)} rows in {first!r} and {len(array)} in {name!r}; "
                "all arrays need the same number (others belong inside the model)"
            )


def merge(arrays: Batch, static: Static) -> Batch:
    """Put arrays and other values back together; undoes `split`.

    Args:
        arrays: the arrays.
        static: the other values, by name or position.

    Returns:
        the batch.

    >>> merge((1, 3), {1: 2})
    (1, 2, 3)
    """
    if isinstance(arrays, dict):
        return {**arrays, **{str(name): value for name, value in static.items()}}
    values = list(arrays)
    for position, value in static.items():  # in ascending order, as `split` found them
        values.insert(int(position), value)
    return tuple(values)


def map_arrays(function: Callable[[Any], Any], arrays: Batch) -> Batch:
    """Apply a function to each array, keeping the batch's form.

    Args:
        function: what to apply.
        arrays: the arrays.

    Returns:
        the results.

    >>> map_arrays(len, {"y": [1, 2]})
    {'y': 2}
    """
    if isinstance(arrays, dict):
        return {name: function(array) for name, array in arrays.items()}
    return tuple(function(array) for array in arrays)


def leaves(arrays: Batch) -> list[Any]:
    """List the arrays.

    Args:
        arrays: the arrays of a batch.

    Returns:
        them in order.

    >>> leaves({"x": 1, "y": 2})
    [1, 2]
    """
    return list(arrays.values() if isinstance(arrays, dict) else arrays)
