"""What other estimators are compared with: the score function, which needs log densities only."""

from typing import Any

import jax
from jaxtyping import Array, Key

from ritz._errors import RitzError
from ritz.estimator import _element as element
from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, detached
from ritz.estimator._relaxed import AbstractRelaxation, hard, noisy
from ritz.estimator._score import score
from ritz.family import AbstractFamily


class HardScore(AbstractRelaxation):
    """The score function, for a program that takes a discrete choice in relaxed form.

    Its values are 0.0 and 1.0, and one-hot vectors.
    """

    @property
    def ratio(self) -> bool:
        return True

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        binary, logits, _ = element.discrete_logits(q)
        b = jax.lax.stop_gradient(hard(binary, noisy(binary, logits, key)))
        return Draw(b, {"log_q": element.hard_log_prob(q, b)})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        return f + f * detached(notes["log_q"])


def reference(q: Any, estimator: AbstractEstimator) -> AbstractEstimator:
    """The score function, with values in the form that another estimator of a choice gives.

    Args:
        q: the distribution.
        estimator: the one to compare with.

    Raises:
        RitzError: where q has no log density, or its values are given in a form unknown here.

    >>> import numpyro.distributions as dist
    >>> from ritz.estimator import enumerate_support, rebar
    >>> q = dist.Bernoulli(0.3)
    >>> [type(reference(q, how)).__name__ for how in (enumerate_support(), rebar())]
    ['Score', 'HardScore']
    """
    if isinstance(q, AbstractFamily) and "log_prob" not in q.capabilities:
        raise RitzError(
            f"check_unbiased cannot compare {law.describe(q)} with its score function: it has no "
            "log_prob; pass exact="
        )
    form = lambda aval: (aval.shape, aval.dtype)
    found, plain = form(estimator.value(q)), form(law.value(q))
    if found == plain:
        return score()
    if element.has_logits(q) and found == form(element.relaxed_value(q)):
        return HardScore()
    raise RitzError(
        f"check_unbiased: {type(estimator).__name__} gives {found[1]} of shape {found[0]} for "
        f"{law.describe(q)}, whose draws are {plain[1]} of shape {plain[0]}, so that the score "
        "function cannot stand in for it; pass exact="
    )
