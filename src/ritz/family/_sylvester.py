"""The Sylvester flow."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection, NumericalInverse
from jaxtyping import Array, Float

from ritz._errors import RitzError
from ritz.family._flow import Flow
from ritz.family._flow_parts import bisect, check_options, flow, stack

_ONE = float(np.log(np.expm1(1.0)))  # softplus of it is 1


class Sylvester(AbstractBijection):
    r"""A planar layer with M planes at once.

    .. math:: f(z) = z + Q R \tanh(\tilde R Q^\top z + b), \qquad
        \log|\det| = \sum_i \log\bigl(1 + (1 - \tanh^2(\cdot)_i)\, R_{ii} \tilde R_{ii}\bigr),

    with Q the first M columns of a product of M Householder reflections, R and R̃ upper triangular,
    and :math:`R_{ii} \tilde R_{ii} > -1`, which keeps it invertible (theorem 2). Van den Berg,
    Hasenclever, Tomczak and Welling 2018 (equations 8 to 16).

    Attributes:
        mirrors: the vectors of the reflections.
        outer: R above its diagonal.
        inner: R̃ above its diagonal.
        steepness: the logarithm of R̃'s diagonal.
        slack: 1 plus the product of the diagonals, before softplus.
        bias: b.
    """

    cond_shape: ClassVar[None] = None
    mirrors: Float[Array, "M d"]
    outer: Float[Array, "M M"]
    inner: Float[Array, "M M"]
    steepness: Float[Array, " M"]
    slack: Float[Array, " M"]
    bias: Float[Array, " M"]

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.mirrors.shape[-1:]

    def factors(self) -> tuple[Array, Array, Array, Array]:
        """Q, R, R̃, and the product of their diagonals."""
        m, d = self.mirrors.shape
        mirror = lambda q, v: (q - jnp.outer(v, v @ q) * (2.0 / (v @ v)), None)
        q = jax.lax.scan(mirror, jnp.eye(d, m, dtype=self.mirrors.dtype), self.mirrors)[0]
        steep = jnp.exp(self.steepness)
        product = jax.nn.softplus(self.slack) - 1.0
        outer = jnp.triu(self.outer, 1) + jnp.diag(product / steep)
        return q, outer, jnp.triu(self.inner, 1) + jnp.diag(steep), product

    def transform_and_log_det(self, x: Any, condition: Any = None) -> tuple[Array, Array]:
        q, outer, inner, product = self.factors()
        bent = jnp.tanh(inner @ (x @ q) + self.bias)
        return x + q @ (outer @ bent), jnp.log1p((1.0 - bent**2) * product).sum()

    def inverse_and_log_det(self, y: Any, condition: Any = None) -> tuple[Array, Array]:
        raise NotImplementedError  # by `NumericalInverse`


def inverse(layer: Any, y: Float[Array, " d"], condition: Any = None) -> Float[Array, " d"]:
    """The point that a layer takes to y: substitution from the last row, a bisection in each."""
    q, outer, inner, _ = layer.factors()
    m, goal = len(layer.bias), y @ q
    size, above_outer, above_inner = (
        jnp.diag(outer),
        jnp.triu(outer, 1),
        jnp.triu(inner, 1),
    )

    def solve(k: Any, a: Array) -> Array:
        i = m - 1 - k
        shift = above_inner[i] @ a + layer.bias[i]
        height = goal[i] - above_outer[i] @ jnp.tanh(inner @ a + layer.bias)
        reach = jnp.abs(size[i])
        rises = lambda t: t + size[i] * jnp.tanh(inner[i, i] * t + shift) - height
        return a.at[i].set(bisect(rises, height - reach, height + reach))

    a = jax.lax.fori_loop(0, m, solve, jnp.zeros_like(goal))
    return y - q @ (outer @ jnp.tanh(inner @ a + layer.bias))


def sylvester(
    target: Any,
    start: Float[Array, " d"],
    scale: Any = 0.1,
    layers: Any = 8,
    planes: Any = None,
    seed: Any = 0,
) -> Flow:
    r"""Layers that bend space across several planes at once: see `Sylvester`.

    A layer costs O(Md) for a draw. As with `planar`, `log_prob` takes an inverse by bisection, to
    rounding: here of M numbers, one after the other. It starts as the Gaussian of `mean_field`.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.
        layers: K.
        planes: M, at most d; by default d, but at most 8.
        seed: of the initial planes.

    Raises:
        RitzError: for a scale that is not positive, no layer, or more planes than dimensions.

    >>> import jax.numpy as jnp
    >>> sylvester(None, jnp.zeros(3)).options["planes"]
    3
    """
    d = start.shape[0]
    m = min(d, 8) if planes is None else planes
    check_options("sylvester", scale, seed, layers=layers, planes=m)
    if m > d:
        raise RitzError(f"sylvester: planes={m} arrived, expected at most the {d} dimensions")

    def layer(key: Array) -> NumericalInverse:
        first, second = jax.random.split(key)
        zeros = jnp.zeros((m, m))
        mirrors, bias = jax.random.normal(first, (m, d)), jax.random.normal(second, (m,))
        # R is zero, so that nothing moves
        still = zeros, zeros, jnp.zeros(m), jnp.full(m, _ONE)
        own = Sylvester(mirrors, *still, bias)  # pyright: ignore
        return NumericalInverse(own, inverse)

    layered = stack(layer, layers, seed)
    return flow("sylvester", layered, start, scale=scale, layers=layers, planes=m, seed=seed)
