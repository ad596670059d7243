"""Families with the structure of the model: local variables given the global ones."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ritz.family._sparse_precision import AbstractSparse, arrays, pattern_of


class Structured(AbstractSparse):
    r"""Local variables Gaussian given the global ones, as the model's own graph has them.

    .. math:: x_i = m_i + e^{s_i} z_i, \qquad z_i = \sum_{j \in \mathrm{pa}(i)} n_{ij} z_j +
        \exp\Bigl(\sum_{j \in \mathrm{pa}(i) \cap g} c_{ij} z_j\Bigr)\,\varepsilon_i.

    The global variables g are drawn first. A local one has a mean that is linear in those global
    and neighbouring ones that it depends on, and a scale that is log-linear in the global ones, as
    the funnels of hierarchical models need; with c = 0 it is the Gaussian whose precision has the
    posterior's pattern, which is what it finds where the target is Gaussian. The entropy is the
    Gaussian's whatever c is. Cost is linear in the number of groups.

    Attributes:
        slopes: c, in the form of `weights`; entries of parents that are not global are not read.
        hubs: whether the coordinate at a position (the first of which is 0) is global: it stays
            to the end of the elimination, or interacts with twice as many as most do.

    Tan, Bhaskaran and Nott, "Conditionally structured variational Gaussian approximation with
    importance weights", 2020 (section 3).
    """

    registered_as: ClassVar[str | None] = "structured"
    slopes: tuple[Float[Array, "_ _"], ...]
    hubs: Bool[Array, " _"]

    def _stretch(self, group: int, given: Float[Array, "n p"]) -> Float[Array, " n"]:
        hub = self.hubs[self.parents[group]]
        return (self.slopes[group] * jnp.where(hub, given, 0.0)).sum(-1)


def structured(
    target: Any, start: Float[Array, " d"], pattern: Any = None, scale: float = 0.1
) -> Structured:
    r"""Local variables given the global ones, read off the model without being told.

    Which coordinates are local, and on which others each depends, follows from the second
    derivatives of the log density that vanish (`ritz.target.interactions`) and from the fill-in
    of their elimination. In a hierarchical model these are the elements of its plates; a chain of
    states given its parameters is found as well. Where everything depends on everything the
    family is the full-rank Gaussian.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        pattern: pairs (i, j) of coordinates that depend on each other given all others, in place
            of the target's own.
        scale: initial standard deviation in unconstrained space.

    Returns:
        a `Structured`.

    Raises:
        RitzError: for a pattern of another form, or a target whose structure cannot be read.

    >>> import jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> groups = lambda x: -(x[0] ** 2) - ((x[1:] - x[0]) ** 2).sum()
    >>> q = structured(from_log_density(groups, jnp.zeros(1001)), jnp.zeros(1001))
    >>> [w.shape for w in q.weights]
    [(1000, 1)]
    """
    d = start.shape[0]
    found = pattern_of("structured", target, start, pattern)
    order, fields = arrays(start, found, scale)
    degree = np.bincount(found.ravel(), minlength=d)[order.order]
    hubs = (np.arange(d) < order.last) | (degree > 2 * np.median(degree))
    return Structured(
        **fields,
        slopes=tuple(map(jnp.zeros_like, fields["weights"])),
        hubs=jnp.asarray(np.concatenate([[False], hubs])),
    )
