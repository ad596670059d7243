r"""When a noisy loss has stopped falling: what twice as many steps would still gain, and its limit.

The last seven eighths of t steps are cut into blocks. To their means

.. math:: a + b\,f(s/t),\qquad f \in \{-u,\; e^{-u/\tau},\; u^{-p}\},

is fitted by weighted least squares for a straight line, exponentials of several :math:`\tau` and
powers; shapes count by their likelihoods. Each tells what steps t to 2t would gain,
:math:`b\,(f(1) - f(2))`, and its standard error, from residuals that may be correlated from block
to block. The limit is a quantile of what all of them say. A fall that has just begun has none of
these shapes: the last half is looked at alone too. What is far out is pulled in first, by
quartiles, so that a few draws decide nothing.

Flegal and Jones, "Batch means and spectral variance estimators in Markov chain Monte Carlo", 2010;
Welandawe, Andersen, Vehtari and Huggins, "Robust, automated, and accurate black-box variational
inference", 2022, for stopping by what more steps, at a lower rate, are predicted to gain.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

# Records before the first look, and how much longer the trace is at each next one.
FIRST, GROWTH = 1000, 1.1
# A fall that is below this share of the noise of one record, or of nats, is none.
SHARE, NATS = 0.5, 0.1
# Blocks of a window, in groups with a spread of their own: noise may calm down.
_BLOCKS, _GROUPS = 56, 8
# Windows: one over which share of the trace they begin, and standard errors to the upper limit.
# The second one is there for falls that begin late; noise alone must not keep it from ending.
_WINDOWS = ((8, 1.6), (2, 0.5))
_TAUS, _POWERS = (0.06, 0.12, 0.25, 0.5, 1.0), (0.3, 1.0)
# Batches of the last half; their spread is the standard error of its mean.
_BATCHES = 8
# Beyond so many interquartile ranges from the quartiles a record counts as being there.
_FAR = 3.0


class Trend(NamedTuple):
    """What a trace says of the steps to come.

    Attributes:
        gain: by how much twice as many steps are expected to lower the loss.
        most: the upper confidence limit of that.
        noise: the sd of one record about the mean of the last half.
        level: the mean of the last half.
        se: its standard error.
    """

    gain: float
    most: float
    noise: float
    level: float
    se: float


def trend(loss: np.ndarray) -> Trend:
    r"""What twice as many steps would gain.

    Args:
        loss: of consecutive steps, shape (t,), from the first step that counts.

    Returns:
        a `Trend`; of fewer than 128 steps, infinite.

    >>> import numpy as np
    >>> steps = np.arange(1, 8001)
    >>> found = trend(1000.0 / steps)
    >>> round(found.gain, 2)  # 1000 / 8000 - 1000 / 16000
    0.06
    >>> noise = np.random.default_rng(0).normal(size=8000)
    >>> found = trend(1000.0 / steps + noise)
    >>> found.gain < 0.2 and found.gain < found.most < 0.5
    True
    """
    t = len(loss)
    if t < 2 * _BLOCKS + 16:
        return Trend(math.inf, math.inf, math.inf, math.nan, math.inf)
    loss = np.asarray(loss, np.float64)
    found = [(_shapes(loss, begin), z) for begin, z in _WINDOWS]
    most = max(_quantile(*shapes, z) for shapes, z in found)
    (gains, _, weights), _ = found[0]
    last = _pulled_in(loss[t // 2 :])
    low, high = np.quantile(last, [0.25, 0.75])
    noise = float(high - low) / 1.349  # as of a normal distribution
    means = last[len(last) % _BATCHES :].reshape(_BATCHES, -1).mean(axis=1)
    se = float(means.std(ddof=1) / math.sqrt(_BATCHES))
    return Trend(float(weights @ gains), most, noise, float(last.mean()), se)


def _shapes(loss: np.ndarray, begin: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each shape gains, with standard errors and weights, from the steps after t / begin."""
    t, size = len(loss), (len(loss) - len(loss) // begin) // _BLOCKS
    first = t - size * _BLOCKS
    groups = loss[first:].reshape(_GROUPS, -1)
    low, high = np.quantile(groups, [0.25, 0.75], axis=1)
    least = max(1e-12 * float(np.abs(loss[first:]).max()), float(np.finfo(float).tiny))
    weight = np.repeat(1.0 / np.maximum(high - low, least), _BLOCKS // _GROUPS)
    y = _pulled_in(groups, axis=1).reshape(_BLOCKS, size).mean(axis=1)
    u = (first + size * (np.arange(_BLOCKS) + 0.5)) / t
    f = np.stack([-u, *(np.exp((1 - u) / k) for k in _TAUS), *(u**-p for p in _POWERS)])
    fall = [1.0, *(1 - math.exp(-1 / k) for k in _TAUS), *(1 - 2.0**-p for p in _POWERS)]
    # Least squares with an intercept: about the weighted means.
    square = weight**2 / np.sum(weight**2)
    y, f = (y - square @ y) * weight, (f - (f @ square)[:, None]) * weight
    norm = np.sum(f**2, axis=1)
    slope = f @ y / norm
    left = y - slope[:, None] * f
    rss = np.sum(left**2, axis=1)
    best = int(rss.argmin())
    near = left[best, 1:] @ left[best, :-1] / max(rss[best], float(np.finfo(float).tiny))
    # Of residuals it is less than of the noise, by about 1.5 / blocks.
    near = min(max(near + 1.5 / _BLOCKS, 0.0), 0.9)
    variance = max(rss[best] / (_BLOCKS - 3), 1e-300) * (1 + near) / (1 - near)
    weights = np.exp(-0.5 * (rss - rss[best]) / variance)
    fall = np.asarray(fall)
    return slope * fall, fall * np.sqrt(variance / norm), weights / weights.sum()


def _quantile(gains: np.ndarray, errors: np.ndarray, weights: np.ndarray, z: float) -> float:
    """The quantile of a mixture of normal distributions that z is of one, by bisection."""
    errors = np.maximum(errors, np.finfo(float).tiny)  # of a loss without noise
    low, high = float((gains - 9 * errors).min()), float((gains + 9 * errors).max())
    for _ in range(60):
        at = 0.5 * (low + high)
        below = weights @ ndtr((at - gains) / errors) < ndtr(z)
        low, high = (at, high) if below else (low, at)
    return high


def _pulled_in(window: np.ndarray, axis: int = 0) -> np.ndarray:
    """With what is far out at the end of what is not."""
    low, high = np.quantile(window, [0.25, 0.75], axis=axis, keepdims=True)
    reach = _FAR * (high - low)
    return np.clip(window, low - reach, high + reach)


def worth(found: Trend, nats: float = NATS) -> float:
    """A gain that is not worth twice the steps: half the noise of one record, or `nats`.

    Args:
        found: what the trace says.
        nats: 0 for a loss in other units.

    >>> import numpy as np
    >>> noise, steps = np.random.default_rng(0).normal(size=8000), np.arange(8000)
    >>> flat, falling = trend(noise), trend(noise - steps / 1000)
    >>> flat.most < worth(flat), falling.most < worth(falling)
    (True, False)
    """
    return max(nats, SHARE * found.noise)


def next_look(done: int) -> int:
    """The length, above `done`, at which a growing trace is looked at next.

    >>> next_look(0), next_look(1000), next_look(1099), next_look(1100)
    (1000, 1100, 1100, 1210)
    """
    at = FIRST
    while at <= done:
        at = round(at * GROWTH)
    return at
