"""The Gaussian of low rank plus diagonal that is nearest to one with a given precision."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.family import LowRank

_ROUNDS, _NEWTON = 300, 8


def low_rank_of(
    loc: Float[Array, " d"],
    scale: Float[Array, " d"],
    factor: Float[Array, "d r"],
    precision: Float[Array, "d d"],
) -> LowRank:
    r"""The family's member that minimises the divergence from it to :math:`\mathcal N(m, P^{-1})`.

    .. math:: 2\,\mathrm{KL} = \mathrm{tr}\,P S(I + WW^\top)S - \log\det S^2
        - \log\det(I + W^\top W) + \text{const}

    is minimised in turn over W, by the eigenvectors of SPS with the r smallest eigenvalues
    :math:`\mu < 1`, along which :math:`1 + w^2 = 1/\mu`; and over the diagonal of S, of which it is
    a convex function, by Newton's method. Each round lowers it.

    Args:
        loc: m.
        scale: in whose units P is given; S is a multiple of it.
        factor: of the first S: only its shape is read.
        precision: SPS for S of `scale`, positive definite.
    """
    rank = factor.shape[1]
    d = loc.shape[0]

    def directions(t: Array) -> Array:
        values, vectors = jnp.linalg.eigh(precision * t[:, None] * t)
        excess = 1.0 / jnp.maximum(values[:rank], jnp.finfo(values.dtype).tiny) - 1.0
        return vectors[:, :rank] * jnp.sqrt(jnp.maximum(excess, 0.0))

    def sizes(t: Array, w: Array) -> Array:
        # t'At/2 - sum(log t): self-concordant, so that damped steps always arrive.
        a = precision * (jnp.eye(d, dtype=t.dtype) + w @ w.T)

        def newton(_: Any, t: Array) -> Array:
            slope = a @ t - 1.0 / t
            step = jnp.linalg.solve(a + jnp.diag(1.0 / t**2), slope)
            decrement = jnp.sqrt(jnp.maximum(slope @ step, 0.0))
            return t - step / (1.0 + decrement)

        return jax.lax.fori_loop(0, _NEWTON, newton, t)

    def turn(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        i, t, w, _ = carry
        new = sizes(t, w)
        return i + 1, new, directions(new), jnp.abs(jnp.log(new / t)).max()

    def more(carry: tuple[Array, Array, Array, Array]) -> Array:
        i, _, _, change = carry
        return (i < _ROUNDS) & (change > jnp.finfo(loc.dtype).eps ** 0.5)

    t = 1.0 / jnp.sqrt(jnp.diagonal(precision))
    if rank == d:  # every Gaussian is in the family: a scale below all others shows it whole
        t = t / jnp.sqrt(jnp.linalg.eigvalsh(precision * t[:, None] * t)[-1])
        return LowRank(loc, jnp.log(scale * t), directions(t))
    # From the conditional scales: where S is far from them the factors take its place, and stay.
    start = (jnp.zeros((), int), t, directions(t), jnp.ones_like(t[0]))
    _, t, w, _ = jax.lax.while_loop(more, turn, start)
    return LowRank(loc, jnp.log(scale * t), w)
