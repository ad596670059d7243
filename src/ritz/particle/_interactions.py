"""What particles do to one another, in rows of the kernel's matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.particle._kernels import AbstractKernel, Adaptive

# Entries of the kernel's matrix that are there at once: memory is linear in particles.
_AT_ONCE = 4_000_000


def by_rows(n: int, one: Callable[[Any], Any], rows: Any) -> Any:
    """A function of some rows of particles, for all of them, so many at once as memory allows."""
    size = max(1, _AT_ONCE // n)
    if size >= n:
        return one(rows)
    pieces = -(-n // size)
    size = -(-n // pieces)
    pad = lambda v: jnp.concatenate([v, jnp.repeat(v[-1:], pieces * size - n, axis=0)])
    cut = jax.tree.map(lambda v: pad(v).reshape(pieces, size, *v.shape[1:]), rows)
    out = jax.lax.map(one, cut)
    return jax.tree.map(lambda v: v.reshape(pieces * size, *v.shape[2:])[:n], out)


def squared(x: Float[Array, "r d"], y: Float[Array, "n d"]) -> Float[Array, "r n"]:
    """Squared distances, of points whose mean is near zero."""
    far = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2.0 * x @ y.T
    return jnp.maximum(far, 0.0)


def stein_step(
    x: Float[Array, "n d"], s: Float[Array, "n d"], kernel: AbstractKernel
) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    r"""Stein's direction of each particle, and the squared kernel Stein discrepancy.

    .. math:: \phi(x_i) = \frac1n\sum_j k(x_j, x_i)\,s_j + \nabla_{x_j} k(x_j, x_i), \qquad
        \mathrm{KSD}^2 = \frac1n\sum_i s_i^\top\phi(x_i) + \nabla\cdot\phi(x_i).

    Args:
        x: particles.
        s: scores at them.
        kernel: k.
    """
    x = x - x.mean(axis=0)
    h2 = kernel.squared_scale(x)
    if not isinstance(kernel, Adaptive):
        return _at(x, s, kernel, h2)
    slope, d = kernel.of(jnp.zeros((), x.dtype))[1], x.shape[1]
    own = (s**2).sum(axis=1).mean()

    def with_others(c: Array) -> tuple[Array, Array, Array]:
        phi, value = _at(x, s, kernel, c**2 * h2)
        # What a particle does to itself grows as scales fall, and says nothing.
        return phi, value, value - (own - 2.0 * d * slope / (c**2 * h2)) / len(x)

    phis, values, told = jax.lax.map(with_others, kernel.factors.astype(x.dtype))
    best = jnp.argmax(told)
    return phis[best], values[best]


def _at(x: Array, s: Array, kernel: AbstractKernel, h2: Array) -> tuple[Array, Array]:
    n, d = x.shape
    squares, ones = (x**2).sum(axis=1)[:, None], jnp.ones((n, 1), x.dtype)
    points = jnp.concatenate([x, ones], 1)
    everything = jnp.concatenate([s, x, ones, squares], 1)

    def some(rows: tuple[Array, Array]) -> tuple[Array, Array]:
        z, t = rows
        u = squared(z, x) / h2
        k, slope, curve = kernel.of(u)
        if kernel.proportional is None:
            driven, turned, curved = k @ s, slope @ points, (curve * u).sum(axis=1)
        else:  # one product of matrices, and one look at the kernel's
            summed, c = k @ everything, kernel.proportional
            driven, turned, far = summed[:, :d], c * summed[:, d:-1], summed[:, -1]
            far = far + ((z**2).sum(axis=1) * turned[:, -1] - 2.0 * (z * turned[:, :d]).sum(1)) / c
            curved = c**2 * far / h2
        of_points, of_ones = turned[:, :d], turned[:, -1]  # sums over j of κ' x_j and κ'
        repelled = (2.0 / h2) * (of_points - z * of_ones[:, None])
        # The divergence: of s_j · ∇_i k, whose sum is that of s_i · repelled_i as k is symmetric,
        # and of tr ∇_i ∇_j k.
        trace = -(2.0 * d / h2) * of_ones - (4.0 / h2) * curved
        return (driven + repelled) / n, ((t * (driven + 2.0 * repelled)).sum(axis=1) + trace) / n

    phi, value = by_rows(n, some, (x, s))
    return phi, value.mean()
