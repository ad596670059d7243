r"""The log density of hyperparameters, given data and a way of inference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.gp._ep import log_evidence, propagated
from ritz.gp._evidence import Conditioned, collapsed, exact
from ritz.gp._inference import Found, laplace, variational
from ritz.gp._prior import prior
from ritz.gp._sites import Priors, conditioned

_LEVEL = 5.0  # a priori, the sd of the mean of a function whose outputs have no unit


class Learned(NamedTuple):
    """What hyperparameters lead to.

    Attributes:
        seen: what there is to know for predictions, with an axis for each function.
        log_evidence: of the data, or its bound or approximation.
    """

    seen: Conditioned
    log_evidence: Float[Array, ""]


def parts_of(parts: Any, data: Any) -> tuple[tuple[Any, ...], Any, Float[Array, " c"]]:
    """Kernels (one for all functions, or one each), the likelihood, and means."""
    kernels = parts["kernel"] if isinstance(parts["kernel"], tuple) else (parts["kernel"],)
    likelihood = parts.get("likelihood", data.get("likelihood"))
    level = parts.get("mean", jnp.zeros(likelihood.latents, data["x"].dtype))
    return kernels, likelihood, level


def priors_of(parts: Any, data: Any) -> Priors:
    """The processes at the rows."""
    kernels, likelihood, level = parts_of(parts, data)
    each = [prior(kernel, data["x"], data.get("z")) for kernel in kernels]
    return Priors(jax.tree.map(lambda *v: jnp.stack(v), *each), level, likelihood.latents)


def gaussian(parts: Any, data: Any) -> Learned:
    """Outputs with normal noise: exact, or Titsias' bound."""
    (kernel,), likelihood, level = parts_of(parts, data)
    off, sd = data["y"] - level[0], likelihood.noise
    if "z" in data:
        seen = collapsed(kernel, sd, data["x"], off, data["z"])
    else:
        seen = exact(kernel, sd, data["x"], off)
    return Learned(jax.tree.map(lambda v: v[None], seen), seen.log_evidence)


def _by(infer: Callable[..., Found]) -> Callable[[Any, Any], Learned]:
    def learned(parts: Any, data: Any) -> Learned:
        priors, likelihood = priors_of(parts, data), parts_of(parts, data)[1]
        found = infer(priors, likelihood, data["y"])
        return Learned(conditioned(priors, found.sites, found.log_evidence), found.log_evidence)

    return learned


def _as_expected(priors: Priors, likelihood: Any, y: Float[Array, " n"]) -> Found:
    """Variational sites, and the evidence that expectation propagation has for them."""
    sites = variational(priors, likelihood, y).sites
    return Found(sites, log_evidence(priors, likelihood, y, sites))


WAYS: dict[str, Callable[[Any, Any], Learned]] = {
    "exact": gaussian,
    "variational": _by(variational),
    "laplace": _by(laplace),
    "ep": _by(propagated),
    "variational, EP's evidence": _by(_as_expected),
}


def _density(way: str) -> Callable[[Any, Any], Float[Array, ""]]:
    def density(parts: Any, data: Any) -> Float[Array, ""]:
        return WAYS[way](parts, data).log_evidence + _log_prior(parts, data)

    return density


# Made once, so that the second fit of a kind compiles nothing.
DENSITIES = {way: _density(way) for way in WAYS}


def _log_prior(parts: Any, data: Any) -> Float[Array, ""]:
    """Log-normal about the first values, with a log sd.

    The mean's is improper and flat where outputs were standardised, else normal.
    """
    total = jnp.zeros(())
    now = jax.tree.leaves((parts["kernel"], parts.get("likelihood")))
    for value, start in zip(now, data["first"], strict=True):
        logs = jnp.log(value)
        total = total - (0.5 * ((logs - start) / data["log_sd"]) ** 2 + logs).sum()
    _, likelihood, level = parts_of(parts, data)
    return total if likelihood.standardised else total - 0.5 * ((level / _LEVEL) ** 2).sum()
