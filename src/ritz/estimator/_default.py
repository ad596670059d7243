"""Which estimator serves where none is named."""

from typing import Any

from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator
from ritz.estimator._enumerate import enumerate_support
from ritz.estimator._inner import Inner
from ritz.estimator._pathwise import pathwise
from ritz.estimator._per_part import per_part
from ritz.estimator._score import score
from ritz.estimator._stratified import stratified
from ritz.family import Mixture, Product


def default(q: Any) -> AbstractEstimator:
    """Pathwise where draws are differentiable, exact where the support is finite, else score.

    Of a product, such an estimator of each part; of a mixture, `stratified`; of a program, its own.

    >>> import numpyro.distributions as dist
    >>> type(default(dist.Poisson(3.0))).__name__
    'Score'
    """
    if isinstance(q, Product):
        return per_part(*map(default, q.parts))
    if getattr(q, "composed", False):
        return Inner()
    if law.is_reparameterised(q):
        return pathwise()
    if isinstance(q, Mixture):
        return stratified()
    return enumerate_support() if law.is_finite(q) else score()
