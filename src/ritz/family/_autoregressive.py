"""Autoregressive affine flows, in the direction that samples fast and in the one that scores."""

from typing import Any

import jax
from flowjax.distributions import StandardNormal
from flowjax.flows import masked_autoregressive_flow
from jaxtyping import Array, Float

from ritz.family._coupling import affine
from ritz.family._flow import Flow
from ritz.family._flow_parts import check_dim, check_options, conditioned, flow, zeroed


def iaf(
    target: Any,
    start: Float[Array, " d"],
    scale: Any = 0.1,
    layers: Any = 4,
    width: Any = 64,
    seed: Any = 0,
) -> Flow:
    r"""Layers in which each coordinate is scaled and shifted by the noise of those before it.

    .. math:: y_i = s_i(z_{<i})\, z_i + t_i(z_{<i}), \qquad \log|\det| = \sum_i \log s_i(z_{<i}),

    from one masked network a layer, with the coordinates permuted between layers. Sampling is one
    pass; `log_prob` inverts exactly, but takes d passes a layer. It starts as the Gaussian of
    `mean_field`. Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling 2016; by FlowJAX.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.
        layers: how many.
        width: units of each network's hidden layer, at least d - 1.
        seed: of the networks' weights and the permutations.

    Raises:
        RitzError: for one dimension, a scale that is not positive, or no layer or unit.

    >>> import jax.numpy as jnp
    >>> iaf(None, jnp.zeros(3), layers=2, width=8).dim
    3
    """
    return _autoregressive("iaf", start, scale, layers, width, seed, invert=False)


def maf(
    target: Any,
    start: Float[Array, " d"],
    scale: Any = 0.1,
    layers: Any = 4,
    width: Any = 64,
    seed: Any = 0,
) -> Flow:
    r"""Layers in which each coordinate is scaled and shifted by the values of those before it.

    .. math:: y_i = (z_i - t_i(y_{<i})) / s_i(y_{<i}), \qquad
        \log|\det| = -\sum_i \log s_i(y_{<i}).

    The inverse of `iaf`: `log_prob` is one pass, and sampling takes d passes a layer, which is slow
    to train with draws above some ten dimensions. It starts as the Gaussian of `mean_field`.
    Papamakarios, Pavlakou and Murray 2017; by FlowJAX.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.
        layers: how many.
        width: units of each network's hidden layer, at least d - 1.
        seed: of the networks' weights and the permutations.

    Raises:
        RitzError: for one dimension, a scale that is not positive, or no layer or unit.

    >>> import jax.numpy as jnp
    >>> maf(None, jnp.zeros(3), layers=2, width=8).dim
    3
    """
    return _autoregressive("maf", start, scale, layers, width, seed, invert=True)


def _autoregressive(
    name: str, start: Any, scale: Any, layers: Any, width: Any, seed: Any, *, invert: bool
) -> Flow:
    check_options(name, scale, seed, layers=layers, width=width)
    check_dim(name, start)
    transformer = affine()

    def make(key: Array) -> Any:
        return masked_autoregressive_flow(
            key,
            base_dist=StandardNormal(start.shape),
            transformer=transformer,
            flow_layers=layers,
            nn_width=max(width, len(start)),  # fewer could not tell all coordinates apart
            nn_activation=jax.nn.silu,
            invert=invert,
        ).bijection

    layer = lambda made: (made.bijection if invert else made).bijection[0]
    last = lambda made: layer(made).masked_autoregressive_mlp.layers[-1]
    made = conditioned(make, layer, transformer, seed)
    weight, bias = lambda made: last(made).weight.args[1], lambda made: last(made).bias
    layered = zeroed(made, weight, bias)
    options = {"scale": scale, "layers": layers, "width": width, "seed": seed}
    return flow(name, layered, start, **options)
