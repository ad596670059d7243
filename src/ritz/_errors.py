"""The error every part of Ritz raises for bad input."""

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any


class RitzError(ValueError):
    """Bad input, said in one line: what arrived, what was expected, what to do.

    Args:
        message: the sentence; line breaks in it (from a file name, say) become spaces.

    >>> str(RitzError("'y' holds nan at index 3: drop that row"))
    "'y' holds nan at index 3: drop that row"
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


def suggest(name: str, options: Iterable[str], *, limit: int = 8) -> str:
    """Say which of `options` a mistyped `name` may have meant, else list them.

    Args:
        name: what arrived.
        options: what would have been accepted.
        limit: how many options a list shows at most.

    Returns:
        "did you mean 'a' or 'b'?" where names are close, otherwise "choose from a, b, …".

    >>> suggest("boton", ["boston", "yacht"])
    "did you mean 'boston'?"
    """
    known = list(options)
    lowered = {option.lower(): option for option in known}
    close = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, n=3)]
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"choose from {listed(known, limit=limit)}" if known else "there are none to choose from"


def listed(names: Iterable[object], *, limit: int = 8) -> str:
    """Join names with commas, cutting a long list short.

    Args:
        names: what to list.
        limit: how many to show before an ellipsis.

    Returns:
        One line.

    >>> listed(["a", "b", "c"], limit=2)
    'a, b, …'
    """
    shown = [str(name) for name in names]
    return ", ".join([*shown[:limit], "…"] if len(shown) > limit else shown)


def whole_number(name: str, value: object, least: int) -> int:
    """Check an option that counts something.

    Args:
        name: what the user calls it.
        value: what arrived.
        least: the smallest that makes sense.

    Returns:
        the value.

    Raises:
        RitzError: if it is not a whole number, or below `least`.

    >>> whole_number("steps", 10, 1)
    10
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise RitzError(f"{name}={value!r} arrived, expected a whole number from {least} up")
    return int(value)


def not_negative(name: str, value: object) -> float:
    """Check an option that weighs something.

    Args:
        name: what the user calls it.
        value: what arrived.

    Returns:
        the value.

    Raises:
        RitzError: if it is no finite number, or below zero.

    >>> not_negative("weight", 2)
    2.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise RitzError(f"{name}={value!r} arrived, expected a number of at least 0")
    return float(value)


def positive(name: str, value: object) -> float:
    """Check an option that is a length, a scale or the like.

    Args:
        name: what the user calls it.
        value: what arrived.

    Returns:
        the value.

    Raises:
        RitzError: if it is no finite number above zero.

    >>> positive("step", 2)
    2.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise RitzError(f"{name}={value!r} arrived, expected a positive number")
    return float(value)


def share(name: str, value: object) -> float:
    """Check an option that is a share of something, which must leave a part of it.

    Args:
        name: what the user calls it.
        value: what arrived.

    Returns:
        the value.

    Raises:
        RitzError: if it is not from 0 to below 1.

    >>> share("validation", 0.1)
    0.1
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise RitzError(f"{name}={value!r} arrived, expected a share from 0 to below 1")
    return float(value)


def described(value: object) -> str:
    """Say what arrived, in a few words.

    >>> import numpy as np
    >>> described(np.zeros(3)), described("score"), described(None), described((1, 2))
    ('float64 of shape (3,)', "'score'", 'None', 'a tuple')
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {value.shape}"  # pyright: ignore[reportAttributeAccessIssue]
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    return f"a {type(value).__name__}"


def takes(name: str, function: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Check that a function can be called with these positional arguments.

    Args:
        name: what the user calls the function.
        function: what arrived.
        arguments: what it will be called with, in words.

    Raises:
        RitzError: if it takes others, or is no function.

    >>> takes("objective", lambda q, target: 0.0, ["q", "target"])
    """
    expected = f"expected a function of ({', '.join(arguments)})"
    if not callable(function):
        raise RitzError(f"{name}: {described(function)} arrived, {expected}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of some that are not written in Python
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise RitzError(f"{name}: a function that takes {signature} arrived, {expected}") from None
