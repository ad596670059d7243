"""Effects of coaching in eight schools, centred: the same posterior with a funnel in it."""

import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike

from ritz.target.library.eight_schools import SOURCE, data

__all__ = ["SOURCE", "data", "model"]


def model(sigma: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """Effects theta ~ N(mu, tau), seen with known errors.

    As tau goes to 0 the effects are squeezed together: a hard shape for most families, which the
    default of `ritz.fit` moves away from. The non-centred `eight_schools` has the same posterior
    of theta, mu and tau without it.

    Args:
        sigma: the standard error of each school's estimate.
        y: the estimates.

    >>> from numpyro.handlers import seed, trace
    >>> list(trace(seed(model, 0)).get_trace(**data()))
    ['mu', 'tau', 'schools', 'theta', 'y']
    """
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(sigma)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)
