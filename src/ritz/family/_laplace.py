"""The mean-field family with Laplace margins."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz.family._base import AbstractFamily


class Laplace(AbstractFamily):
    r"""Independent double exponentials on the unconstrained vector.

    .. math:: q_\lambda(x) = \prod_{i=1}^d \tfrac12 e^{-s_i} \exp(-|x_i - m_i|\,e^{-s_i}),
        \qquad \mathbb{H}(q) = \sum_i s_i + d\,(1 + \log 2).

    Sharper at the median and heavier in the tails than a Gaussian; a standard deviation is
    :math:`\sqrt2\,e^{s_i}`.

    Attributes:
        loc: m.
        log_scale: s.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "laplace"
    loc: Float[Array, " d"]
    log_scale: Float[Array, " d"]

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        noise = jax.random.laplace(key, self.loc.shape, self.loc.dtype)
        return self.loc + jnp.exp(self.log_scale) * noise

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = (x - self.loc) * jnp.exp(-self.log_scale)
        return -jnp.abs(z).sum() - self.log_scale.sum() - self.dim * math.log(2.0)

    def entropy(self) -> Float[Array, ""]:
        return self.log_scale.sum() + self.dim * (1.0 + math.log(2.0))


def laplace(target: Any, start: Float[Array, " d"], scale: float = 0.1) -> Laplace:
    r"""Independent double exponentials around a point.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial median.
        scale: initial standard deviation in unconstrained space.

    Returns:
        a `Laplace`.

    >>> import jax.numpy as jnp
    >>> laplace(None, jnp.zeros(3)).dim
    3
    """
    return Laplace(loc=start, log_scale=jnp.full_like(start, math.log(scale / math.sqrt(2.0))))
