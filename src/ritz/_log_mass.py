"""The log density of a NumPyro distribution, with a derivative that is right everywhere."""

import copy
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.distribution import ExpandedDistribution

WRAPPERS = (ExpandedDistribution, dist.Independent, dist.MaskedDistribution)


def log_prob(q: Any, x: Any) -> Any:
    """Its `log_prob`, with another derivative at Bernoulli logits of 0.

    NumPyro writes their log mass with |logit|, so that at a logit of 0, where parameters often
    start, its derivative is 0 or 1 instead of 1/2 from either side.

    >>> import jax
    >>> jax.grad(lambda logit: log_prob(dist.Bernoulli(logits=logit), 1))(0.0).item()
    0.5
    """
    return _off_0(q).log_prob(x)


def _off_0(q: Any) -> Any:
    """The same distribution, with the smallest positive number for a logit of 0."""
    if isinstance(q, WRAPPERS):
        base = _off_0(q.base_dist)
        if base is q.base_dist:
            return q
        q = copy.copy(q)
        q.base_dist = base
    elif isinstance(q, dist.BernoulliLogits):
        q = copy.copy(q)
        logits = jnp.asarray(q.logits, jnp.result_type(q.logits, float))
        q.logits = logits + jnp.finfo(logits.dtype).tiny  # a sum that only 0 feels
    return q
