"""Points drawn from, or near the middle of, a model's prior: where a fit may start."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from ritz.target import _effects as effects
from ritz.target import _laws as laws
from ritz.target._constraints import bijection
from ritz.target._support import elements


def strategies(sites: Any) -> tuple[tuple[str, tuple[Callable[..., Any], bool], int], ...]:
    """How starting points are made.

    Each has a name; what gives a site its value, and whether that needs a key; and how many
    points to try.

    Args:
        sites: the target's sites.

    >>> [name for name, _, _ in strategies(())]
    ['the prior median', 'a draw from the prior', 'a uniform draw in unconstrained space']
    """
    from numpyro.infer import init_to_sample, init_to_uniform

    uniform: Any = init_to_uniform(radius=2)
    discrete = {site.name for site in sites if site.values is not None}

    def from_prior(msg: Any, plates: effects.Plates) -> Any:
        return init_to_sample(msg)

    def anywhere(msg: Any, plates: effects.Plates) -> Any:
        return init_to_sample(msg) if msg["name"] in discrete else uniform(msg)

    return (
        ("the prior median", (_near_middle(sites), False), 1),
        ("a draw from the prior", (from_prior, True), 30),
        ("a uniform draw in unconstrained space", (anywhere, True), 30),
    )


def _near_middle(sites: Any) -> Callable[..., Any]:
    """Values near the median of each site's prior, or near its mean where that is what is known.

    Nothing is sampled: samplers take longer to compile than the model, those of the gamma and
    the Dirichlet distribution seconds. A little noise, always the same, sets apart the sites of
    a model that is symmetric in them, which would otherwise have no gradient between them.
    """
    rng = np.random.default_rng(0)
    least = {site.name: site.values[0] for site in sites if site.values is not None}
    noises = {site.name: rng.uniform(-1.0, 1.0, site.shape) for site in sites}

    def value_of(msg: Any, plates: effects.Plates) -> Any:
        fn = msg["fn"]
        if msg["name"] in least:
            return jnp.full(elements(msg), least[msg["name"]])
        noise = plates.here(jnp.asarray(noises[msg["name"]]))
        transform = bijection(fn.support)
        try:
            free = transform.inv(jnp.broadcast_to(_middle(fn, noise), noise.shape))
        except NotImplementedError:
            free = jnp.zeros(transform.inverse_shape(noise.shape))
        # Zero in place of a median on the edge of the support, or a mean that does not exist.
        return transform(jnp.where(jnp.isfinite(free), free, 0.0))

    return value_of


def _middle(fn: Any, noise: Any) -> Any:
    fn = laws.unwrapped(fn)
    if isinstance(fn, dist.TransformedDistribution):
        shape = noise.shape
        for transform in reversed(fn.transforms):
            shape = transform.inverse_shape(shape)
        value = jnp.broadcast_to(_middle(fn.base_dist, jnp.resize(noise, shape)), shape)
        for transform in fn.transforms:
            value = transform(value)
        return value
    if isinstance(fn, dist.StudentT):
        loc, scale = jnp.asarray(fn.loc), jnp.asarray(fn.scale)
        return loc + 0.25 * scale * noise
    if isinstance(fn, dist.Gamma | dist.Beta):
        return fn.mean  # their quantiles are found by iteration
    try:
        return fn.icdf(0.5 + 0.1 * noise)
    except NotImplementedError:
        pass
    if not laws.is_identity(bijection(fn.support)):
        return fn.mean
    try:
        spread: Any = jnp.sqrt(fn.variance)
    except NotImplementedError:
        return fn.mean
    return fn.mean + jnp.where(jnp.isfinite(spread), 0.25 * spread * noise, 0.0)
