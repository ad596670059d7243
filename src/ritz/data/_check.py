"""Check one value on its way into a model, and turn it into what JAX can trace."""

import numbers
import sys
from typing import Any

import numpy as np

from ritz._errors import RitzError


def is_array(value: object) -> bool:
    """Say whether a value is an array of some library (NumPy, JAX, pandas, PyTorch, …).

    Args:
        value: anything.

    Returns:
        True for anything that NumPy can convert; scalars and sequences are not arrays here.

    >>> is_array(np.zeros(3)), is_array([1.0, 2.0])
    (True, False)
    """
    return hasattr(value, "__array__") and not isinstance(value, np.generic | type)


def check_value(label: str, value: object) -> Any:
    """Check a value for a model and convert it: arrays and lists of numbers to NumPy arrays.

    JAX arrays stay as they are. Scalars, text, None and functions pass through; dictionaries and
    tuples are checked entry by entry. A NumPy integer becomes a Python integer, because models
    size their plates with it.

    Args:
        label: what to call the value in an error, such as "argument 'y'".
        value: anything.

    Returns:
        The converted value.

    Raises:
        RitzError: for objects, text, dates, nan, inf, masked or sparse arrays, ragged lists, no
            elements, or numbers that JAX's present precision cannot hold.

    >>> check_value("argument 'y'", [28.0, 8.0])
    array([28.,  8.])
    """
    if isinstance(value, np.bool_ | np.integer):
        return value.item()
    if value is None or isinstance(value, str | bytes | numbers.Number):
        return value
    if isinstance(value, dict):
        return {key: check_value(f"{label}[{key!r}]", entry) for key, entry in value.items()}
    if isinstance(value, tuple):
        entries = [check_value(f"{label}[{i}]", entry) for i, entry in enumerate(value)]
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    if isinstance(value, list):
        return check_array(label, _from_list(label, value))
    if type(value).__module__.startswith("scipy.sparse"):
        raise RitzError(f"{label} is a sparse matrix; pass a dense one, as its .toarray() gives")
    if not is_array(value):
        return value
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.Array):
        return _check_jax(label, value)
    return check_array(label, _as_numpy(label, value))


def check_array(label: str, array: np.ndarray) -> Any:
    """Check one NumPy array; see `check_value`.

    Args:
        label: what to call the array in an error.
        array: the array.

    Returns:
        The same array; a single integer or truth value becomes a Python one.

    Raises:
        RitzError: as `check_value`.

    >>> check_array("argument 'n'", np.array(8))
    8
    """
    kind = array.dtype.kind
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.getmaskarray(array).any():
            where = _first(np.ma.getmaskarray(array))
            raise RitzError(f"{label} is masked at index {where}: drop or fill in its masked cells")
        array = array.data
    if kind in "USTO":
        _refuse_objects(label, array)
    if kind in "Mm":
        raise RitzError(
            f"{label} holds dates or durations ({array.dtype}); pass numbers, such as days since "
            "the first date"
        )
    if kind == "V":
        raise RitzError(f"{label} is a record array ({array.dtype}); pass each field by itself")
    if array.size == 0:
        raise RitzError(f"{label} has no elements (shape {array.shape}); pass at least one")
    if kind == "c":
        raise RitzError(
            f"{label} holds complex numbers ({array.dtype}); pass real and imaginary parts by "
            "themselves"
        )
    if kind == "f":
        _check_finite(label, array)
    _check_range(label, array)
    if array.ndim == 0 and kind in "biu":
        return array.item()
    return array


def describe(value: object) -> str:
    """Describe a value in a few words, for a report.

    Args:
        value: anything.

    Returns:
        One line: kind and shape of an array, the value of a scalar, the type of the rest.

    >>> describe(np.zeros((8, 3)))
    'float, 8 x 3'
    """
    if is_array(value):
        array: Any = value
        shape = " x ".join(map(str, array.shape)) or "one value"
        return f"{kind_of(array)}, {shape}"
    if value is None or isinstance(value, str | numbers.Number):
        text = repr(value)
        return text if len(text) <= 40 else text[:39] + "…"
    return type(value).__name__


def kind_of(array: Any) -> str:
    """Name an array's kind of number in one word.

    Args:
        array: anything with a dtype.

    Returns:
        'bool', 'int', 'float', 'complex', or the dtype's own name.

    >>> kind_of(np.arange(3))
    'int'
    """
    words = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}
    return words.get(getattr(array.dtype, "kind", ""), str(array.dtype))


