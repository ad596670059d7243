"""Draws of a fit by weight, and coordinates that they whiten: where refinements start."""

from typing import Any, NamedTuple

import jax
import numpy as np

from ritz import _posterior
from ritz._draws import generator
from ritz._errors import RitzError


class Whitened(NamedTuple):
    """Where a refinement starts.

    Attributes:
        drawn: draws from q, as `_posterior.drawn` gives them.
        chosen: as many indices of these, resampled by their importance weights.
        center: the mean of those that differ, shape (d,).
        factor: the Cholesky factor of their covariance, shape (d, d), or their sds, shape (d,),
            where they are too few for one.
    """

    drawn: dict[str, Any]
    chosen: np.ndarray
    center: np.ndarray
    factor: np.ndarray


def whitened(q: Any, target: Any, key: jax.Array, how: str) -> Whitened:
    """Draws from q, resampled by weight, with their mean and covariance.

    Args:
        q: the family.
        target: what it approximates.
        key: the source of all randomness.
        how: the word that `Fit.refine` was given, for errors.

    Raises:
        RitzError: with discrete coordinates, or where the density is finite hardly anywhere.
    """
    if target.continuous_dim != target.dim:
        raise RitzError(
            f"refine({how!r}) moves continuous coordinates only, and {target.dim} - "
            f"{target.continuous_dim} of these are discrete; use refine('importance')"
        )
    drawn = _posterior.drawn(q, target, _posterior.DRAWS, key)
    finite = np.isfinite(drawn["log_weights"])
    if finite.sum() < min(target.dim + 1, len(finite) // 4):
        raise RitzError(
            f"refine({how!r}) has nowhere to start: the log density is finite at {finite.sum()} of "
            f"{len(finite)} draws; fit again from another start"
        )
    # A part of q that is far too wide would set the units, were its draws not weighted.
    weights = np.exp(_posterior.smooth(drawn["log_weights"]).log_weights)
    chosen = _posterior.systematic(weights, len(weights), generator(key))
    differ = np.unique(chosen)
    kept = differ if len(differ) >= 4 * target.dim else finite
    return Whitened(drawn, chosen, *moments(drawn["x"][kept]))


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Cholesky factor of draws, or their sds where they are too few for a covariance."""
    x = x.astype(np.float64)
    center, sd = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-30)
    if len(x) < 4 * x.shape[1]:
        return center, sd
    scaled = (x - center) / sd
    correlation = scaled.T @ scaled / len(x) + 1e-6 * np.eye(x.shape[1])
    return center, sd[:, None] * np.linalg.cholesky(correlation)
