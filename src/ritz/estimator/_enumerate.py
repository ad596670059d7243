"""Exact sums over a finite support."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Key

from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, register


class Enumerate(AbstractEstimator):
    """See `enumerate_support`."""

    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})
    stacked: ClassVar[bool] = True
    factorised: ClassVar[bool] = True
    fixed: ClassVar[bool] = True
    cost: ClassVar[str] = "size of the support"

    def check(self, q: Any) -> None:
        super().check(q)
        if not law.is_finite(q):
            instead = "pathwise()" if law.is_reparameterised(q) else "score()"
            raise law.refuse(self, q, "its support is not finite", instead)

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        values = law.support(q)
        log_q = jnp.stack([law.log_prob(q, x) for x in values])
        return Draw(values, {"weight": jnp.exp(log_q)})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        weight = notes["weight"]
        impossible = (weight == 0.0) & ~jnp.isfinite(f)  # such as log 0 at a value with no mass
        return (weight * jnp.where(impossible, 0.0, f)).sum(0)


def enumerate_support() -> Enumerate:
    r"""The exact sum :math:`\sum_k q_\lambda(k) f(k)`, and its exact gradient.

    Elements of a plate are summed in parallel, at a cost linear in its size, as long as the
    program keeps them apart up to a sum; where it mixes them, every combination is evaluated, and
    refused beyond 4,096.

    >>> enumerate_support().cost
    'size of the support'
    """
    return Enumerate()


register("enumerate_support", enumerate_support, "a finite support; exact")
