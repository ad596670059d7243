"""The negative evidence lower bound."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.estimator import AbstractEstimator
from ritz.family import AbstractFamily
from ritz.target import AbstractTarget


class AbstractObjective(eqx.Module):
    """A loss, always minimised: a functional of a family and a target.

    Attributes:
        needs: capabilities that the family must declare.
    """

    needs: eqx.AbstractVar[frozenset[str]]

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
        error (nan where one draw tells nothing of it).
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
    kind: ClassVar[str] = "negative_elbo"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy" if self.entropy == "closed" else "log_prob"})

    def __call__(
        self,
        q: AbstractFamily,
        target: AbstractTarget,
        estimator: AbstractEstimator,
        key: Key[Array, ""],
        batch: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        def one(key: Array) -> Array:
            draw, subsample = jax.random.split(key)

            def energy(x: Array) -> Array:
                value = -target.log_density(x, subsample, batch)
                return value + q.log_prob(x) if self.entropy == "mc" else value

            return estimator.expectation(energy, q, draw)

        keys = jax.random.split(key, self.draws)
        values = one(keys[0])[None] if self.draws == 1 else jax.vmap(one)(keys)
        loss = values.mean()
        if self.entropy == "closed":
            loss = loss - q.entropy()
        spread = values.std(ddof=1) if self.draws > 1 else jnp.full((), jnp.nan, loss.dtype)
        return loss, {"loss": loss, "loss_se": spread / jnp.sqrt(1.0 * self.draws)}


def negative_elbo(draws: int = 1, entropy: Literal["closed", "mc"] = "closed") -> NegativeELBO:
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
    if draws < 1:
        raise RitzError(f"negative_elbo: draws={draws} arrived, expected at least 1")
    if entropy not in ("closed", "mc"):
        raise RitzError(f"negative_elbo: entropy={entropy!r} arrived, expected 'closed' or 'mc'")
    return NegativeELBO(draws=draws, entropy=entropy)
