r"""Mirror maps: smooth convex functions whose gradients take a domain to the whole space."""

import abc
import itertools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Float

from ritz._errors import RitzError


class AbstractMirror(eqx.Module):
    r"""A strictly convex :math:`\psi` on a domain; one point at a time."""

    @abc.abstractmethod
    def dual(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        r""":math:`\eta = \nabla\psi(\theta)`."""

    @abc.abstractmethod
    def primal(self, eta: Float[Array, " k"]) -> Float[Array, " k"]:
        r""":math:`\theta = \nabla\psi^*(\eta)`, the inverse."""

    @abc.abstractmethod
    def metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        r""":math:`\nabla^2\psi(\theta)`."""

    @abc.abstractmethod
    def inverse_metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        r""":math:`\nabla^2\psi(\theta)^{-1}`."""

    @abc.abstractmethod
    def divergence(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        r""":math:`\nabla\cdot\nabla^2\psi(\theta)^{-1}`, by columns."""


class Entropy(AbstractMirror):
    r"""Of the open simplex, by its first k coordinates: :math:`\psi = \sum_i \theta_i\log\theta_i`.

    The sum includes the last, :math:`\theta_{k+1} = 1 - \sum_{i\le k}\theta_i`.
    """

    def dual(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.log(theta) - jnp.log1p(-theta.sum())

    def primal(self, eta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jax.nn.softmax(jnp.append(eta, 0.0))[:-1]

    def metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        return jnp.diag(1.0 / theta) + 1.0 / (1.0 - theta.sum())

    def inverse_metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        return jnp.diag(theta) - jnp.outer(theta, theta)

    def divergence(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        return 1.0 - (len(theta) + 1.0) * theta


class Positive(AbstractMirror):
    r"""Of the positive orthant: :math:`\psi = \sum_i \theta_i\log\theta_i - \theta_i`."""

    def dual(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.log(theta)

    def primal(self, eta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.exp(eta)

    def metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        return jnp.diag(1.0 / theta)

    def inverse_metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        return jnp.diag(theta)

    def divergence(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.ones_like(theta)


class Box(AbstractMirror):
    r"""Of a box: :math:`\psi = \sum_i u_i\log u_i + (1 - u_i)\log(1 - u_i)`.

    With u the place in the box from 0 to 1.

    Attributes:
        low: its lower corner.
        high: its upper corner.
    """

    low: Float[Array, " k"]
    high: Float[Array, " k"]

    def _place(self, theta: Array) -> tuple[Array, Array]:
        width = self.high - self.low
        return (theta - self.low) / width, width

    def dual(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        u, width = self._place(theta)
        return (jnp.log(u) - jnp.log1p(-u)) / width

    def primal(self, eta: Float[Array, " k"]) -> Float[Array, " k"]:
        width = self.high - self.low
        return self.low + width * jax.nn.sigmoid(width * eta)

    def metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        u, width = self._place(theta)
        return jnp.diag(1.0 / (width**2 * u * (1.0 - u)))

    def inverse_metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        u, width = self._place(theta)
        return jnp.diag(width**2 * u * (1.0 - u))

    def divergence(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        u, width = self._place(theta)
        return width * (1.0 - 2.0 * u)


class Whole(AbstractMirror):
    r"""Of the whole space: :math:`\psi = \frac12\|\theta\|^2`."""

    def dual(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        return theta

    def primal(self, eta: Float[Array, " k"]) -> Float[Array, " k"]:
        return eta

    def metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        return jnp.eye(len(theta), dtype=theta.dtype)

    def inverse_metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        return jnp.eye(len(theta), dtype=theta.dtype)

    def divergence(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.zeros_like(theta)


class Blocks(AbstractMirror):
    """Of a product of domains, one after the other.

    Attributes:
        parts: their mirrors.
        sizes: their dimensions.
    """

    parts: tuple[AbstractMirror, ...]
    sizes: tuple[int, ...] = eqx.field(static=True)

    def _each(self, x: Array, of: Callable[[AbstractMirror, Array], Array]) -> list[Array]:
        ends = list(itertools.accumulate(self.sizes))
        cut = jnp.split(x, ends[:-1])
        return [of(part, piece) for part, piece in zip(self.parts, cut, strict=True)]

    def dual(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.concatenate(self._each(theta, lambda part, x: part.dual(x)))

    def primal(self, eta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.concatenate(self._each(eta, lambda part, x: part.primal(x)))

    def metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        return block_diag(*self._each(theta, lambda part, x: part.metric(x)))

    def inverse_metric(self, theta: Float[Array, " k"]) -> Float[Array, "k k"]:
        return block_diag(*self._each(theta, lambda part, x: part.inverse_metric(x)))

    def divergence(self, theta: Float[Array, " k"]) -> Float[Array, " k"]:
        return jnp.concatenate(self._each(theta, lambda part, x: part.divergence(x)))


def mirror_of(target: Any, solver: str) -> AbstractMirror:
    """The mirror of a target's domain, by its sites' supports.

    Raises:
        RitzError: where no site has bounds, or one has others than these mirrors know.
    """
    parts = [_of_site(site, solver) for site in target.sites]
    if all(isinstance(part, Whole) for part in parts):
        raise RitzError(
            f"{solver} needs a target with bounds, but all of its {target.describe()} are "
            "unbounded; use ritz.particle.svgd() for it"
        )
    return Blocks(tuple(parts), tuple(site.stop - site.start for site in target.sites))


def _of_site(site: Any, solver: str) -> AbstractMirror:
    spec: tuple[Any, ...] = site.constraint or ("?",)
    while spec[0] == "independent":
        spec = spec[2]
    k = site.stop - site.start
    if spec[0] == "real":
        return Whole()
    if spec[0] == "simplex" and len(site.shape) == 1:
        return Entropy()
    if spec[0] == "positive" or (spec[0] == "greater_than" and spec[1] == 0.0):
        return Positive()
    if spec[0] in ("interval", "open_interval", "unit_interval"):
        low, high = (0.0, 1.0) if spec[0] == "unit_interval" else (spec[1], spec[2])
        return Box(jnp.full(k, float(low)), jnp.full(k, float(high)))
    raise RitzError(
        f"{solver} knows simplices, positive numbers and intervals, but site {site.name!r} is "
        f"{site.support}; use ritz.particle.svgd(), which moves unconstrained coordinates"
    )


def to_primal(target: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
    """An unconstrained point in the coordinates of the domain: of a simplex all but the last."""
    values = target.constrain(x)
    return jnp.concatenate(
        [values[site.name].ravel()[: site.stop - site.start] for site in target.sites]
    )


def from_primal(target: Any, theta: Float[Array, " d"]) -> Float[Array, " d"]:
    """The inverse of `to_primal`."""
    values = {}
    for site in target.sites:
        own = theta[site.start : site.stop]
        missing = own.size < math.prod(site.shape)
        values[site.name] = (jnp.append(own, 1.0 - own.sum()) if missing else own).reshape(
            site.shape
        )
    return target.unconstrain(values)
