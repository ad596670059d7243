"""Gaussians with a banded precision, for time series."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family._base import AbstractFamily
from ritz.family._mean_field import LOG_2PI

# Coordinates that are solved for at once, so that a scan takes fewer and larger steps.
_BLOCK = 32


class Banded(AbstractFamily):
    r"""A Gaussian whose coordinates each depend on the b before.

    .. math:: x_t = m_t + e^{s_t} z_t, \qquad z_t = \varepsilon_t + \sum_{k=1}^{b} n_{tk} z_{t-k},
        \qquad \mathbb{H}(q) = \sum_t s_t + \tfrac d2\log 2\pi e.

    With :math:`A = I - N`, lower triangular of bandwidth b, the precision is
    :math:`\Lambda = S^{-1}A^\top A S^{-1}` of bandwidth b, so that :math:`A S^{-1}` is its
    Cholesky factor from the end. Any Gaussian of that bandwidth is in the family. A draw solves
    :math:`Az = \varepsilon` block by block; draw and density cost :math:`O(d b)`. N has no unit.

    Attributes:
        loc: m.
        log_scale: s.
        weights: n; those of times before the first are not read.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "banded"
    loc: Float[Array, " d"]
    log_scale: Float[Array, " d"]
    weights: Float[Array, "d b"]

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    @property
    def bandwidth(self) -> int:
        """b."""
        return self.weights.shape[1]

    @property
    def options(self) -> dict[str, Any]:
        return {"bandwidth": self.bandwidth}

    def _push(self, noise: Float[Array, " d"]) -> Float[Array, " d"]:
        return self.loc + jnp.exp(self.log_scale) * _solve(self.weights, noise)

    def _density(self, noise: Float[Array, " d"]) -> Float[Array, ""]:
        return -0.5 * (noise @ noise) - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self._push(jax.random.normal(key, self.loc.shape, self.loc.dtype))

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z, b = (x - self.loc) * jnp.exp(-self.log_scale), self.bandwidth
        padded = jnp.concatenate([jnp.zeros(b, z.dtype), z])
        before = [padded[b - k : b - k + self.dim] for k in range(1, b + 1)]
        return self._density(z - (self.weights * jnp.stack(before, axis=1)).sum(axis=1))

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        return self._push(noise), self._density(noise)

    def entropy(self) -> Float[Array, ""]:
        return self.log_scale.sum() + 0.5 * self.dim * (1.0 + LOG_2PI)


def _solve(weights: Float[Array, "d b"], noise: Float[Array, " d"]) -> Float[Array, " d"]:
    """z with :math:`z_t - \\sum_k n_{tk} z_{t-k} = \\varepsilon_t`.

    Blocks of coordinates are solved for all at once, for the noise and for each of the b
    coordinates before the block; a scan then joins the blocks.
    """
    d, b = weights.shape
    size = min(d, max(b, _BLOCK))
    count = -(-d // size)
    more = count * size - d
    weights = jnp.pad(weights, ((0, more), (0, 0))).reshape(count, size, b)
    noise = jnp.pad(noise, (0, more)).reshape(count, size)
    row = np.arange(size)[:, None]
    inside = _placed(weights, row - np.arange(size) - 1)
    across = _placed(weights, row - np.arange(-b, 0) - 1)
    solve = jax.vmap(
        lambda a, rhs: jax.scipy.linalg.solve_triangular(a, rhs, lower=True, unit_diagonal=True)
    )
    root = jnp.eye(size, dtype=weights.dtype) - inside
    own, passed = solve(root, noise), solve(root, across)

    def join(before: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
        z = block[0] + block[1] @ before
        return z[size - b :], z

    _, z = jax.lax.scan(join, jnp.zeros(b, noise.dtype), (own, passed))
    return z.reshape(-1)[:d]


def _placed(weights: Float[Array, "n size b"], lag: np.ndarray) -> Float[Array, "n size _"]:
    """Weights as matrices, by the lag less 1 at each entry."""
    b = weights.shape[2]
    there = (lag >= 0) & (lag < b)
    index = jnp.asarray(np.where(there, lag, 0))[None]
    return jnp.where(there, jnp.take_along_axis(weights, index, axis=2), 0.0)


def banded(
    target: Any, start: Float[Array, " d"], bandwidth: Any = 1, scale: float = 0.1
) -> Banded:
    r"""A Gaussian of banded precision around a point.

    For a target whose coordinates follow each other in time: states of k numbers, of which each
    depends on the one before, have the bandwidth 2k - 1. Where global parameters stand among
    them use `structured`.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        bandwidth: b, how many coordinates before it each depends on.
        scale: initial standard deviation in unconstrained space.

    Returns:
        a `Banded`.

    Raises:
        RitzError: for a bandwidth below 1, or not below d.

    Archer et al., "Black box variational inference for state space models", 2015 (the family).

    >>> import jax.numpy as jnp
    >>> banded(None, jnp.zeros(500), bandwidth=2).weights.shape
    (500, 2)
    """
    d = start.shape[0]
    whole_number("banded: bandwidth", bandwidth, 1)
    if bandwidth >= d:
        other = "full_rank" if d > 1 else "mean_field"
        raise RitzError(
            f"banded: bandwidth={bandwidth} arrived for {d} dimensions, expected less than {d}; "
            f"use family={other!r}"
        )
    return Banded(
        loc=start,
        log_scale=jnp.full_like(start, math.log(scale)),
        weights=jnp.zeros((d, int(bandwidth)), start.dtype),
    )
