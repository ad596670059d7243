"""Effects of coaching in eight schools, non-centred: what a partial-pooling model looks like."""

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

SOURCE = "Rubin (1981)"


def data() -> dict[str, Any]:
    """Return the estimated effects and their standard errors.

    Returns:
        the model's arguments.

    >>> data()["y"]
    array([28.,  8., -3.,  7., -1.,  1., 18., 12.])
    """
    return {
        "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]),
        "y": np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]),
    }


def model(sigma: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """Effects theta = mu + tau * eta, seen with known errors.

    The school's own effect is standardised, so that mu, tau and eta are nearly independent in the
    posterior and a family has no funnel to follow.

    Args:
        sigma: the standard error of each school's estimate.
        y: the estimates.

    >>> from numpyro.handlers import seed, trace
    >>> list(trace(seed(model, 0)).get_trace(**data()))
    ['mu', 'tau', 'schools', 'eta', 'theta', 'y']
    """
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(sigma)):
        eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
        theta = numpyro.deterministic("theta", mu + tau * eta)
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
