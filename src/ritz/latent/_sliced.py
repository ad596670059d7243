"""Distances of clouds of points by their one-dimensional projections."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number


def squared_sliced_wasserstein(
    x: Float[Array, "n d"], y: Float[Array, "m d"], key: Key[Array, ""], projections: Any = 50
) -> Float[Array, ""]:
    r"""The squared sliced 2-Wasserstein distance of two clouds of as many points.

    .. math:: \frac1L \sum_{l=1}^L \frac1n \sum_{i=1}^n
        \big(\theta_l^\top x_{(i)} - \theta_l^\top y_{(i)}\big)^2,

    with directions :math:`\theta_l` uniform on the sphere, and the projections of each cloud in
    ascending order, which is the best transport on a line. Bonneel, Rabin, Peyré and Pfister,
    "Sliced and Radon Wasserstein barycenters of measures", 2015.

    Args:
        x: points, shape (n, d).
        y: as many others.
        key: of the directions.
        projections: L.

    Raises:
        RitzError: for another number of points, or no projection.

    >>> points = jax.random.normal(jax.random.key(0), (100, 3))
    >>> float(squared_sliced_wasserstein(points, points[::-1], jax.random.key(1)))
    0.0
    """
    whole_number("projections", projections, 1)
    if len(x) != len(y):
        raise RitzError(
            f"squared_sliced_wasserstein: {len(x)} and {len(y)} points arrived, expected as many "
            "of each; leave some out"
        )
    directions = jax.random.normal(key, (projections, x.shape[1]), x.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    ordered = lambda points: jnp.sort(directions @ points.T, axis=1)
    return ((ordered(x) - ordered(y)) ** 2).mean()
