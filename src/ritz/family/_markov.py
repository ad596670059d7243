"""Markov steps on a path that keep account of their own reversal."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


class Path(NamedTuple):
    """A point of a path, and what the path has gathered.

    Attributes:
        z: standardised position.
        log_p: log density of the standardised target there.
        score: its gradient, where the kernel needs one.
        log_q: log probability of the path forward, over that of its Markov steps backward.
    """

    z: Float[Array, " d"]
    log_p: Float[Array, ""]
    score: Any
    log_q: Float[Array, ""]


# A point, and what a path to it has gathered, as a `Path`.
At = Callable[[Array, Array], Path]


def langevin(
    at: At, path: Path, weight: Array, step: Array, key: Key[Array, ""]
) -> tuple[Path, Array, Array]:
    r"""A step of overdamped Langevin dynamics, not corrected.

    With :math:`z' = z - \epsilon\nabla u(z) + \sqrt{2\epsilon}\,\eta`, the step back from z' to
    z has the noise :math:`\tilde\eta = \sqrt{\epsilon/2}\,(\nabla u(z) + \nabla u(z')) - \eta`.
    """
    noise = jax.random.normal(key, path.z.shape, path.z.dtype)
    slope = _slope(path, weight)
    new = at(path.z - step * slope + jnp.sqrt(2.0 * step) * noise, path.log_q)
    back = jnp.sqrt(0.5 * step) * (slope + _slope(new, weight)) - noise
    return new, 0.5 * (back @ back - noise @ noise), jnp.zeros_like(path.log_p)


def metropolis(
    at: At, path: Path, weight: Array, step: Array, key: Key[Array, ""]
) -> tuple[Path, Array, Array]:
    """A random-walk Metropolis step, in balance with the interpolated density."""
    propose, accept = jax.random.split(key)
    z = path.z + step * jax.random.normal(propose, path.z.shape, path.z.dtype)
    new = at(z, path.log_q)
    rise = _energy(new, weight) - _energy(path, weight)
    rise = jnp.where(jnp.isnan(rise), jnp.inf, rise)
    yes = jnp.log(jax.random.uniform(accept, (), z.dtype)) < -rise
    new, ratio = jax.tree.map(
        lambda a, b: jnp.where(yes, a, b), (new, -rise), (path, jnp.zeros_like(rise))
    )
    # Away from 0 where it is not chosen, so that its derivative is finite.
    up = jnp.where(yes, 1.0, jnp.maximum(rise, 1e-6))
    log_prob = jnp.where(yes, -jnp.maximum(rise, 0.0), jnp.log(-jnp.expm1(-up)))
    return new, ratio, log_prob


def _energy(path: Path, weight: Array) -> Array:
    r""":math:`u_\lambda = (1-\lambda)\tfrac12|z|^2 - \lambda\log\tilde p`."""
    return (1.0 - weight) * 0.5 * (path.z @ path.z) - weight * path.log_p


def _slope(path: Path, weight: Array) -> Array:
    return (1.0 - weight) * path.z - weight * path.score


# Each gives where it leads, :math:`\log q(z \to z') - \log q(z' \to z)`, and the log probability
# of what was accepted or rejected on the way.
KERNELS = {"langevin": langevin, "metropolis": metropolis}
