"""Gaussian process regression with the function summed out: only hyperparameters are latent."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.data import load
from ritz.target.library._standardise import standardise

SOURCE = "Keeling and Whorf (2004), Mauna Loa, with statsmodels"


def data() -> dict[str, Any]:
    """Return monthly CO2 at Mauna Loa from 1992 to 2001, standardised.

    Returns:
        the model's arguments; time is in years from the middle of the series.

    Raises:
        RitzError: if statsmodels is not installed.

    >>> data()["y"].shape
    (120,)
    """
    weekly = load("co2")
    month = np.floor((weekly["year"] - 1992.0) * 12.0).astype(int)
    series = [weekly["co2"][month == m] for m in range(120)]
    y = np.array([np.nanmean(values) for values in series])
    return {"t": (np.arange(120) + 0.5) / 12.0 - 5.0, "y": standardise(y)}


def model(t: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """A line, a smooth departure from it, and a yearly cycle whose shape may change.

    Args:
        t: times in years.
        y: the values.

    >>> from numpyro.handlers import seed, trace
    >>> list(trace(seed(model, 0)).get_trace(**data()))
    ['intercept', 'slope', 'smooth', 'length', 'season', 'roughness', 'noise', 'y']
    """
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    smooth = numpyro.sample("smooth", dist.HalfNormal(1.0))
    # Both lengths are kept away from 0, where a kernel is noise, and from the whole series.
    length = numpyro.sample("length", dist.LogNormal(0.5, 0.5))
    season = numpyro.sample("season", dist.HalfNormal(1.0))
    roughness = numpyro.sample("roughness", dist.LogNormal(0.0, 0.5))
    noise = numpyro.sample("noise", dist.LogNormal(-2.5, 0.5))

    lag = t[:, None] - t[None, :]
    departure = smooth**2 * jnp.exp(-0.5 * (lag / length) ** 2)
    cycle = season**2 * jnp.exp(-2.0 * (jnp.sin(jnp.pi * lag) / roughness) ** 2)
    cycle = cycle * jnp.exp(-0.5 * (lag / 20.0) ** 2)
    # Rounding in float32 is a share of the largest entries: the jitter is too, and the noise
    # variance, about 0.005, hides it.
    jitter = 1e-5 * (smooth**2 + season**2)
    covariance = departure + cycle + (noise**2 + jitter) * jnp.eye(len(t))
    numpyro.sample(
        "y", dist.MultivariateNormal(intercept + slope * t, covariance_matrix=covariance), obs=y
    )
