"""The density of a sum of a network's output and noise, estimated from latents that explain x."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz.family._mean_field import LOG_2PI

_SEARCHED = 64  # latents among which the search for one that explains x begins
_STEPS = 8
_PRIOR = 0.1  # the share of latents that are drawn from the prior, in case the search goes astray
# Beyond so many entries a derivative is too large for a search: all latents are then the prior's.
_LARGEST = 1 << 16


def log_marginal(
    g: Callable[[Array], Array],
    x: Float[Array, " d"],
    z: Float[Array, " m"],
    latents: int,
    key: Key[Array, ""],
) -> Float[Array, ""]:
    r"""The log of an estimate :math:`\hat q(x)` of the density of :math:`x = g(z) + \varepsilon`.

    .. math:: \hat q(x) = \frac{1}{K+1} \sum_{k=0}^{K}
        \frac{\mathcal N(z_k \mid 0, I)\,\mathcal N(x \mid g(z_k), I)}{r(z_k \mid x)},
        \qquad z_0 = z, \quad z_{1..K} \sim r(\cdot \mid x).

    Where z is the one that made x, :math:`\mathbb{E}[\tilde p(x) / \hat q(x)] = Z` for every
    target, whatever r, which here is :math:`\mathcal N(\hat z, (I + J^\top J)^{-1})` around the
    most probable latent, found by Gauss and Newton's steps, and some of the prior. Up to that
    share it is exact for affine g. Sobolev and Vetrov 2019, "Importance weighted hierarchical
    variational inference" (section 3).

    Args:
        g: from (m,) to (d,).
        x: a draw.
        z: the latent that made it.
        latents: K.
        key: for the others, independent of z.
    """
    m = z.shape[0]
    first, second, third, fourth = jax.random.split(key, 4)
    log_joint = lambda z: -0.5 * (((x - g(z)) ** 2).sum() + z @ z + (x.shape[0] + m) * LOG_2PI)
    prior = jax.random.normal(first, (latents, m), x.dtype)
    log_prior = lambda z: -0.5 * (z @ z + m * LOG_2PI)
    if x.shape[0] * m > _LARGEST:
        zs, log_r = jnp.concatenate([z[None], prior]), log_prior
    else:
        begin = jax.random.normal(second, (_SEARCHED, m), x.dtype)
        mode, upper = _most_probable(g, log_joint, x, begin)
        noise = jax.random.normal(third, (latents, m), x.dtype)
        near = mode + jax.vmap(lambda e: _solve(upper, e))(noise)
        from_prior = jax.random.bernoulli(fourth, _PRIOR, (latents, 1))
        zs = jnp.concatenate([z[None], jnp.where(from_prior, prior, near)])
        log_scale = jnp.log(jnp.abs(jnp.diagonal(upper))).sum()

        def log_r(z: Array) -> Array:
            scaled = upper @ (z - mode)
            log_near = log_scale - 0.5 * (scaled @ scaled + m * LOG_2PI)
            return jnp.logaddexp(math.log(_PRIOR) + log_prior(z), math.log1p(-_PRIOR) + log_near)

    terms = jax.vmap(lambda z: log_joint(z) - log_r(z))(zs)
    return jax.nn.logsumexp(terms) - math.log(latents + 1)


def _most_probable(
    g: Callable[[Array], Array],
    log_joint: Callable[[Array], Array],
    x: Float[Array, " d"],
    begin: Float[Array, "n m"],
) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """A latent that explains x, and R with R'R = I + J'J there."""
    lengths = 0.5 ** jnp.arange(5.0, dtype=x.dtype)

    def factor(z: Array) -> tuple[Array, Array]:
        jacobian = jax.jacfwd(g)(z)
        precision = jnp.eye(z.shape[0], dtype=z.dtype) + jacobian.T @ jacobian
        return jacobian, jnp.linalg.cholesky(precision).T

    def step(z: Array, _: None) -> tuple[Array, None]:
        jacobian, upper = factor(z)
        slope = jacobian.T @ (x - g(z)) - z
        move = _solve(upper, jax.scipy.linalg.solve_triangular(upper, slope, trans=1))
        tried = jnp.concatenate([z[None], z + lengths[:, None] * move])
        return tried[jnp.argmax(jax.vmap(log_joint)(tried))], None

    best = begin[jnp.argmax(jax.vmap(log_joint)(begin))]
    mode = jax.lax.scan(step, best, None, length=_STEPS)[0]
    return mode, factor(mode)[1]


def _solve(upper: Array, v: Array) -> Array:
    return jax.scipy.linalg.solve_triangular(upper, v)
