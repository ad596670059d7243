"""Objectives whose draws are constants: forward KL, log-variance and tail-adaptive divergences.

The family is sampled as it is, without a derivative through the draws, so that any estimator gives
the same gradient.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator, PerPart, pathwise
from ritz.estimator import stop as constant
from ritz.family import AbstractFamily
from ritz.objective._base import AbstractObjective, Density, refuse_doubly, register
from ritz.objective._importance import log_mean_exp
from ritz.program import estimator_of, sample


class AbstractScored(AbstractObjective):
    """A loss of the log densities of K constant draws.

    Attributes:
        draws: K.
    """

    cost: ClassVar[str] = "K"
    draws: int = eqx.field(static=True)

    @abc.abstractmethod
    def of_densities(
        self, log_p: Float[Array, " K"], log_q: Float[Array, " K"]
    ) -> Float[Array, ""]:
        """The loss of one set of draws; only the densities have derivatives."""

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        estimator = estimator_of(q, estimator)

        def one(_: Any) -> tuple[Array, Array]:
            x = jax.lax.stop_gradient(sample(constant(q), estimator))
            return target.log_density(x), estimator.log_prob(q, x)

        return self.of_densities(*jax.vmap(one)(jnp.arange(self.draws)))


class ForwardKL(AbstractScored):
    """See `forward_kl`."""

    bias: ClassVar[str | None] = "O(1/K)"

    @property
    def trains_target(self) -> bool:
        return False

    def of_densities(
        self, log_p: Float[Array, " K"], log_q: Float[Array, " K"]
    ) -> Float[Array, ""]:
        log_w = jax.lax.stop_gradient(log_p - log_q)
        return jax.nn.softmax(log_w) @ (log_p - log_q) - log_mean_exp(log_w)


class Paths(eqx.Module):
    """A family's paths as a choice.

    Attributes:
        q: the family.
    """

    q: AbstractFamily
    reparameterised: ClassVar[bool] = True

    def sample(self, key: Key[Array, ""]) -> Array:
        return self.q.sample_path(key)

    def log_prob(self, path: Array) -> Array:
        return self.q.path_log_prob(path)[1]


class LogVariance(AbstractScored):
    """See `log_variance`."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"path"})

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        if "path" not in getattr(q, "capabilities", ()):
            return super().program(q, target, estimator)

        def one(_: Any) -> tuple[Array, Array]:
            path = jax.lax.stop_gradient(sample(Paths(constant(q)), pathwise()))
            x, log_q = q.path_log_prob(path)
            return target.log_density(x), log_q

        return self.of_densities(*jax.vmap(one)(jnp.arange(self.draws)))

    @property
    def trains_target(self) -> bool:
        return False

    def of_densities(
        self, log_p: Float[Array, " K"], log_q: Float[Array, " K"]
    ) -> Float[Array, ""]:
        return 0.5 * (log_p - log_q).var(ddof=1)


