"""Margins of a posterior against a reference."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ritz._errors import RitzError
from ritz.plot._arrays import chosen, margins_of
from ritz.plot._style import COLOURS, GREY, canvas

if TYPE_CHECKING:
    import matplotlib.figure


def margins(
    posterior: Any,
    reference: Any = None,
    *,
    names: Iterable[str] | None = None,
    most: int = 12,
) -> "matplotlib.figure.Figure":
    """The histogram of each scalar, and how far its mean and sd are from the reference's.

    Args:
        posterior: a fit, a mapping of names to draws (axis 0), or an array of draws (n, d).
        reference: the same, from NUTS or in closed form; scalars are matched by label.
        names: which labels or sites; all by default.
        most: how many panels at most, where `names` says nothing.

    Returns:
        a Matplotlib figure.

    Raises:
        RitzError: for draws that are not finite, or labels that the reference lacks.

    >>> draws = np.random.default_rng(0).normal(size=(500, 2))
    >>> len(margins(draws, draws + 0.1).axes)
    2
    """
    drawn = margins_of(posterior, "margins: posterior")
    known = None if reference is None else margins_of(reference, "margins: reference")
    shown = chosen(drawn, names, most)
    missing = [name for name in shown if known is not None and name not in known]
    if missing:
        raise RitzError(f"margins: the reference has no {missing[0]!r}; leave it out with names=")
    cols = min(4, len(shown))
    rows = math.ceil(len(shown) / cols)
    size = (max(4.4, 2.5 * cols), 2.2 * rows + 0.35)
    with canvas(rows, cols, size=size) as (figure, axes):
        for ax, name in zip(axes.flat, shown, strict=False):
            _panel(ax, name, drawn[name], None if known is None else known[name])
        for ax in axes.flat[len(shown) :]:
            ax.set_visible(False)
        if known is not None:
            handles, labels = axes.flat[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


def _panel(ax: Any, name: str, drawn: np.ndarray, known: np.ndarray | None) -> None:
    """One scalar."""
    both = [drawn] if known is None else [drawn, known]
    # A heavy tail must not squeeze the bulk into one bin.
    low = min(float(np.quantile(v, 0.005)) for v in both)
    high = max(float(np.quantile(v, 0.995)) for v in both)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, 41)
    counted = [_density(v, bins) for v in both]
    ax.stairs(counted[0], bins, fill=True, color=COLOURS[0], alpha=0.45, label="posterior")
    said = ""
    if known is not None:
        ax.stairs(counted[1], bins, color="black", lw=1.2, label="reference")
        spread = float(known.std(ddof=1))
        if spread > 0:
            shift = (drawn.mean() - known.mean()) / spread
            said = f"mean {shift:+.2f} sd, sd × {drawn.std(ddof=1) / spread:.2f}".replace("-", "−")
    ax.set_title(name)
    if said:
        ax.set_xlabel(said, fontsize=8, color=GREY)
    ax.set_yticks([])
    ax.set_ylim(bottom=0)
    ax.spines["left"].set_visible(False)
    ax.grid(visible=False)
    ax.locator_params(axis="x", nbins=5)


def _density(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """A histogram whose area is the share of the draws that lie in its range."""
    return np.histogram(values, bins)[0] / (len(values) * (bins[1] - bins[0]))
