"""Simulation-based calibration: ranks and coverage."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ritz._errors import RitzError
from ritz.plot._arrays import numbers
from ritz.plot._style import GREY, canvas, look

if TYPE_CHECKING:
    import matplotlib.figure


def calibration(
    ranks: Any, draws: int, *, bins: int = 20, level: float = 0.95
) -> "matplotlib.figure.Figure":
    r"""Ranks of true values among posterior draws, and the coverage that they imply.

    If the posteriors are right, the rank of the value that made the data is uniform on
    0, …, `draws` (Talts et al. 2018, arXiv:1804.06788). A histogram like a ∪ says too narrow, like
    a ∩ too wide, a slope shifted. The central interval of mass :math:`\alpha` covers where
    :math:`|u - 1/2| \le \alpha / 2`, with u the rank spread to the unit interval.

    Args:
        ranks: how many of the draws lie below the true value, one for each replication; or a
            mapping of labels to such arrays.
        draws: how many draws each rank was taken among.
        bins: bins of the histogram.
        level: each grey band holds a bin, or a point of the curve, with this probability.

    Returns:
        a Matplotlib figure: ranks on the left, coverage on the right.

    Raises:
        RitzError: for ranks outside 0, …, `draws`, or fewer replications than bins.

    >>> ranks = np.random.default_rng(0).integers(0, 100, size=400)
    >>> len(calibration(ranks, 99).axes)
    2
    """
    named = ranks if isinstance(ranks, Mapping) else {"": ranks}
    if not named:
        raise RitzError("calibration: an empty mapping arrived, expected ranks by label")
    if draws < 1 or bins < 2 or not 0 < level < 1:
        raise RitzError(
            f"calibration: expected draws >= 1, bins >= 2 and a level between 0 and 1, got "
            f"{draws}, {bins} and {level}"
        )
    arrays = {label: _ranks(label, values, draws, bins) for label, values in named.items()}
    from scipy.stats import binom

    tails = (1 - level) / 2, (1 + level) / 2
    edges, alphas = np.linspace(0, 1, bins + 1), np.linspace(0, 1, 101)
    # With few replications the band is widest: that of the smallest array holds for all.
    least = min(map(len, arrays.values()))
    with canvas(1, 2, size=(8.0, 3.3)) as (figure, axes):
        left, right = axes[0]
        low, high = (binom.ppf(t, least, 1 / bins) * bins / least for t in tails)
        left.axhspan(low, high, color="#D0D0D0", alpha=0.6, lw=0, label=f"{level:.0%} if right")
        left.axhline(1.0, color=GREY, lw=0.8)
        spread = [binom.ppf(t, least, alphas) / least - alphas for t in tails]
        right.fill_between(alphas, *spread, color="#D0D0D0", alpha=0.6, lw=0)
        right.axhline(0.0, color=GREY, lw=0.8)
        for i, (label, values) in enumerate(arrays.items()):
            # Ranks are whole numbers: spread them, always alike, or bins of unequal counts show.
            jitter = np.random.default_rng(0).uniform(size=len(values))
            u = (values + jitter) / (draws + 1)
            heights = np.histogram(u, edges)[0] * bins / len(u)
            line = look(i)
            left.stairs(heights, edges, baseline=None, label=label or None, lw=1.6, **line)
            covered = (np.abs(u - 0.5)[:, None] <= alphas / 2).mean(axis=0)
            right.plot(alphas, covered - alphas, **line)
        left.set(xlabel="rank of the truth, as a share of the draws", ylabel="relative frequency")
        left.set_ylim(bottom=0)
        right.set(xlabel="mass of the central interval", ylabel="coverage minus mass")
        right.margins(x=0)
        left.margins(x=0)
        handles, names = left.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=len(names))
    return figure


def _ranks(label: str, values: Any, draws: int, bins: int) -> np.ndarray:
    """Ranks that can be ranks."""
    what = f"calibration: ranks{f' of {label!r}' if label else ''}"
    array = numbers(values, what, ndim=(1,))
    if array.min() < 0 or array.max() > draws or (array != np.round(array)).any():
        raise RitzError(f"{what}: expected whole numbers from 0 to draws={draws}")
    if len(array) < bins:
        raise RitzError(f"{what}: {len(array)} replications for {bins} bins; use fewer bins")
    return array
