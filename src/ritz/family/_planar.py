"""The planar flow."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import NumericalInverse, Planar
from jaxtyping import Array, Float

from ritz.family._flow import Flow
from ritz.family._flow_parts import bisect, check_options, flow, stack

# FlowJAX moves along u + (m(w'u) - w'u) w / |w|^2, with m(a) = -1 + log(1 + softplus(a)); m is
# zero here, and so is that vector where u is this multiple of w / |w|^2.
_STILL = float(np.log(np.expm1(np.expm1(1.0))))


def planar(
    target: Any, start: Float[Array, " d"], scale: Any = 0.1, layers: Any = 16, seed: Any = 0
) -> Flow:
    r"""Layers that bend space across parallel planes.

    .. math:: f(z) = z + u \tanh(w^\top z + b), \qquad w^\top u \ge -1, \qquad
        \log|\det| = \log\bigl(1 + (1 - \tanh^2(w^\top z + b))\, w^\top u\bigr).

    A layer costs O(d). It has no formula for its inverse, but :math:`w^\top f(z)` grows with
    :math:`w^\top z`, so that `log_prob` finds the one number that is needed by bisection, to
    rounding. It starts as the Gaussian of `mean_field`. Rezende and Mohamed 2015 (equation 10).

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.
        layers: K.
        seed: of the initial planes.

    Raises:
        RitzError: for a scale that is not positive, or no layer.

    >>> import jax.numpy as jnp
    >>> planar(None, jnp.zeros(3), layers=4).dim
    3
    """
    check_options("planar", scale, seed, layers=layers)

    def layer(key: Array) -> Any:
        return NumericalInverse(still(Planar(key, dim=len(start)), key), inverse)

    return flow("planar", stack(layer, layers, seed), start, scale=scale, layers=layers, seed=seed)


def still(layer: Planar, key: Array) -> Planar:
    """With planes through where a standard normal has its mass, and no movement yet."""
    d = layer.shape[0]
    draw = jax.random.normal(key, (d + 1,))
    w, b = draw[:d], draw[d]
    w = w / jnp.linalg.norm(w)
    return eqx.tree_at(lambda p: p.params, layer, jnp.concatenate([w, _STILL * w, b[None]]))


def inverse(layer: Any, y: Float[Array, " d"], condition: Any = None) -> Float[Array, " d"]:
    """The point that a layer takes to y."""
    plane = layer.get_planar(condition)
    w, u = plane.weight, plane.get_act_scale()
    steep, height = w @ u, w @ y + plane.bias
    reach = jnp.abs(steep)
    t = bisect(lambda t: t + steep * jnp.tanh(t) - height, height - reach, height + reach)
    return y - u * jnp.tanh(t)
