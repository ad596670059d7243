"""Bind a table's columns to a model's arguments."""

import dataclasses
import difflib
import inspect
import re
from typing import Any

import numpy as np

from ritz._errors import RitzError, listed, suggest
from ritz.data._check import check_array, kind_of
from ritz.data._signature import Signature
from ritz.data._table import Table, first_missing

# How alike a column's name and an argument's are, from 0 to 1, that one is meant for the other.
_NEAR = 0.85


@dataclasses.dataclass(frozen=True)
class Coding:
    """How a table became arguments, kept so that new data are coded alike.

    Attributes:
        levels: the categories of each text column, in the order of their codes.
        counts: how many categories each counted column has.
        matrix: the columns of `X`, in order.

    >>> Coding(levels={"county": ("AITKIN", "ANOKA")}).matrix
    ()
    """

    levels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    matrix: tuple[str, ...] = ()


def bind_columns(
    signature: Signature, table: Table, partial: bool, like: Coding | None
) -> tuple[dict[str, Any], list[str], Coding]:
    """Match a table's columns with a model's arguments; the rules are `bind`'s.

    Args:
        signature: the model's arguments.
        table: the columns.
        partial: whether required arguments may be missing.
        like: the coding to repeat.

    Returns:
        argument -> value, the report, and the coding that was used.

    Raises:
        RitzError: as `bind`.

    >>> from ritz.data._signature import signature_of
    >>> table = Table({"y": np.array([1.0, 2.0]), "z": np.array([0, 1])})
    >>> bind_columns(signature_of(lambda y, N: None), table, False, None)[1]
    ['a table: 2 rows', 'y <- y (float, 2 rows)', 'N = 2 (rows)', 'not used: z']
    """
    if not table.columns:
        raise RitzError(f"{table.source} has no columns")
    if table.rows == 0:
        raise RitzError(f"{table.source} has no rows; its columns are {listed(table.columns)}")
    if not signature.names and not signature.any_keyword:
        raise RitzError(
            f"model {signature.model!r} has no named arguments to match the columns "
            f"{listed(table.columns)} with; name them, or pass a tuple of arrays"
        )
    return _Binder(signature, table, like).bind(partial)


