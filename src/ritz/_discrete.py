"""How a fit treats the discrete sites that its family draws."""

from collections.abc import Callable, Mapping
from typing import Any

from ritz.estimator import (
    AbstractEstimator,
    GumbelSoftmax,
    PerPart,
    Rebar,
    Relax,
    StraightThrough,
    default,
    gumbel_softmax,
    per_part,
    score,
)
from ritz.family import Product

# Their estimators put numbers between 0 and 1 into the model.
RELAXATIONS = (GumbelSoftmax, StraightThrough, Rebar, Relax)


def split(discrete: Any) -> tuple[Any, Callable[[str], Any]]:
    """What `ritz.target.from_numpyro` is told of discrete sites, and what was said of each.

    Args:
        discrete: as for `ritz.fit`.
    """

    def word(how: Any) -> Any:
        if isinstance(how, RELAXATIONS):
            return "relaxed"
        return "score" if isinstance(how, AbstractEstimator) else how

    if not isinstance(discrete, Mapping):
        return word(discrete), lambda site: discrete
    return {site: word(how) for site, how in discrete.items()}, discrete.get


def estimator(given: Any, q: Any, target: Any, by_site: Callable[[str], Any]) -> Any:
    """The estimator of all choices where the family has discrete parts, else None.

    Args:
        given: that of the continuous coordinates, or None.
        q: the family.
        target: what it approximates.
        by_site: what was said of each discrete site.
    """
    sites = [site for site in target.sites if site.values is not None]
    if not sites or isinstance(given, PerPart):
        return None
    each = [by_site(site.name) for site in sites]
    for i, (site, how) in enumerate(zip(sites, each, strict=True)):
        if not isinstance(how, AbstractEstimator):
            each[i] = gumbel_softmax(0.5) if site.name in target.relaxed else score(draws=4)
    if not isinstance(q, Product):
        return each[0] if target.continuous_dim == 0 else None
    if target.continuous_dim > 0:
        each = [default(q.parts[0]) if given is None else given, *each]
    return per_part(*each)
