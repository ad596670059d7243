"""A draw from every component of a mixture, summed exactly over the components."""

from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Key

from ritz._errors import RitzError
from ritz.estimator._base import AbstractEstimator, Draw
from ritz.family import Mixture, lacking, registered


class Stratified(AbstractEstimator):
    """See `stratified`."""

    stacked: ClassVar[bool] = True
    factorised: ClassVar[bool] = True
    cost: ClassVar[str] = "one for each component"

    def evaluations(self, q: Any) -> int | None:
        return q.components

    def check(self, q: Any) -> None:
        if not isinstance(q, Mixture):
            raise RitzError(
                f"stratified is for a ritz.family.Mixture, but the family is a {type(q).__name__}; "
                "use pathwise() where its draws are differentiable, else score()"
            )
        if q.of in registered() and lacking({"reparameterised"}, registered()[q.of].capabilities):
            raise RitzError("stratified needs components with differentiable draws; use score()")

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        return Draw(q.sample_each(key), {"weight": q.weights})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        weight = notes["weight"]
        impossible = (weight == 0.0) & ~jnp.isfinite(f)  # where a component without weight is
        return (weight * jnp.where(impossible, 0.0, f)).sum(0)


def stratified() -> Stratified:
    r"""Sum over the components of a mixture exactly, with a differentiable draw from each.

    .. math:: \mathbb{E}_q f(x) = \sum_k \pi_k\,\mathbb{E}_{\varepsilon}
        f(g_{\lambda_k}(\varepsilon)).

    The gradient is unbiased in all parameters, the weights among them, and no variance comes from
    the choice of a component. f is evaluated once for each of them. Roeder, Wu and Duvenaud 2017
    (section 5.1); Morningstar et al. 2021 ("SELBO").

    >>> stratified().biased
    False
    """
    return Stratified()
