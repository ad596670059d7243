"""The loss of a plain autoencoder."""

from typing import Any, ClassVar

import jax
from jaxtyping import Array, Key

from ritz.latent._bound import AbstractRowLoss


class Reconstruction(AbstractRowLoss):
    """See `reconstruction`."""

    density: ClassVar[bool] = False

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        posterior, _ = target.joined(q)

        def one(row: Any, key: Array) -> Array:
            return target.log_likelihood(posterior(row).sample(key), row)

        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        fits = jax.vmap(one)(batch, keys).mean()
        return -fits, {"reconstruction": fits}


def reconstruction() -> Reconstruction:
    r"""The loss of a plain autoencoder, :math:`-\log p\big(x \mid z(x)\big)`, with one z a row.

    Nothing leads encodings to the prior, so that rows are drawn from a density fitted to them: see
    `ex_post`.

    >>> reconstruction().density
    False
    """
    return Reconstruction()
