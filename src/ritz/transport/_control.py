"""The drift that a diffusion sampler learns."""

import math
import numbers
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError

# Frequencies of the time features, and the largest entry of a score, in units of the scale.
_FREQUENCIES = 4
_LARGEST = 100.0
# Networks move a tenth as far as other parameters at one learning rate.
UNIT = 0.1


class Control(eqx.Module):
    r"""A drift :math:`u(t, z) = f(t, z) + g(t) \odot s(z)`, zero at first.

    f is a network with two hidden layers, g a linear function of the features of time, and s the
    clipped score. Zhang and Chen 2022, "Path integral sampler" (section 3.3), use this form.

    Attributes:
        network: f, of position and features of time.
        gain: g, of features of time.
    """

    network: eqx.nn.MLP
    gain: eqx.nn.Linear

    def __init__(self, dim: int, width: int, key: Any) -> None:
        """A control of `dim` dimensions, with hidden layers of `width` units."""
        features = 1 + 2 * _FREQUENCIES
        network = eqx.nn.MLP(dim + features, dim, width, 2, jax.nn.gelu, key=key)
        gain = eqx.nn.Linear(features, dim, key=key)
        self.network = _zero(network, lambda m: (m.layers[-1].weight, m.layers[-1].bias))
        self.gain = _zero(gain, lambda m: (m.weight, m.bias))

    def __call__(
        self, t: Float[Array, ""], z: Float[Array, " d"], score: Float[Array, " d"]
    ) -> Float[Array, " d"]:
        """The drift at a time from 0 to 1, a standardised position and a score there."""
        waves = 2.0 * math.pi * t * jnp.arange(1, _FREQUENCIES + 1, dtype=t.dtype)
        time = jnp.concatenate([t[None] - 0.5, jnp.sin(waves), jnp.cos(waves)])
        return self.network(jnp.concatenate([z, time])) + self.gain(time) * score


def clipped(score: Float[Array, " d"]) -> Float[Array, " d"]:
    """A score whose entries are at most 100 in size, so that no step leaves for infinity."""
    return jnp.clip(score, -_LARGEST, _LARGEST)


def scale_of(name: str, value: Any) -> float:
    """A scale as a number.

    Raises:
        RitzError: for one that is not positive.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0.0 < float(value) < math.inf:
        raise RitzError(
            f"{name}: scale={value!r} arrived, expected a positive number, about the target's "
            "standard deviation in unconstrained space"
        )
    return float(value)


def _zero(module: Any, where: Any) -> Any:
    return eqx.tree_at(where, module, tuple(map(jnp.zeros_like, where(module))))
