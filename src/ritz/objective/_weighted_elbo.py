"""The ELBO with its parts weighted: β, tempered and data-emphasised."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator, law
from ritz.objective._base import AbstractAveraged, Density, refuse_doubly, register
from ritz.program import sample


class WeightedELBO(AbstractAveraged):
    r"""Minus the ELBO with weights on its three parts.

    .. math:: -\mathbb{E}_q[a \log p(y \mid x) + b \log p(x)] - c\,\mathbb{H}(q).

    Attributes:
        likelihood: a.
        prior: b, on the latent sites and the Jacobian of their constraints.
        entropy: c.
    """

    likelihood: float = eqx.field(static=True)
    prior: float = eqx.field(static=True)
    entropy: float = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"sample", "entropy"})

    def check(self, estimator: AbstractEstimator) -> None:
        refuse_doubly(self, estimator)  # log q enters through the entropy only: others serve

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        x = sample(q, estimator)
        if self.likelihood == self.prior:
            energy = self.prior * target.log_density(x)
        else:
            observed = {seen.name for seen in target.target.observed}
            if not observed:
                raise RitzError(
                    f"{target.target.describe()} does not tell its likelihood from its prior; use "
                    "tempered_elbo, or a NumPyro model with observed sites"
                )
            terms = target.terms(x).items()
            energy = sum(
                (self.likelihood if name in observed else self.prior) * value
                for name, value in terms
            )
        return -energy - self.entropy * law.entropy(q)


def beta_elbo(beta: Any, draws: Any = 1) -> WeightedELBO:
    r"""Minus the β-ELBO, :math:`-\mathbb{E}_q \log p(y \mid x) + \beta\,\mathrm{KL}(q \| p(x))`.

    It bounds :math:`-\log p(y)` from above for :math:`\beta \ge 1`. Higgins et al. 2017
    (equation 4).

    Args:
        beta: positive.
        draws: independent draws that are averaged.

    Raises:
        RitzError: for a beta that is not positive.

    >>> beta_elbo(4.0).prior
    4.0
    """
    beta = _positive("beta", beta)
    return WeightedELBO(_draws(draws), 1.0, beta, beta)


def tempered_elbo(temperature: Any, draws: Any = 1) -> WeightedELBO:
    r"""Minus the tempered ELBO, :math:`-\mathbb{E}_q \log\tilde p(x) - T\,\mathbb{H}(q)`.

    Its best q is nearest to :math:`\tilde p^{1/T}`: T above 1 spreads, below 1 sharpens. Mandt et
    al. 2016.

    Args:
        temperature: T, positive.
        draws: independent draws that are averaged.

    Raises:
        RitzError: for a temperature that is not positive.

    >>> tempered_elbo(2.0).entropy
    2.0
    """
    return WeightedELBO(_draws(draws), 1.0, 1.0, _positive("temperature", temperature))


def data_emphasised_elbo(kappa: Any, draws: Any = 1) -> WeightedELBO:
    r"""Minus the data-emphasised ELBO.

    .. math:: -\kappa\,\mathbb{E}_q \log p(y \mid x) + \mathrm{KL}(q \,\|\, p(x)).

    With :math:`\kappa` about parameters over data it selects hyperparameters of models with more
    parameters than data. Harvey, Petrov and Hughes 2025, "Learning hyperparameters via a
    data-emphasized variational objective".

    Args:
        kappa: positive.
        draws: independent draws that are averaged.

    Raises:
        RitzError: for a kappa that is not positive.

    >>> data_emphasised_elbo(10.0).likelihood
    10.0
    """
    return WeightedELBO(_draws(draws), _positive("kappa", kappa), 1.0, 1.0)


def _positive(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 < value < 1e12:
        raise RitzError(f"{name}={value!r} arrived, expected a positive number")
    return float(value)


def _draws(draws: Any) -> int:
    whole_number("draws", draws, 1)
    return int(draws)


register("beta_elbo", lambda: beta_elbo(1.5), "bounds -log p(y) from above for β ≥ 1")
register("tempered_elbo", lambda: tempered_elbo(2.0), "bounds -T log ∫ p̃^(1/T) dx from above")
register(
    "data_emphasised_elbo",
    lambda: data_emphasised_elbo(2.0),
    "bounds -log ∫ p(y given x)^κ p(x) dx from above",
)
