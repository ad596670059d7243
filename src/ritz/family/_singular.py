"""The singular values of a function's derivative, from products with it alone."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

# Products with J'J. A basis that fills the space makes the value exact.
ITERATIONS = 16


def log_det_one_plus(
    g: Callable[[Array], Array], z: Float[Array, " m"], d: int
) -> Float[Array, ""]:
    r""":math:`\log\det(I + JJ^\top)` with J the derivative of g at z, from all of it.

    By the Cholesky factor of :math:`I + J^\top J` with its diagonal scaled to one. (A triangular
    factor of J itself would keep more digits, and takes LAPACK up to a hundred times longer.)

    Args:
        g: from (m,) to (d,).
        z: where.
        d: the length of g's value.
    """
    tall = jax.jacfwd(g)(z) if z.shape[0] <= d else jax.jacrev(g)(z).T
    gram = jnp.eye(tall.shape[1], dtype=z.dtype) + tall.T @ tall
    diagonal = jnp.diagonal(gram)
    lower = jnp.linalg.cholesky(gram / jnp.sqrt(diagonal[:, None] * diagonal))
    return jnp.log(diagonal).sum() + 2.0 * jnp.log(jnp.diagonal(lower)).sum()


def smallest_singular_value(
    of: Callable[[Any], Callable[[Array], Array]],
    parameters: Any,
    z: Float[Array, " m"],
    d: int,
    key: Key[Array, ""],
) -> Float[Array, ""]:
    r"""The smallest singular value of the derivative J of a function at z, to be differentiated.

    Lanczos' iteration on :math:`J^\top J` (on :math:`JJ^\top` where m > d), orthogonalised in full,
    finds the singular vector v; exact after min(m, d) products, from above before. By Danskin's
    theorem :math:`s = \|Jv\|` then has the right derivative with v held constant, so that nothing
    of the iteration is kept for it.

    Args:
        of: from parameters to a function from (m,) to (d,).
        parameters: what the value is differentiated in, with z.
        z: where.
        d: the length of the function's value.
        key: of the first vector.

    Returns:
        s.
    """
    held, at = jax.tree.map(_constant, (parameters, z))
    out, back = jax.linearize(of(held), at)[1], jax.vjp(of(held), at)[1]
    wide = z.shape[0] > d
    gram = lambda v: out(*back(v)) if wide else back(out(v))[0]
    v = _least_vector(gram, min(z.shape[0], d), key, z.dtype)
    if wide:
        return jnp.linalg.norm(jax.vjp(of(parameters), z)[1](v)[0])
    return jnp.linalg.norm(jax.jvp(of(parameters), (z,), (v,))[1])


def _least_vector(
    gram: Callable[[Array], Array], n: int, key: Key[Array, ""], dtype: Any
) -> Float[Array, " n"]:
    """The eigenvector of the least eigenvalue of a symmetric matrix, by Rayleigh and Ritz."""
    k = min(n, ITERATIONS)
    fresh = jax.random.normal(key, (k, n), dtype)

    def step(i: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, images = carry
        last = images[i - 1]
        # Where the last product left the span by rounding alone, a fresh direction goes on.
        v = _without(last, basis)
        v = jnp.where(jnp.linalg.norm(v) > 1e-4 * jnp.linalg.norm(last), v, fresh[i])
        v = _without(_without(v, basis), basis)
        v = v / jnp.linalg.norm(v)
        return basis.at[i].set(v), images.at[i].set(gram(v))

    first = fresh[0] / jnp.linalg.norm(fresh[0])
    empty = jnp.zeros((k, n), dtype)
    begun = (empty.at[0].set(first), empty.at[0].set(gram(first)))
    basis, images = jax.lax.fori_loop(1, k, step, begun)
    small = basis @ images.T
    vectors = jnp.linalg.eigh(0.5 * (small + small.T))[1]
    v = vectors[:, 0] @ basis
    return v / jnp.linalg.norm(v)


def _constant(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf


def _without(v: Array, basis: Array) -> Array:
    return v - basis.T @ (basis @ v)
