r"""Decoders that are functions of a place in the image, as well as of the latent vector."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, positive, whole_number


class Siren(eqx.Module):
    """See `siren`.

    Attributes:
        layers: affine maps, with sines between them.
        frequency: of the first layer.
        shape: of the output.
    """

    layers: tuple[eqx.nn.Linear, ...]
    frequency: float = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.at(places(self.shape[-2:]), z).reshape(self.shape)

    def at(self, where: Float[Array, "n 2"], z: Float[Array, "..."]) -> Float[Array, "c n"]:
        """Channels at any places: rows and columns, from -1 to 1 in the image."""
        first, *rest = self.layers
        split = where.shape[1]
        # The latent vector's part of the first layer is the same at all places.
        h = where @ first.weight[:, :split].T + (first.weight[:, split:] @ z.reshape(-1))
        h = h + jnp.asarray(first.bias)
        for layer in rest:
            h = jax.vmap(layer)(jnp.sin(self.frequency * h))
        return h.T


def places(size: tuple[int, ...]) -> Float[Array, "n 2"]:
    """Middles of the pixels of an image of some height and width, row by row.

    >>> places((2, 2)).tolist()
    [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    """
    axes = [(2.0 * np.arange(k) + 1.0) / k - 1.0 for k in size]
    return jnp.asarray(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2), float)


def siren(*widths: Any, frequency: Any = 30.0) -> Any:
    r"""A decoder of images that is a network of sines of a place and the latent vector.

    .. math:: h_1 = \sin\big(\omega (W_1 [u, z] + b_1)\big), \quad
        h_{i+1} = \sin\big(\omega (W_{i+1} h_i + b_{i+1})\big),

    with one output for each channel, at the middles of pixels; `Siren.at` gives it at any place, so
    that an image may be made as large as one likes. Its size does not depend on the image's; its
    time does. Weights start uniform, of the first layer within 1/n, of others within
    :math:`\sqrt{6/n} / \omega` for n inputs. Sitzmann, Martel, Bergman, Lindell and Wetzstein,
    "Implicit neural representations with periodic activation functions", 2020, section 3.2.

    Args:
        widths: of hidden layers, one at least.
        frequency: :math:`\omega`.

    Raises:
        RitzError: for a width below one or no positive frequency; from the builder, for a shape
            that is no image.

    >>> import jax
    >>> net = siren(32, 32)((4,), (28, 28), jax.random.key(0))
    >>> net(jnp.zeros(4)).shape, net.at(places((56, 56)), jnp.zeros(4)).shape
    ((28, 28), (1, 3136))
    """
    if not widths:
        raise RitzError("siren: no width arrived, expected that of one hidden layer at least")
    for width in widths:
        whole_number("siren", width, 1)
    frequency = positive("siren: frequency", frequency)

    def build(given: tuple[int, ...], wanted: tuple[int, ...], key: Key[Array, ""]) -> Siren:
        if len(wanted) not in (2, 3):
            raise RitzError(
                f"siren: output of shape {wanted} arrived, expected an image, (height, width) or "
                "(channels, height, width); use mlp() for rows of a table"
            )
        inputs = [2 + math.prod(given), *widths]
        outputs = [*widths, wanted[0] if len(wanted) == 3 else 1]
        layers = []
        for i, (n, m) in enumerate(zip(inputs, outputs, strict=True)):
            one, two, three = jax.random.split(jax.random.fold_in(key, i), 3)
            layer = eqx.nn.Linear(n, m, key=one)
            most = math.sqrt(6.0 / n) / frequency if i else 1.0 / n
            spread = lambda key, like, most=most: jax.random.uniform(
                key, like.shape, minval=-most, maxval=most
            )
            new = (spread(two, layer.weight), spread(three, layer.bias))
            layers.append(eqx.tree_at(lambda v: (v.weight, v.bias), layer, new))
        return Siren(tuple(layers), frequency, wanted)

    return build
