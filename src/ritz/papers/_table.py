"""Plain text for a terminal: aligned columns, wrapped paragraphs."""

import shutil
import textwrap
from collections.abc import Sequence

from ritz.papers._base import Check


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, cut: bool = False) -> str:
    """Aligned columns.

    Args:
        header: a word for each column.
        rows: the cells.
        cut: whether to shorten the last column to the width of the terminal.

    Returns:
        lines.

    >>> print(table(["a", "b"], [["one", "1"], ["three", "2"]]))
    a      b
    one    1
    three  2
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    wide = shutil.get_terminal_size((100, 24)).columns
    out = []
    for line in lines:
        text = "  ".join(f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)).rstrip()
        out.append(f"{text[: wide - 1]}…" if cut and len(text) > wide else text)
    return "\n".join(out)


def field(name: str, text: str) -> str:
    """A named paragraph, wrapped.

    Args:
        name: before it.
        text: the paragraph.

    Returns:
        lines, indented under the first.

    >>> print(field("data", "synthetic"))
    data     synthetic
    """
    wide = min(100, shutil.get_terminal_size((100, 24)).columns)
    return textwrap.fill(
        " ".join(text.split()), wide, initial_indent=f"{name:<9}", subsequent_indent=" " * 9
    )


def checks(
    right: Sequence[Check], wrong: Sequence[Check] | None = None, *, about: bool = True
) -> str:
    """The figures of an experiment against their thresholds.

    Args:
        right: the method's.
        wrong: the wrong variant's, if it was run.
        about: whether to add what was compared with what.

    Returns:
        a table.

    >>> print(checks([Check("error", 0.25, "<=", 0.1, "ours with theirs")], about=False))
           check  figure  threshold
    FAILS  error  0.25    <= 0.1
    """
    header = ["", "check", "figure", "threshold"]
    cells = [
        [
            "holds" if c.holds else "FAILS",
            c.name,
            f"{c.value:.4g}",
            f"{c.direction} {c.threshold:g}",
        ]
        for c in right
    ]
    if wrong is not None:
        header.append("wrong variant")
        others = {c.name: c for c in wrong}
        for line, check in zip(cells, right, strict=True):
            other = others.get(check.name)
            told = "" if other is None else f"{other.value:.4g}"
            line.append(told if other is None or other.holds else f"{told}, fails")
    text = table(header, cells)
    if about:
        text += "\n" + "".join("\n" + field(f"{c.name}: ", c.compared) for c in right if c.compared)
    return text


def span(numbers: Sequence[int]) -> str:
    """Seeds, in short.

    Args:
        numbers: integers.

    Returns:
        "0 to 9" for ten in a row, else all of them.

    >>> span((0, 1, 2)), span((3,)), span((1, 5))
    ('seeds 0 to 2', 'seed 3', 'seeds 1, 5')
    """
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"seeds {numbers[0]} to {numbers[-1]}"
    return f"seeds {', '.join(map(str, numbers))}"
