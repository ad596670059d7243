"""The loss of a run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ritz._errors import RitzError
from ritz.plot._style import GREY, MARKERS, canvas, key, look

if TYPE_CHECKING:
    import matplotlib.figure


def loss(
    runs: Any, *, window: int | None = None, reference: float | int | None = None
) -> "matplotlib.figure.Figure":
    """The loss by step: means over windows, two standard errors around them, where it stopped.

    A first fall that would flatten all the rest is cut off at the top, and the axis says so.

    Args:
        runs: a fit, a run's result or a `History`; or a mapping of labels to them.
        window: records averaged into one point; a fiftieth of a run by default, at most 100.
        reference: a known best loss, drawn as a line.

    Returns:
        a Matplotlib figure.

    Raises:
        RitzError: for something without a history, or with an empty one.

    >>> from ritz.solver import History
    >>> figure = loss(History({"loss": np.linspace(3.0, 1.0, 500)}))
    >>> figure.axes[0].get_ylabel()
    'loss'
    """
    named = runs if isinstance(runs, Mapping) else {"": runs}
    if not named:
        raise RitzError("loss: an empty mapping arrived, expected fits or histories by label")
    with canvas(size=(6.0, 3.4)) as (figure, axes):
        ax = axes[0, 0]
        ceilings, floors, top = [], [], -np.inf
        for i, (label, run) in enumerate(named.items()):
            step, mean, error = _windows(run, label, window)
            end = _stop(run, int(step[-1]))
            said = f"{label}, {end}" if label else end
            (line,) = ax.plot(step, mean, **look(i))
            at = {"marker": MARKERS[i % 7], "mec": "white", "mew": 0.8, "ms": 7.5, "zorder": 5}
            ax.plot(step[-1:], mean[-1:], label=said, **look(i), **at)
            known = np.isfinite(error)
            low, high = (mean - 2 * error)[known], (mean + 2 * error)[known]
            ax.fill_between(step[known], low, high, color=line.get_color(), alpha=0.22, lw=0)
            ceilings.append(_ceiling(mean))
            floors.append(min(mean.min(), low.min() if known.any() else np.inf))
            top = max(top, float(mean.max()))
        if reference is not None:
            ax.axhline(reference, color=GREY, lw=1.0, ls=":", label=f"reference {reference:.4g}")
            floors.append(reference)
        ceiling, floor = max(ceilings), min(floors)
        room = 0.06 * (ceiling - floor) or 0.5
        ax.set_ylim(floor - room, ceiling + room)
        cut = f"; the first are above, up to {top:.3g}" if top > ceiling + room else ""
        ax.set(xlabel="step", ylabel="loss")
        ax.set_title(f"window means ± 2 standard errors{cut}", fontsize=8.5, color=GREY)
        key(ax, loc="upper right")
    return figure


def _windows(run: Any, label: str, window: int | None) -> tuple[Any, Any, Any]:
    """Windows of a run's history."""
    history = getattr(run, "history", run)
    if not hasattr(history, "windows"):
        raise RitzError(f"loss: expected a fit or a history, got {type(run).__name__}")
    if window is not None and window < 1:
        raise RitzError(f"loss: window={window} arrived, expected at least 1")
    size = window or max(1, min(100, len(history) // 50))
    step, mean, error = history.windows(size)
    if not len(step):
        of = f" of {label!r}" if label else ""
        raise RitzError(f"loss: the history{of} has {len(history)} records, a window needs {size}")
    finite = np.isfinite(mean)
    if not finite.any():
        raise RitzError("loss: no window of the history is finite")
    return step[finite], mean[finite], error[finite]


def _ceiling(mean: np.ndarray) -> float:
    """Where to cut: the whole, unless its first tenth is far above all that comes later."""
    later = mean[len(mean) // 10 :]
    spread = max(float(later.max() - later.min()), 1e-12)
    return float(mean.max()) if mean.max() <= later.max() + 1.5 * spread else float(later.max())


def _stop(run: Any, step: int) -> str:
    """Where the run ended and why, as far as it says."""
    why = getattr(run, "stop_reason", None)
    if not why:
        return f"{step:,} steps"
    return f"all {step:,} steps made" if why == "steps" else f"stopped at {step:,}: {why}"
