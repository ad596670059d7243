"""The negative evidence lower bound."""

import abc
from typing import Any, Literal

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator
from ritz.family import AbstractFamily
from ritz.target import AbstractTarget


class AbstractObjective(eqx.Module):
    """A loss, always minimised: a functional of a family and a target."""

    @property
    @abc.abstractmethod
    def needs(self) -> frozenset[str]:
        """Capabilities that the family must declare."""

    def keys(self, key: Key[Array, ""]) -> Key[Array, " n"]:
        """A key for each draw of one evaluation."""
        return key[None]

    def __call__(
        self,
        q: AbstractFamily,
        target: AbstractTarget,
        estimator: AbstractEstimator,
        key: Key[Array, ""],
        batch: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """A number whose derivative estimates the gradient, and the figures to record.

        The figures hold `loss`, an estimate of the functional, and `loss_se`, its standard
        error, where the draws tell it.
        """
        raise NotImplementedError


class NegativeELBO(AbstractObjective):
    r"""The negative evidence lower bound; see `negative_elbo`.

    Attributes:
        draws: K.
        entropy: "closed" or "mc".
    """

    draws: int = eqx.field(static=True)
    entropy: Literal["closed", "mc"] = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy" if self.entropy == "closed" else "log_prob"})

    def keys(self, key: Key[Array, ""]) -> Key[Array, " n"]:
        return key[None] if self.draws == 1 else jax.random.split(key, self.draws)

    def __call__(
        self,
        q: AbstractFamily,
        target: AbstractTarget,
        estimator: AbstractEstimator,
        key: Key[Array, ""],
        batch: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        def one(key: Array) -> Array:
            def energy(x: Array) -> Array:
                value = -target.log_density(x, subsample_key(key), batch)
                return value + q.log_prob(x) if self.entropy == "mc" else value

            return estimator.expectation(energy, q, key)

        known = -q.entropy() if self.entropy == "closed" else 0.0
        if self.draws == 1:
            loss = one(self.keys(key)[0]) + known
            return loss, {"loss": loss}
        values = jax.vmap(one)(self.keys(key))
        loss = values.mean() + known
        return loss, {"loss": loss, "loss_se": values.std(ddof=1) / self.draws**0.5}


def subsample_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key of a draw's data subsample; costs nothing where the model has none."""
    return jax.random.fold_in(key, 2**31 - 1)  # no draw from `key` itself has so high a counter


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
