"""What an element of a NumPyro distribution is, under `expand` and `to_event`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions.distribution import ExpandedDistribution

from ritz.estimator import law

BERNOULLI = (dist.BernoulliProbs, dist.BernoulliLogits)
CATEGORICAL = (dist.CategoricalProbs, dist.CategoricalLogits)


def bare(q: Any) -> tuple[Any, tuple[int, ...], int]:
    """A distribution without `expand` and `to_event`.

    Returns:
        the distribution of one element, the shape of all elements, and how many of its last axes
        are axes of an event.
    """
    if isinstance(q, dist.Independent):
        inner, shape, events = bare(q.base_dist)
        return inner, shape, events + q.reinterpreted_batch_ndims
    if isinstance(q, ExpandedDistribution):
        inner, shape, events = bare(q.base_dist)
        return inner, (*q.batch_shape, *shape[len(shape) - events :]), events
    return q, law.batch_shape(q), 0


def parameter(q: Any, name: str, shape: tuple[int, ...], own: int = 0) -> Array:
    """A parameter of an element at every element; its last `own` axes are its own."""
    x = jnp.asarray(getattr(q, name))
    x = x.astype(jnp.result_type(x, float))
    return jnp.broadcast_to(x, (*shape, *x.shape[x.ndim - own :]))


def last(x: Array, axes: int) -> Array:
    """Summed over the last axes, those of an event."""
    return x.sum(axis=tuple(range(x.ndim - axes, x.ndim)))


def elsewhere(q: Any) -> str:
    """Estimators that serve any distribution of this kind, for a refusal."""
    if law.is_reparameterised(q):
        return "pathwise()"
    return "enumerate_support() or score()" if law.is_finite(q) else "score()"


def discrete_logits(q: Any) -> tuple[bool, Array, int]:
    """Whether choices are binary, their logits, and how many axes of an event they have.

    Those of a categorical choice are log probabilities along a last axis.
    """
    one, shape, events = bare(q)
    if isinstance(one, BERNOULLI):
        return True, parameter(one, "logits", shape), events
    return False, jax.nn.log_softmax(parameter(one, "logits", shape, own=1)), events


def has_logits(q: Any) -> bool:
    """Whether `discrete_logits` knows it."""
    return isinstance(bare(q)[0], (*BERNOULLI, *CATEGORICAL))


def needs_logits(estimator: Any, q: Any) -> None:
    """Refuse what `discrete_logits` does not know."""
    if not has_logits(q):
        lacks = "it relaxes Bernoulli and Categorical choices only"
        raise law.refuse(estimator, q, lacks, elsewhere(q))


def relaxed_value(q: Any) -> Any:
    """Shape and dtype of a relaxed choice: a number in [0, 1], or a vector on the simplex."""
    logits = jax.eval_shape(lambda: discrete_logits(q)[1])
    return jax.ShapeDtypeStruct(logits.shape, logits.dtype)


def relaxed_log_prob(q: Any, x: Array) -> Array:
    r"""The log mass, extended linearly: :math:`\sum_k x_k \log p_k`, exact at the corners."""
    binary, logits, _ = discrete_logits(q)
    if binary:
        return (x * jax.nn.log_sigmoid(logits) + (1 - x) * jax.nn.log_sigmoid(-logits)).sum()
    return jnp.where(x == 0, 0.0, x * logits).sum()


def hard_log_prob(q: Any, x: Array) -> Array:
    """The log mass of hard values (0 or 1, or one-hot), one number an independent element."""
    binary, logits, events = discrete_logits(q)
    if binary:
        return last(jax.nn.log_sigmoid(jnp.where(x > 0.5, logits, -logits)), events)
    return last(jnp.where(x > 0.5, logits, 0.0).sum(-1), events)
