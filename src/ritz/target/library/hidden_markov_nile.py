"""A hidden Markov model of two regimes."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.contrib.control_flow import scan

from ritz.target.library.state_space_nile import SOURCE, data

__all__ = ["SOURCE", "data", "model"]


def model(y: Array | np.ndarray | None = None, n: int = 100) -> None:
    """A wet and a dry regime, each with its mean flow, and a probability of staying in either.

    Ritz sums the regimes out along the scan, which costs as much a year whatever their number.

    Args:
        y: the flow in each year.
        n: how many years to predict where y is not given.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["z"]["value"].shape
    (100,)
    """
    stay = numpyro.sample("stay", dist.Beta(20.0, 1.0))
    means = dist.Normal(jnp.array([11.0, 8.0]), 1.5).to_event(1)
    flow = jnp.asarray(numpyro.sample("flow", means))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))

    def year(before: Array, seen: Array | None) -> tuple[Array, Any]:
        p = jnp.where(before == 1, stay, 1.0 - stay)
        z = jnp.asarray(numpyro.sample("z", dist.Bernoulli(p)))
        return z, numpyro.sample("y", dist.Normal(flow[z], sigma), obs=seen)

    scan(year, jnp.array(0), y, length=n if y is None else len(y))