class TailAdaptive(AbstractObjective):
    """See `tail_adaptive`.

    Attributes:
        draws: K.
        beta: of the ranks.
    """

    cost: ClassVar[str] = "K"
    draws: int = eqx.field(static=True)
    beta: float = eqx.field(static=True)

    @property
    def trains_target(self) -> bool:
        return False

    @property
    def bias(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What falls so are the sums of the powers of ranks."""
        return "no limit" if self.beta <= -1.0 else f"O(K^-{1.0 + self.beta:g})"

    def check(self, estimator: AbstractEstimator) -> None:
        refuse_doubly(self, estimator)
        parts = estimator.parts if isinstance(estimator, PerPart) else ()
        if estimator.combines or any(part.biased for part in parts):
            raise RitzError(
                "TailAdaptive needs derivatives through its draws, which "
                f"{type(estimator).__name__} does not give, and so cannot serve discrete sites "
                "that are drawn; for these use negative_elbo(), for others pathwise()"
            )

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        estimator = estimator_of(q, estimator)

        def log_weight(_: Any) -> Array:
            x = sample(q, estimator)
            return target.log_density(x) - estimator.log_prob(constant(q), x)

        log_w = jax.vmap(log_weight)(jnp.arange(self.draws))
        held = jax.lax.stop_gradient(log_w)
        tail = (held[:, None] <= held).mean(1)  # the share of weights that are no smaller
        weights = tail**self.beta / (tail**self.beta).sum()
        return -(weights @ log_w)


def forward_kl(draws: Any = 16) -> ForwardKL:
    r"""The inclusive divergence :math:`\mathrm{KL}(p \,\|\, q)`, by self-normalised importance.

    .. math:: \sum_k \bar w_k \log w_k - \log \frac1K \sum_k w_k, \qquad
        \text{gradient } -\sum_k \bar w_k \nabla \log q(x_k), \quad
        \bar w_k = w_k / \textstyle\sum_j w_j.

    Its gradient is the wake-phase update of q in reweighted wake-sleep; both value and gradient
    are biased by O(1/K). It covers p's mass. Bornschein and Bengio 2015 (section 2.3); Le et al.
    2019.

    Args:
        draws: K.

    Raises:
        RitzError: for fewer than two draws.

    >>> forward_kl(draws=64).draws
    64
    """
    whole_number("draws", draws, 2)
    return ForwardKL(draws)


def log_variance(draws: Any = 8) -> LogVariance:
    r"""The log-variance divergence :math:`\frac12 \mathrm{Var}_q \log w` (VarGrad).

    The draws are constants, and the gradient at them is, on average, exactly that of
    :math:`\mathrm{KL}(q \,\|\, p)`: a score-function gradient with a leave-one-out baseline. The
    value is zero with zero variance at q = p, whatever Z. It bounds nothing. Richter et al. 2020
    (proposition 1). Of a family whose draws end paths, as the samplers of `ritz.transport`, the
    paths are the constants, and the divergence is that of their laws (Richter and Berner 2024,
    equation 18); where the backward steps have parameters too, as in `bridge` and `cmcd`, the
    gradient in these is another one, and zero at the same place.

    Args:
        draws: K.

    Raises:
        RitzError: for fewer than two draws.

    >>> log_variance(draws=4).draws
    4
    """
    whole_number("draws", draws, 2)
    return LogVariance(draws)


def tail_adaptive(draws: Any = 16, beta: Any = -1.0) -> TailAdaptive:
    r"""An f-divergence that adapts to the tail of the weights, so that its gradient has a variance.

    .. math:: -\sum_k \gamma_k \nabla_\lambda \log w(x_k), \qquad
        \gamma_k \propto \bar F(w_k)^{\beta}, \quad \bar F(w) = \tfrac1K \#\{j : w_j \ge w\},

    through the draws only, for K pathwise draws. With :math:`\beta = 0` it is the negative
    ELBO's (sticking the landing); -1 weighs large weights most while the largest counts K times
    the smallest. The value bounds nothing. Wang, Liu and Liu 2018 (algorithm 1).

    Args:
        draws: K.
        beta: at most 0.

    Raises:
        RitzError: for fewer than two draws or a positive beta.

    >>> tail_adaptive(draws=32).beta
    -1.0
    """
    whole_number("draws", draws, 2)
    if not isinstance(beta, int | float) or isinstance(beta, bool) or not -100.0 < beta <= 0.0:
        raise RitzError(f"tail_adaptive: beta={beta!r} arrived, expected a number from -100 to 0")
    return TailAdaptive(draws, float(beta))


register("forward_kl", lambda: forward_kl(2), "tends to KL(p ‖ q) for K → ∞; bounds nothing")
register("log_variance", lambda: log_variance(2), "bounds nothing; has the gradient of KL(q ‖ p)")
register("tail_adaptive", lambda: tail_adaptive(2), "bounds nothing")
