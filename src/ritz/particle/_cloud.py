"""How a user asks for a cloud of particles."""

import functools
from collections.abc import Callable
from typing import Any

from ritz.family import Particles
from ritz.family._particles import DEFAULT
from ritz.family._particles import particles as build


def particles(n: Any = DEFAULT, spread: Any = None) -> Callable[..., Particles]:
    """A cloud of n particles, as the family of a fit.

    Args:
        n: how many, two or more.
        spread: the standard deviation, in unconstrained coordinates, of the points that it starts
            from, around the target's start. None leaves it to the solver where they stand: at the
            mode, with the covariance that the curvature there tells. Where there may be several
            modes give a spread that covers them.

    Raises:
        RitzError: for one particle, or a spread that is not positive.

    >>> import ritz
    >>> from ritz.target import library
    >>> schools = library.get("eight_schools")
    >>> fit = ritz.fit(schools.model, schools.data(), family=particles(30), steps=10)
    >>> fit.q.points.shape
    (30, 10)
    """
    made = functools.partial(build, n=n, spread=spread)
    made.__name__ = "particles"  # pyright: ignore[reportAttributeAccessIssue]
    import jax.numpy as jnp

    build(None, jnp.zeros(1), n, spread)  # says what is wrong where it is written
    return made
