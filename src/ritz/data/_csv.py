"""Read a CSV file into a table."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ritz._errors import RitzError, listed
from ritz.data._table import Table

# What spreadsheets, R and pandas write for a missing cell.
_MISSING = frozenset(
    ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NAN", "NULL", "null", "None", "<NA>"]
)
_TRUTH = {"true": True, "false": False}
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")


def read_csv(path: Path) -> Table:
    """Read a CSV file: a line of column names, then rows. Commas, semicolons and tabs part cells.

    A first column without a name holds row labels, as R and pandas write them, and is left out.

    Args:
        path: the file, in UTF-8.

    Returns:
        the table; each column is of integers, floats, truth values or text.

    Raises:
        RitzError: if the file is not text, has no names or no rows, is ragged, or names two
            columns alike.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("y,county\\n1,AITKIN\\n2,ANOKA\\n")
    >>> read_csv(path).columns["y"]
    array([1, 2])
    """
    rows = _rows(path, _text(path))
    _, header = next(rows, (1, []))
    names = _names(path, header)
    cells: list[list[str]] = []
    blank = 0
    for line, row in rows:
        if not row:
            blank += 1
            continue
        if blank and len(names) == 1:
            cells.extend([[""]] * blank)  # the only way to write a missing cell of one column
        blank = 0
        if len(row) != len(names):
            raise RitzError(
                f"{path.name} is ragged: line {line} has {len(row)} cells, the first line names "
                f"{len(names)} columns"
            )
        cells.append(row)
    if not cells:
        raise RitzError(f"{path.name} names {len(names)} columns and has no rows")
    columns = {
        name: _column(path, name, [cell.strip() for cell in column])
        for name, column in zip(names, zip(*cells, strict=True), strict=True)
        if name
    }
    source = path.name if names[0] else f"{path.name} without its row labels"
    return Table(columns, source=source)


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except UnicodeDecodeError as error:
        raise RitzError(
            f"{path.name} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise RitzError(f"{path.name} is binary, not text; save it as CSV in UTF-8")
    if not text.strip():
        raise RitzError(f"{path.name} is empty")
    return text


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    first = text.lstrip().splitlines()[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text.lstrip("\r\n")), delimiter=delimiter, strict=True)
    skipped = text[: len(text) - len(text.lstrip("\r\n"))].count("\n")
    try:
        for row in reader:
            yield reader.line_num + skipped, row
    except csv.Error as error:
        raise RitzError(
            f"{path.name} is not CSV at line {reader.line_num + skipped}: {error}"
        ) from error


def _names(path: Path, header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    if all(_is_number(name) for name in names):
        raise RitzError(
            f"the first line of {path.name} holds numbers ({listed(names, limit=3)}), not column "
            "names; add a line of names"
        )
    for position, name in enumerate(names):
        if not name and position:
            raise RitzError(f"column {position + 1} of {path.name} has no name; name it")
        if name in names[:position]:
            raise RitzError(f"{path.name} has two columns named {name!r}; rename one")
    if names == [""]:
        raise RitzError(f"the first line of {path.name} names no columns")
    return names


def _column(path: Path, name: str, cells: list[str]) -> np.ndarray:
    present = [cell for cell in cells if cell not in _MISSING]
    if present and all(cell.lower() in _TRUTH for cell in present):
        if len(present) == len(cells):
            return np.array([_TRUTH[cell.lower()] for cell in cells])
        return np.array([_TRUTH.get(cell.lower(), np.nan) for cell in cells], dtype=float)
    # Python and NumPy read "1_000" as a number; in a file it is a label.
    if all(map(_is_number, present)):
        if present and len(present) == len(cells):
            try:
                return np.array([int(cell) for cell in cells], dtype=np.int64)
            except (ValueError, OverflowError):
                pass
        return np.array([np.nan if cell in _MISSING else float(cell) for cell in cells])
    if all(_DECIMAL_COMMA.fullmatch(cell) or _is_number(cell) for cell in present):
        raise RitzError(
            f"column {name!r} of {path.name} writes decimals with commas "
            f"({next(filter(_DECIMAL_COMMA.fullmatch, present))}); write them with points"
        )
    return np.array(["" if cell in _MISSING else cell for cell in cells], dtype=np.str_)


def _is_number(cell: str) -> bool:
    if "_" in cell:
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True
