"""Gaussians of some coordinates at the points of a lattice in the others."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ritz.family import FullRank

# How wide a component is along its lattice's edges, as a share of them.
_WIDTH = 0.7
# What is as many nats below the best is left out.
_LEFT_OUT = 8.0


class Part(NamedTuple):
    """At a point of the lattice: the Gaussian there, and how its mean goes on."""

    value: float
    mean: np.ndarray
    root: np.ndarray
    slope: np.ndarray


class Lattice(NamedTuple):
    """Parts by their places.

    Attributes:
        at: the coordinates that are given.
        free: the others.
        origin: of the lattice.
        step: its edges, as columns.
        done: what has been found.
    """

    at: np.ndarray
    free: np.ndarray
    origin: np.ndarray
    step: np.ndarray
    done: dict[tuple[int, ...], Part]

    def theta(self, node: tuple[int, ...]) -> np.ndarray:
        return self.origin + self.step @ node

    def covers(self, q: FullRank) -> bool:
        """Whether a Gaussian's mean is within what a part holds."""
        loc = moments(q)[0]
        where = np.linalg.solve(self.step, loc[self.at] - self.origin)
        node = tuple(int(i) for i in np.rint(where))
        if node not in self.done:
            return False
        part = self.done[node]
        off = loc[self.free] - part.mean - part.slope @ (loc[self.at] - self.theta(node))
        return float(np.linalg.norm(np.linalg.solve(part.root, off))) < len(off) ** 0.5

    def components(self, dtype: Any) -> list[tuple[float, FullRank]]:
        """Gaussians of all coordinates with their log masses."""
        best = max(part.value for part in self.done.values())
        kept = [(n, part) for n, part in self.done.items() if part.value > best - _LEFT_OUT]
        volume = float(np.log(np.abs(np.linalg.det(self.step))))
        return [(part.value + volume, self._joint(n, part, dtype)) for n, part in kept]

    def _joint(self, node: tuple[int, ...], part: Part, dtype: Any) -> FullRank:
        at, free, width = self.at, self.free, _WIDTH * self.step
        d, first = len(at) + len(free), np.arange(len(at))
        loc, root = np.zeros(d), np.zeros((d, d))
        loc[at], loc[free] = self.theta(node), part.mean
        root[np.ix_(at, first)], root[np.ix_(free, first)] = width, part.slope @ width
        root[np.ix_(free, np.arange(len(at), d))] = part.root
        # On the host, in float64: a factor may be near to singular.
        lower: Any = np.linalg.qr(root.T, mode="r")
        lower = lower.T * np.sign(np.diag(lower))
        scale = np.diag(lower)
        unit = np.tril(lower / scale[:, None], -1)
        return FullRank(*(jnp.asarray(v, dtype) for v in (loc, np.log(scale), unit)))


def moments(q: FullRank) -> tuple[np.ndarray, np.ndarray]:
    tril = np.asarray(q.scale_tril, float)
    return np.asarray(q.loc, float), tril @ tril.T


def conditional(cov: np.ndarray, free: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The covariance of some coordinates given others."""
    if not len(given):
        return cov
    cross = cov[np.ix_(free, given)]
    return cov[np.ix_(free, free)] - cross @ np.linalg.solve(cov[np.ix_(given, given)], cross.T)


def root_of(cov: np.ndarray) -> np.ndarray:
    """Whose product with its transpose is a covariance that rounding may have left singular."""
    sd = np.sqrt(np.diag(cov))
    size, axes = np.linalg.eigh(cov / sd[:, None] / sd)
    return sd[:, None] * axes * np.sqrt(np.maximum(size, 1e-10))
