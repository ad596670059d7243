"""A mixture of two normals with a discrete assignment for each observation."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions.transforms import OrderedTransform

from ritz.target.library.gaussian_mixture import SOURCE, data

__all__ = ["SOURCE", "data", "model"]


def model(y: Array | np.ndarray | None = None, n: int = 150) -> None:
    """The model of `gaussian_mixture`, written with the assignments as discrete sites.

    Ritz sums them out, so that both have one posterior; this one also tells which flower belongs
    to which component (`fit.discrete_posterior`).

    Args:
        y: the lengths.
        n: how many to predict where y is not given.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["z"]["value"].shape
    (150,)
    """
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 2.0)))
    start = dist.Normal(jnp.array([2.0, 1.0]), jnp.array([2.0, 1.0])).to_event(1)
    ordered = dist.TransformedDistribution(start, OrderedTransform())
    mu = jnp.asarray(numpyro.sample("mu", ordered))
    spread: Any = dist.LogNormal(jnp.full(2, -0.5), 0.7).to_event(1)
    sigma = jnp.asarray(numpyro.sample("sigma", spread))
    component: Any = dist.Categorical(probs=weights)
    with numpyro.plate("flowers", n if y is None else len(y)):
        z = jnp.asarray(numpyro.sample("z", component))
        numpyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)
