r"""Posterior probabilities of summed discrete sites, as derivatives of the log marginal.

With log-weights :math:`w_k` added to the values of a site,

.. math:: p(z = k \mid \theta, y) = \partial \log p(\theta, y; w) / \partial w_k
    \quad\text{at}\quad w = 0.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ritz.target import _factors
from ritz.target._base import float_dtype
from ritz.target._tables import weight


def probabilities(target: Any, x: Any) -> dict[str, Any]:
    """Posterior probabilities of each summed site's values given the parameters.

    Args:
        target: a `NumPyroTarget` with discrete sites that holds all data.
        x: unconstrained vector.

    Returns:
        arrays of the site's shape (in a scan, with a leading axis over its steps) and a last
        axis over its values.
    """
    found = jax.grad(lambda w: _log_marginal(target, x, w))(_zeros(target))
    out = {}
    for site in target.plan.sites:
        by_element = jax.vmap(site.by_element) if site.in_scan else site.by_element
        out[site.name] = by_element(found[site.name])
    return out


def shared(target: Any, x: Any, key: Any) -> dict[str, Any]:
    """A draw, given the parameters and the data, of the sites that are local to no plate.

    They are drawn one after the other, each given those before, by weights that leave of a
    drawn site the value that it has.
    """
    out, weights = {}, _zeros(target)
    for i, site in enumerate(s for s in target.plan.sites if not s.local and not s.in_scan):
        log_p = jnp.log(jax.grad(lambda w: _log_marginal(target, x, w))(weights)[site.name])
        drawn = jax.random.categorical(jax.random.fold_in(key, i), log_p)
        here = jnp.arange(site.count) == drawn
        weights = {**weights, site.name: jnp.where(here, 0.0, -jnp.inf)}
        out[site.name] = site.values(drawn, site.shape)
    return out


def _zeros(target: Any) -> dict[str, Any]:
    zeros = {}
    for site in target.plan.sites:
        rows = [site.shape[axis] for name, axis in site.plates if name in site.local]
        steps = [site.length] if site.in_scan else []
        zeros[site.name] = jnp.zeros((*steps, site.count, *rows), float_dtype())
    return zeros


def _log_marginal(target: Any, x: Any, weights: dict[str, Any]) -> Any:
    outside = [weight(s, weights[s.name]) for s in target.plan.sites if not s.in_scan]
    inside = {s.name: weights[s.name] for s in target.plan.sites if s.in_scan}
    left = target.plan.sum_out(lambda i: target.factors(x, i, weights=inside).factors, outside)
    return sum(_factors.over_plates(f, ()).value for f in left)
