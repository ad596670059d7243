"""Mixtures of a family."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, suggest, whole_number
from ritz.family._base import AbstractFamily, lacking, register, registered


class Mixture(AbstractFamily):
    r"""K members of a family, weighted.

    .. math:: q(x) = \sum_{k=1}^K \pi_k\,q_k(x), \qquad \pi = \mathrm{softmax}(a).

    Its entropy has no closed form. A draw comes from one component, which is no smooth choice;
    `ritz.estimator.stratified` draws from each and sums over the components exactly, so that all
    parameters, weights included, get unbiased gradients.

    Attributes:
        logits: a.
        parts: the components, as one family whose arrays have a leading axis of length K.
        of: the registered name of the family.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob"})
    registered_as: ClassVar[str | None] = "mixture"
    logits: Float[Array, " K"]
    parts: AbstractFamily
    of: str = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.part(0).dim

    @property
    def components(self) -> int:
        """K."""
        return self.logits.shape[0]

    @property
    def weights(self) -> Float[Array, " K"]:
        r""":math:`\pi`."""
        return jax.nn.softmax(self.logits)

    @property
    def options(self) -> dict[str, Any]:
        own = {"components": self.components, "of": self.of}
        return own | self.part(0).options

    def part(self, k: Any) -> AbstractFamily:
        """The k-th component."""
        return jax.tree.map(lambda v: v[k] if eqx.is_array(v) else v, self.parts)

    def prepared(self) -> "Mixture":
        ready = eqx.filter_vmap(lambda part: part.prepared())(self.parts)
        return Mixture(self.logits, ready, self.of)

    def sample_each(self, key: Key[Array, ""]) -> Float[Array, "K d"]:
        """A draw from each component."""
        keys = jax.random.split(key, self.components)
        return eqx.filter_vmap(lambda part, key: part.sample(key))(self.parts, keys)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        # From every component with the same noise, and one of them taken: to take a component
        # first would copy all its arrays for each of many draws side by side.
        which, own = jax.random.split(key)
        each = eqx.filter_vmap(lambda part: part.sample(own))(self.parts)
        # Else XLA would draw from all again wherever the draw is used.
        return jax.lax.optimization_barrier(each[jax.random.categorical(which, self.logits)])

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        each = eqx.filter_vmap(lambda part: part.log_prob(x))(self.parts)
        return jax.nn.logsumexp(jax.nn.log_softmax(self.logits) + each)


def mixture(
    target: Any,
    start: Float[Array, " d"],
    components: Any = 3,
    of: Any = "full_rank",
    spread: float = 0.5,
    **options: Any,
) -> Mixture:
    r"""A mixture around a point.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        components: K.
        of: the registered name of a family that can be sampled, has a density, and whose draws
            are differentiable.
        spread: the standard deviation of the components' first places around the start. They
            differ, as components at one place would stay together.
        **options: of the family.

    Returns:
        a `Mixture` of equal weights.

    Raises:
        RitzError: for fewer than one component, or a family that cannot be mixed.

    >>> import jax.numpy as jnp
    >>> mixture(None, jnp.zeros(5), components=2, of="low_rank", rank=1).options
    {'components': 2, 'of': 'low_rank', 'rank': 1}
    """
    count = whole_number("mixture: components", components, 1)
    known = registered()
    needs = ("sample", "log_prob", "reparameterised")
    if of not in known or lacking(needs, known[of].capabilities):
        fit = [name for name, r in known.items() if not lacking(needs, r.capabilities)]
        raise RitzError(
            f"mixture: of={of!r} arrived, expected the name of a family with a density and "
            f"differentiable draws; {suggest(str(of), fit)}"
        )
    offsets = jax.random.normal(jax.random.key(0), (count, *start.shape), start.dtype)
    starts = start + spread * (offsets - offsets.mean(axis=0))
    parts = [known[of].build(target, s, **options) for s in starts]
    stack = lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0]
    return Mixture(jnp.zeros(count, start.dtype), jax.tree.map(stack, *parts), of)


register(
    "mixture",
    mixture,
    Mixture.capabilities,
    "K(1 + the family's)",
    "a weighted sum of K members of another family",
)
