"""Variable selection: a spike and a slab for each coefficient of a regression."""

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.target.library.robust_diabetes import SOURCE, data

__all__ = ["SOURCE", "data", "model"]


def model(X: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """A linear regression in which each feature is in or out (George and McCulloch 1993).

    With ten features Ritz sums over all 1,024 subsets; `discrete="score"` draws them instead.

    Args:
        X: rows by features.
        y: the response.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["used"]["value"].shape
    (10,)
    """
    rows, features = X.shape
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("features", features):
        used = numpyro.sample("used", dist.Bernoulli(share))
        beta = numpyro.sample("beta", dist.Normal(0.0, 0.5))
    with numpyro.plate("rows", rows):
        numpyro.sample("y", dist.Normal(X @ (used * beta), sigma), obs=y)
