"""Curves with bands."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ritz._errors import RitzError
from ritz.plot._arrays import numbers
from ritz.plot._style import GREY, MARKERS, canvas, key, look

if TYPE_CHECKING:
    import matplotlib.figure


def trajectories(
    x: Any,
    curves: Any,
    *,
    band: float | int = 0.9,
    points: tuple[Any, Any] | None = None,
    log: str = "",
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
) -> "matplotlib.figure.Figure":
    """Curves over time, steps or anything else: the median of many, and the range of most.

    Args:
        x: shape (t,).
        curves: an array (t,), or (n, t) of n draws or seeds; or a mapping of labels to them.
        band: the central share of the n that the band shows.
        points: observations (x, y), drawn as dots.
        log: "x", "y" or "xy": axes with a logarithmic scale.
        xlabel: of the horizontal axis.
        ylabel: of the vertical axis.
        title: above.

    Returns:
        a Matplotlib figure.

    Raises:
        RitzError: for curves of another length than x, or a logarithmic axis without a positive
            value.

    >>> t = np.arange(5.0)
    >>> figure = trajectories(t, {"ours": np.ones((3, 5)), "theirs": t + 1.0}, log="y")
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['ours', 'theirs']
    """
    at = numbers(x, "trajectories: x", ndim=(1,))
    named = curves if isinstance(curves, Mapping) else {"": curves}
    if not named:
        raise RitzError("trajectories: an empty mapping arrived, expected curves by label")
    if not 0 < band <= 1 or log not in ("", "x", "y", "xy"):
        raise RitzError(
            f"trajectories: expected a band in (0, 1] and log of '', 'x', 'y' or 'xy', got "
            f"{band} and {log!r}"
        )
    with canvas(size=(6.0, 3.4)) as (figure, axes):
        ax = axes[0, 0]
        if "x" in log:
            ax.set_xscale("log")
        if "y" in log:
            ax.set_yscale("log", nonpositive="mask")
        most = 1
        for i, (label, values) in enumerate(named.items()):
            runs = _runs(label, values, len(at), "y" in log)
            # A few marks tell lines apart where there is neither colour nor room for dashes.
            every = max(1, len(at) // 8)
            marks = {"marker": MARKERS[i % 7], "markevery": (i * every // 3 % every, every)}
            style = look(i) | (marks if len(named) > 1 else {})
            (line,) = ax.plot(at, np.median(runs, axis=0), label=label or None, **style)
            most = max(most, len(runs))
            if len(runs) > 1:
                low, high = np.quantile(runs, [(1 - band) / 2, (1 + band) / 2], axis=0)
                ax.fill_between(at, low, high, color=line.get_color(), alpha=0.2, lw=0)
        if points is not None:
            across = numbers(points[0], "trajectories: points[0]", ndim=(1,))
            up = numbers(points[1], "trajectories: points[1]", ndim=(1,))
            if len(across) != len(up):
                raise RitzError(f"trajectories: {len(across)} points in x, {len(up)} in y")
            ax.plot(across, up, "o", color="black", ms=4, mew=0, alpha=0.8, label="observed")
        ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
        if most > 1:
            said = f"median and central {band:.0%} of {most:,}"
            ax.set_title(said, loc="right", fontsize=8, color=GREY)
        key(ax)
    return figure


def _runs(label: str, values: Any, length: int, positive: bool) -> np.ndarray:
    """An array of shape (n, t)."""
    what = f"trajectories: {label!r}" if label else "trajectories: curves"
    array = np.atleast_2d(numbers(values, what, ndim=(1, 2)))
    if array.shape[1] != length:
        raise RitzError(f"{what} has {array.shape[1]} values a curve, but x has {length}")
    if positive and array.max() <= 0:
        raise RitzError(f"{what} has no positive value for a logarithmic axis")
    return array
