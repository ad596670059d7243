"""The kernel Stein discrepancy of draws from a density known by its scores."""

from typing import NamedTuple

import numpy as np

from ritz._errors import RitzError, whole_number

# Rows of the kernel's matrix that are held at once.
_ROWS = 256
_BOOTSTRAPS = 1000


class KSD(NamedTuple):
    """What `ksd` measures.

    Attributes:
        squared: the U-statistic, of mean zero for draws of the target; it may be negative.
        p_value: how often draws of the target would give as much, by the wild bootstrap.
    """

    squared: float
    p_value: float


def ksd(x: np.ndarray, scores: np.ndarray, seed: int = 0) -> KSD:
    r"""Whether draws are those of a density, by its scores alone.

    .. math:: \mathrm{KSD}^2 = \sum_{i \ne j} w_i w_j\, u(z_i, z_j), \qquad
        u = s_i^\top s_j\, k + s_i^\top \nabla_{z_j} k + s_j^\top \nabla_{z_i} k
        + \operatorname{tr} \nabla_{z_i} \nabla_{z_j} k,

    with the inverse multiquadric kernel :math:`k = (1 + \|z_i - z_j\|^2 / d)^{-1/2}`, which sees
    mass that escapes to infinity as a Gaussian kernel does not, in coordinates z in which the draws
    have unit covariance (half the median of :math:`\|z_i - z_j\|^2` is then about d), scores s in
    these, and weights w that are equal where no draw is repeated. The
    p-value compares it with :math:`\sum_{i \ne j} \varepsilon_i \varepsilon_j w_i w_j u(z_i, z_j)`
    for 1,000 vectors of signs. It is for draws that are independent; those of a chain are to be
    thinned. Modes that no draw is near, cut off by regions of low density, are not seen.

    Args:
        x: draws, shape (S, d); one that is there several times counts as a heavier one.
        scores: gradients of the target's log density at them, shape (S, d). Where one is not
            finite the discrepancy is infinite.
        seed: of the signs.

    Returns:
        a `KSD`. It takes S² d operations, and memory linear in S.

    Raises:
        RitzError: for fewer than two different draws, or shapes that differ.

    Gorham and Mackey, "Measuring sample quality with kernels", 2017, equation 4; Liu, Lee and
    Jordan, "A kernelized Stein discrepancy for goodness-of-fit tests", 2016, equation 14;
    Chwialkowski, Strathmann and Gretton, "A kernel test of goodness of fit", 2016, equation 3.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 2))
    >>> ksd(x, -x).p_value > 0.05, ksd(x + 0.3, -x - 0.3).p_value < 0.01
    (True, True)
    """
    whole_number("seed", seed, 0)
    x, scores = np.asarray(x, np.float64), np.asarray(scores, np.float64)
    if x.ndim != 2 or x.shape != scores.shape:
        raise RitzError(
            f"ksd: draws of shape {x.shape} and scores of shape {scores.shape} arrived, expected "
            "two arrays of one shape (S, d)"
        )
    x, first, counts = np.unique(x, axis=0, return_index=True, return_counts=True)
    if len(x) < 2:
        raise RitzError(f"ksd: {len(x)} different draws arrived, expected two or more")
    scores, weights = scores[first], counts / counts.sum()
    if not (np.isfinite(x).all() and np.isfinite(scores).all()):
        return KSD(np.inf, 1.0 / (_BOOTSTRAPS + 1))
    z, s = _whitened(x, scores, weights)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(len(x), _BOOTSTRAPS))
    signs = np.concatenate([np.ones((len(x), 1)), signs], axis=1) * weights[:, None]
    sums = np.zeros(_BOOTSTRAPS + 1)
    for begin in range(0, len(x), _ROWS):
        rows = slice(begin, begin + _ROWS)
        u = _stein_kernel(z[rows], s[rows], z, s)
        u[np.arange(len(u)), np.arange(begin, begin + len(u))] = 0.0
        sums += np.einsum("ib,ib->b", signs[rows], u @ signs)
    at_least = 1 + int((sums[1:] >= sums[0]).sum())
    return KSD(float(sums[0]), at_least / (_BOOTSTRAPS + 1))


def _whitened(
    x: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws and scores in coordinates of unit covariance; of unit variance, of few draws."""
    centred = x - weights @ x
    sd = np.sqrt(weights @ centred**2)
    sd = np.where(sd > 0, sd, 1.0)
    z, s = centred / sd, scores * sd
    if len(x) < 4 * x.shape[1]:
        return z, s
    values, axes = np.linalg.eigh((z * weights[:, None]).T @ z)
    root = np.sqrt(np.maximum(values, 1e-12))
    return z @ axes / root, s @ axes * root


def _stein_kernel(z: np.ndarray, s: np.ndarray, z2: np.ndarray, s2: np.ndarray) -> np.ndarray:
    """u of every pair of two sets of draws, shape (R, S)."""
    d = z.shape[1]
    squared = (z**2).sum(1)[:, None] + (z2**2).sum(1) - 2.0 * z @ z2.T
    squared = np.maximum(squared, 0.0)
    base = 1.0 + squared / d
    k = base**-0.5
    slope = k / base / d  # ∇ k = -slope (z - z2) in z, and its negative in z2
    # s · (z - z2) and s2 · (z - z2) for each pair, without an array of differences
    own = (s * z).sum(1)[:, None] - s @ z2.T
    other = z @ s2.T - (s2 * z2).sum(1)
    trace = slope * (d - 3.0 * squared / base / d)
    return (s @ s2.T) * k + slope * (own - other) + trace
