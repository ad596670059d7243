"""Logistic regression on thirty correlated features of tumours."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.data import load
from ritz.target.library._standardise import standardise

SOURCE = "Wolberg, Street and Mangasarian (1995), with scikit-learn"


def data() -> dict[str, Any]:
    """Return standardised features, and whether each tumour is benign.

    Returns:
        the model's arguments.

    Raises:
        RitzError: if scikit-learn is not installed.

    >>> data()["X"].shape
    (569, 30)
    """
    cancer = load("breast_cancer")
    return {"X": standardise(cancer["x"]), "y": cancer["y"]}


def model(X: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """Logits linear in standardised features.

    The classes are nearly separable and the features collinear: the N(0, 1) prior is what keeps
    the coefficients finite, and their posterior is strongly correlated.

    Args:
        X: rows by features.
        y: 1 for benign, 0 for malignant.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["beta"]["value"].shape
    (30,)
    """
    rows, features = X.shape
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
    with numpyro.plate("features", features):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", rows):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + X @ beta), obs=y)
