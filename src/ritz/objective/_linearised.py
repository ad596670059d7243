"""The negative ELBO of a sampler without a density, by the entropy of its linearisation."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator, Pathwise
from ritz.objective._base import AbstractAveraged, Density, register
from ritz.program import sample

_BOUNDS = ("log_det", "smallest_singular_value")


class LinearisedELBO(AbstractAveraged):
    """See `linearised_elbo`.

    Attributes:
        bound: "log_det" or "smallest_singular_value".
    """

    bound: Literal["log_det", "smallest_singular_value"] = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"sample", "linearised_entropy", "reparameterised"})

    def check(self, estimator: AbstractEstimator) -> None:
        if type(estimator) is not Pathwise:
            raise RitzError(
                "LinearisedELBO has no log q whose score could be taken, so "
                f"{type(estimator).__name__} cannot serve it; use pathwise()"
            )

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        drawn = sample(_WithEntropy(q, self.bound), estimator)
        return -target.log_density(drawn[:-1]) - drawn[-1]


class _WithEntropy(eqx.Module):
    """A draw of a family with its linearised entropy behind it, from one pass of both."""

    q: Any
    bound: Any = eqx.field(static=True)
    reparameterised: ClassVar[bool] = True

    def sample(self, key: Key[Array, ""]) -> Float[Array, " _"]:
        x, entropy = self.q.sample_and_linearised_entropy(key, self.bound)
        return jnp.append(x, entropy)

    def log_prob(self, x: Any) -> Any:
        raise RitzError("a linearised entropy is no log density; use negative_elbo(entropy='mc')")


def linearised_elbo(draws: Any = 4, bound: Any = "log_det") -> LinearisedELBO:
    r"""The negative ELBO of an implicit sampler :math:`x = g(z) + \sigma\varepsilon`, linearised.

    .. math:: -\mathbb{E}\big[\log\tilde p(x) + \tfrac d2 \log 2\pi e
        + \tfrac12 \log\det(\mathrm{diag}(\sigma^2) + J_z J_z^\top)\big], \qquad
        J_z = \partial g / \partial z.

    Exact where g is affine; else neither above nor below the negative ELBO for certain, and too
    low where g sends far-away z to the same place, since it counts their mass twice. So the fit
    is to be checked by other means: `Fit.elbo` and `Fit.khat` of the family `implicit` are from
    proper weights. With `bound="smallest_singular_value"` each of the n singular values of J is
    replaced by the smallest, which some products with J find: an upper bound of the above, for
    when J is large. Uppal et al. 2023 (sections 3.2 and 3.3).

    Args:
        draws: independent draws that are averaged.
        bound: "log_det", which computes all of J, or "smallest_singular_value".

    Raises:
        RitzError: for fewer than one draw or another bound.

    >>> linearised_elbo(draws=8).bound
    'log_det'
    """
    whole_number("draws", draws, 1)
    if bound not in _BOUNDS:
        raise RitzError(
            f"linearised_elbo: bound={bound!r} arrived, expected {' or '.join(_BOUNDS)}"
        )
    return LinearisedELBO(draws=draws, bound=bound)


register("linearised_elbo", linearised_elbo, "KL(q ‖ p) - log Z where q is affine in its noise")
