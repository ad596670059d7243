"""The regressions that train an interpolant."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ritz.objective import AbstractDirect
from ritz.target import samples_of

# Times nearer to the ends are left out of the regressions: there the rate of noise is infinite.
_END = 1e-3


class InterpolantLoss(AbstractDirect):
    r"""The regressions of an interpolant.

    .. math:: \mathbb{E}\Big[\tfrac12|b(t,x_t)|^2 - b(t,x_t)\cdot\dot x_t
        + \tfrac12|\eta(t,x_t)|^2 - \eta(t,x_t)\cdot z\Big],

    each at z and -z, since the rate of the noise is infinite at the ends and cancels so (Albergo,
    Boffi and Vanden-Eijnden 2023, equations 2.13 and 2.19, and section 6.1). t is uniform.

    Attributes:
        rows: how many pairs :math:`(x_0, x_1)` a step sees.
    """

    rows: int = eqx.field(static=True)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        known = samples_of(target, "InterpolantLoss")
        pair, base, times, noise = jax.random.split(key, 4)
        x1 = known.draw(pair, self.rows)
        x0 = jax.vmap(q.base_sample)(jax.random.split(base, self.rows))
        t = jax.random.uniform(times, (self.rows,), x1.dtype, _END, 1.0 - _END)
        z = jax.random.normal(noise, x1.shape, x1.dtype)

        def one(t: Array, x0: Array, x1: Array, z: Array) -> tuple[Array, Array]:
            x = q.place(t, x0, x1, z)
            b, moved = q.flow(t, x), q.rate(t, x0, x1, z)
            velocity = 0.5 * b @ b - b @ moved
            if q.denoiser is None:
                return velocity, jnp.zeros_like(velocity)
            eta = q.noise(t, x)
            return velocity, 0.5 * eta @ eta - eta @ z

        velocity, denoiser = (v.mean() for v in jax.vmap(one)(t, x0, x1, z))
        if q.denoiser is not None:
            mirrored = (v.mean() for v in jax.vmap(one)(t, x0, x1, -z))
            velocity, denoiser = (
                0.5 * (a + b) for a, b in zip((velocity, denoiser), mirrored, strict=True)
            )
        return velocity + denoiser, {"velocity": velocity, "denoiser": denoiser}
