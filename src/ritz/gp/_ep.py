r"""Expectation propagation, and its evidence at any sites."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.gp._inference import Found
from ritz.gp._likelihood import AbstractLikelihood
from ritz.gp._sites import Posterior, Priors, Sites, posterior

_DAMPING, _STEPS = 0.7, 200
_CLOSE = {jnp.dtype("float32"): 1e-4, jnp.dtype("float64"): 1e-8}


def propagated(priors: Priors, likelihood: AbstractLikelihood, y: Float[Array, " n"]) -> Found:
    """Expectation propagation, all sites at once, until no mean or variance moves.

    Minka, "Expectation propagation for approximate Bayesian inference", 2001; Rasmussen and
    Williams, "Gaussian processes for machine learning", 2006, section 3.6. Steps are seven tenths
    of those asked for; precisions below zero are taken to be zero.

    Args:
        priors: of one function.
        likelihood: of outputs.
        y: these.
    """
    held, fixed = jax.lax.stop_gradient((priors, likelihood))

    def step(carry: Any) -> Any:
        sites, mean, var, _, tried = carry
        at = posterior(held, sites.w, sites.b)
        outer, inner = _cavity(at, sites, held.mean[:, None])
        left = at.weighed.var - at.weighed.told
        slope, bend = _tilted(fixed, held, outer, inner + left, y)
        scale = jnp.maximum(1.0 + inner * bend, 1e-6)
        w = jnp.maximum(-bend / scale, 0.0)
        b = (slope - outer * bend) / scale
        b = jnp.where(-bend > 0, b, slope)
        mix = lambda old, new: jnp.where(
            jnp.isfinite(new), (1.0 - _DAMPING) * old + _DAMPING * new, old
        )
        new = Sites(mix(sites.b, b), mix(sites.w, w))
        moved = (jnp.abs(at.mean - mean) / jnp.sqrt(at.var)).max()
        moved = jnp.maximum(moved, jnp.abs(at.var / var - 1.0).max())
        return new, at.mean, at.var, moved, tried + 1

    going = lambda carry: (carry[3] > _CLOSE[held.mean.dtype]) & (carry[4] < _STEPS)
    none = jnp.zeros((priors.latents, len(y)), priors.mean.dtype)
    far = jnp.asarray(jnp.inf, none.dtype)
    start = (Sites(none, none), none, none + far, far, 0)
    sites = jax.lax.while_loop(going, step, start)[0]
    return Found(sites, log_evidence(priors, likelihood, y, sites))


def log_evidence(
    priors: Priors, likelihood: AbstractLikelihood, y: Float[Array, " n"], sites: Sites
) -> Float[Array, ""]:
    r"""That of expectation propagation, for sites of any origin, which no gradient passes.

    .. math:: \log \int p(f) \prod_i t_i(f_i)\,df + \sum_i \log
        \frac{\int p(y_i \mid f_i)\,q_{-i}(f_i)\,df_i}{\int t_i(f_i)\,q_{-i}(f_i)\,df_i},
        \qquad t_i(f) = e^{b_i f - w_i f^2/2},

    where :math:`q_{-i}` is the posterior of :math:`f_i` without its own site. With inducing inputs
    t is of what they tell of :math:`f_i`, and the rest is averaged over in the numerator. With the
    sites of `variational` it is the objective for hyperparameters of Li, John and Solin, "Improving
    hyperparameter learning under approximate inference in Gaussian process models", 2023.

    Args:
        priors: of the functions.
        likelihood: of outputs.
        y: these.
        sites: t.
    """
    b, w = jax.lax.stop_gradient(sites)
    at = posterior(priors, w, b)
    outer, inner = _cavity(at, Sites(b, w), priors.mean[:, None])
    whole = 0.5 * (b * (at.mean - priors.mean[:, None])).sum() - at.weighed.half_log_det.sum()
    own = 0.5 * (b**2 * inner + 2.0 * b * outer - w * outer**2) / (1.0 + w * inner)
    own = own - 0.5 * jnp.log1p(w * inner)
    full = outer + priors.mean[:, None]
    whole_var = inner + at.weighed.var - at.weighed.told
    seen = jax.vmap(likelihood.log_mean)(full.T, whole_var.T, y)
    return whole + seen.sum() - own.sum()


def _cavity(at: Posterior, sites: Sites, level: Any) -> tuple[Any, Any]:
    """Of what sites change: means, relative to the mean function, and variances without its own."""
    var = at.weighed.told
    share = jnp.maximum(1.0 - sites.w * var, 1e-6)
    return (at.mean - level - var * sites.b) / share, var / share


def _tilted(fixed: Any, held: Any, outer: Any, inner: Any, y: Any) -> tuple[Any, Any]:
    """Slope and curvature, in a cavity's mean, of the log of what it expects of an output."""

    def one(m: Any, v: Any, y: Any) -> Any:
        log_mean = lambda m: fixed.log_mean(m + held.mean, v, y)
        return jax.grad(log_mean)(m), jnp.diagonal(jax.hessian(log_mean)(m))

    slope, bend = jax.vmap(one)(outer.T, inner.T, y)
    return slope.T, bend.T
