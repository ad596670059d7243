"""Two species of iris that overlap: Gaussian process classification."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.data import load
from ritz.target.library._standardise import standardise

SOURCE = "Fisher (1936), with scikit-learn"


def data() -> dict[str, Any]:
    """Return four standardised measurements of 100 flowers, and which are virginica.

    Returns:
        the model's arguments.

    Raises:
        RitzError: if scikit-learn is not installed.

    >>> data()["X"].shape
    (100, 4)
    """
    iris = load("iris")
    return {"X": standardise(iris["x"][50:]), "y": (iris["y"][50:] == 2).astype(int)}


def model(X: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """Logits from a process of squared exponential covariance, written in standard normals.

    Args:
        X: flowers by measurements.
        y: 1 for virginica.

    >>> from numpyro.handlers import seed, trace
    >>> trace(seed(model, 0)).get_trace(**data())["f"]["value"].shape
    (100,)
    """
    length = numpyro.sample("length", dist.LogNormal(0.5, 0.5))
    amplitude = numpyro.sample("amplitude", dist.HalfNormal(3.0))
    distance = ((X[:, None] - X[None]) ** 2).sum(axis=-1)
    # Jitter far above what single precision rounds off.
    covariance = jnp.exp(-0.5 * distance / length**2) + 1e-3 * jnp.eye(len(X))
    with numpyro.plate("flowers", len(X)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        f = amplitude * (jnp.linalg.cholesky(covariance) @ z)
        f = numpyro.deterministic("f", f)
        numpyro.sample("y", dist.Bernoulli(logits=f), obs=y)
