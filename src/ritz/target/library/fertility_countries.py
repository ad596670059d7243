"""Fertility in 205 countries and regions: a level and a trend for each, as in radon models."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.data import load

SOURCE = "World Bank, with statsmodels"
_YEARS = (1960, 1970, 1980, 1990, 2000, 2010)


def data() -> dict[str, Any]:
    """Return logarithms of births per woman by country, once in ten years from 1960 to 2010.

    Returns:
        the model's arguments; time is in decades from 1985. Countries have one to six rows.

    Raises:
        RitzError: if statsmodels is not installed.

    >>> data()["n_country"], data()["y"].shape
    (205, (1187,))
    """
    table = load("fertility")
    births = np.stack([table[str(year)] for year in _YEARS], axis=1)
    births = births[np.isfinite(births).any(axis=1)]
    country, at = np.nonzero(np.isfinite(births))
    return {
        "decade": (np.asarray(_YEARS)[at] - 1985) / 10.0,
        "country": country,
        "n_country": len(births),
        "y": np.log(births[country, at]),
    }


def model(
    decade: Array | np.ndarray,
    country: Array | np.ndarray,
    n_country: int,
    y: ArrayLike | None = None,
) -> None:
    """Linear trends whose intercepts and slopes are normal over countries.

    Args:
        decade: time of each row.
        country: each row's country, from 0.
        n_country: how many there are.
        y: logarithms of births per woman.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["slope"]["value"].shape
    (205,)
    """
    level = numpyro.sample("level", dist.Normal(1.0, 1.0))
    trend = numpyro.sample("trend", dist.Normal(0.0, 0.5))
    tau_level = numpyro.sample("tau_level", dist.HalfNormal(1.0))
    tau_trend = numpyro.sample("tau_trend", dist.HalfNormal(0.5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    with numpyro.plate("countries", n_country):
        intercept = jnp.asarray(numpyro.sample("intercept", dist.Normal(level, tau_level)))
        slope = jnp.asarray(numpyro.sample("slope", dist.Normal(trend, tau_trend)))
    with numpyro.plate("rows", len(decade)):
        mean = intercept[country] + slope[country] * decade
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)
