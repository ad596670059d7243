"""Encoders and decoders: functions of the shapes of input and output, that make Equinox modules."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number

Shape = tuple[int, ...]
Builder = Callable[[Shape, Shape, Key[Array, ""]], eqx.Module]


class Dense(eqx.Module):
    """Layers between arrays of any shapes.

    Attributes:
        layers: affine maps.
        activation: between them.
        shape: of the output.
        skip: whether hidden layers of equal width add to what they are given.
    """

    layers: tuple[eqx.nn.Linear, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)
    skip: bool = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        # From the left: of many rows side by side this is one product in the order of memory.
        affine = lambda layer, h: h @ layer.weight.T + layer.bias
        h = x.reshape(-1)
        for layer in self.layers[:-1]:
            new = self.activation(affine(layer, h))
            h = h + new if self.skip and new.shape == h.shape else new
        return affine(self.layers[-1], h).reshape(self.shape)


class Convolutional(eqx.Module):
    """Convolutions that halve an image, and an affine map of what is left.

    Attributes:
        layers: convolutions.
        last: the affine map.
        shape: of the output.
    """

    layers: tuple[eqx.nn.Conv2d, ...]
    last: eqx.nn.Linear
    shape: Shape = eqx.field(static=True)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        h = x if x.ndim == 3 else x[None]
        for layer in self.layers:
            h = jax.nn.gelu(layer(h))
        return self.last(h.reshape(-1)).reshape(self.shape)


class Transposed(eqx.Module):
    """An affine map to a small image, and convolutions that double it.

    Attributes:
        first: the affine map.
        layers: convolutions; each sees the image of the last one, every pixel fourfold.
        small: channels, height and width of the small image.
        shape: of the output.
    """

    first: eqx.nn.Linear
    layers: tuple[eqx.nn.Conv2d, ...]
    small: Shape = eqx.field(static=True)
    shape: Shape = eqx.field(static=True)

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        height, width = self.shape[-2:]
        h = self.first(z.reshape(-1)).reshape(self.small)
        for layer in self.layers:
            h = layer(jnp.repeat(jnp.repeat(jax.nn.gelu(h), 2, 1), 2, 2))
        return h[:, :height, :width].reshape(self.shape)


def mlp(*hidden: Any, activation: Callable[[Array], Array] = jax.nn.gelu) -> Builder:
    """Layers of these widths between input and output; none is an affine map.

    Args:
        hidden: widths.
        activation: between layers.

    Raises:
        RitzError: for a width below one.

    >>> import jax
    >>> net = mlp(400)((28, 28), (20,), jax.random.key(0))
    >>> net(jax.numpy.zeros((28, 28))).shape
    (20,)
    """
    return _dense("mlp", hidden, activation, skip=False)


def residual(*hidden: Any, activation: Callable[[Array], Array] = jax.nn.gelu) -> Builder:
    """As `mlp`; a hidden layer as wide as the one before adds to it.

    Raises:
        RitzError: for a width below one.

    >>> import jax
    >>> residual(64, 64, 64)((5,), (2,), jax.random.key(0)).skip
    True
    """
    return _dense("residual", hidden, activation, skip=True)


def convolutional(*channels: Any) -> Builder:
    """Convolutions of images (height, width) or (channels, height, width).

    From an image to numbers each halves it (4 x 4, stride 2); from numbers to an image each
    doubles it, in the reverse order.

    Args:
        channels: of each layer, from the image on; 32 and 64 by default.

    Raises:
        RitzError: for a number of channels below one; from the builder, for shapes without an
            image among them.

    >>> import jax
    >>> net = convolutional(8, 16)((28, 28), (20,), jax.random.key(0))
    >>> net(jax.numpy.zeros((28, 28))).shape
    (20,)
    >>> back = convolutional(8, 16)((20,), (28, 28), jax.random.key(0))
    >>> back(jax.numpy.zeros(20)).shape
    (28, 28)
    """
    channels = channels or (32, 64)
    for width in channels:
        whole_number("convolutional", width, 1)

    def build(given: Shape, wanted: Shape, key: Key[Array, ""]) -> eqx.Module:
        if len(given) in (2, 3) and len(wanted) == 1:
            return _down(channels, given, wanted, key)
        if len(wanted) in (2, 3) and len(given) == 1:
            return _up(channels, given, wanted, key)
        raise RitzError(
            f"convolutional: shapes {given} and {wanted} arrived, expected one image, (height, "
            "width) or (channels, height, width), and numbers; use mlp() for rows of a table"
        )

    return build


def built(what: str, network: Any, given: Shape, wanted: Shape, key: Key[Array, ""]) -> Any:
    """A network between two shapes: from a builder, or a finished module whose shapes fit.

    Raises:
        RitzError: saying which shape arrived, before anything is trained.
    """
    module: Any = network
    if not isinstance(network, eqx.Module):
        if not callable(network):
            raise RitzError(
                f"{what} arrived as {type(network).__name__}, expected an Equinox module, or a "
                "builder such as ritz.latent.mlp(400)"
            )
        module = network(given, wanted, key)
    try:
        found = jax.eval_shape(module, jax.ShapeDtypeStruct(given, jnp.zeros(()).dtype)).shape
    except RitzError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:120]
        raise RitzError(
            f"the {what} fails for an input of shape {given}: {type(error).__name__}: {line}"
        ) from error
    if found != wanted:
        raise RitzError(
            f"the {what} turns shape {given} into {found}, expected {wanted}; change its last layer"
        )
    return module


def _dense(name: str, hidden: Sequence[Any], activation: Any, skip: bool) -> Builder:
    for width in hidden:
        whole_number(name, width, 1)

    def build(given: Shape, wanted: Shape, key: Key[Array, ""]) -> eqx.Module:
        sizes = [math.prod(given), *map(int, hidden), math.prod(wanted)]
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = zip(sizes[:-1], sizes[1:], keys, strict=True)
        layers = tuple(eqx.nn.Linear(a, b, key=k) for a, b, k in pairs)
        return Dense(layers, activation, wanted, skip)

    return build


def _down(channels: Sequence[int], given: Shape, wanted: Shape, key: Any) -> Convolutional:
    *keys, last = jax.random.split(key, len(channels) + 1)
    before, height, width = (1, *given) if len(given) == 2 else given
    layers = []
    for many, k in zip(channels, keys, strict=True):
        layers.append(eqx.nn.Conv2d(before, many, 4, 2, padding=1, key=k))
        before, height, width = many, height // 2, width // 2
    if not height * width:
        raise RitzError(
            f"convolutional: an image of shape {given} is halved {len(channels)} times, to "
            "nothing; use fewer layers"
        )
    flat = eqx.nn.Linear(before * height * width, math.prod(wanted), key=last)
    return Convolutional(tuple(layers), flat, wanted)


def _up(channels: Sequence[int], given: Shape, wanted: Shape, key: Any) -> Transposed:
    first, *keys = jax.random.split(key, len(channels) + 1)
    out, height, width = (1, *wanted) if len(wanted) == 2 else wanted
    times = 2 ** len(channels)
    small = (channels[-1], -(-height // times), -(-width // times))
    ways = [*reversed(channels), out]
    layers = tuple(
        eqx.nn.Conv2d(a, b, 3, padding=1, key=k)
        for a, b, k in zip(ways[:-1], ways[1:], keys, strict=True)
    )
    return Transposed(
        eqx.nn.Linear(math.prod(given), math.prod(small), key=first), layers, small, wanted
    )
