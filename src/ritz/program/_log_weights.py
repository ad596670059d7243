"""Functions of the log weights of several draws, in a program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number
from ritz.estimator import DoublyReparameterised, pathwise
from ritz.program._estimator_of import estimator_of
from ritz.program._site import Nested, sample, sample_and_log_prob


def of_log_weights(
    bound: Callable[[Any], Any],
    log_p: Callable[[Any], Any],
    q: Any,
    draws: Any,
    estimator: Any = None,
) -> Float[Array, ""]:
    r"""A function of K log weights :math:`\ell_k = \log p(x_k) - \log q(x_k)`, in a program.

    Written with it, an objective can also be estimated by `doubly_reparameterised()`, which needs
    to know the function as a whole.

    Args:
        bound: F, from K log weights to one number; smooth.
        log_p: the log density of the target at a draw.
        q: as for `sample`.
        draws: K.
        estimator: as for `sample`.

    Returns:
        F of the log weights.

    Raises:
        RitzError: where log_p returns no number, or the estimator does not serve.

    >>> import numpyro.distributions as dist
    >>> from ritz.estimator import doubly_reparameterised
    >>> from ritz.objective import expectation, log_mean_exp, of_log_weights
    >>> def bound(loc):
    ...     q, log_p = dist.Normal(loc, 1.0), dist.Normal(0.0, 1.0).log_prob
    ...     return of_log_weights(log_mean_exp, log_p, q, 8, doubly_reparameterised())
    >>> float(expectation(bound).grad(jax.random.key(0), 0.0))
    0.0
    """
    whole_number("draws", draws, 1)

    def density(x: Any) -> Array:
        value = jnp.asarray(log_p(x))
        if value.shape != ():
            raise RitzError(
                f"of_log_weights: log_p returned shape {value.shape}, expected one number"
            )
        return value

    each = jnp.arange(draws)
    if not isinstance(q, Nested):
        estimator = estimator_of(q, estimator)
    if isinstance(estimator, DoublyReparameterised):
        estimator.check(q)
        x = jax.vmap(lambda _: sample(q, pathwise()))(each)
        return estimator.of_log_weights(bound, density, q, x)

    def log_weight(_: Any) -> Array:
        x, log_q = sample_and_log_prob(q, estimator)
        return density(x) - log_q

    return bound(jax.vmap(log_weight)(each))
