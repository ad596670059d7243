"""An estimator for each part of a product family."""

from typing import Any

from ritz._errors import RitzError
from ritz.estimator._base import AbstractEstimator, Draw
from ritz.family import Finite, Product


class PerPart(AbstractEstimator):
    """See `per_part`.

    Attributes:
        parts: the estimators, in the order of the family's parts.
    """

    parts: tuple[AbstractEstimator, ...]

    @property
    def biased(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(part.biased for part in self.parts)

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset().union(*(part.needs for part in self.parts))

    @property
    def cost(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return " times ".join(part.cost for part in self.parts)

    @property
    def combines(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(part.combines for part in self.parts)

    @property
    def detaches(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return any(part.detaches for part in self.parts)

    def check(self, q: Any) -> None:
        if not isinstance(q, Product) or len(q.parts) != len(self.parts):
            raise RitzError(
                f"per_part has {len(self.parts)} estimators, but the family is a "
                f"{type(q).__name__}; use as many as a ritz.family.Product has parts"
            )
        for part, estimator in zip(q.parts, self.parts, strict=True):
            estimator.check(part.choices if isinstance(part, Finite) else part)

    def draw(self, q: Any, key: Any) -> Draw:
        raise RitzError("per_part is for `sample` in a program, which makes a choice of each part")


def per_part(*estimators: Any) -> PerPart:
    """Estimate each part of a `ritz.family.Product` in its own way.

    Args:
        *estimators: one for each part, in their order.

    Returns:
        the estimator.

    Raises:
        RitzError: for something that is not an estimator; later, for a family of other parts.

    >>> from ritz.estimator import pathwise, score
    >>> per_part(pathwise(), score(draws=4)).biased
    False
    """
    for given in estimators:
        if not isinstance(given, AbstractEstimator):
            raise RitzError(
                f"per_part: {type(given).__name__} arrived, expected one of ritz.estimator"
            )
    return PerPart(estimators)
