"""The kernel Stein discrepancy of a cloud of particles, as a loss."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.objective._base import AbstractDirect, subsample_key


class SteinDiscrepancy(AbstractDirect):
    """See `stein_discrepancy`.

    Attributes:
        scale: h.
    """

    cost: ClassVar[str] = "n, and n products with Hessians"
    scale: float | None = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"points"})

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Float[Array, ""]:
        x = q.points
        score = jax.grad(lambda x: target.log_density(x, subsample_key(key), batch))
        s = jax.lax.map(score, x, batch_size=256)
        n, d = x.shape
        x = x - jax.lax.stop_gradient(x.mean(axis=0))
        squares = (x**2).sum(axis=1)
        far = jnp.maximum(squares[:, None] + squares - 2.0 * x @ x.T, 0.0)
        if self.scale is None:
            h2 = jax.lax.stop_gradient(jnp.maximum(far.sum() / (n * (n - 1)), 1e-30))
        else:
            h2 = jnp.asarray(self.scale, x.dtype) ** 2
        base = 1.0 + far / h2
        k = base**-0.5
        slope = k / base / h2
        own = (s * x).sum(axis=1)
        cross = s @ x.T
        moved = own[:, None] - cross + own[None, :] - cross.T
        return ((s @ s.T) * k + slope * (moved + d - 3.0 * far / base / h2)).mean()


def stein_discrepancy(scale: Any = None) -> SteinDiscrepancy:
    r"""The squared kernel Stein discrepancy of a cloud, as a V-statistic.

    .. math:: \frac1{n^2}\sum_{ij} s_i^\top s_j\, k + s_i^\top\nabla_{x_j} k
        + s_j^\top\nabla_{x_i} k + \operatorname{tr}\nabla_{x_i}\nabla_{x_j} k, \qquad
        k = \Bigl(1 + \frac{\|x_i - x_j\|^2}{h^2}\Bigr)^{-1/2},

    with scores :math:`s_i = \nabla\log\tilde p(x_i)`. Gradient steps on it are KSD descent, which
    needs no kernel density and no step in the dark: the loss falls. Particles may come to rest on
    saddles of the log density, where another solver moves on. Korba, Aubin-Frankowski, Majewski
    and Ablin 2021 (equation 10); Gorham and Mackey 2017.

    Args:
        scale: h; None for the root of the mean squared distance at each step.

    Raises:
        RitzError: for a scale that is not positive.

    >>> stein_discrepancy(2.0).scale
    2.0
    """
    if scale is not None:
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0:
            raise RitzError(
                f"stein_discrepancy: scale={scale!r} arrived, expected a positive number"
            )
        scale = float(scale)
    return SteinDiscrepancy(scale)
