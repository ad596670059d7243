r"""A bound whose divergence is led along a schedule."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Key

from ritz._errors import positive, whole_number
from ritz.latent._bound import AbstractRowLoss, elbo


class LatentCapacity(AbstractRowLoss):
    r"""See `capacity`.

    Attributes:
        most: nats that the divergence is led to.
        rise: over how many steps.
        gamma: the weight.
        step: where the run is.
    """

    most: Any
    rise: int = eqx.field(static=True)
    gamma: Any
    step: Any = None

    @property
    def changes(self) -> bool:
        return True

    def at(self, step: Any) -> "LatentCapacity":
        return dataclasses.replace(self, step=step)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        fits, each = elbo().means(q, target, key, batch)
        kl = each.sum()
        figures = {"elbo": fits - kl, "reconstruction": fits, "kl": kl}
        if len(each) > 1:  # where the prior's coordinates are independent, or a hierarchy's levels
            figures |= {f"kl {i}": v for i, v in enumerate(each)}
        reached = 1.0 if self.step is None else jnp.minimum(1.0, self.step / self.rise)
        led = self.most * reached
        return self.gamma * jnp.abs(kl - led) - fits, figures | {"capacity": led}


def capacity(most: Any = 25.0, rise: Any = 10_000, *, gamma: Any = 100.0) -> LatentCapacity:
    r"""A loss under which the latents' divergence follows a line.

    .. math:: -\mathbb{E}_{q(z \mid x)} \log p(x \mid z)
        + \gamma\,\Big|\mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big) - C_t\Big|,
        \qquad C_t = C \min(1, t / T),

    with means over a batch, the divergence in closed form where there is one. A fit's history has
    the capacity and the divergence, `kl`, by step, and that of each latent: `kl 0`, `kl 1` and so
    on. Burgess, Higgins, Pal, Matthey, Watters, Desjardins and Lerchner, "Understanding
    disentangling in β-VAE", 2018, equation 8.

    Args:
        most: C, in nats.
        rise: T, in steps.
        gamma: the weight.

    Raises:
        RitzError: for a number that is not positive.

    >>> capacity(20.0, 100).at(50).rise
    100
    """
    for name, value in (("most", most), ("gamma", gamma)):
        positive(f"capacity: {name}", value)
    whole_number("rise", rise, 1)
    return LatentCapacity(jnp.asarray(float(most)), int(rise), jnp.asarray(float(gamma)))
