"""Doubly reparameterised gradients of bounds that are functions of several log weights."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.estimator import law
from ritz.estimator._base import stop


def doubly_reparameterised(
    bound: Callable[[Array], Array],
    log_p: Callable[[Any], Array],
    q: Any,
    keys: Key[Array, " K"],
) -> Float[Array, ""]:
    r"""A bound of K log weights, whose derivative in q's parameters has no score in it.

    .. math:: F(\ell_1, \dots, \ell_K), \qquad
        \ell_k = \log p(x_k) - \log q_\lambda(x_k), \qquad x_k = g_\lambda(\varepsilon_k),
    .. math:: \nabla_\lambda \mathbb{E} F = \mathbb{E} \sum_k
        \Big(\frac{\partial F}{\partial \ell_k} - \frac{\partial^2 F}{\partial \ell_k^2}\Big)
        \frac{\partial \ell_k}{\partial x_k} \frac{\partial x_k}{\partial \lambda}.

    The score of q that remains in the pathwise gradient is itself reparameterised. For the ELBO,
    the mean of the log weights, that is sticking the landing; for the importance-weighted bound
    the coefficient is the square of a normalised weight, and the signal-to-noise ratio no longer
    falls with K. Parameters of p that `log_p` closes over get their own gradient, with
    :math:`\partial F / \partial \ell_k` as usual. First derivatives only.

    Tucker, Lawson, Gu and Maddison 2019 (equations 7 and 8); Bauer and Mnih 2021 for general F.

    Args:
        bound: F, from K log weights to one number; twice differentiable.
        log_p: the log density of the target at a draw.
        q: a family, or a distribution that is reparameterised.
        keys: one for each draw.

    Returns:
        F, to be differentiated in the parameters of q and p.

    Raises:
        RitzError: if draws of q are not differentiable, or log_p returns no number.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> iwae = lambda lw: jax.nn.logsumexp(lw) - jnp.log(len(lw))
    >>> def loss(loc, keys):
    ...     log_p = dist.Normal(0.0, 1.0).log_prob
    ...     return doubly_reparameterised(iwae, log_p, dist.Normal(loc, 1.0), keys)
    >>> float(jax.grad(loss)(0.0, jax.random.split(jax.random.key(0), 8)))
    0.0
    """
    if not law.is_reparameterised(q):
        raise RitzError(
            f"doubly_reparameterised: draws of {law.describe(q)} are not differentiable; use "
            "score() in a program"
        )
    x = jax.vmap(lambda k: law.draw(q, k))(keys)
    fixed, held = stop(q), stop(x)

    def log_weight(x: Array) -> Array:
        value = jnp.asarray(log_p(x))
        if value.shape != ():
            raise RitzError(
                f"doubly_reparameterised: log_p returned shape {value.shape}, expected one number"
            )
        return value - law.log_prob(fixed, x).sum()

    # At held draws log weights keep the derivative in p; their slopes in x are numbers.
    lw, slopes = jax.vmap(jax.value_and_grad(log_weight))(held)
    at = stop(lw)
    first = jax.grad(bound)
    second = jnp.diag(jax.jacfwd(first)(at))
    path = stop(first(at) - second)
    move = jax.vmap(lambda slope, x, held: (slope * (x - held)).sum())(stop(slopes), x, held)
    return jnp.asarray(bound(lw)) + path @ move
