"""Cholesky factors of covariances that rounding may have spoilt."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# How often what is added to the diagonal is tried at ten times its size.
_LEVELS = 7
# Roundings that are added where inducing inputs are close: few enough not to matter, and many
# enough that the next try, which makes a jump in the evidence, is not needed.
CLOSE = 100.0


def factor(
    k: Float[Array, "n n"], roundings: float = 10.0
) -> tuple[Float[Array, "n n"], Float[Array, ""]]:
    r"""L with :math:`LL^\top = K + \epsilon I`, and :math:`\epsilon`.

    The jitter is the first of 1, 10, 100, … times so many roundings of the mean variance for which
    there is a
    factor, so that rows that are nearly the same do no harm; where there is none the factor is
    not a number. Gradients pass through the factor, not through the jitter.

    >>> import jax.numpy as jnp
    >>> lower, jitter = factor(jnp.ones((2, 2)))
    >>> bool(jnp.isfinite(lower).all()), 0 < float(jitter) < 1e-4
    (True, True)
    """
    fixed = jax.lax.stop_gradient(k)
    eye = jnp.eye(len(k), dtype=k.dtype)
    unit = roundings * jnp.finfo(k.dtype).eps * jnp.diagonal(fixed).mean()
    fails = lambda i: ~jnp.isfinite(jnp.linalg.cholesky(fixed + unit * 10.0**i * eye)).all()
    level = jax.lax.while_loop(
        lambda i: (i < _LEVELS) & fails(i), lambda i: i + 1, jnp.zeros((), int)
    )
    jitter = unit * 10.0**level
    return jnp.linalg.cholesky(k + jitter * eye), jitter


def solve(
    lower: Float[Array, "n n"], b: Float[Array, "n ..."], *, transposed: bool = False
) -> Float[Array, "n ..."]:
    """The inverse of a factor, or of its transpose, times b."""
    return jax.scipy.linalg.solve_triangular(lower, b, lower=True, trans=int(transposed))
