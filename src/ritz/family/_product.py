"""Families side by side, independent of each other."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.family._base import CAPABILITIES, AbstractFamily, lacking


class Product(AbstractFamily):
    r"""Independent families on consecutive coordinates, :math:`q(x) = \prod_b q_b(x_b)`.

    It can do what all of them can. `ritz.estimator.per_part` estimates each part's gradient in
    its own way.

    Attributes:
        parts: the families :math:`q_b`, in the order of their coordinates.

    >>> import jax.numpy as jnp
    >>> from ritz.family import Finite, MeanField
    >>> q = Product((MeanField(jnp.zeros(2), jnp.zeros(2)), Finite(jnp.zeros((3, 2)), 0)))
    >>> q.dim, sorted(q.capabilities)
    (5, ['entropy', 'log_prob', 'path', 'sample', 'sample_and_log_prob'])
    """

    parts: tuple[AbstractFamily, ...]

    def __check_init__(self) -> None:
        if not self.parts:
            raise RitzError("Product: no family arrived, expected one or more")

    @property
    def capabilities(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        can = lambda what: not any(lacking({what}, part.capabilities) for part in self.parts)
        found = frozenset(filter(can, CAPABILITIES))
        # A path of several parts is their ends, whose density must be known.
        return found if "log_prob" in found else found - {"path"}

    @property
    def composed(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(part.composed for part in self.parts)

    @property
    def dim(self) -> int:
        return sum(part.dim for part in self.parts)

    def split(self, x: Float[Array, " d"]) -> list[Float[Array, " _"]]:
        """Each part's coordinates."""
        ends = itertools.accumulate(part.dim for part in self.parts)
        return jnp.split(x, list(ends)[:-1])

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jnp.concatenate([q.sample(k) for q, k in self._keyed(key)])

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        each = (q.log_prob(own) for q, own in zip(self.parts, self.split(x), strict=True))
        return jnp.stack(list(each)).sum()

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        pairs = [q.sample_and_log_prob(k) for q, k in self._keyed(key)]
        return jnp.concatenate([x for x, _ in pairs]), jnp.stack([lp for _, lp in pairs]).sum()

    def entropy(self) -> Float[Array, ""]:
        return jnp.stack([part.entropy() for part in self.parts]).sum()

    def condition(self, data: Any) -> "Product":
        return Product(tuple(part.condition(data) for part in self.parts))

    def _keyed(self, key: Key[Array, ""]) -> Any:
        return zip(self.parts, jax.random.split(key, len(self.parts)), strict=True)
