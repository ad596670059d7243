"""Gaussians whose precision has zeros where coordinates are conditionally independent."""

import abc
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ritz._errors import RitzError
from ritz.family._base import AbstractFamily
from ritz.family._elimination import Elimination, eliminate
from ritz.family._mean_field import LOG_2PI


class AbstractSparse(AbstractFamily):
    r"""Coordinates drawn one group after another, each given few of those before.

    .. math:: x = m + e^{s} \odot z, \qquad z_i = \sum_{j \in \mathrm{pa}(i)} n_{ij} z_j
        + e^{c_i(z)}\,\varepsilon_i,

    Attributes:
        loc: m.
        log_scale: s, of :math:`x_i` given its parents, at their means.
        last: n of the last clique, which is drawn first: its strictly lower part is read.
        weights: n of each further group, a row for each of its coordinates.
        parents: the positions of their parents; 0 stands for none.
        order: the coordinate at each position (which count from 1).
        place: the position of each coordinate, less 1.
        pattern: the pairs (i, j) of coordinates that interact.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    loc: Float[Array, " d"]
    log_scale: Float[Array, " d"]
    last: Float[Array, "t t"]
    weights: tuple[Float[Array, "_ _"], ...]
    parents: tuple[Int[Array, "_ _"], ...]
    order: Int[Array, " d"]
    place: Int[Array, " d"]
    pattern: Int[Array, "n 2"]

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    @property
    def options(self) -> dict[str, Any]:
        return {"pattern": np.asarray(self.pattern).tolist()}

    @abc.abstractmethod
    def _stretch(self, group: int, given: Float[Array, "n p"]) -> Float[Array, " n"] | None:
        """c of a group's coordinates, given their parents' z."""

    def _root(self) -> Float[Array, "t t"]:
        t = self.last.shape[0]
        return jnp.eye(t, dtype=self.last.dtype) - jnp.tril(self.last, -1)

    def _push(self, noise: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """x of standard normals in the order of their positions, and the sum of c."""
        t, total = self.last.shape[0], jnp.zeros((), noise.dtype)
        first = jax.scipy.linalg.solve_triangular(
            self._root(), noise[:t], lower=True, unit_diagonal=True
        )
        z = jnp.zeros(self.dim + 1, noise.dtype).at[1 : t + 1].set(first)
        for k, (weights, parents) in enumerate(zip(self.weights, self.parents, strict=True)):
            own, given = noise[t : t + len(weights)], z[parents]
            stretch = self._stretch(k, given)
            if stretch is not None:
                own, total = jnp.exp(stretch) * own, total + stretch.sum()
            z = z.at[t + 1 : t + 1 + len(weights)].set(own + (weights * given).sum(-1))
            t += len(weights)
        return self.loc + jnp.exp(self.log_scale) * z[1 + self.place], total

    def _density(self, noise: Float[Array, " d"], total: Array) -> Float[Array, ""]:
        return -0.5 * (noise @ noise) - total - self.log_scale.sum() - 0.5 * self.dim * LOG_2PI

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self._push(jax.random.normal(key, self.loc.shape, self.loc.dtype))[0]

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = ((x - self.loc) * jnp.exp(-self.log_scale))[self.order]
        padded = jnp.concatenate([jnp.zeros(1, z.dtype), z])
        t, total = self.last.shape[0], jnp.zeros((), z.dtype)
        noise = [self._root() @ z[:t]]
        for k, (weights, parents) in enumerate(zip(self.weights, self.parents, strict=True)):
            given = padded[parents]
            own = z[t : t + len(weights)] - (weights * given).sum(-1)
            stretch = self._stretch(k, given)
            if stretch is not None:
                own, total = jnp.exp(-stretch) * own, total + stretch.sum()
            noise.append(own)
            t += len(weights)
        return self._density(jnp.concatenate(noise), total)

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        noise = jax.random.normal(key, self.loc.shape, self.loc.dtype)
        x, total = self._push(noise)
        return x, self._density(noise, total)

    def entropy(self) -> Float[Array, ""]:
        # z has the mean 0 given any earlier z, and c is linear in these.
        return self.log_scale.sum() + 0.5 * self.dim * (1.0 + LOG_2PI)


class SparsePrecision(AbstractSparse):
    r"""A Gaussian whose precision is zero outside a pattern and its fill-in.

    .. math:: \Lambda = S^{-1}(I - N)^\top(I - N)S^{-1}, \qquad S = \mathrm{diag}(e^s),

    with :math:`I - N` triangular in the order of elimination and as sparse as a Cholesky factor
    of the pattern is. A draw is a triangular solve, made for a group of coordinates at a time; a
    density is a product. Both cost as much as the factor has entries. N has no unit.
    """

    registered_as: ClassVar[str | None] = "sparse_precision"

    def _stretch(self, group: int, given: Float[Array, "n p"]) -> None:
        return None


def arrays(start: Any, pattern: np.ndarray, scale: float) -> tuple[Elimination, dict[str, Any]]:
    """The order of elimination, and the fields of a sparse family around a point."""
    found = eliminate(pattern, start.shape[0])
    zeros = lambda *shape: jnp.zeros(shape, start.dtype)
    return found, {
        "loc": start,
        "log_scale": jnp.full_like(start, math.log(scale)),
        "last": zeros(found.last, found.last),
        "weights": tuple(zeros(*p.shape) for p in found.parents),
        "parents": tuple(map(jnp.asarray, found.parents)),
        "order": jnp.asarray(found.order),
        "place": jnp.asarray(np.argsort(found.order).astype(np.int32)),
        "pattern": jnp.asarray(pattern.astype(np.int32)),
    }


def pattern_of(name: str, target: Any, start: Any, pattern: Any) -> np.ndarray:
    """The pattern given, or that of the target.

    Raises:
        RitzError: for a pattern of another form, or a target that does not tell.
    """
    from ritz.target._interactions import check_pattern, interactions

    if pattern is not None:
        return check_pattern(name, pattern, start.shape[0])
    if not getattr(target, "has_density", False):
        raise RitzError(
            f"{name} reads its structure off the target's log density, which "
            f"{type(target).__name__} lacks; give pattern=[(i, j), ...], or use "
            "family='mean_field' or 'low_rank'"
        )
    return interactions(target, start)


def sparse_precision(
    target: Any, start: Float[Array, " d"], pattern: Any = None, scale: float = 0.1
) -> SparsePrecision:
    r"""A Gaussian with the conditional independences of a pattern.

    A Gaussian target whose second derivatives have the pattern is in the family. Where the
    coordinates form a chain in their order, `banded` says the same with fewer indices.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        pattern: pairs (i, j) of coordinates that may depend on each other given all others; by
            default those that interact in the target (`ritz.target.interactions`).
        scale: initial standard deviation in unconstrained space.

    Returns:
        a `SparsePrecision`.

    Raises:
        RitzError: for a pattern of another form, or a target whose pattern cannot be read.

    Tan and Nott, "Gaussian variational approximation with sparse precision matrices", 2018.

    >>> import jax.numpy as jnp
    >>> q = sparse_precision(None, jnp.zeros(4), pattern=[(0, 1), (1, 2), (2, 3)])
    >>> sum(w.size for w in q.weights) + q.last.shape[0] - 1
    3
    """
    found = pattern_of("sparse_precision", target, start, pattern)
    return SparsePrecision(**arrays(start, found, scale)[1])
