"""Which discrete latent sites are summed out, and which a family draws."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ritz._compile import compile
from ritz._errors import RitzError, suggest
from ritz.target._base import Site, float_dtype
from ritz.target._support import TooMany

WORDS = ("summed", "score", "relaxed")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What is done with each discrete site; holds those that a family draws.

    Attributes:
        each: site -> one of `WORDS`.
        others: the word for the sites that are not named.
    """

    each: Mapping[str, str]
    others: str = "summed"

    def of(self, name: str) -> str:
        """The word for a site."""
        return self.each.get(name, self.others)

    def __contains__(self, name: Any) -> bool:
        return self.of(name) != "summed"

    def relaxed(self, sites: Any) -> frozenset[str]:
        """The sites of a target that are relaxed.

        Raises:
            RitzError: for one with other values than 0 and 1.
        """
        names = [s for s in sites if s.values is not None and self.of(s.name) == "relaxed"]
        for site in names:
            if site.values != (0, 1):
                raise RitzError(
                    f"site {site.name!r} has {site.support}, and numbers between them mean "
                    "nothing to the model; only choices of 0 or 1 are relaxed: use 'score'"
                )
        return frozenset(site.name for site in names)

    def check_smooth(self, target: Any) -> None:
        """Refuse a relaxed site that the model does not follow between 0 and 1.

        Raises:
            RitzError: where the density differs at 0 and 1 but its derivative between them is
                zero, or where the model fails on a number between them.
        """
        for site in target.sites:
            if site.name in target.relaxed:
                _check_smooth(target, site)

    def check(self, summed: Any, sites: Any) -> None:
        """Raise a RitzError for the name of a site that the model lacks, or that is continuous."""
        known = [*(s.name for s in summed), *(s.name for s in sites if s.values is not None)]
        for name in self.each:
            if name not in known:
                has = suggest(name, known) if known else "the model has none"
                raise RitzError(f"discrete names no discrete latent site {name!r}; {has}")


def _check_smooth(target: Any, site: Site) -> None:
    def rest(target: Any, value: Any) -> Any:
        x = jnp.zeros(target.dim, float_dtype())
        terms = target.terms(x.at[site.start : site.stop].set(value))
        return sum(term for name, term in terms.items() if name != site.name)

    def look(target: Any) -> Any:
        ends = [rest(target, jnp.asarray(end, float_dtype())) for end in (0.0, 1.0)]
        return ends[1] - ends[0], jax.grad(rest, argnums=1)(target, jnp.asarray(0.4, float_dtype()))

    try:
        change, slope = compile(look, target)(target)
    except RitzError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise RitzError(
            f"site {site.name!r} is relaxed, and the model fails on a number between 0 and 1 "
            f"({reason}); use 'score'"
        ) from error
    if jnp.isfinite(change) and change != 0 and slope == 0:
        raise RitzError(
            f"site {site.name!r} is relaxed, but between 0 and 1 the density does not follow it; "
            f"multiply by {site.name} in place of comparing it, or use 'score'"
        )


def treated(discrete: Any, build: Callable[[Treatment], T]) -> T:
    """What `build` makes, where sites that are too many to sum are drawn.

    Args:
        discrete: None, one of `WORDS`, or a mapping from sites to them.
        build: makes a target.

    Raises:
        RitzError: for another word, and where `build` does.
    """
    for word in discrete.values() if isinstance(discrete, Mapping) else [discrete]:
        if word not in WORDS and (word is not None or discrete is not None):
            raise RitzError(
                f"discrete={discrete!r} arrived, expected 'summed', 'score' or 'relaxed', or one "
                "of them by the name of a site"
            )
    each = dict(discrete) if isinstance(discrete, Mapping) else {}
    others = discrete if isinstance(discrete, str) else "summed"
    while True:
        try:
            return build(Treatment(dict(each), others))
        except TooMany as error:
            if discrete == "summed" or each.get(error.site) is not None:
                raise
            each[error.site] = "score"
