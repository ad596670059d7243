"""Amortised posteriors: what a network says of a row's latent vector."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.family import AbstractAmortised, MeanField

# Log sds stay within these of zero, so that nothing overflows.
_WIDEST = 8.0


class Encoder(AbstractAmortised):
    r"""A Gaussian with independent coordinates whose moments a network reads off a row.

    .. math:: q(z \mid x) = \mathcal{N}\big(m(x),\ \mathrm{diag}\,e^{2 s(x)}\big).

    Attributes:
        network: from a standardised row to the means and log sds.
        shift: of rows.
        scale: of rows.
        latent: d.
    """

    network: Any
    shift: Any
    scale: Any
    latent: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.latent

    def standard(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """A row in the network's units."""
        return (x - self.shift) / self.scale

    def condition(self, data: Any) -> MeanField:
        loc, log_scale = jnp.split(self.network(self.standard(data["x"])), 2)
        return MeanField(loc, _WIDEST * jnp.tanh(log_scale / _WIDEST))
