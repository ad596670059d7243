"""Reading a trace: the summands of its log density, and what was attached to its sites."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to

from ritz import _log_mass
from ritz.target._base import LOG_DET, float_dtype
from ritz.target._effects import Plates, Trace
from ritz.target._laws import is_discrete, plain, unwrapped

CATEGORICAL = (dist.CategoricalProbs, dist.CategoricalLogits)


def attached(traced: Trace, suffix: str) -> dict[str, Any]:
    """What was attached to sites under their name and a suffix, by the site's name.

    `handlers.scope` puts its prefix before the site's name and again before what is attached.
    """
    out = {}
    for key, site in traced.items():
        if key.endswith(suffix):
            name = key.removesuffix(suffix)
            while name and name not in traced:
                name = name[1:]
            out[name] = site
    return out


def terms(traced: Trace, plates: Plates) -> dict[str, Any]:
    """The summands of the log density, by name."""
    densities = {
        name: jnp.asarray(log_prob(site), float_dtype()).sum()
        for name, site in traced.items()
        if site["type"] == "sample" and not name.endswith(LOG_DET)
    }
    return densities | log_dets(traced, plates) | imputed(traced, plates)


def log_prob(site: Any, *, scaled: bool = True) -> Any:
    """Log density of a traced site, an array over its batch."""
    fn, between = site["fn"], jnp.asarray(site["value"])
    if is_discrete(fn) and not site["is_observed"] and between.dtype.kind == "f":
        # A choice of 0 or 1 that is relaxed: its log mass, extended linearly.
        ends = [_log_mass.log_prob(fn, jnp.full(between.shape, end)) for end in (0, 1)]
        value = (1.0 - between) * ends[0] + between * ends[1]
    elif isinstance(unwrapped(fn), CATEGORICAL) and not site["is_observed"] and plain(fn):
        value = _looked_up(unwrapped(fn), between)
    elif site["intermediates"]:
        value = site["fn"].log_prob(site["value"], site["intermediates"])
    else:
        value = _log_mass.log_prob(fn, site["value"])
    return value * site["scale"] if scaled and site["scale"] is not None else value


def _looked_up(fn: Any, value: Any) -> Any:
    """Log masses of categories without a gather, whose derivative would be a slow scatter."""
    log_p = jax.nn.log_softmax(fn.logits)
    return jnp.where(value[..., None] == jnp.arange(log_p.shape[-1]), log_p, 0.0).sum(-1)


def imputed(traced: Trace, plates: Plates) -> dict[str, Any]:
    """A standard normal density for each entry of an `obs_mask` site that has been observed.

    NumPyro keeps a latent value for each entry, uses those that are missing, and masks out the
    density of the others: an improper density, which no family can match. With a proper one that
    depends on nothing else, the posterior of everything else is the same.
    """
    out, dets = {}, attached(traced, LOG_DET)
    for name, site in traced.items():
        whole = name.removesuffix("_unobserved")
        if whole == name or f"{whole}_observed" not in traced or site["is_observed"]:
            continue
        fn, mask = site["fn"], True
        while hasattr(fn, "base_dist"):
            mask = getattr(fn, "_mask", mask)
            fn = fn.base_dist
        free = biject_to(site["fn"].support).inv(site["value"])
        batch_dim = len(site["fn"].batch_shape)
        each = dist.Normal(0.0, 1.0).log_prob(free)
        each = each.sum(axis=tuple(range(batch_dim, each.ndim)))
        if name in dets:
            each -= unwrapped(dets[name]["fn"]).log_factor
        scale = plates.scale(site["cond_indep_stack"])
        out[f"{name} where observed"] = scale * jnp.where(mask, 0.0, each).sum()
    return out


def log_dets(traced: Trace, plates: Plates) -> dict[str, Any]:
    """The log Jacobian determinant of each constrained latent site, scaled by plates only.

    `handlers.scale` and `handlers.mask` change a density, never a Jacobian.
    """
    out = {}
    for name, site in attached(traced, LOG_DET).items():
        scale = plates.scale(site["cond_indep_stack"])
        out[name + LOG_DET] = scale * jnp.sum(unwrapped(site["fn"]).log_factor)
    return out
