"""Inducing inputs: the rows that tell most of the others."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ritz.gp._factor import CLOSE

# Rows that are looked at, at most; of more, as many at random.
_LOOKED_AT = 20_000


def greedy_variance(kernel: Any, x: np.ndarray, m: int, seed: int = 0) -> np.ndarray:
    r"""Rows, each of the largest variance given those before it.

    These are the pivots of the Cholesky factorisation of the kernel's matrix, in time of order
    :math:`nm^2`: few rows in clusters, and one near each row that is far from others. Burt,
    Rasmussen and van der Wilk, "Convergence of sparse variational inference in Gaussian processes
    regression", 2020, section 4.

    Args:
        kernel: whose variance it is.
        x: rows.
        m: how many to take.
        seed: of the rows that are looked at, where there are more than 20,000.

    Returns:
        some of the rows, fewer than m where the others are told without error.
    """
    if len(x) > _LOOKED_AT:
        x = x[np.random.default_rng(seed).choice(len(x), _LOOKED_AT, replace=False)]
    order, left = _pivots(kernel, jnp.asarray(x, float), m)
    told = np.asarray(left) > CLOSE * np.finfo(left.dtype).eps * float(left[0])
    return x[np.asarray(order)[told]]


@eqx.filter_jit
def _pivots(
    kernel: Any, x: Float[Array, "n d"], m: int
) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    """The first pivots, and the variance of each before it was taken."""

    def step(carry: Any, i: Any) -> Any:
        left, rows = carry
        pivot = jnp.argmax(left)
        most = left[pivot]
        column = kernel.matrix(x[pivot][None], x)[0] - rows[:, pivot] @ rows
        row = column / jnp.sqrt(jnp.maximum(most, jnp.finfo(x.dtype).tiny))
        left = jnp.maximum(left - row**2, 0.0).at[pivot].set(0.0)
        return (left, rows.at[i].set(row)), (pivot, most)

    first = (kernel.diagonal(x), jnp.zeros((m, len(x)), x.dtype))
    return jax.lax.scan(step, first, jnp.arange(m))[1]
