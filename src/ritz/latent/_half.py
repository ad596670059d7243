"""Networks whose products are made in half precision."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError


class Half(eqx.Module):
    """A network in bfloat16.

    Attributes:
        network: with parameters in the floating type in use.
    """

    network: Any

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        def low(v: Any) -> Any:
            return v.astype(jnp.bfloat16) if eqx.is_inexact_array(v) else v

        return jax.tree.map(low, self.network)(low(x)).astype(x.dtype)


def half(network: Any) -> Any:
    """A builder of a network that computes in bfloat16 where there is a GPU or TPU.

    On a CPU, where that is slower, it is the network as it was.

    Parameters, their gradients and Adam's averages stay in the floating type in use, and so does
    everything outside the network: the likelihood, divergences and draws. bfloat16 has the range
    of float32, so that losses need no scaling. Micikevicius, Narang, Alben and others, "Mixed
    precision training", 2018, section 3.1.

    Args:
        network: a builder, such as `mlp(400)`.

    Raises:
        RitzError: for no builder.

    >>> from ritz.latent import mlp
    >>> half(mlp(16))((8,), (4,), jax.random.key(0))(jnp.zeros(8)).dtype
    dtype('float32')
    """
    if isinstance(network, eqx.Module) or not callable(network):
        raise RitzError(
            f"half: {type(network).__name__} arrived, expected a builder such as mlp(64)"
        )

    def build(inputs: Any, outputs: Any, key: Key[Array, ""]) -> Any:
        made: Any = network(inputs, outputs, key)
        return Half(made) if jax.default_backend() != "cpu" else made

    return build
