"""The estimators inside of a family that is a program."""

from typing import Any, ClassVar

from jaxtyping import Array, Key

from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw


class Inner(AbstractEstimator):
    """Of a family that is made of choices in a program: each choice keeps its own estimator.

    `default` gives it to what `ritz.objective.marginal` and `normalize` return.

    >>> import numpyro.distributions as dist
    >>> Inner().check(dist.Normal(0.0, 1.0))
    Traceback (most recent call last):
    ritz._errors.RitzError: Inner cannot estimate Normal: it is no program; use pathwise()
    """

    cost: ClassVar[str] = "those of its choices"

    def check(self, q: Any) -> None:
        if not getattr(q, "composed", False):
            instead = "pathwise()" if law.is_reparameterised(q) else "score()"
            raise law.refuse(self, q, "it is no program", instead)

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        raise law.refuse(self, q, "its program makes its choices", "sample() in a program")
