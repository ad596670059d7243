"""Every scalar against every other."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ritz._errors import RitzError
from ritz.plot._arrays import chosen, margins_of
from ritz.plot._style import COLOURS, canvas

if TYPE_CHECKING:
    import matplotlib.figure

_POINTS = 400


def pairs(
    posterior: Any,
    reference: Any = None,
    *,
    names: Iterable[str] | None = None,
    most: int = 6,
) -> "matplotlib.figure.Figure":
    """Draws of each pair of scalars, over those of a reference; histograms on the diagonal.

    Args:
        posterior: a fit, a mapping of names to draws (axis 0), or an array of draws (n, d).
        reference: the same, from NUTS or in closed form; scalars are matched by label.
        names: which labels or sites; all by default.
        most: how many scalars at most, where `names` says nothing.

    Returns:
        a Matplotlib figure.

    Raises:
        RitzError: where there are fewer than two scalars, or the reference lacks one.

    >>> draws = np.random.default_rng(0).normal(size=(500, 3))
    >>> pairs(draws).axes[-1].get_xlabel()
    'x[2]'
    """
    drawn = margins_of(posterior, "pairs: posterior")
    known = None if reference is None else margins_of(reference, "pairs: reference")
    shown = chosen(drawn, names, most)
    if len(shown) < 2:
        raise RitzError(f"pairs: a pair needs two scalars, got {shown[0]!r} only; see margins")
    missing = [name for name in shown if known is not None and name not in known]
    if missing:
        raise RitzError(f"pairs: the reference has no {missing[0]!r}; leave it out with names=")
    n = len(shown)
    limits = {name: _limits(name, drawn, known) for name in shown}
    with canvas(n, n, size=(1.6 * n + 0.8, 1.6 * n + 0.4)) as (figure, axes):
        for i, down in enumerate(shown):
            for j, across in enumerate(shown):
                ax = axes[i, j]
                if j > i:
                    ax.set_visible(False)
                    continue
                if i == j:
                    beside = None if known is None else known[down]
                    _diagonal(ax, limits[down], drawn[down], beside)
                else:
                    _cloud(ax, across, down, drawn, known)
                    ax.set_ylim(*limits[down])
                ax.set_xlim(*limits[across])
                _edges(ax, i, j, n, across, down)
        if known is not None:
            handles, labels = axes[1, 0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper right", ncols=2, markerscale=1.8)
    return figure


def _limits(name: str, drawn: dict[str, Any], known: dict[str, Any] | None) -> tuple[float, float]:
    """The range of one scalar, without the farthest draws."""
    both = [drawn[name]] if known is None else [drawn[name], known[name]]
    low = min(float(np.quantile(v, 0.005)) for v in both)
    high = max(float(np.quantile(v, 0.995)) for v in both)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def _cloud(ax: Any, x: str, y: str, drawn: dict[str, Any], known: dict[str, Any] | None) -> None:
    """Points of a pair, thinned: a solid blot would hide its own shape."""
    if known is not None:
        at = slice(None, None, max(1, len(known[x]) // _POINTS))
        style: dict[str, Any] = {"mfc": "none", "mec": "black", "mew": 0.5, "alpha": 0.6}
        ax.plot(known[x][at], known[y][at], "o", ms=2.6, label="reference", **style)
    at = slice(None, None, max(1, len(drawn[x]) // _POINTS))
    style = {"color": COLOURS[0], "alpha": 0.55, "mew": 0}
    ax.plot(drawn[x][at], drawn[y][at], ".", ms=4, label="posterior", **style)


def _diagonal(
    ax: Any, limits: tuple[float, float], drawn: np.ndarray, known: np.ndarray | None
) -> None:
    """Histograms of one scalar."""
    bins = np.linspace(*limits, 31)
    ax.stairs(
        np.histogram(drawn, bins)[0] / len(drawn), bins, fill=True, color=COLOURS[0], alpha=0.45
    )
    if known is not None:
        ax.stairs(np.histogram(known, bins)[0] / len(known), bins, color="black", lw=1.1)
    ax.set_ylim(bottom=0)


def _edges(ax: Any, i: int, j: int, n: int, across: str, down: str) -> None:
    """Labels and ticks on the outer edge only."""
    ax.grid(visible=False)
    ax.locator_params(nbins=4)
    if i == j:
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
    if i == n - 1:
        ax.set_xlabel(across)
    else:
        ax.tick_params(labelbottom=False)
    if j == 0 and i > 0:
        ax.set_ylabel(down)
    elif j > 0:
        ax.tick_params(labelleft=False)
