"""The bound with an observation variance that is not learned, but follows the error."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Key

from ritz._errors import RitzError, whole_number
from ritz.latent._bound import LatentELBO
from ritz.latent._gaussian import Gaussian


class Balanced(LatentELBO):
    """See `balanced`.

    Attributes:
        decay: of the running mean of errors.
    """

    decay: float = eqx.field(static=True, default=0.99)

    def suits(self, target: Any) -> None:
        super().suits(target)
        law = target.likelihood
        if not isinstance(law, Gaussian) or not law.learned:
            raise RitzError(
                f"balanced sets the sd of a Gaussian, but the likelihood is a {type(law).__name__}"
                f"{'' if not isinstance(law, Gaussian) else ' with a fixed sd'}; use gaussian()"
            )

    def revise(
        self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None
    ) -> tuple[Any, Any]:
        """The variance that the error of this batch leads to."""
        encoder, seen = paramax.unwrap((q, target))
        posterior, _ = seen.joined(encoder)
        law = seen.likelihood

        def one(row: Any, key: Array) -> Array:
            z = self.drawn(posterior(row), key)
            means = jax.vmap(lambda z: law.mean(seen.decode(z, row)))(z)
            return (((row["x"] - means) / law.scale) ** 2).mean(axis=0)

        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        error = jax.vmap(one)(batch, keys).mean(axis=0 if law.each else None)
        variance = jnp.exp(2.0 * law.log_sd)
        mixed = self.decay * variance + (1.0 - self.decay) * error
        log_sd = 0.5 * jnp.log(jnp.minimum(variance, mixed))
        return q, eqx.tree_at(lambda t: t.likelihood.log_sd, target, log_sd)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        still = eqx.tree_at(lambda t: t.likelihood.log_sd, target, replace_fn=jax.lax.stop_gradient)
        return super().loss(q, still, key, batch)


def balanced(draws: Any = 1, *, decay: Any = 0.99) -> Balanced:
    r"""The bound for a Gaussian likelihood whose variance is the error that has been reached.

    .. math:: \frac{|x - \hat x|^2}{2\gamma^2} + D\log\gamma
        + \mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big), \qquad
        \gamma^2 \leftarrow \min\big(\gamma^2,\ \rho\,\gamma^2 + (1 - \rho)\,\overline{e^2}\big),

    with :math:`\overline{e^2}` the mean squared error of the batch, by value where the likelihood
    has an sd for each. :math:`\gamma` is a constant to the gradient, so that the divergence keeps
    its share of the loss as reconstructions become better. Asperti and Trentin, "Balancing
    reconstruction error and Kullback-Leibler divergence in variational autoencoders", 2020,
    section 4.

    Args:
        draws: of z, a row.
        decay: :math:`\rho`.

    Raises:
        RitzError: for a number that is out of range; before training, for a likelihood that is no
            Gaussian with a learned sd.

    >>> balanced().revises
    True
    """
    number = isinstance(decay, int | float) and not isinstance(decay, bool)
    if not number or not 0 <= decay < 1:
        raise RitzError(f"balanced: decay={decay!r} arrived, expected a number from 0 to below 1")
    whole_number("draws", draws, 1)
    return Balanced(int(draws), True, jnp.asarray(1.0), 0, 0.0, None, float(decay))
