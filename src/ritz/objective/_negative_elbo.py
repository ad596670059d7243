"""The negative evidence lower bound."""

from typing import Any, Literal

import equinox as eqx
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator, law
from ritz.objective._base import AbstractAveraged, Density, refuse_doubly, register
from ritz.program import sample, sample_and_log_prob


class NegativeELBO(AbstractAveraged):
    r"""The negative evidence lower bound; see `negative_elbo`.

    Attributes:
        entropy: "closed" or "mc".
    """

    entropy: Literal["closed", "mc"] = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        if self.entropy == "closed":
            return frozenset({"sample", "entropy"})
        return frozenset({"sample_and_log_prob"})

    def check(self, estimator: AbstractEstimator) -> None:
        refuse_doubly(self, estimator)  # linear in log q: others serve

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        if self.entropy == "closed":
            return -target.log_density(sample(q, estimator)) - law.entropy(q)
        x, log_q = sample_and_log_prob(q, estimator)
        return log_q - target.log_density(x)


def negative_elbo(draws: Any = 1, entropy: Any = "closed") -> NegativeELBO:
    r"""The negative evidence lower bound, estimated from K draws.

    .. math:: \mathcal{L}(\lambda)
        = \mathbb{E}_{q_\lambda}[\log q_\lambda(x) - \log\tilde p(x)]
        = \mathrm{KL}(q_\lambda \,\|\, p) - \log Z.

    It bounds the negative log evidence from above. With `entropy="closed"` the first term is
    :math:`-\mathbb{H}(q_\lambda)`, exact; with `entropy="mc"` it is averaged over the same
    draws, which has zero variance at :math:`q = p` (Jordan et al. 1999; Kucukelbir et al. 2017).

    Args:
        draws: K, the draws a step.
        entropy: "closed" or "mc".

    Returns:
        the objective.

    Raises:
        RitzError: for fewer than one draw or another word.

    >>> negative_elbo(draws=8).draws
    8
    """
    whole_number("draws", draws, 1)
    if entropy not in ("closed", "mc"):
        raise RitzError(f"negative_elbo: entropy={entropy!r} arrived, expected 'closed' or 'mc'")
    return NegativeELBO(draws=draws, entropy=entropy)


register("negative_elbo", negative_elbo, "bounds -log Z from above, by KL(q ‖ p)")
register(
    "negative_elbo(entropy='mc')",
    lambda: negative_elbo(entropy="mc"),
    "the same, without variance at q = p",
)
