"""What solvers of Gaussian families share."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError
from ritz.family import FullRank


def full_rank_of(loc: Float[Array, " d"], root: Float[Array, "d k"]) -> FullRank:
    r"""The full-rank Gaussian with mean `loc` and covariance :math:`FF^\top`, for any root F."""
    # R from F' = QR has R'R = FF': the Cholesky factor without forming the covariance.
    lower = jnp.linalg.qr(root.T, mode="r").T
    diagonal = jnp.diagonal(lower)
    lower = lower * jnp.sign(diagonal)
    return FullRank(
        loc=loc,
        log_scale=jnp.log(jnp.abs(diagonal)),
        lower=jnp.tril(lower / jnp.abs(diagonal)[:, None], -1),
    )


def needs_all_data(solver: Any, batch: Any) -> None:
    """Refuse batches where a solver compares the log density at different steps.

    Raises:
        RitzError: naming a solver that takes them.
    """
    if batch is not None:
        raise RitzError(
            f"{type(solver).__name__} compares log densities of all the data, but the data arrive "
            "in batches; use ritz.solver.adam(), or pass them whole"
        )