class _Binder:
    def __init__(self, signature: Signature, table: Table, like: Coding | None) -> None:
        self.signature = signature
        self.table = table
        self.like = like or Coding()
        self.repeats = like is not None
        self.used: set[str] = set()
        self.values: dict[str, Any] = {}
        self.lines: dict[str, str] = {}
        self.levels: dict[str, tuple[str, ...]] = {}
        self.counts: dict[str, int] = {}
        self.matrix: tuple[str, ...] = ()

    def bind(self, partial: bool) -> tuple[dict[str, Any], list[str], Coding]:
        parameters = self.signature.parameters
        for parameter in parameters:
            column = self.find(parameter.name)
            if column is not None:
                self.take(parameter.name, column)
        for parameter in parameters:
            # A default other than None means something, so only a column may replace it.
            if parameter.name not in self.values and parameter.default in (parameter.empty, None):
                self.derive(parameter.name)
        if "X" in self.signature.names and "X" not in self.values:
            self.take_matrix(next(p for p in parameters if p.name == "X"))
        if self.signature.any_keyword:
            for column in [c for c in self.table.columns if c not in self.used]:
                self.take(column, column)
        if not partial:
            self.signature.check_complete(self.values, self.table.columns)
            self.check_near()
        # In the model's order, whatever order they were found in.
        order = [*(n for n in self.signature.names if n in self.values)]
        order += [name for name in self.values if name not in order]
        report = [f"{self.table.source}: {self.table.rows} rows", *(self.lines[n] for n in order)]
        rest = [p.name for p in parameters if p.name not in self.values]
        if rest:
            report.append(f"no column, so the default: {listed(rest)}")
        unused = [column for column in self.table.columns if column not in self.used]
        if unused:
            report.append(f"not used: {listed(unused, limit=20)}")
        values = {name: self.values[name] for name in order}
        return values, report, Coding(self.levels, self.counts, self.matrix)

    def check_near(self) -> None:
        # `y=None` left unbound beside a column Y, or with a letter amiss, would quietly fit the
        # prior.
        unused = {c.lower(): c for c in self.table.columns if c not in self.used}
        defaults = {p.name: p.default for p in self.signature.parameters}
        for name in self.signature.names:
            if name in self.values:
                continue
            near = [name.lower()] if name.lower() in unused else []
            if defaults.get(name) is None:
                near += difflib.get_close_matches(name.lower(), unused, n=1, cutoff=_NEAR)
            if near:
                raise RitzError(
                    f"argument {name!r} has no column, but there is a column "
                    f"{unused[near[0]]!r}; give them the same name"
                )

    def find(self, name: str) -> str | None:
        if name in self.table.columns:
            return name
        # "mom.iq" cannot be the name of an argument; mom_iq stands for it.
        near = [column for column in self.table.columns if re.sub(r"\W", "_", column) == name]
        if len(near) > 1:
            raise RitzError(
                f"argument {name!r} fits the columns {listed(map(repr, near))}; rename all but one"
            )
        return near[0] if near else None

    def take(self, name: str, column: str) -> None:
        values = self.table.columns[column]
        self.complete(column)
        if values.dtype.kind == "U":
            codes, levels = self.code(column)
            self.levels[column] = levels
            about = f"{len(levels)} categories: {listed(levels, limit=3)}"
        else:
            codes = values.astype(np.int64) if values.dtype.kind == "b" else values
            check_array(f"column {column!r}", codes)
            about = f"{kind_of(codes)}, {self.table.rows} rows"
        self.values[name] = codes
        self.used.add(column)
        self.lines[name] = f"{name} <- {column} ({about})"

    def derive(self, name: str) -> None:
        column = self.find(name[2:]) if name.startswith("n_") else None
        if column is not None:
            count, about = self.count(column)
            self.used.add(column)
            self.values[name] = self.counts[column] = count
            self.lines[name] = f"{name} = {count} ({about})"
        elif name in ("N", "n"):
            self.values[name] = self.table.rows
            self.lines[name] = f"{name} = {self.table.rows} (rows)"

    def take_matrix(self, parameter: inspect.Parameter) -> None:
        if parameter.default not in (parameter.empty, None):
            return
        columns = self.table.columns
        if self.repeats and self.like.matrix:
            chosen = list(self.like.matrix)
            for column in chosen:
                if column not in columns:
                    raise RitzError(
                        f"'X' was made of the columns {listed(chosen, limit=20)}; {column!r} is "
                        f"not in {self.table.source}: {suggest(column, columns)}"
                    )
        else:
            chosen = [
                column
                for column, values in columns.items()
                if column not in self.used and values.dtype.kind in "biuf"
            ]
        if not chosen:
            return
        for column in chosen:
            self.complete(column)
            values = columns[column]
            if values.dtype.kind not in "biuf":
                raise RitzError(f"column {column!r} of 'X' holds text; it held numbers in the fit")
            check_array(f"column {column!r}", values)
        dtype = np.result_type(*(columns[column].dtype for column in chosen))
        matrix = np.column_stack([columns[column] for column in chosen])
        self.values["X"] = matrix.astype(dtype if dtype.kind == "f" else np.float64)
        self.matrix = tuple(chosen)
        self.used.update(chosen)
        self.lines["X"] = (
            f"X <- {listed(chosen, limit=20)} (float, {self.table.rows} x {len(chosen)})"
        )

    def complete(self, column: str) -> None:
        values = self.table.columns[column]
        row = first_missing(values)
        if row is None:
            return
        missing = int(np.isnan(values).sum() if values.dtype.kind == "f" else (values == "").sum())
        more = f", {missing} in all" if missing > 1 else ""
        raise RitzError(
            f"column {column!r} has a missing value in row {row} (counting from 0{more}): drop "
            "such rows or fill them in"
        )

    def code(self, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
        values = self.table.columns[column]
        present, codes = np.unique(values, return_inverse=True)
        levels = self.like.levels.get(column) or self.table.levels.get(column)
        if levels is None:
            words = [level for level in map(str, present) if not _is_number(level)]
            if words and 2 * len(words) < len(present):
                row = int(np.argmax(values == words[0]))
                raise RitzError(
                    f"column {column!r} has {words[0]!r} in row {row} (counting from 0), but "
                    "mostly numbers: mend it or drop such rows; classes need a letter each"
                )
            return codes.astype(np.int64), tuple(map(str, present))
        position = {level: i for i, level in enumerate(levels)}
        for level in map(str, present):
            if level not in position:
                row = int(np.argmax(values == level))
                raise RitzError(
                    f"column {column!r} has the category {level!r} in row {row} (counting from "
                    f"0), which the fit did not see; it saw {listed(levels)}"
                )
        recode = np.array([position[str(level)] for level in present], dtype=np.int64)
        return recode[codes], levels

    def count(self, column: str) -> tuple[int, str]:
        values = self.table.columns[column]
        self.complete(column)
        if values.dtype.kind == "U":
            levels = self.levels.get(column) or self.code(column)[1]
            return len(levels), f"categories of {column}"
        if values.dtype.kind == "b":
            return 2, f"truth values of {column}"
        if values.dtype.kind not in "iu":
            raise RitzError(
                f"argument 'n_{column}' counts the categories of column {column!r}, which is of "
                f"kind {kind_of(values)}; make it integer codes from 0, or text"
            )
        low, high = int(values.min()), int(values.max())
        if low < 0:
            row = int(np.argmin(values))
            raise RitzError(
                f"column {column!r} has the code {low} in row {row} (counting from 0); codes "
                "start at 0"
            )
        known = self.like.counts.get(column)
        if known is not None:
            if high >= known:
                row = int(np.argmax(values))
                raise RitzError(
                    f"column {column!r} has the code {high} in row {row} (counting from 0), which "
                    f"the fit did not see; its codes end at {known - 1}"
                )
            return known, f"codes of {column}, as in the fit"
        note = f"; no row has code 0: are they counted from {low}?" if low > 0 else ""
        return high + 1, f"codes {low} to {high} of {column}{note}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
