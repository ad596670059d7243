"""The mean-field Gaussian family."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz.family._base import AbstractFamily, register

LOG_2PI = math.log(2.0 * math.pi)


class MeanField(AbstractFamily):
    r"""Independent Gaussians on the unconstrained vector.

    .. math:: q_\lambda(x) = \prod_{i=1}^d \mathcal{N}(x_i \mid m_i, e^{2 s_i}),
        \qquad \mathbb{H}(q) = \sum_i s_i + \tfrac d2 \log 2\pi e.

    On a Gaussian target with precision :math:`\Lambda` its optimum has the exact mean and the
    variances :math:`1/\Lambda_{ii}`, which are too small wherever there is correlation
    (Bishop 2006, section 10.1.2).

    Attributes:
        loc: m.
        log_scale: s, so that the scale is positive for any value and has no unit of its own.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "mean_field"
    loc: Float[Array, " d"]
    log_scale: Float[Array, " d"]

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        return self.loc + jnp.exp(self.log_scale) * noise

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = (x - self.loc) * jnp.exp(-self.log_scale)
        return -0.5 * (z @ z) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        log_prob = -0.5 * (noise @ noise) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI
        return self.loc + jnp.exp(self.log_scale) * noise, log_prob

    def entropy(self) -> Float[Array, ""]:
        return self.log_scale.sum() + 0.5 * self.dim * (1.0 + LOG_2PI)


def mean_field(target: Any, start: Float[Array, " d"], scale: float = 0.1) -> MeanField:
    r"""Independent Gaussians around a point.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.

    Returns:
        a `MeanField`.

    >>> import jax.numpy as jnp
    >>> mean_field(None, jnp.zeros(3)).dim
    3
    """
    return MeanField(loc=start, log_scale=jnp.full_like(start, math.log(scale)))


register("mean_field", mean_field, MeanField.capabilities, "2d", "independent Gaussians")
