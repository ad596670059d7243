"""Gaussians of low rank plus diagonal: the strongest correlations at linear cost."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family._base import AbstractFamily
from ritz.family._mean_field import LOG_2PI

# Where no rank is given: more factors cost more steps to find, and few are enough (Ong et al.).
_RANK = 10
# Of a first column of W. At W = 0 the gradient in W vanishes.
_NORM = 0.3


class LowRank(AbstractFamily):
    r"""A Gaussian whose covariance is diagonal plus a part of rank r.

    .. math:: x = m + S(\varepsilon + W u), \qquad \Sigma = S(I + W W^\top)S, \qquad
        \mathbb{H}(q) = \sum_i s_i + \tfrac12\log\det C + \tfrac d2\log 2\pi e,

    with :math:`S = \mathrm{diag}(e^{s})`, :math:`C = I_r + W^\top W`, and standard normal
    :math:`\varepsilon \in \mathbb{R}^d`, :math:`u \in \mathbb{R}^r`. The d × r array W has no
    unit, so that it stays when a coordinate is rescaled. Whatever is asked costs
    :math:`O(d r^2)`: no d × d array is made.

    Attributes:
        loc: m.
        log_scale: s.
        factor: W. Only :math:`WW^\top` matters: W and WU are the same Gaussian for orthogonal U.

    Ong, Nott and Smith, "Gaussian variational approximation with a factor covariance structure",
    2018 (with :math:`B = SW` and :math:`D = S`).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "low_rank"
    loc: Float[Array, " d"]
    log_scale: Float[Array, " d"]
    factor: Float[Array, "d r"]

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    @property
    def rank(self) -> int:
        """r."""
        return self.factor.shape[1]

    @property
    def options(self) -> dict[str, Any]:
        return {"rank": self.rank}

    def _root(self) -> Float[Array, "r r"]:
        """The Cholesky factor of C."""
        gram = self.factor.T @ self.factor
        return jnp.linalg.cholesky(jnp.eye(self.rank, dtype=gram.dtype) + gram)

    def _half_log_det(self, root: Array) -> Float[Array, ""]:
        return self.log_scale.sum() + jnp.log(jnp.diagonal(root)).sum()

    def _noise(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], Float[Array, " r"]]:
        both = jax.random.normal(key, (self.dim + self.rank,), self.loc.dtype)
        return both[: self.dim], both[self.dim :]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        noise, shared = self._noise(key)
        return self.loc + jnp.exp(self.log_scale) * (noise + self.factor @ shared)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = (x - self.loc) * jnp.exp(-self.log_scale)
        root = self._root()
        shared = jax.scipy.linalg.cho_solve((root, True), self.factor.T @ z)
        # z'(I + WW')^-1 z is the least |z - Wu|^2 + |u|^2, a sum in which nothing cancels.
        rest = z - self.factor @ shared
        square = rest @ rest + shared @ shared
        return -0.5 * square - self._half_log_det(root) - 0.5 * self.dim * LOG_2PI

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        noise, shared = self._noise(key)
        root = self._root()
        off = jax.scipy.linalg.cho_solve((root, True), self.factor.T @ noise - shared)
        rest, found = noise - self.factor @ off, shared + off
        square = rest @ rest + found @ found
        x = self.loc + jnp.exp(self.log_scale) * (noise + self.factor @ shared)
        return x, -0.5 * square - self._half_log_det(root) - 0.5 * self.dim * LOG_2PI

    def entropy(self) -> Float[Array, ""]:
        return self._half_log_det(self._root()) + 0.5 * self.dim * (1.0 + LOG_2PI)


def low_rank(
    target: Any, start: Float[Array, " d"], rank: Any = None, scale: float = 0.1
) -> LowRank:
    r"""A Gaussian of low rank plus diagonal around a point.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        rank: r; by default 10, or d where that is less.
        scale: initial standard deviation in unconstrained space, about.

    Returns:
        a `LowRank`, whose first factors are small and point anywhere: with none the gradient
        would not say in which direction to grow.

    Raises:
        RitzError: for a rank below 1 or above d.

    >>> import jax.numpy as jnp
    >>> low_rank(None, jnp.zeros(1000), rank=3).factor.shape
    (1000, 3)
    """
    d = start.shape[0]
    rank = min(d, _RANK) if rank is None else whole_number("low_rank: rank", rank, 1)
    if rank > d:
        raise RitzError(
            f"low_rank: rank={rank} arrived for {d} dimensions, expected at most {d}; where every "
            "correlation matters use family='full_rank'"
        )
    factor = jax.random.normal(jax.random.key(0), (d, rank), start.dtype)
    return LowRank(
        loc=start,
        log_scale=jnp.full_like(start, math.log(scale)),
        factor=(_NORM / math.sqrt(d)) * factor,
    )
