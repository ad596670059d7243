"""Which estimator a choice gets, where others than the program have a say in it."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ritz.estimator import AbstractEstimator, PerPart, default, reference
from ritz.family import Finite

# From a distribution and the estimator that the program names, or None, to another, or None.
Rule = Callable[[Any, AbstractEstimator | None], AbstractEstimator | None]

_RULE: contextvars.ContextVar[Rule | None] = contextvars.ContextVar("ritz_rule", default=None)
_KEYS: contextvars.ContextVar[Any] = contextvars.ContextVar("ritz_rule_keys", default=None)
# JAX keeps the trace of a function that a program calls under jit or scan: not from rule to rule.
_new = getattr(jax, "make_user_context", None)
_traced_under = None if _new is None else _new(None)


def estimator_of(q: Any, estimator: AbstractEstimator | None) -> AbstractEstimator:
    """The estimator of a choice in a program.

    Args:
        q: its distribution.
        estimator: what the program names, or None.

    >>> import numpyro.distributions as dist
    >>> type(estimator_of(dist.Normal(0.0, 1.0), None)).__name__
    'Pathwise'
    """
    rule = _RULE.get()
    if rule is not None:
        estimator = rule(q, estimator)
    return default(q) if estimator is None else estimator


def with_default(family: Any, estimator: AbstractEstimator) -> Any:
    """A context in which choices from a family of this type get this estimator by default.

    >>> import numpyro.distributions as dist
    >>> from ritz.estimator import score
    >>> q = dist.Normal(0.0, 1.0)
    >>> with with_default(q, score()):
    ...     type(estimator_of(q, None)).__name__
    'Score'
    """

    def rule(q: Any, given: AbstractEstimator | None) -> AbstractEstimator | None:
        return estimator if given is None and type(q) is type(family) else given

    leaves, how = jax.tree.flatten(estimator)
    key = (type(family), how)
    try:
        hash(key)
    except TypeError:  # a static part, such as a list
        return _under(rule, object())
    return _under(rule, object() if leaves else key)  # equal rules share traces


def compared() -> Any:
    """A context in which every choice gets the score function, in the form of its own values.

    >>> import numpyro.distributions as dist
    >>> from ritz.estimator import pathwise
    >>> with compared():
    ...     type(estimator_of(dist.Normal(0.0, 1.0), pathwise())).__name__
    'Score'
    """

    def rule(q: Any, given: AbstractEstimator | None) -> AbstractEstimator:
        own = default(q) if given is None else given
        # These two are made of several choices, each of which comes here by itself.
        return own if isinstance(own, PerPart) or isinstance(q, Finite) else reference(q, own)

    return _under(rule, "compared")


@contextlib.contextmanager
def _under(rule: Rule, key: Any) -> Iterator[None]:
    outer, keys = _RULE.get(), (key, _KEYS.get())
    both = rule if outer is None else lambda q, given: outer(q, rule(q, given))
    tokens = _RULE.set(both), _KEYS.set(keys)
    try:
        with _retraced(keys):
            yield
    finally:
        _RULE.reset(tokens[0])
        _KEYS.reset(tokens[1])


@contextlib.contextmanager
def _retraced(keys: Any) -> Iterator[None]:
    if _traced_under is not None:
        with _traced_under(keys):
            yield
        return
    jax.clear_caches()  # JAX before `make_user_context`
    try:
        yield
    finally:
        jax.clear_caches()
