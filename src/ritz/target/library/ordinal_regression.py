"""An ordered response: seven answers from one scale, cut at unknown places."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.typing import ArrayLike
from numpyro.distributions.transforms import OrderedTransform

from ritz.data import load
from ritz.target.library._standardise import standardise

SOURCE = "American National Election Study 1996, with statsmodels"


def data() -> dict[str, Any]:
    """Return voters' party identification and five standardised covariates.

    Returns:
        the model's arguments; identification runs from 0, strong Democrat, to 6, strong
        Republican. The covariates are self-placement from left to right, age, education, income
        and the log population of the place.

    Raises:
        RitzError: if statsmodels is not installed.

    >>> data()["X"].shape
    (944, 5)
    """
    voters = load("anes96")
    columns = [voters[name] for name in ("selfLR", "age", "educ", "income", "logpopul")]
    return {"X": standardise(np.stack(columns, axis=1)), "y": voters["PID"]}


def model(X: Array | np.ndarray, y: ArrayLike | None = None) -> None:
    """An ordered logit: a linear score that six ordered cutpoints turn into seven answers.

    Args:
        X: rows by covariates; there is no intercept, as the cutpoints have it.
        y: the answers, from 0 to 6.

    >>> from numpyro.handlers import seed, trace
    >>> list(trace(seed(model, 0)).get_trace(**data()))
    ['features', 'beta', 'cutpoints', 'rows', 'y']
    """
    rows, features = X.shape
    with numpyro.plate("features", features):
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    # The lowest cutpoint is near -2, each later one some 0.2 to 1.5 above the last.
    start = dist.Normal(jnp.array([-2.0] + [-0.5] * 5), jnp.array([2.0] + [0.7] * 5)).to_event(1)
    cutpoints = numpyro.sample("cutpoints", dist.TransformedDistribution(start, OrderedTransform()))
    with numpyro.plate("rows", rows):
        logits = ordered_logits(jnp.asarray(X @ beta), jnp.asarray(cutpoints))
        numpyro.sample("y", dist.CategoricalLogits(logits), obs=y)


def ordered_logits(score: Array, cutpoints: Array) -> Array:
    """Return the log probabilities of an ordered logit.

    An answer's probability is a difference of two logistic functions, which in float32 is 0 far
    from its cutpoints. As sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)), its logarithm
    is a sum that is finite everywhere.

    Args:
        score: one score a row.
        cutpoints: K - 1 ascending numbers.

    Returns:
        rows by K.

    >>> ordered_logits(jnp.array([100.0]), jnp.array([-100.0, 0.0])).round().tolist()
    [[-200.0, -100.0, -0.0]]
    """
    below = jax.nn.log_sigmoid(cutpoints - score[:, None])
    above = jax.nn.log_sigmoid(score[:, None] - cutpoints)
    gap = jnp.log(-jnp.expm1(-jnp.diff(cutpoints)))
    between = below[:, 1:] + above[:, :-1] + gap
    return jnp.concatenate([below[:, :1], between, above[:, -1:]], axis=1)
