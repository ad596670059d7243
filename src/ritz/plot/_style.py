"""One look for all pictures."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ritz._errors import RitzError

if TYPE_CHECKING:
    import matplotlib.axes

# Okabe and Ito's palette, dark and light in turn, so that neighbours differ in grey as well.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#56B4E9", "#D55E00", "#CC79A7", "#009E73")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6B6B6B"

_RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # Matplotlib brings it: the same picture everywhere
    "font.size": 9,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "image.cmap": "gray",
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "savefig.facecolor": "white",
    "text.usetex": False,
    "xtick.color": GREY,
    "xtick.labelcolor": "black",
    "xtick.labelsize": 8.5,
    "ytick.color": GREY,
    "ytick.labelcolor": "black",
    "ytick.labelsize": 8.5,
}


@contextlib.contextmanager
def canvas(
    rows: int = 1,
    cols: int = 1,
    *,
    size: tuple[float | int, float | int] | None = None,
    **options: Any,
) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in Ritz's style, for a picture that no function here makes.

    The style holds inside the `with` block only, and changes nothing outside it.

    Args:
        rows: rows of axes.
        cols: columns of axes.
        size: width and height in inches; 4.6 × 3 for each of the axes by default, at most 10 wide.
        **options: for `Figure.subplots`, such as `sharex=True`.

    Yields:
        the Matplotlib figure, and an array of axes of shape (rows, cols).

    Raises:
        RitzError: where there are no axes to make.

    >>> with canvas(1, 2) as (figure, axes):
    ...     _ = axes[0, 0].plot([1, 2, 3])
    >>> axes.shape
    (1, 2)
    """
    if rows < 1 or cols < 1:
        raise RitzError(f"canvas: {rows} × {cols} axes arrived, expected at least 1 × 1")
    import matplotlib
    import matplotlib.figure
    from cycler import cycler

    # Seven colours and four dashes: no pair comes twice in 28 lines.
    looks = [(COLOURS[i % 7], DASHES[i % 4]) for i in range(28)]
    cycle = cycler(color=[c for c, _ in looks]) + cycler(linestyle=[d for _, d in looks])
    style: Any = _RC | {"axes.prop_cycle": cycle}
    with matplotlib.rc_context(style):
        width = min(10.0, 4.6 * cols)
        inches = size or (width, min(3.0, 0.8 * width / cols) * rows)
        figure = matplotlib.figure.Figure(figsize=inches, layout="constrained")
        yield figure, figure.subplots(rows, cols, squeeze=False, **options)


def look(index: int) -> dict[str, Any]:
    """Colour and dashes of the line with that index.

    Args:
        index: counted from zero.

    Returns:
        arguments for `Axes.plot`.

    >>> look(0)["color"]
    '#0072B2'
    """
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}


def key(ax: "matplotlib.axes.Axes", **options: Any) -> None:
    """A legend, where there is something to tell apart.

    Args:
        ax: the axes.
        **options: for `Axes.legend`.
    """
    handles, names = ax.get_legend_handles_labels()
    if names:
        ax.legend(handles, names, **options)
