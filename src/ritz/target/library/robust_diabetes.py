"""Regression with Student-t errors: outliers count for less, and how much less is inferred."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.data import load
from ritz.target.library._standardise import standardise

SOURCE = "Efron, Hastie, Johnstone and Tibshirani (2004), with scikit-learn"


def data() -> dict[str, Any]:
    """Return standardised measurements of patients, and progression after a year, standardised.

    Returns:
        the model's arguments.

    Raises:
        RitzError: if scikit-learn is not installed.

    >>> data()["X"].shape
    (442, 10)
    """
    diabetes = load("diabetes")
    return {"X": standardise(diabetes["x"]), "y": standardise(diabetes["y"])}


def model(X: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """A linear mean with Student-t errors of unknown scale and degrees of freedom.

    The prior of nu is Juárez and Steel's (2010): wide, away from 0, and near normal in its tail.

    Args:
        X: rows by features.
        y: the response.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["beta"]["value"].shape
    (10,)
    """
    rows, features = X.shape
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.0))
    with numpyro.plate("features", features):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    nu = numpyro.sample("nu", dist.Gamma(2.0, 0.1))
    with numpyro.plate("rows", rows):
        numpyro.sample("y", dist.StudentT(nu, intercept + X @ beta, sigma), obs=y)
