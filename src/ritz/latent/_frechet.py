r"""How far two sets of rows are apart, by the Gaussians that fit their features."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ritz._errors import RitzError


def frechet_distance(x: Any, y: Any, features: Callable[[Any], Any] | None = None) -> float:
    r"""The squared Fréchet distance of two sets of rows in a space of features.

    .. math:: \|m_x - m_y\|^2 + \mathrm{tr}\big(C_x + C_y - 2\,(C_x C_y)^{1/2}\big),

    of their means and covariances there. With an Inception network's features it is the FID. It is
    biased upwards for few rows; compare sets of equal sizes. Heusel, Ramsauer, Unterthiner, Nessler
    and Hochreiter 2017, equation 6.

    Args:
        x: rows.
        y: others of the same shape.
        features: from rows to an array (n, k); None where rows are features already.

    Raises:
        RitzError: where features are no rows of finite numbers, are fewer than two, or differ in
            width.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 3))
    >>> round(frechet_distance(x, x + np.array([3.0, 0.0, 4.0])), 6)
    25.0
    """
    (m_x, c_x), (m_y, c_y) = (_moments(v if features is None else features(v)) for v in (x, y))
    if m_x.shape != m_y.shape:
        raise RitzError(
            f"frechet_distance: features of {len(m_x)} and of {len(m_y)} dimensions arrived, "
            "expected as many of both"
        )
    # tr (C_x C_y)^{1/2} by the eigenvalues of a symmetric matrix that is similar.
    values, axes = np.linalg.eigh(c_x)
    root = (axes * np.sqrt(np.maximum(values, 0.0))) @ axes.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c_y @ root), 0.0)).sum()
    off = m_x - m_y
    return float(max(off @ off + np.trace(c_x) + np.trace(c_y) - 2.0 * cross, 0.0))


def _moments(features: Any) -> tuple[np.ndarray, np.ndarray]:
    v = np.asarray(features)
    if v.ndim != 2 or len(v) < 2 or v.dtype.kind not in "biuf" or not np.isfinite(v).all():
        raise RitzError(
            f"frechet_distance: features of shape {v.shape} and dtype {v.dtype} arrived, expected "
            "(n, k) finite numbers, n at least 2"
        )
    v = v.astype(np.float64)
    return v.mean(axis=0), np.atleast_2d(np.cov(v.T))