def _from_list(label: str, value: list[Any]) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise RitzError(
            f"{label} is a ragged list (its rows differ in length); pad the rows to one length"
        ) from error
    if array.dtype.kind == "O" and any(isinstance(entry, list | tuple) for entry in value):
        # NumPy builds an object array where the entries' types, not their lengths, differ.
        raise RitzError(f"{label} is a list of lists that hold more than numbers; pass numbers")
    return array


def _as_numpy(label: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ma.MaskedArray):
        return value
    module = type(value).__module__
    if module.startswith("pandas") and hasattr(value, "to_numpy"):
        dtype = getattr(value, "dtype", None)
        if getattr(dtype, "kind", "O") in "biuf" and not isinstance(dtype, np.dtype):
            # pandas' nullable numbers would otherwise arrive as Python objects.
            if value.isna().any():
                return value.to_numpy(dtype=float, na_value=np.nan)
            plain: Any = dtype
            return value.to_numpy(dtype=plain.numpy_dtype)
        return np.asarray(value.to_numpy())
    try:
        return np.asarray(value)
    except Exception as error:
        raise RitzError(
            f"{label} is a {module}.{type(value).__name__} that NumPy cannot read ({error}); "
            "pass a NumPy array"
        ) from error


def _check_jax(label: str, value: Any) -> Any:
    import jax.numpy as jnp
    from jax.core import Tracer
    from jax.dtypes import extended

    if isinstance(value, Tracer) or jnp.issubdtype(value.dtype, extended):
        return value  # inside a transformation, or random keys: there are no numbers to look at
    host = np.asarray(value)
    if host.dtype.kind == "V":
        host = host.astype(np.float32)  # bfloat16 and its like, which NumPy sees as raw bytes
    check_array(label, host)
    return value


def _refuse_objects(label: str, array: np.ndarray) -> None:
    for where, entry in np.ndenumerate(array):
        index = where[0] if len(where) == 1 else where
        if isinstance(entry, str | bytes):
            raise RitzError(
                f"{label} holds text ({_short(entry)} at index {index}): code it as integers, as "
                "numpy.unique(values, return_inverse=True)[1] does, or pass a table"
            )
        if entry is None:
            raise RitzError(f"{label} holds None at index {index}: drop or fill in that value")
        if not isinstance(entry, numbers.Number):
            raise RitzError(
                f"{label} holds Python objects ({type(entry).__name__} at index {index}); pass "
                "numbers"
            )
    raise RitzError(
        f"{label} is an array of Python objects (dtype object); convert it to numbers with "
        ".astype(float)"
    )


def _check_finite(label: str, array: np.ndarray) -> None:
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    where, count = _first(bad), int(bad.sum())
    value = array[bad][0]
    word = "nan" if np.isnan(value) else str(value)
    more = f" ({count} such values in all)" if count > 1 else ""
    raise RitzError(f"{label} holds {word} at index {where}{more}: drop or fill in those rows")


def _check_range(label: str, array: np.ndarray) -> None:
    # The check is against 32 bits first so that JAX is imported only when it matters.
    if array.dtype.itemsize <= 4 or array.dtype.kind not in "iuf":
        return
    info: Any
    if array.dtype.kind == "f":
        info, word = np.finfo(np.float32), "floats"
    else:
        info, word = np.iinfo(np.int32 if array.dtype.kind == "i" else np.uint32), "integers"
    if array.max() <= info.max and array.min() >= info.min:
        return
    if has_64_bits():
        return
    where = _first((array > info.max) | (array < info.min))
    value = array[where]
    raise RitzError(
        f"{label} holds {value} at index {where}, beyond 32-bit {word}: rescale it, or first run "
        "jax.config.update('jax_enable_x64', True)"
    )


def has_64_bits() -> bool:
    """Say whether JAX works in 64 bits now.

    Returns:
        True where a NumPy float64 array stays float64 in JAX.

    >>> has_64_bits()
    False
    """
    import jax

    return jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def _first(bad: np.ndarray) -> int | tuple[int, ...]:
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
    return where[0] if len(where) == 1 else where


def _short(entry: object) -> str:
    text = repr(entry.item() if isinstance(entry, np.generic) else entry)
    return text if len(text) <= 30 else text[:29] + "…"
