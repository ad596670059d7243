"""The pathwise (reparameterisation) gradient estimator."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, Key

from ritz.family import AbstractFamily


class AbstractEstimator(eqx.Module):
    r"""How :math:`\nabla_\lambda \mathbb{E}_{q_\lambda} f(x, \lambda)` is estimated from one draw.

    Attributes:
        needs: capabilities that the family must declare.
        biased: whether the mean of the estimate differs from the gradient.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    biased: ClassVar[bool] = False

    def expectation(
        self,
        f: Callable[[Float[Array, " d"]], Float[Array, ""]],
        q: AbstractFamily,
        key: Key[Array, ""],
    ) -> Float[Array, ""]:
        """A number whose value estimates the expectation, and its derivative the gradient."""
        raise NotImplementedError


class Pathwise(AbstractEstimator):
    r"""Differentiate through the draw :math:`x = g_\lambda(\varepsilon)`.

    .. math:: \nabla_\lambda \mathbb{E}_{q_\lambda} f(x)
        = \mathbb{E}_{\varepsilon} \nabla_\lambda f(g_\lambda(\varepsilon)).

    Kingma and Welling 2014 (section 2.4); Rezende, Mohamed and Wierstra 2014.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sample", "reparameterised"})

    def expectation(
        self,
        f: Callable[[Float[Array, " d"]], Float[Array, ""]],
        q: AbstractFamily,
        key: Key[Array, ""],
    ) -> Float[Array, ""]:
        return f(q.sample(key))


def pathwise() -> Pathwise:
    """The pathwise estimator, for families whose `sample` is differentiable.

    >>> sorted(pathwise().needs)
    ['reparameterised', 'sample']
    """
    return Pathwise()
