"""The forward KL divergence over simulated data sets."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import whole_number
from ritz.estimator import AbstractEstimator
from ritz.objective._base import AbstractObjective, register
from ritz.target import AbstractTarget


class AmortisedForwardKL(AbstractObjective):
    """See `amortised_forward_kl`.

    Attributes:
        draws: pairs of parameters and data.
    """

    draws: int = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"condition"})

    @property
    def trains_target(self) -> bool:
        return False

    @property
    def points(self) -> int | None:
        return 0  # the log density is never evaluated

    def check(self, estimator: AbstractEstimator) -> None:
        pass  # nothing is drawn from the family

    def __call__(
        self,
        q: Any,
        target: AbstractTarget,
        estimator: AbstractEstimator,
        key: Key[Array, ""],
        batch: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        x, data = jax.vmap(target.simulate)(jax.random.split(key, self.draws))
        fine = _finite_each((x, data))
        # The value at a pair that is left out must be finite too, for the sake of its derivative.
        zeros = lambda v: jnp.where(fine.reshape(-1, *[1] * (v.ndim - 1)), v, jnp.zeros_like(v))
        x, data = jax.tree.map(zeros, (x, data))
        log_q = jax.vmap(lambda x, data: q.condition(data).log_prob(x))(x, data)
        n = jnp.maximum(fine.sum(), 1)
        loss = -jnp.where(fine, log_q, 0.0).sum() / n
        far = jnp.where(fine, log_q + loss, 0.0)
        return loss, {"loss": loss, "loss_se": jnp.sqrt((far**2).sum()) / n}


def _finite_each(tree: Any) -> Array:
    """Which entries of the leading axis have no inf or nan anywhere."""
    leaves = jax.tree.leaves(tree)
    return jnp.stack([jnp.isfinite(v.reshape(len(v), -1)).all(1) for v in leaves]).all(0)


def amortised_forward_kl(draws: Any = 128) -> AmortisedForwardKL:
    r"""The forward KL divergence of a family conditional on data, over data sets that are drawn.

    .. math:: -\mathbb{E}_{p(x, y)} \log q_\lambda(x \mid y)
        = \mathbb{E}_{p(y)} \mathrm{KL}(p(x \mid y) \,\|\, q_\lambda(x \mid y)) + \text{constant},

    unbiased, by pairs of parameters and data drawn from `target.simulate`: no log density is
    evaluated. Pairs with an inf or nan are left out. It bounds nothing. Papamakarios and Murray
    2016, "Fast ε-free inference" (proposition 1).

    Args:
        draws: pairs a step.

    Raises:
        RitzError: for fewer than one draw.

    >>> amortised_forward_kl(32).draws
    32
    """
    whole_number("draws", draws, 1)
    return AmortisedForwardKL(draws)


register(
    "amortised_forward_kl",
    amortised_forward_kl,
    "is KL(p ‖ q) on average over data, but for a constant; bounds nothing",
)
