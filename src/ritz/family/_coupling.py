"""Coupling flows: affine, and rational-quadratic splines."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import (
    AbstractBijection,
    Affine,
    Chain,
    RationalQuadraticSpline,
    Scan,
    Vmap,
)
from flowjax.distributions import StandardNormal
from flowjax.flows import coupling_flow
from jaxtyping import Array, Float
from paramax import Parameterize

from ritz._errors import RitzError
from ritz.family._flow import Flow
from ritz.family._flow_parts import check_dim, check_options, conditioned, flow, stack, zeroed


def coupling(
    target: Any,
    start: Float[Array, " d"],
    scale: Any = 0.1,
    layers: Any = 8,
    width: Any = 64,
    seed: Any = 0,
) -> Flow:
    r"""Layers in which one half of the coordinates scales and shifts the other (RealNVP).

    .. math:: y_1 = z_1, \qquad y_2 = s(z_1) \odot z_2 + t(z_1), \qquad
        \log|\det| = \sum_i \log s_i(z_1),

    with log s (within 5 of 0) and t from a network, and the coordinates permuted between layers.
    Sampling and `log_prob` are equally fast. It starts as the Gaussian of `mean_field`. Dinh,
    Sohl-Dickstein and Bengio 2017; by FlowJAX.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.
        layers: how many.
        width: units of each network's hidden layer.
        seed: of the networks' weights and the permutations.

    Raises:
        RitzError: for one dimension, a scale that is not positive, or no layer or unit.

    >>> import jax.numpy as jnp
    >>> coupling(None, jnp.zeros(3), layers=2, width=8).dim
    3
    """
    check_options("coupling", scale, seed, layers=layers, width=width)
    check_dim("coupling", start)
    layered = _layers(start, affine(), layers, width, seed)
    options = {"scale": scale, "layers": layers, "width": width, "seed": seed}
    return flow("coupling", layered, start, **options)


def spline(
    target: Any,
    start: Float[Array, " d"],
    scale: Any = 0.1,
    layers: Any = 6,
    width: Any = 64,
    knots: Any = 8,
    seed: Any = 0,
    whitened: Any = False,
) -> Flow:
    r"""Layers in which one half of the coordinates bends the other by monotone splines.

    .. math:: y_1 = z_1, \qquad
        y_2 = s(z_1) \odot \mathrm{RQS}_{\theta(z_1)}(z_2) + t(z_1),

    with rational-quadratic splines on [-5, 5], the identity outside, and an affine map behind them
    that carries what they cannot reach. Sampling and `log_prob` are equally fast. In one dimension
    the splines stand alone. It starts as the Gaussian of `mean_field`. Durkan, Bekasov, Murray and
    Papamakarios 2019; by FlowJAX.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.
        layers: how many.
        width: units of each network's hidden layer.
        knots: of each spline, inside its interval.
        seed: of the networks' weights and the permutations.
        whitened: whether the last layer is a full lower-triangular affine map that is not trained,
            instead of a trained scale for each coordinate: `Fit.refine` fills it with the mean and
            covariance of draws.

    Raises:
        RitzError: for a scale that is not positive, no layer, unit or knot, or `whitened` that is
            neither True nor False.

    >>> import jax.numpy as jnp
    >>> spline(None, jnp.zeros(3), layers=2, width=8).dim
    3
    """
    check_options("spline", scale, seed, layers=layers, width=width, knots=knots)
    if not isinstance(whitened, bool):
        raise RitzError(f"spline: whitened={whitened!r} arrived, expected True or False")

    def bend() -> AbstractBijection:
        return Chain([RationalQuadraticSpline(knots=knots, interval=5.0), affine()])

    if len(start) > 1:
        layered = _layers(start, eqx.filter_jit(bend)(), layers, width, seed)
    else:
        alone = lambda key: Vmap(eqx.filter_vmap(bend, axis_size=1)(), in_axes=eqx.if_array(0))
        layered = stack(alone, layers, seed)
    options = {"scale": scale, "layers": layers, "width": width, "knots": knots, "seed": seed}
    options |= {"whitened": whitened}
    return flow("spline", layered, start, **options)


def affine() -> AbstractBijection:
    """One number scaled and shifted; the identity at first."""
    return eqx.tree_at(lambda a: a.scale, Affine(), Parameterize(bounded_exp, jnp.zeros(())))


def bounded_exp(s: Array) -> Array:
    """exp(s) for small s, between exp(-5) and exp(5) for all."""
    return jnp.exp(5.0 * jnp.tanh(s / 5.0))


def _layers(start: Array, transformer: Any, layers: int, width: int, seed: int) -> Scan:
    def make(key: Array) -> Any:
        return coupling_flow(
            key,
            base_dist=StandardNormal(start.shape),
            transformer=transformer,
            flow_layers=layers,
            nn_width=width,
            nn_activation=jax.nn.silu,
            invert=False,
        ).bijection

    layer = lambda made: made.bijection[0]
    last = lambda part: lambda made: getattr(layer(made).conditioner.layers[-1], part)
    made = conditioned(make, layer, transformer, seed)
    return zeroed(made, *map(last, ("weight", "bias")))
