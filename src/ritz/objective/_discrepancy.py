"""Divergences that need no log density of one side: Fisher divergence, and MMD to samples."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator, law
from ritz.objective._base import AbstractAveraged, AbstractObjective, Density, register
from ritz.program import sample


class Fisher(AbstractAveraged):
    """See `fisher_divergence`."""

    cost: ClassVar[str] = "K, with second derivatives"

    @property
    def trains_target(self) -> bool:
        return False

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        if law.has_discrete(q):
            raise RitzError(
                f"Fisher needs derivatives of log q along x, which {law.describe(q)} has not, as "
                "it draws discrete coordinates; use negative_elbo()"
            )
        drawn = [site.name for site in target.target.sites if site.values is not None]
        if drawn:
            raise RitzError(
                f"Fisher needs derivatives of the log density along x, but site {drawn[0]!r} is "
                "discrete and drawn; use negative_elbo()"
            )
        x = sample(q, estimator)
        log_w = lambda x: target.log_density(x) - law.log_prob(q, x).sum()
        return (jax.grad(log_w)(x) ** 2).sum()


class MMD(AbstractObjective):
    """See `maximum_mean_discrepancy`.

    Attributes:
        samples: of the target, on the unconstrained space.
        bandwidth: of the kernel.
        draws: of q.
    """

    cost: ClassVar[str] = "none"
    samples: Float[Array, "n d"]
    bandwidth: float = eqx.field(static=True)
    draws: int = eqx.field(static=True)

    @property
    def trains_target(self) -> bool:
        return False

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"sample"})

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        xs = jax.vmap(lambda _: sample(q, estimator))(jnp.arange(self.draws))
        own, n = self._kernel(xs, xs), len(self.samples)
        within = (own.sum() - jnp.trace(own)) / (self.draws * (self.draws - 1))
        theirs = self._kernel(self.samples, self.samples)
        constant = (theirs.sum() - jnp.trace(theirs)) / (n * (n - 1))
        return within - 2.0 * self._kernel(xs, self.samples).mean() + constant

    def _kernel(self, x: Array, y: Array) -> Array:
        squares = ((x[:, None] - y[None]) ** 2).sum(-1)
        return jnp.exp(-0.5 * squares / self.bandwidth**2)


def fisher_divergence(draws: Any = 1) -> Fisher:
    r"""The Fisher divergence, which needs no normalising constant on either side.

    .. math:: \mathbb{E}_q \| \nabla \log\tilde p(x) - \nabla \log q(x) \|^2 .

    Zero at q = p only, for targets of one connected piece; it does not see how mass is shared
    between pieces far apart. It bounds nothing. Hyvärinen 2005; Yang, Martin and Bondell 2019.

    Args:
        draws: independent draws that are averaged.

    Raises:
        RitzError: for fewer than one draw, or, in a program, for discrete coordinates.

    >>> fisher_divergence(4).draws
    4
    """
    whole_number("draws", draws, 1)
    return Fisher(draws)


def maximum_mean_discrepancy(samples: Any, bandwidth: Any, draws: Any = 32) -> MMD:
    r"""The squared maximum mean discrepancy between q and samples of the target.

    .. math:: \mathbb{E}\,k(x, x') - 2\,\mathbb{E}\,k(x, y) + \mathbb{E}\,k(y, y'), \qquad
        k(x, y) = e^{-\|x - y\|^2 / 2h^2},

    unbiased, by the U-statistic over `draws` of q and the samples y. It bounds nothing. Gretton
    et al. 2012 (lemma 6).

    Args:
        samples: (n, d) points of the target on the unconstrained space, n at least 2.
        bandwidth: h, positive; the median distance of samples is a usual choice.
        draws: of q, at least 2.

    Raises:
        RitzError: for other shapes or values.

    >>> import numpy as np
    >>> maximum_mean_discrepancy(np.zeros((5, 2)), 1.0).draws
    32
    """
    whole_number("draws", draws, 2)
    if np.ndim(samples) != 2 or len(samples) < 2:
        raise RitzError(f"samples of shape {np.shape(samples)} arrived, expected (n, d), n >= 2")
    if not isinstance(bandwidth, int | float) or isinstance(bandwidth, bool) or not bandwidth > 0:
        raise RitzError(f"bandwidth={bandwidth!r} arrived, expected a positive number")
    return MMD(jnp.asarray(samples, float), float(bandwidth), draws)


register("fisher_divergence", fisher_divergence, "bounds nothing; 0 at q = p")
register(
    "maximum_mean_discrepancy",
    lambda: maximum_mean_discrepancy([[0.4], [-0.2], [1.1]], 0.9, 2),
    "bounds nothing; 0 at q = p",
)
