"""Fixed-step integration for the models with differential equations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def rk4(
    field: Callable[[jax.Array, jax.Array], jax.Array], start: jax.Array, nodes: jax.Array
) -> jax.Array:
    """Integrate ``z' = field(t, z)`` over ``nodes`` by the classical Runge-Kutta method.

    Returns the state at every node but the first, at which it is ``start``.
    """

    def step(z: jax.Array, span: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        t, h = span
        k1 = field(t, z)
        k2 = field(t + h / 2, z + h / 2 * k1)
        k3 = field(t + h / 2, z + h / 2 * k2)
        k4 = field(t + h, z + h * k3)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z, z

    return jax.lax.scan(step, start, (nodes[:-1], jnp.diff(nodes)))[1]


def subdivide(times: jax.Array, pieces: int) -> jax.Array:
    """Cut every interval of ``times`` into equal pieces; leaves out the first time."""
    cuts = jnp.arange(1, pieces + 1) / pieces
    return (times[:-1, None] + jnp.diff(times)[:, None] * cuts).ravel()
