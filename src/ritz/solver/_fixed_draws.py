"""The ELBO on draws that stay the same, in coordinates that move with the Gaussian."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._mesh import split_draws
from ritz.family import FullRank, MeanField


def matched_noise(key: Key[Array, ""], n: int, d: int, dtype: Any) -> Float[Array, "n d"]:
    """n standard normal vectors in antithetic pairs, with the moments of the distribution.

    Their mean is zero and their second moments are those of the identity: all of them where
    there are as many pairs as dimensions, else the variances. An expectation of a quadratic is
    then exact, or, in the latter case, its gradient in the mean is.
    """
    half = jax.random.normal(key, (n // 2, d), dtype)
    if n // 2 >= d:
        # Twice, as one pass in float32 leaves the rounding of a badly conditioned square.
        for _ in range(2):
            q = jnp.linalg.qr(half)[0]
            half = math.sqrt(n // 2) * q
    else:
        half = half / jnp.sqrt((half**2).mean(axis=0))
    return jnp.concatenate([half, -half])


def size_of(q: Any) -> int:
    """How many coordinates `moved` has."""
    return 2 * q.dim if isinstance(q, MeanField) else 2 * q.dim + q.dim * (q.dim - 1) // 2


def moved(q: Any, v: Float[Array, " k"]) -> Any:
    r"""A Gaussian near q, in coordinates where q is standard.

    With :math:`v = (a, \sqrt2\,b, N)` the mean is :math:`m + La` and the factor of the
    covariance :math:`L\,(e^{b} + N)`. At a Gaussian target's optimum the Hessian of the
    negative ELBO in v is that of unit scales, whatever the units of x.
    """
    d = q.dim
    a, b = v[:d], v[d : 2 * d] / math.sqrt(2.0)
    if isinstance(q, MeanField):
        return MeanField(q.loc + jnp.exp(q.log_scale) * a, q.log_scale + b)
    unit = jnp.tril(q.lower, -1) + jnp.eye(d, dtype=v.dtype)
    change = jnp.zeros((d, d), v.dtype).at[jnp.tril_indices(d, -1)].set(v[2 * d :])
    change = change + jnp.diag(jnp.exp(b))
    lower = jnp.exp(-b)[:, None] * (unit @ change)
    return FullRank(q.loc + q.scale_tril @ a, q.log_scale + b, jnp.tril(lower, -1))


def points(q: Any, noise: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """The draws of q that a noise stands for."""
    if isinstance(q, MeanField):
        return q.loc + jnp.exp(q.log_scale) * noise
    return q.loc + noise @ q.scale_tril.T


def loss(target: Any, q: Any, noise: Float[Array, "n d"]) -> Float[Array, ""]:
    """The negative ELBO with its expectation over a fixed noise."""
    return -jax.vmap(target.log_density)(split_draws(points(q, noise))).mean() - q.entropy()


def product(
    target: Any, q: Any, noise: Float[Array, "n d"], v: Float[Array, " k"]
) -> Float[Array, " k"]:
    """The Hessian of `loss` in the coordinates of `moved`, times a vector."""
    at = jax.grad(lambda u: loss(target, moved(q, u), noise))
    return jax.jvp(at, (jnp.zeros_like(v),), (v,))[1]
