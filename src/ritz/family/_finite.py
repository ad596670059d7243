"""Independent choices from finitely many integers."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ritz.family._base import AbstractFamily


class Finite(AbstractFamily):
    r"""Independent categorical coordinates over K neighbouring integers.

    .. math:: q_\lambda(x) = \prod_{i=1}^d \mathrm{softmax}(\lambda_i)_{x_i - l},
        \qquad x_i \in \{l, \dots, l + K - 1\}.

    Draws are floats, so that they stand in one vector with continuous coordinates.

    Attributes:
        logits: :math:`\lambda`.
        least: l.
        name: of the site that it is for, in messages.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "entropy"})
    logits: Float[Array, "d K"]
    least: int = eqx.field(static=True)
    name: str = eqx.field(static=True, default="")

    @property
    def dim(self) -> int:
        return self.logits.shape[0]

    @property
    def choices(self) -> dist.Distribution:
        """The indices :math:`x - l`, as a distribution with an axis of coordinates."""
        if self.logits.shape[1] == 2:
            return dist.BernoulliLogits(self.logits[:, 1] - self.logits[:, 0])
        return dist.CategoricalLogits(self.logits)

    def at(self, indices: Any) -> Float[Array, " d"]:
        """The coordinates of given indices, or of their relaxations."""
        if jnp.ndim(indices) == 2:
            indices = indices @ jnp.arange(self.logits.shape[1])
        return self.least + jnp.asarray(indices, self.logits.dtype)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.at(jax.random.categorical(key, self.logits))

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        wanted = (jnp.round(x) - self.least).astype(int)
        each = jax.nn.log_softmax(self.logits)
        found = jnp.take_along_axis(each, wanted[:, None], axis=1, mode="fill", fill_value=-jnp.inf)
        return found.sum()

    def entropy(self) -> Float[Array, ""]:
        log_p = jax.nn.log_softmax(self.logits)
        return -(jnp.exp(log_p) * log_p).sum()
