"""Which of thirty features tell tumours apart: logistic regression under a horseshoe."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.target.library.logistic_breast_cancer import SOURCE, data

__all__ = ["SOURCE", "data", "model"]


def model(X: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """Regularised horseshoe (Piironen and Vehtari 2017, section 2.4) of five relevant features.

    Args:
        X: rows by features.
        y: 1 for benign, 0 for malignant.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["beta"]["value"].shape
    (30,)
    """
    rows, features = X.shape
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
    # A pseudo-variance of 4 for logits, as there.
    usual = 5.0 / (features - 5.0) * 2.0 / rows**0.5
    tau = numpyro.sample("tau", dist.HalfCauchy(usual))
    slab = numpyro.sample("slab", dist.InverseGamma(2.0, 8.0))
    with numpyro.plate("features", features):
        local = numpyro.sample("local", dist.HalfCauchy(1.0))
        scale = tau * local * jnp.sqrt(slab / (slab + tau**2 * local**2))
        beta = numpyro.sample("beta", dist.Normal(0.0, scale))
    with numpyro.plate("rows", rows):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + X @ beta), obs=y)
