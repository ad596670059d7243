"""What a random choice can be drawn from, and what can be asked of it.

A family of Ritz, a NumPyro distribution, or any pytree with `sample(key)` and `log_prob(x)`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Key
from numpyro.distributions.distribution import ExpandedDistribution

from ritz import _log_mass
from ritz._errors import RitzError
from ritz.family import AbstractFamily, Finite, Product

_KEY = jax.eval_shape(jax.random.key, 0)


def is_numpyro(q: Any) -> bool:
    """Whether q is a NumPyro distribution."""
    return isinstance(q, dist.Distribution)


def batch_shape(q: Any) -> tuple[int, ...]:
    """The axes of a draw whose elements are independent given the parameters."""
    return tuple(q.batch_shape) if is_numpyro(q) else ()


def event_shape(q: Any) -> tuple[int, ...]:
    """The axes of one element of a draw."""
    if is_numpyro(q):
        return tuple(q.event_shape)
    return value(q).shape


def own_axes(q: Any) -> int | None:
    """How many last axes of every parameter are an element's own, if an element is one number.

    0 for a Normal, 1 for a Categorical, whose logits have an axis of categories; None where it is
    not known, or where an element is an array.
    """
    if not is_numpyro(q) or q.event_shape:
        return None
    while isinstance(q, ExpandedDistribution):
        q = q.base_dist
    axes = {getattr(c, "event_dim", None) for c in q.arg_constraints.values()}
    return axes.pop() if len(axes) == 1 else None


def value(q: Any) -> Any:
    """Shape and dtype of a draw."""
    return jax.eval_shape(lambda key: jnp.asarray(q.sample(key)), _KEY)


def draw(q: Any, key: Key[Array, ""]) -> Array:
    """A draw."""
    return jnp.asarray(q.sample(key))


def log_prob(q: Any, x: Any) -> Array:
    """Log density of a draw, one number for each independent element."""
    return jnp.asarray(_log_mass.log_prob(q, x) if is_numpyro(q) else q.log_prob(x))


def entropy(q: Any) -> Array:
    """The entropy of a draw, summed over independent elements."""
    return jnp.asarray(q.entropy()).sum()


def is_discrete(q: Any) -> bool:
    """Whether draws are integers or booleans."""
    return value(q).dtype.kind in "iub"


def is_constant(q: Any) -> bool:
    """Whether it is a NumPyro Delta, which is no random choice."""
    while isinstance(q, ExpandedDistribution | dist.Independent):
        q = q.base_dist
    return isinstance(q, dist.Delta)


def has_discrete(q: Any) -> bool:
    """Whether any coordinate of a draw is discrete, be it written as a float."""
    if isinstance(q, Product):
        return any(map(has_discrete, q.parts))
    return isinstance(q, Finite) or is_finite(q) or is_discrete(q)


def is_reparameterised(q: Any) -> bool:
    """Whether draws can be differentiated in the parameters."""
    if is_numpyro(q):
        return bool(q.has_rsample)
    if isinstance(q, AbstractFamily):
        return "reparameterised" in q.capabilities
    return bool(getattr(q, "reparameterised", False))


def is_finite(q: Any) -> bool:
    """Whether the support can be listed."""
    return bool(getattr(q, "has_enumerate_support", False))


def support(q: Any) -> Array:
    """Every value of the support, the first axis along them: (K, *batch, *event)."""
    return jnp.asarray(q.enumerate_support(expand=True))


def describe(q: Any) -> str:
    """The name of a distribution's class, with its shape."""
    inner, outer = event_shape(q), batch_shape(q)
    shape = f" of shape {outer + inner}" if outer + inner else ""
    return f"{type(q).__name__}{shape}"


def refuse(estimator: Any, q: Any, lacks: str, instead: str) -> RitzError:
    """The error of an estimator that cannot serve a distribution."""
    name = type(estimator).__name__
    return RitzError(f"{name} cannot estimate {describe(q)}: {lacks}; use {instead}")
