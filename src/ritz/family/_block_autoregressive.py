"""The block neural autoregressive flow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import StandardNormal
from flowjax.flows import block_neural_autoregressive_flow
from jaxtyping import Array, Float

from ritz.family._flow import Flow
from ritz.family._flow_parts import bisect, check_options, flow, key

_REACH = 4.0  # the interval on which a layer is the identity at first
_LEAK = 0.01  # FlowJAX's activation is tanh(x) + 0.01 x


def bnaf(
    target: Any,
    start: Float[Array, " d"],
    scale: Any = 0.1,
    layers: Any = 2,
    block: Any = 8,
    seed: Any = 0,
) -> Flow:
    r"""Monotone networks, of one coordinate each, that see the coordinates before it.

    .. math:: y_i = f_i(z_i;\, z_{<i}), \qquad \partial f_i / \partial z_i > 0,

    from one network a layer, whose weights within a coordinate's block are positive. Sampling is
    one pass. `log_prob` inverts by bisection of one coordinate after the other, to rounding, at
    some 40 d passes a layer. It starts near the Gaussian of `mean_field`. De Cao, Titov and Aziz
    2019; by FlowJAX.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.
        layers: how many.
        block: hidden units for each coordinate, two or more.
        seed: of the networks' weights and the permutations.

    Raises:
        RitzError: for a scale that is not positive, no layer, or fewer than two units.

    >>> import jax.numpy as jnp
    >>> bnaf(None, jnp.zeros(3), layers=1).dim
    3
    """
    check_options("bnaf", scale, seed, layers=layers, block=block)
    made: Any = block_neural_autoregressive_flow(
        key(seed),
        base_dist=StandardNormal(start.shape),
        nn_depth=1,
        nn_block_dim=block,
        flow_layers=layers,
        invert=False,
        inverter=inverse,
    ).bijection
    options = {"scale": scale, "layers": layers, "block": block, "seed": seed}
    return flow("bnaf", _calm(made, layers, len(start), block), start, **options)


def _calm(made: Any, layers: int, d: int, block: int) -> Any:
    """Each coordinate a sum of evenly spaced tanh of itself, which is nearly the identity."""
    knots = np.linspace(-_REACH, _REACH, block)
    steep = 2.0 / (knots[1] - knots[0]) if block > 1 else 1.0
    steep = min(steep, 1.0)
    slope = steep * (1.0 / np.cosh(steep * knots) ** 2 + _LEAK).sum() / block**0.5
    network = lambda made: _network(made.bijection, d)
    first = lambda made: network(made).layers[0][0]
    last = lambda made: network(made).layers[1][0]
    softplus_inverse = lambda v: float(np.log(np.expm1(v)))
    for where, value in (
        (lambda m: first(m).weight.weight.args[0], 0.0),
        (lambda m: last(m).weight.weight.args[0], 0.0),
        (lambda m: last(m).bias, 0.0),
        (lambda m: first(m).weight.scale.args[0], softplus_inverse(steep)),
        (lambda m: last(m).weight.scale.args[0], softplus_inverse(1.0 / slope)),
    ):
        made = eqx.tree_at(where, made, replace_fn=lambda v, value=value: jnp.full_like(v, value))
    bias = jnp.asarray(np.tile(steep * knots, (layers, d)), first(made).bias.dtype)
    return eqx.tree_at(lambda m: first(m).bias, made, bias)


def _network(layer: Any, d: int) -> Any:
    return (layer if d == 1 else layer[0]).bijection


def inverse(network: Any, y: Float[Array, " d"], condition: Any = None) -> Float[Array, " d"]:
    """The point that a layer takes to y."""

    def solve(i: Any, x: Array) -> Array:
        rises = lambda t: network.transform(x.at[i].set(t), condition)[i] - y[i]

        def widen(bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            return jnp.where(rises(low) > 0, 2.0 * low, low), jnp.where(
                rises(high) < 0, 2.0 * high, high
            )

        outside = lambda b: ((rises(b[0]) > 0) | (rises(b[1]) < 0)) & (b[1] - b[0] < 1e30)
        far = jnp.asarray(8.0, y.dtype)
        low, high = jax.lax.while_loop(outside, widen, (-far, far))
        return x.at[i].set(bisect(rises, low, high))

    return jax.lax.fori_loop(0, len(y), solve, jnp.zeros_like(y))
