"""The pathwise (reparameterisation) gradient estimator, and sticking the landing."""

from typing import Any, ClassVar

from jaxtyping import Array, Key

from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, register, stop


class Pathwise(AbstractEstimator):
    """See `pathwise`."""

    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    combines: ClassVar[bool] = False
    pairs: ClassVar[bool] = True

    def check(self, q: Any) -> None:
        super().check(q)
        if not law.is_reparameterised(q):
            instead = "enumerate_support() or score()" if law.is_finite(q) else "score()"
            raise law.refuse(self, q, "its draws are not differentiable", instead)

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        return Draw(law.draw(q, key), {})


class StickingTheLanding(Pathwise):
    """See `sticking_the_landing`."""

    needs: ClassVar[frozenset[str]] = frozenset({"slope", "log_prob"})
    detaches: ClassVar[bool] = True

    def log_prob(self, q: Any, x: Any) -> Array:
        return law.log_prob(stop(q), x).sum()


def pathwise() -> Pathwise:
    r"""Differentiate through the draw :math:`x = g_\lambda(\varepsilon)`.

    .. math:: \nabla_\lambda \mathbb{E}_{q_\lambda} f(x)
        = \mathbb{E}_{\varepsilon} \nabla_\lambda f(g_\lambda(\varepsilon)).

    Draws of Gamma, Beta, Dirichlet and Student t are differentiated implicitly by JAX.
    Kingma and Welling 2014 (section 2.4); Rezende, Mohamed and Wierstra 2014; Figurnov, Mohamed
    and Mnih 2018.

    >>> pathwise().biased
    False
    """
    return Pathwise()


def sticking_the_landing() -> StickingTheLanding:
    r"""The pathwise estimator, with :math:`\log q_\lambda(x)` constant in :math:`\lambda` itself.

    Its score has mean zero, so for the ELBO the gradient stays unbiased, and its variance
    vanishes at :math:`q = p`. It is unbiased only where the objective is an expectation of
    something linear in log q, as the ELBO is. Roeder, Wu and Duvenaud 2017 (equation 8).

    >>> sticking_the_landing().biased
    False
    """
    return StickingTheLanding()


register("pathwise", pathwise, "draws that are differentiable")
register(
    "sticking_the_landing",
    sticking_the_landing,
    "draws that are differentiable, where the loss is linear in log q",
)
