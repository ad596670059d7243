"""Gaussian choices as maps of standard normal noise."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from ritz.estimator import _element as element
from ritz.estimator import law
from ritz.family import FullRank, MeanField

GAUSSIAN = "Normal, LogNormal, MultivariateNormal, mean_field and full_rank"


def noise_map(q: Any) -> tuple[tuple[int, ...], Callable[[Array], Array]] | None:
    """The shape of the noise, that of a draw, and the map from noise to draw; or None.

    The map is affine, but for LogNormal, and differentiable in q's parameters.
    """
    if isinstance(q, MeanField):
        return q.loc.shape, lambda z: q.loc + jnp.exp(q.log_scale) * z
    if isinstance(q, FullRank):
        return q.loc.shape, lambda z: q.loc + q.scale_tril @ z
    one, shape, _ = element.bare(q)
    if type(one) is dist.MultivariateNormal:
        loc = element.parameter(one, "loc", shape, own=1)
        tril = element.parameter(one, "scale_tril", shape, own=2)
        return loc.shape, lambda z: loc + (tril @ z[..., None])[..., 0]
    if type(one) in (dist.Normal, dist.LogNormal):
        loc = element.parameter(one, "loc", shape)
        scale = element.parameter(one, "scale", shape)
        if type(one) is dist.Normal:
            return shape, lambda z: loc + scale * z
        return shape, lambda z: jnp.exp(loc + scale * z)
    return None


def needs_gaussian(estimator: Any, q: Any) -> None:
    """Refuse what `noise_map` does not know."""
    if noise_map(q) is None:
        raise law.refuse(estimator, q, f"it serves {GAUSSIAN} only", element.elsewhere(q))


def pushed(q: Any) -> tuple[tuple[int, ...], Callable[[Array], Array]]:
    """`noise_map` of what was checked."""
    found = noise_map(q)
    assert found is not None
    return found
