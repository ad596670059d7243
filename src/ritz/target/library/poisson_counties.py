"""A rate for each of 301 counties, small ones pooled more: many latent sites, few observations."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.data import load

SOURCE = "Rice, Mathematical Statistics and Data Analysis, with statsmodels"


def data() -> dict[str, Any]:
    """Return breast cancer counts and populations of 301 counties.

    Returns:
        the model's arguments; populations are in thousands.

    Raises:
        RitzError: if statsmodels is not installed.

    >>> data()["y"].shape
    (301,)
    """
    counties = load("cancer")
    return {"population": counties["population"] / 1000.0, "y": counties["cancer"]}


def model(population: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """Poisson counts at log-normally distributed rates.

    Args:
        population: the population of each county, in thousands.
        y: the counts.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["rate"]["value"].shape
    (301,)
    """
    mu = numpyro.sample("mu", dist.Normal(1.0, 1.0))
    tau = numpyro.sample("tau", dist.HalfNormal(0.5))
    with numpyro.plate("counties", len(population)):
        rate = numpyro.sample("rate", dist.LogNormal(mu, tau))
        numpyro.sample("y", dist.Poisson(population * rate), obs=y)
