"""Reweighted wake-sleep: the target's own parameters and the family, each by its own update."""

from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator
from ritz.objective._base import Density, register
from ritz.objective._detached import AbstractScored
from ritz.objective._importance import log_mean_exp


class WakeSleep(AbstractScored):
    """See `wake_sleep`.

    Attributes:
        sleep: the share of the sleep phase in the update of q.
    """

    bias: ClassVar[str | None] = "O(1/K)"
    sleep: float = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        also = {"condition"} if self.sleep > 0.0 else set()
        return frozenset({"sample", "log_prob", *also})

    def of_densities(
        self, log_p: Float[Array, " K"], log_q: Float[Array, " K"]
    ) -> Float[Array, ""]:
        log_w = log_p - jax.lax.stop_gradient(log_q)
        weights = jax.lax.stop_gradient(jax.nn.softmax(log_w))
        return -log_mean_exp(log_w) - (1.0 - self.sleep) * _slope(weights @ log_q)

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        loss = super().program(q, target, estimator)
        return loss - self.sleep * _slope(self._dreamt(q, target)) if self.sleep > 0.0 else loss

    def _dreamt(self, q: Any, target: Density) -> Float[Array, ""]:
        """The mean log density that q, given simulated data, has at what they were made from."""
        if not target.target.can_simulate:
            raise RitzError(
                f"wake_sleep(sleep={self.sleep:g}) simulates data, which a "
                f"{type(target.target).__name__} cannot do; use a NumPyro model that sees all its "
                "data, or wake_sleep() without sleep"
            )

        def one(key: Any) -> Array:
            x, observed = jax.lax.stop_gradient(target.target.simulate(key))
            return q.condition(observed).log_prob(x)

        keys = jax.random.split(jax.random.fold_in(target.key, 1), self.draws)
        return jax.vmap(one)(keys).mean()


def _slope(x: Array) -> Array:
    """0, whose derivative is that of x."""
    return x - jax.lax.stop_gradient(x)


def wake_sleep(draws: Any = 16, sleep: Any = 0.0) -> WakeSleep:
    r"""Reweighted wake-sleep, which trains a target's own parameters along with the family.

    With K draws :math:`x_k \sim q_\lambda`, weights :math:`w_k = \tilde p_\theta(x_k) / q(x_k)`
    and :math:`\bar w_k = w_k / \sum_j w_j`, none of which is differentiated in the second line,

    .. math::
        \theta &: \quad -\nabla_\theta \log \tfrac1K \textstyle\sum_k w_k
            = -\sum_k \bar w_k \nabla_\theta \log\tilde p_\theta(x_k), \\
        \lambda &: \quad -\textstyle\sum_k \bar w_k \nabla_\lambda \log q_\lambda(x_k).

    The value is that of `iwae`, an upper bound of :math:`-\log Z(\theta)`. Its gradient in
    :math:`\theta` is the bound's own, without bias; as one of :math:`-\log Z` it is biased by
    O(1/K), and so is the other as the gradient of :math:`\mathrm{KL}(p \,\|\, q)`. No choice is
    differentiated through, so that discrete ones need no estimator.

    With `sleep` above zero that share of the second line is replaced by the sleep phase: x and
    data y are drawn from the model, and q for these data follows
    :math:`-\nabla_\lambda \log q_\lambda(x \mid y)`, without bias for the divergence
    :math:`\mathrm{KL}(p \,\|\, q)` that is averaged over the model's own data. It needs a NumPyro
    model, and a family with the capability `condition`: other data in the place of its own.

    Bornschein and Bengio 2015 (equations 5 and 9, section 2.3); Le et al. 2019. Sleep phase:
    Hinton, Dayan, Frey and Neal 1995.

    Args:
        draws: K.
        sleep: the share, from 0 to 1.

    Raises:
        RitzError: for fewer than two draws or another share, or, in a program, for a target that
            cannot be simulated.

    >>> wake_sleep(draws=32).sleep
    0.0
    """
    whole_number("draws", draws, 2)
    number = isinstance(sleep, int | float) and not isinstance(sleep, bool)
    if not number or not 0.0 <= sleep <= 1.0:
        raise RitzError(f"wake_sleep: sleep={sleep!r} arrived, expected a share from 0 to 1")
    return WakeSleep(draws, float(sleep))


register(
    "wake_sleep",
    lambda: wake_sleep(2),
    "bounds -log Z from above, tighter as K grows; q covers p's mass",
)
