"""Objectives that are functions of K log-weights: IWAE, Rényi, χ² and thermodynamic bounds."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator, DoublyReparameterised
from ritz.objective._base import AbstractObjective, Density, register
from ritz.program import of_log_weights


class AbstractImportance(AbstractObjective):
    r"""A loss of the log-weights :math:`\log w_k = \log\tilde p(x_k) - \log q(x_k)` of K draws.

    Attributes:
        draws: K.
    """

    cost: ClassVar[str] = "K"
    bias: ClassVar[str | None] = "O(1/K)"
    draws: int = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"sample_and_log_prob"})

    @abc.abstractmethod
    def of_log_weights(self, log_w: Float[Array, " K"]) -> Float[Array, ""]:
        """The loss of one set of draws."""

    def check(self, estimator: AbstractEstimator) -> None:
        if not isinstance(estimator, DoublyReparameterised):
            super().check(estimator)

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        return of_log_weights(self.of_log_weights, target.log_density, q, self.draws, estimator)


class Importance(AbstractImportance):
    """See `iwae`."""

    def of_log_weights(self, log_w: Float[Array, " K"]) -> Float[Array, ""]:
        return -log_mean_exp(log_w)


class Renyi(AbstractImportance):
    """See `renyi`."""

    alpha: float = eqx.field(static=True)

    @property
    def trains_target(self) -> bool:
        return self.alpha >= 0.0

    def of_log_weights(self, log_w: Float[Array, " K"]) -> Float[Array, ""]:
        if self.alpha == 1.0:
            return -log_w.mean()
        rest = 1.0 - self.alpha
        return -log_mean_exp(rest * log_w) / rest


class ChiSquare(AbstractImportance):
    """See `chi_square`."""

    @property
    def trains_target(self) -> bool:
        return False

    def of_log_weights(self, log_w: Float[Array, " K"]) -> Float[Array, ""]:
        return 0.5 * log_mean_exp(2.0 * log_w)


class Thermodynamic(AbstractImportance):
    """See `thermodynamic`."""

    partitions: int = eqx.field(static=True)

    def of_log_weights(self, log_w: Float[Array, " K"]) -> Float[Array, ""]:
        betas = jnp.linspace(0.0, 1.0, self.partitions + 1)[:-1]
        weights = jax.nn.softmax(betas[:, None] * log_w, axis=1)
        return -(weights @ log_w).mean()


def log_mean_exp(x: Float[Array, " K"]) -> Float[Array, ""]:
    r""":math:`\log \frac1K \sum_k e^{x_k}`.

    K is inside, because a constant that is added outside is no part of what choices are credited
    with: the score function would meet the logarithm of a sum, which is larger.
    """
    return jax.nn.logsumexp(x - jnp.log(len(x)))


def iwae(draws: Any = 8) -> Importance:
    r"""The importance-weighted bound, as a loss.

    .. math:: \mathcal{L}_K = -\mathbb{E}_{x_1, \dots, x_K \sim q} \log \frac1K \sum_k w_k
        \ge -\log Z.

    An upper bound of :math:`-\log Z` for each K, tight as K grows, with a gap of
    :math:`\mathrm{Var}(w) / (2 K Z^2)` to first order; K = 1 is the negative ELBO. Gradients of
    q's parameters weaken as K grows (Rainforth et al. 2018). Burda, Grosse and Salakhutdinov 2016
    (equation 8).

    Args:
        draws: K.

    Raises:
        RitzError: for fewer than one draw.

    >>> iwae(draws=16).draws
    16
    """
    whole_number("draws", draws, 1)
    return Importance(draws)


def renyi(alpha: Any, draws: Any = 8) -> Renyi:
    r"""Rényi's variational bound, as a loss.

    .. math:: \mathcal{L}_{\alpha, K} = -\frac{1}{1 - \alpha}\, \mathbb{E} \log
        \frac1K \sum_k w_k^{1 - \alpha} \to D_\alpha(q \,\|\, p) - \log Z.

    For :math:`\alpha > 0` the limit K to infinity is an upper bound of :math:`-\log Z`, for
    :math:`\alpha < 0` a lower one; a finite K moves it by O(1/K), up for :math:`\alpha < 1`. The
    limit :math:`\alpha \to 1` is the negative ELBO, and :math:`\alpha = 0` is `iwae`. Li and
    Turner 2016 (equations 4 and 8).

    Args:
        alpha: a real number. Small values cover mass, large ones seek modes.
        draws: K.

    Raises:
        RitzError: for an alpha that is not a finite number, or fewer than two draws.

    >>> renyi(0.5, draws=16).alpha
    0.5
    """
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not abs(alpha) < 1e6:
        raise RitzError(f"renyi: alpha={alpha!r} arrived, expected a finite number such as 0.5")
    whole_number("draws", draws, 2)
    return Renyi(draws, float(alpha))


def chi_square(draws: Any = 8) -> ChiSquare:
    r"""The χ² upper bound of the evidence (CUBO with n = 2), as a loss.

    .. math:: \tfrac12 \log \mathbb{E}_q w^2 = \log Z + \tfrac12 \log(1 + \chi^2(p \,\|\, q))
        \ge \log Z.

    Estimated by :math:`\frac12 \log \frac1K \sum_k w_k^2`, which is too low by O(1/K), so that a
    finite K may fall below :math:`\log Z`. It covers p's mass; :math:`\chi^2` is the variance of
    importance weights (variational importance sampling). Dieng et al. 2017 (equation 4); Li et
    al. 2024, "Forward χ² divergence based variational importance sampling".

    Args:
        draws: K.

    Raises:
        RitzError: for fewer than two draws.

    >>> chi_square(draws=32).draws
    32
    """
    whole_number("draws", draws, 2)
    return ChiSquare(draws)


def thermodynamic(draws: Any = 8, partitions: Any = 5) -> Thermodynamic:
    r"""The thermodynamic variational objective, as a loss.

    .. math:: -\frac1P \sum_{j=0}^{P-1} \mathbb{E}_{\pi_{j/P}} \log w \ge -\log Z, \qquad
        \pi_\beta \propto q^{1-\beta} \tilde p^{\beta},

    a left Riemann sum of the thermodynamic integral, which bounds :math:`-\log Z` from above and
    is the negative ELBO for P = 1. Expectations under :math:`\pi_\beta` are self-normalised over
    the K draws, with a bias of O(1/K). Masrani, Le and Wood 2019 (equations 8 and 9).

    Args:
        draws: K.
        partitions: P, of equal width.

    Raises:
        RitzError: for fewer than two draws or one partition.

    >>> thermodynamic(draws=32, partitions=10).partitions
    10
    """
    whole_number("draws", draws, 2)
    whole_number("partitions", partitions, 1)
    return Thermodynamic(draws, int(partitions))


register("iwae", lambda: iwae(2), "bounds -log Z from above, tighter as K grows")
register(
    "renyi",
    lambda: renyi(0.5, 2),
    "for K → ∞ bounds -log Z: above for α > 0, below for α < 0",
)
register("chi_square", lambda: chi_square(2), "for K → ∞ bounds log Z from above")
register("thermodynamic", lambda: thermodynamic(2, 3), "for K → ∞ bounds -log Z from above")
