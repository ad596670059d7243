"""A local level model: a level that drifts, seen with noise."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from ritz.data import load

SOURCE = "Cobb (1978), with statsmodels"


def data() -> dict[str, Any]:
    """Return the annual flow of the Nile from 1871 to 1970, in 10^10 cubic metres.

    Returns:
        the model's arguments.

    Raises:
        RitzError: if statsmodels is not installed.

    >>> data()["y"][:3]
    array([11.2 , 11.6 ,  9.63])
    """
    return {"y": load("nile")["volume"] / 100.0}


def model(y: Array | np.ndarray | None = None, n: int = 100) -> None:
    """A Gaussian random walk, seen with Gaussian noise.

    The walk is the running sum of standard normal steps. Given the two scales, the posterior of
    the level is Gaussian, so the Kalman filter gives an exact answer to compare with.

    Args:
        y: the flow in each year.
        n: how many years to predict where y is not given.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["level"]["value"].shape
    (100,)
    """
    years = n if y is None else len(y)
    sigma_level = numpyro.sample("sigma_level", dist.HalfNormal(1.0))
    sigma_flow = numpyro.sample("sigma_flow", dist.HalfNormal(2.0))
    first = numpyro.sample("first", dist.Normal(10.0, 3.0))
    with numpyro.plate("steps", years - 1):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    walk = jnp.concatenate([jnp.zeros(1), jnp.cumsum(z)])
    level = numpyro.deterministic("level", first + sigma_level * walk)
    with numpyro.plate("years", years):
        numpyro.sample("y", dist.Normal(level, sigma_flow), obs=y)
