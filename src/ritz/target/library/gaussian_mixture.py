"""A mixture of two normals with the assignments summed out, so that every site is continuous."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.transforms import OrderedTransform

from ritz.data import load

SOURCE = "Fisher (1936), with scikit-learn"


def data() -> dict[str, Any]:
    """Return petal lengths of irises in cm: one species is short, two are long.

    Returns:
        the model's arguments.

    Raises:
        RitzError: if scikit-learn is not installed.

    >>> data()["y"].shape
    (150,)
    """
    return {"y": load("iris")["x"][:, 2]}


def model(y: Array | np.ndarray | None = None, n: int = 150) -> None:
    """Two normals with ordered means.

    The order of the means picks one of the two labellings, which would otherwise be equal modes.

    Args:
        y: the lengths.
        n: how many to predict where y is not given.

    >>> from numpyro.handlers import seed, trace
    >>> list(trace(seed(model, 0)).get_trace(**data()))
    ['weights', 'mu', 'sigma', 'flowers', 'y']
    """
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    # The first mean is about 2 cm, and the second some 1 to 8 cm above it.
    start = dist.Normal(jnp.array([2.0, 1.0]), jnp.array([2.0, 1.0])).to_event(1)
    mu = numpyro.sample("mu", dist.TransformedDistribution(start, OrderedTransform()))
    sigma = numpyro.sample("sigma", dist.LogNormal(jnp.full(2, -0.5), 0.7).to_event(1))
    components = dist.Normal(mu, sigma)
    with numpyro.plate("flowers", n if y is None else len(y)):
        mixture = dist.MixtureSameFamily(dist.Categorical(probs=weights), components)
        numpyro.sample("y", mixture, obs=y)
