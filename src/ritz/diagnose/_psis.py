"""Pareto-smoothed importance sampling: how far an approximation can be trusted."""

import math
from typing import NamedTuple

import numpy as np

from ritz._errors import RitzError


class PSIS(NamedTuple):
    """Smoothed importance weights and what they say.

    Attributes:
        log_weights: smoothed, normalised to sum to one.
        khat: the estimated tail shape.
        ess: importance-sampling effective sample size, 1 / sum of squared weights.
        threshold: the largest khat at which this many draws can be relied on.
    """

    log_weights: np.ndarray
    khat: float
    ess: float
    threshold: float


def psis(log_weights: np.ndarray) -> PSIS:
    r"""Smooth importance weights by fitting a generalised Pareto distribution to their tail.

    The largest :math:`M = \lceil\min(S/5, 3\sqrt S)\rceil` of S weights are replaced by expected
    order statistics of the fitted tail. Its shape :math:`\hat k` tells how many moments the
    weights have; estimates from S draws can be relied on below
    :math:`\min(1 - 1/\log_{10} S,\; 0.7)`.

    Vehtari, Simpson, Gelman, Yao and Gabry 2024 (JMLR 25), section 3; the fit is that of Zhang
    and Stephens 2009.

    Args:
        log_weights: shape (S,), S at least 25; need not be normalised.

    Returns:
        a `PSIS`; `khat` is inf where the weights hold nan, +inf or a tail of fewer than five
        values, and 0 where all weights are equal.

    Raises:
        RitzError: for fewer than 25 weights or another shape.

    >>> round(psis(np.zeros(1000)).ess)
    1000
    """
    lw = np.array(log_weights, dtype=np.float64)
    if lw.ndim != 1 or lw.size < 25:
        raise RitzError(f"psis: weights of shape {lw.shape} arrived, expected one axis, 25 or more")
    s = lw.size
    threshold = min(1.0 - 1.0 / math.log10(s), 0.7)
    if np.isnan(lw).any() or np.isposinf(lw).any() or np.isneginf(lw).all():
        return PSIS(np.full(s, -math.log(s)), math.inf, 1.0, threshold)
    lw -= lw.max()
    khat = 0.0
    if lw.min() < -1e-12:
        khat = _smooth_tail(lw)
    lw -= np.log(np.exp(lw).sum())
    return PSIS(lw, khat, float(1.0 / np.exp(2.0 * lw).sum()), threshold)


class MomentShift(NamedTuple):
    """How importance weights move the moments of draws, coordinate by coordinate.

    Attributes:
        mean: change of the mean, in standard deviations of the draws.
        log_sd: log ratio of the standard deviations, weighted over unweighted.
        noise: about the standard error of either.
    """

    mean: np.ndarray
    log_sd: np.ndarray
    noise: float


def moment_shift(x: np.ndarray, smoothed: PSIS) -> MomentShift:
    """Compare the moments of draws from q with the target's, estimated by importance weights.

    A shifted or too narrow q can have light-tailed weights, and so a small k-hat; its moments
    give it away.

    Args:
        x: draws, shape (S, d).
        smoothed: `psis` of their log-weights.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 1))
    >>> shift = moment_shift(x, psis(0.5 * x[:, 0]))  # the target's mean is 0.5
    >>> bool(abs(shift.mean[0] - 0.5) < 0.1)
    True
    """
    x = np.asarray(x, np.float64)
    weights = np.exp(smoothed.log_weights)[:, None]
    sd = x.std(axis=0)
    sd = np.where(sd > 0, sd, 1.0)
    mean = (weights * x).sum(axis=0)
    variance = (weights * (x - mean) ** 2).sum(axis=0)
    log_sd = 0.5 * np.log(np.maximum(variance, np.finfo(float).tiny)) - np.log(sd)
    noise = math.sqrt(1.0 / smoothed.ess + 1.0 / len(x))
    return MomentShift((mean - x.mean(axis=0)) / sd, log_sd, noise)


def _smooth_tail(lw: np.ndarray) -> float:
    """Smooth the tail of weights whose largest is one, in place; the shape of the tail."""
    s = lw.size
    tail_size = math.ceil(min(s / 5, 3 * math.sqrt(s)))
    cutoff = max(np.sort(lw)[-tail_size - 1], math.log(np.finfo(float).tiny))
    tail = np.flatnonzero(lw > cutoff)
    if cutoff == lw.max():  # as many as the tail should have are equal, so that there is none
        return 0.0
    if tail.size <= 4:
        return math.inf
    tail = tail[np.argsort(lw[tail], kind="stable")]
    khat, sigma = fit_pareto(np.exp(lw[tail]) - math.exp(cutoff))
    if math.isfinite(khat):
        p = (np.arange(tail.size) + 0.5) / tail.size
        with np.errstate(over="ignore"):  # of a tail so heavy, weights are cut off at the largest
            quantile = -np.log1p(-p) if khat == 0 else np.expm1(-khat * np.log1p(-p)) / khat
        lw[tail] = np.minimum(np.log(sigma * quantile + math.exp(cutoff)), 0.0)
    return khat


def fit_pareto(x: np.ndarray) -> tuple[float, float]:
    r"""Shape k and scale of a generalised Pareto distribution, by an empirical Bayes mean.

    The reparameterised profile likelihood :math:`\ell(b) = n(\log(-b/k(b)) - k(b) - 1)`,
    :math:`k(b) = \overline{\log(1 - b x)}`, is averaged over a grid of b; k is then shrunk
    towards 1/2 with the weight of ten observations (Zhang and Stephens 2009, section 3; Vehtari
    et al. 2024, appendix).

    Args:
        x: positive values in ascending order.
    """
    n = x.size
    grid = 30 + int(math.sqrt(n))
    b = 1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    b = b / (3.0 * x[int(n / 4 + 0.5) - 1]) + 1.0 / x[-1]
    k = np.log1p(-b[:, None] * x).mean(axis=1)
    rate = np.where(b == 0, 1.0 / x.mean(), -b / np.where(b == 0, 1.0, k))  # b = 0: exponential
    loglik = n * (np.log(rate) - k - 1.0)
    weight = np.exp(loglik - loglik.max())
    weight /= weight.sum()
    keep = weight >= 10 * np.finfo(float).eps
    weight, b = weight[keep] / weight[keep].sum(), b[keep]
    b_mean = float((b * weight).sum())
    k_mean = float(np.log1p(-b_mean * x).mean())
    sigma = x.mean() if b_mean == 0 else -k_mean / b_mean
    return (n * k_mean + 10 * 0.5) / (n + 10), float(sigma)
