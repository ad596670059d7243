"""The full-rank Gaussian family."""

import functools
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz.family._base import AbstractFamily, register
from ritz.family._mean_field import LOG_2PI


class FullRank(AbstractFamily):
    r"""A Gaussian with any covariance on the unconstrained vector.

    .. math:: x = m + L\varepsilon, \quad L = \mathrm{diag}(e^{s})\,(I + N), \quad
        \mathbb{H}(q) = \sum_i s_i + \tfrac d2 \log 2\pi e,

    with N strictly lower triangular, so that its entries stay dimensionless when a coordinate
    is rescaled.

    Attributes:
        loc: m.
        log_scale: s.
        lower: a d × d array whose strictly lower part is N; the rest is not read.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "full_rank"
    loc: Float[Array, " d"]
    log_scale: Float[Array, " d"]
    lower: Float[Array, "d d"]

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    @property
    def scale_tril(self) -> Float[Array, "d d"]:
        """L, the Cholesky factor of the covariance."""
        unit = jnp.tril(self.lower, -1) + jnp.eye(self.dim, dtype=self.lower.dtype)
        return jnp.exp(self.log_scale)[:, None] * unit

    def _push(self, noise: Array) -> Array:
        mixed = noise + jnp.tril(self.lower, -1) @ noise
        return self.loc + jnp.exp(self.log_scale) * mixed

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self._push(jax.random.normal(key, self.loc.shape, self.loc.dtype))

    def prepared(self) -> "FullRank":
        unit = jnp.tril(self.lower, -1) + jnp.eye(self.dim, dtype=self.lower.dtype)
        solve = functools.partial(jax.scipy.linalg.solve_triangular, lower=True, unit_diagonal=True)
        inverse = solve(unit, jnp.eye(self.dim, dtype=unit.dtype))
        return _Prepared(self.loc, self.log_scale, self.lower, inverse)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = (x - self.loc) * jnp.exp(-self.log_scale)
        unit = jnp.tril(self.lower, -1) + jnp.eye(self.dim, dtype=self.lower.dtype)
        noise = jax.scipy.linalg.solve_triangular(unit, z, lower=True, unit_diagonal=True)
        return -0.5 * (noise @ noise) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        log_prob = -0.5 * (noise @ noise) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI
        return self._push(noise), log_prob

    def entropy(self) -> Float[Array, ""]:
        return self.log_scale.sum() + 0.5 * self.dim * (1.0 + LOG_2PI)


class _Prepared(FullRank):
    """One whose density at many points is matrix products.

    Attributes:
        inverse: of I + N.
    """

    registered_as: ClassVar[str | None] = None
    inverse: Float[Array, "d d"]

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        noise = self.inverse @ ((x - self.loc) * jnp.exp(-self.log_scale))
        return -0.5 * (noise @ noise) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI


def full_rank(target: Any, start: Float[Array, " d"], scale: float = 0.1) -> FullRank:
    r"""A Gaussian with any covariance, round at first, around a point.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        scale: initial standard deviation in unconstrained space.

    Returns:
        a `FullRank`.

    >>> import jax.numpy as jnp
    >>> full_rank(None, jnp.zeros(3)).scale_tril.shape
    (3, 3)
    """
    d = start.shape[0]
    return FullRank(
        loc=start,
        log_scale=jnp.full_like(start, math.log(scale)),
        lower=jnp.zeros((d, d), start.dtype),
    )


register(
    "full_rank",
    full_rank,
    FullRank.capabilities,
    "d + d(d + 1)/2",
    "a Gaussian with any covariance",
)
