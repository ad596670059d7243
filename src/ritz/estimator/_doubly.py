"""Doubly reparameterised gradients of bounds that are functions of several log weights."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, register, stop


class DoublyReparameterised(AbstractEstimator):
    """See `doubly_reparameterised`."""

    needs: ClassVar[frozenset[str]] = frozenset({"slope", "log_prob"})
    combines: ClassVar[bool] = False
    detaches: ClassVar[bool] = True

    def check(self, q: Any) -> None:
        if not law.is_reparameterised(q):
            instead = "enumerate_support() or score()" if law.is_finite(q) else "score()"
            raise law.refuse(self, q, "its draws are not differentiable", instead)
        super().check(q)

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        raise RitzError(
            "DoublyReparameterised serves K log weights together, in of_log_weights(...) and the "
            "losses made with it, such as iwae(), and no choice alone; use pathwise()"
        )

    def of_log_weights(
        self,
        bound: Callable[[Array], Array],
        log_p: Callable[[Any], Array],
        q: Any,
        x: Float[Array, "K ..."],
    ) -> Float[Array, ""]:
        """The bound at draws that move with q, to be differentiated in q and p."""
        fixed, held = stop(q), stop(x)
        log_weight = lambda x: log_p(x) - law.log_prob(fixed, x).sum()
        # At held draws log weights keep the derivative in p; their slopes in x are numbers.
        lw, slopes = jax.vmap(jax.value_and_grad(log_weight))(held)
        path = stop(self.coefficients(bound, stop(lw)))
        move = jax.vmap(lambda slope, x, held: (slope * (x - held)).sum())(stop(slopes), x, held)
        return jnp.asarray(bound(lw)) + path @ move

    def coefficients(
        self, bound: Callable[[Array], Array], lw: Float[Array, " K"]
    ) -> Float[Array, " K"]:
        """What the slope of each log weight counts."""
        first = jax.grad(bound)
        return first(lw) - jnp.diag(jax.jacfwd(first)(lw))


def doubly_reparameterised() -> DoublyReparameterised:
    r"""The pathwise gradient of a bound of K log weights, without the score of q in it.

    .. math:: F(\ell_1, \dots, \ell_K), \qquad
        \ell_k = \log p(x_k) - \log q_\lambda(x_k), \qquad x_k = g_\lambda(\varepsilon_k),
    .. math:: \nabla_\lambda \mathbb{E} F = \mathbb{E} \sum_k
        \Big(\frac{\partial F}{\partial \ell_k} - \frac{\partial^2 F}{\partial \ell_k^2}\Big)
        \frac{\partial \ell_k}{\partial x_k} \frac{\partial x_k}{\partial \lambda}.

    The score of q that remains in the pathwise gradient is itself reparameterised. For the ELBO,
    the mean of the log weights, that is sticking the landing; for the importance-weighted bound
    the coefficient is the square of a normalised weight, and the signal-to-noise ratio no longer
    falls with K. Parameters of p keep their own gradient, with
    :math:`\partial F / \partial \ell_k` as usual. First derivatives only.

    It serves `iwae`, `renyi`, `chi_square`, `thermodynamic`, and an objective of one's own that is
    written with `ritz.objective.of_log_weights`.

    Tucker, Lawson, Gu and Maddison 2019 (equations 7 and 8); Bauer and Mnih 2021 for general F.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.ones(1))
    >>> q = ritz.family.MeanField(jnp.zeros(1), jnp.zeros(1))  # p itself: no variance
    >>> loss = ritz.objective.iwae(8)
    >>> problem = ritz.objective.Problem(target, q, loss, doubly_reparameterised())
    >>> float(abs(problem.grad(problem.params, jax.random.key(0))[0].loc[0]))
    0.0
    """
    return DoublyReparameterised()


register(
    "doubly_reparameterised",
    doubly_reparameterised,
    "the same, where the loss is a function of K log weights",
)
