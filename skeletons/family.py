"""A family: copy to src/ritz/family/_NAME.py, import it in family/__init__.py.

Write for one point; Ritz batches. Declare only what you can do. A registered family is picked up by
`ritz.fit(family="NAME")`, by saved fits and by the conformance tests (tests/test_family.py).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz.family import AbstractFamily, register


class UnitNormal(AbstractFamily):
    r"""A Gaussian of unit scale: :math:`q_\lambda(x) = \mathcal{N}(x \mid m, I)`.

    Attributes:
        loc: m. Every floating array is trained; wrap one in `paramax.NonTrainable` to fix it.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "unit_normal"
    loc: Float[Array, " d"]

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.loc + jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return -0.5 * ((x - self.loc) ** 2 + jnp.log(2 * jnp.pi)).sum()

    def entropy(self) -> Float[Array, ""]:
        return jnp.asarray(0.5 * self.dim * (1 + jnp.log(2 * jnp.pi)), self.loc.dtype)


def unit_normal(target: Any, start: Float[Array, " d"]) -> UnitNormal:
    """Built around an unconstrained point; read `target.sites` where the structure matters."""
    return UnitNormal(loc=start)


def register_unit_normal() -> None:
    """In your own file this call stands at the end of the module, unindented."""
    register("unit_normal", unit_normal, UnitNormal.capabilities, "d", "a Gaussian of unit scale")
