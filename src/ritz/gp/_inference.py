r"""The evidence of outputs that are not normal: variational, Laplace's, and of expectations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.gp._likelihood import AbstractLikelihood
from ritz.gp._sites import Posterior, Priors, Sites, converged, posterior


class Found(NamedTuple):
    """Sites, and what the log evidence is by them, with a gradient in the priors."""

    sites: Sites
    log_evidence: Float[Array, ""]


def variational(priors: Priors, likelihood: AbstractLikelihood, y: Float[Array, " n"]) -> Found:
    r"""The largest lower bound of the log evidence by a Gaussian.

    .. math:: \sum_i \mathbb{E}_{q(f_i)}\log p(y_i \mid f_i) - \mathrm{KL}(q \,\|\, p).

    At the best sites its gradient in anything else is that with the posterior's `alpha` and
    precisions held fixed. Several functions are independent a posteriori.

    Args:
        priors: of the functions.
        likelihood: of outputs.
        y: these.
    """
    sites, found = converged(priors, lambda m, v: _expected(_fixed(likelihood), m, v, y))
    held = jax.lax.stop_gradient
    at = posterior(priors, held(sites.w), alpha=held(found.alpha))
    return Found(sites, _each(likelihood.expected, at, y).sum() - at.kl)


def laplace(priors: Priors, likelihood: AbstractLikelihood, y: Float[Array, " n"]) -> Found:
    r"""Laplace's approximation at the mode of the functions.

    .. math:: \sum_i \log p(y_i \mid \hat f_i) - \tfrac12 \hat f^\top K^{-1} \hat f
        - \tfrac12 \log|I + W^{1/2} K W^{1/2}|.

    The gradient passes through one more step of Newton's, whose own derivative is zero at the mode,
    so that it is that of the mode too. Rasmussen and Williams, "Gaussian processes for machine
    learning", 2006, equation 3.32; curvatures across functions are left out.

    Args:
        priors: of the functions.
        likelihood: of outputs.
        y: these.
    """
    fixed, half = _fixed(likelihood), lambda p: 0.5 * p.norm
    sites, found = converged(priors, lambda m, v: _pointwise(fixed, m, v, y), half)
    before = jax.lax.stop_gradient(found)

    def moved(at: Posterior) -> Sites:
        _, slope, bend = _pointwise(likelihood, at.mean, at.var, y)
        bend = jnp.maximum(bend, 0.0)
        return Sites(slope + bend * (at.mean - priors.mean[:, None]), bend)

    held = posterior(priors, sites.w, alpha=before.alpha)
    once = moved(held)
    at = posterior(priors, once.w, once.b)
    last = moved(at)
    at = posterior(priors, last.w, alpha=at.alpha)
    total = _each(lambda f, v, y: likelihood.log_prob(f, y), at, y).sum()
    return Found(sites, total - 0.5 * at.norm - at.weighed.half_log_det.sum())


def _fixed(likelihood: Any) -> Any:
    return jax.lax.stop_gradient(likelihood)


def _each(of: Any, at: Any, y: Float[Array, " n"]) -> Float[Array, " n"]:
    """A function of the values' moments and the output, at each row."""
    return jax.vmap(of)(at.mean.T, at.var.T, y)


def _expected(likelihood: Any, mean: Any, var: Any, y: Any) -> tuple[Any, Any, Any]:
    """The expected log likelihood, its slope and minus its curvature in each mean."""

    def total(mean: Any, var: Any) -> Any:
        return jax.vmap(likelihood.expected)(mean.T, var.T, y).sum()

    value, (slope, by_var) = jax.value_and_grad(total, (0, 1))(mean, var)
    return value, slope, -2.0 * by_var


def _pointwise(likelihood: Any, mean: Any, var: Any, y: Any) -> tuple[Any, Any, Any]:
    """The log likelihood at the means, its slope and minus its curvature."""
    total = lambda mean: jax.vmap(likelihood.log_prob)(mean.T, y).sum()
    value, slope = jax.value_and_grad(total)(mean)
    along = lambda f, y: jnp.diagonal(jax.hessian(likelihood.log_prob)(f, y))
    return value, slope, -jax.vmap(along)(mean.T, y).T
