"""Samples as a grid of images."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ritz._errors import RitzError
from ritz.plot._arrays import numbers
from ritz.plot._style import canvas

if TYPE_CHECKING:
    import matplotlib.figure

_MOST = 400


def images(
    samples: Any, *, cols: int | None = None, limits: tuple[float | int, float | int] | None = None
) -> "matplotlib.figure.Figure":
    """Images side by side, all on one scale from black to white.

    Args:
        samples: an array (n, height, width), or with a last axis of 1 or 3 channels; or a mapping
            of labels to such arrays, each of which becomes labelled rows.
        cols: images in a row; a square by default, or the longest array of a mapping up to 10.
        limits: the values drawn black and white; the smallest and largest by default, and 0 and 1
            for values that lie between.

    Returns:
        a Matplotlib figure.

    Raises:
        RitzError: for arrays that are not images, or more than 400 of them.

    >>> figure = images({"data": np.zeros((3, 8, 8)), "samples": np.ones((3, 8, 8))})
    >>> len(figure.axes)
    2
    """
    named = samples if isinstance(samples, Mapping) else {"": samples}
    if not named:
        raise RitzError("images: an empty mapping arrived, expected arrays by label")
    arrays = {label: _stack(label, values) for label, values in named.items()}
    longest = max(map(len, arrays.values()))
    total = sum(map(len, arrays.values()))
    if total > _MOST:
        raise RitzError(f"images: {total} images arrived, at most {_MOST} can be made out")
    if cols is not None and cols < 1:
        raise RitzError(f"images: cols={cols} arrived, expected at least 1")
    wide = cols or (min(10, longest) if len(arrays) > 1 else math.ceil(longest**0.5))
    low, high = limits or _limits(arrays)
    rows = [math.ceil(len(a) / wide) for a in arrays.values()]
    first = next(iter(arrays.values()))
    tall = first.shape[1] / first.shape[2]
    inches = min(0.75, 9.0 / wide)
    labelled = sum(1 for label in arrays if label)
    size = (wide * inches + 0.1, sum(rows) * inches * tall + 0.27 * labelled + 0.1)
    with canvas(len(arrays), 1, size=size, height_ratios=rows) as (figure, axes):
        for ax, (label, array) in zip(axes[:, 0], arrays.items(), strict=True):
            shown = np.clip((array - low) / ((high - low) or 1.0), 0.0, 1.0)
            sheet = _sheet(shown, wide)
            ax.imshow(sheet, vmin=0, vmax=1, interpolation="nearest")
            ax.set_axis_off()
            ax.set_anchor("W")
            if label:
                ax.set_title(label, fontsize=9, pad=3)
    return figure


def _stack(label: str, values: Any) -> np.ndarray:
    """An array of shape (n, height, width, channels)."""
    what = f"images{f': {label!r}' if label else ''}"
    array = numbers(values, what, ndim=(3, 4))
    array = array[..., None] if array.ndim == 3 else array
    if array.shape[-1] not in (1, 3):
        raise RitzError(f"{what}: expected 1 or 3 channels last, got shape {array.shape}")
    return array


def _limits(arrays: dict[str, np.ndarray]) -> tuple[float, float]:
    low = min(float(a.min()) for a in arrays.values())
    high = max(float(a.max()) for a in arrays.values())
    return (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)


def _sheet(array: np.ndarray, wide: int) -> np.ndarray:
    """One large image of small ones, with a gap of white between them."""
    n, height, width, channels = array.shape
    gap = max(1, width // 16)
    rows = math.ceil(n / wide)
    sheet = np.ones((rows * (height + gap) - gap, wide * (width + gap) - gap, channels))
    for i, image in enumerate(array):
        top, left = (i // wide) * (height + gap), (i % wide) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet[..., 0] if channels == 1 else sheet
