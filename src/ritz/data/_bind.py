"""Bind data to a model's arguments."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from ritz._errors import RitzError, listed, suggest
from ritz.data._check import check_value, describe, is_array
from ritz.data._columns import Coding, bind_columns
from ritz.data._read import read
from ritz.data._signature import Signature, signature_of
from ritz.data._table import Table, from_frame, is_frame


@dataclasses.dataclass(frozen=True, eq=False)
class Binding:
    """Arguments for a model, and how they came from the data.

    Attributes:
        args: the positional arguments.
        kwargs: the keyword arguments.
        report: one line for each argument, and for what was left out.
        coding: how a table's columns were coded, so that new data can be coded alike.

    >>> Binding((), {"n": 3}, ("n <- 3",)).kwargs
    {'n': 3}
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    report: tuple[str, ...]
    coding: Coding = dataclasses.field(default_factory=Coding)


def bind(
    model: Callable[..., object],
    data: object,
    *,
    partial: bool = False,
    like: Binding | None = None,
) -> Binding:
    """Match data with a model's arguments, and check every array.

    A table's columns go to the arguments of the same name. Text columns become the codes 0 to
    K - 1 of their sorted categories, and truth values become 0 and 1. Where no column has the
    argument's name, `n_COLUMN` is the number of categories of that column, `X` the matrix of all
    columns of numbers that no other argument uses, and `N` or `n` the number of rows; arguments
    whose default is not None keep their default instead.

    Args:
        model: the function; its arguments' names are read.
        data: None; a tuple or list of positional arguments; a mapping by argument name; a pandas
            DataFrame; a `Table`; or the path of a file that `read` reads.
        partial: let required arguments be missing, as for predictions at new inputs.
        like: an earlier binding of the same model: code a new table's categories, count them and
            choose the columns of `X` as it did.

    Returns:
        the arguments and a report. Arrays are NumPy's, except that JAX arrays stay as they are;
        lists of numbers become arrays and single integers become Python's. Scalars, text, None
        and functions pass through. A tuple stays a tuple.

    Raises:
        RitzError: if the data and the arguments do not match, a value that is used is missing,
            nan, infinite or no number, or a file cannot be read. What a file or table has beyond
            the arguments is reported; in a mapping it is an error.

    >>> import numpy as np
    >>> def model(x, y=None): ...
    >>> bind(model, {"x": [1.0, 2.0]}).report
    ('x <- x (float, 2)',)
    """
    signature = signature_of(model)
    from_file = isinstance(data, str | os.PathLike)
    if isinstance(data, str | os.PathLike):
        data = read(data)
    elif is_frame(data):
        data = from_frame(data)
    if isinstance(data, Table):
        values, report, coding = bind_columns(
            signature, data, partial, like.coding if like else None
        )
        return Binding(*signature.split(values), tuple(report), coding)
    if data is None:
        if not partial:
            signature.check_complete((), ())
        return Binding((), {}, ())
    if isinstance(data, Mapping):
        return _bind_mapping(signature, data, partial, surplus=from_file)
    if isinstance(data, tuple | list):
        return _bind_sequence(signature, tuple(data), partial)
    if is_array(data):
        name = (signature.names or ("x",))[0]
        raise RitzError(
            f"the data are one array ({describe(data)}); say which argument it is: data=(array,) "
            f"or data={{{name!r}: array}}"
        )
    raise RitzError(
        f"the data are a {type(data).__name__}; expected a tuple, a dict by argument name, a "
        "DataFrame, or the path of a file"
    )


def _bind_mapping(
    signature: Signature, data: Mapping[Any, Any], partial: bool, surplus: bool
) -> Binding:
    for name in data:
        if not isinstance(name, str):
            raise RitzError(f"the data have the key {name!r}; keys are the model's argument names")
    unknown = [name for name in data if name not in signature.names]
    if signature.any_keyword:
        unknown = []
    if unknown and not surplus:
        if not signature.names:
            raise RitzError(
                f"model {signature.model!r} has no named arguments, so it cannot take "
                f"{unknown[0]!r}; pass a tuple, or name the arguments"
            )
        raise RitzError(
            f"model {signature.model!r} has no argument {unknown[0]!r}; "
            f"{suggest(unknown[0], signature.names)}"
        )
    used = {name: value for name, value in data.items() if name not in unknown}
    if not partial:
        signature.check_complete(used, data)
    values = {name: check_value(f"argument {name!r}", value) for name, value in used.items()}
    report = [f"{name} <- {name} ({describe(value)})" for name, value in values.items()]
    if unknown:
        report.append(f"not used: {listed(unknown, limit=20)}")
    return Binding(*signature.split(values), tuple(report))


def _bind_sequence(signature: Signature, data: tuple[Any, ...], partial: bool) -> Binding:
    names = signature.positional
    if len(data) > len(names) and not signature.any_positional:
        takes = f"at most {len(names)} ({listed(names)})" if names else "none"
        hint = "; for one array of numbers pass data=(array,)" if _all_numbers(data) else ""
        raise RitzError(
            f"{len(data)} positional values arrived; model {signature.model!r} takes {takes}{hint}"
        )
    labels = [*names, *(f"args[{i}]" for i in range(len(data) - len(names)))][: len(data)]
    if not partial:
        signature.check_complete(labels, labels)
    args = tuple(
        check_value(f"argument {label!r}", value) for label, value in zip(labels, data, strict=True)
    )
    report = tuple(
        f"{label} <- value {i} ({describe(value)})"
        for i, (label, value) in enumerate(zip(labels, args, strict=True))
    )
    return Binding(args, {}, report)


def _all_numbers(data: tuple[Any, ...]) -> bool:
    return all(isinstance(value, int | float) for value in data)
