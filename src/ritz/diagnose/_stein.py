r"""Stein's identities: what draws would satisfy if they were the target's."""

from typing import NamedTuple

import numpy as np


class Stein(NamedTuple):
    """How far Stein's identities are from holding.

    Attributes:
        mean: :math:`\\sigma\\,\\mathbb{E}\\,\\partial\\log p` in every direction, shape (2d,).
        variance: :math:`1 + \\mathbb{E}[(x - m)\\,\\partial\\log p]`, shape (2d,).
        mean_se: standard errors, shape (2d,).
        variance_se: also.
        together: the mean of `variance` over directions: for draws of the right law it is zero in
            expectation, however few they are.
        together_se: its standard error.
    """

    mean: np.ndarray
    variance: np.ndarray
    mean_se: np.ndarray
    variance_se: np.ndarray
    together: float
    together_se: float


def stein(x: np.ndarray, scores: np.ndarray) -> Stein:
    r"""Check draws against the scores of the target at them.

    For any density p on :math:`\mathbb{R}^d` that falls off fast enough

    .. math:: \mathbb{E}_p\,\nabla\log p(x) = 0, \qquad
              \mathbb{E}_p\,(x - m)\,\nabla\log p(x)^\top = -I.

    Draws that are right in one region and lack what lies beyond it, as importance weights of a
    proposal that never goes there, break them: by the density at the region's edge. For a Gaussian
    target and draws of variance :math:`s^2` in place of :math:`\sigma^2` the second is off by
    :math:`1 - s^2/\sigma^2`. Other modes, cut off by regions of no density, are not seen.

    Args:
        x: draws, shape (S, d); one that is there several times counts as a heavier one.
        scores: gradients of the log density at them, shape (S, d).

    Returns:
        for each coordinate in units of its standard deviation, and then for each principal axis of
        the draws in the same way (for coordinates again, where there are fewer than 4d draws).

    Stein, "Estimation of the mean of a multivariate normal distribution", 1981; Gorham and Mackey,
    "Measuring sample quality with Stein's method", 2015.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 1))
    >>> right, narrow = stein(x, -x), stein(0.7 * x, -0.7 * x)
    >>> bool(abs(right.variance).max() < 0.1 < 0.4 < narrow.variance.max())
    True
    """
    x, first, counts = np.unique(
        np.asarray(x, np.float64), axis=0, return_index=True, return_counts=True
    )
    scores = np.asarray(scores, np.float64)[first]
    weights = counts / counts.sum()
    centred = x - weights @ x
    sd = np.sqrt(weights @ centred**2)
    sd = np.where(sd > 0, sd, 1.0)
    z, s = centred / sd, scores * sd
    pairs = [(z, s)]
    if len(x) >= 4 * x.shape[1]:
        values, axes = np.linalg.eigh((z * weights[:, None]).T @ z)
        root = np.sqrt(np.maximum(values, 1e-12))
        pairs.append((z @ axes / root, s @ axes * root))
    z, s = (np.concatenate(parts, axis=1) for parts in zip(*pairs * (3 - len(pairs)), strict=True))
    product = z * s
    mean, slope = weights @ s, weights @ product
    error = lambda values, middle: np.sqrt(weights**2 @ (values - middle) ** 2)
    each = product[:, x.shape[1] :].mean(axis=1)
    together, together_se = 1.0 + weights @ each, error(each[:, None], weights @ each)[0]
    found = mean, 1.0 + slope, error(s, mean), error(product, slope)
    return Stein(*found, float(together), float(together_se))
