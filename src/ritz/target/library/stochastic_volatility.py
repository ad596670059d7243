"""Returns whose volatility drifts: a latent series that is only seen through its size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from ritz.data import load

SOURCE = "Google's share prices, with Matplotlib"


def data() -> dict[str, Any]:
    """Return 600 daily log-returns in per cent, to October 2008.

    Returns:
        the model's arguments.

    Raises:
        RitzError: if Matplotlib is not installed, or its sample data are not.

    >>> data()["y"].shape
    (600,)
    """
    close = load("goog")["close"]
    return {"y": 100.0 * np.diff(np.log(close))[-600:]}


def model(y: Array | np.ndarray | None = None, n: int = 600) -> None:
    """Normal returns whose log-volatility is a stationary AR(1) process.

    Args:
        y: the returns.
        n: how many days to predict where y is not given.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["h"]["value"].shape
    (600,)
    """
    days = n if y is None else len(y)
    mu = numpyro.sample("mu", dist.Normal(0.5, 1.0))
    # Volatility lasts: the prior mean of phi is 0.95, as in Kim, Shephard and Chib (1998).
    phi = jnp.asarray(numpyro.sample("phi", dist.Beta(19.0, 1.0)))
    sigma = jnp.asarray(numpyro.sample("sigma", dist.HalfNormal(0.5)))
    with numpyro.plate("shocks", days):
        z = jnp.asarray(numpyro.sample("z", dist.Normal(0.0, 1.0)))

    def step(h: Array, shock: Array) -> tuple[Array, Array]:
        h = phi * h + sigma * shock
        return h, h

    # The first day comes from the stationary distribution. 1 - phi² as a product keeps digits.
    first = sigma * z[0] / jnp.sqrt((1.0 - phi) * (1.0 + phi))
    _, later = jax.lax.scan(step, first, z[1:])
    h = numpyro.deterministic("h", mu + jnp.concatenate([first[None], later]))
    with numpyro.plate("days", days):
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2.0)), obs=y)
