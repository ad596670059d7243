"""A cloud of particles: a family whose parameters are its draws."""

from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family._base import AbstractFamily

DEFAULT = 200  # particles


class Particles(AbstractFamily):
    r"""The empirical measure :math:`q = \frac1n \sum_i \delta_{x_i}` of n points.

    It has draws and no density, so that no importance weights judge it: its verdict is that of
    Stein's identities (`ritz.diagnose.stein`).

    Attributes:
        points: the particles.
        placed: whether they stand where somebody put them; a solver moves others to the mode, and
            spreads them by the curvature there, before its first step.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "points"})
    registered_as: ClassVar[str | None] = "particles"
    solver: ClassVar[str | None] = "svgd"
    points: Float[Array, "n d"]
    placed: bool = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        return {"n": len(self.points)} | ({"spread": 1.0} if self.placed else {})

    @property
    def dim(self) -> int:
        return self.points.shape[1]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.points[jax.random.randint(key, (), 0, len(self.points))]


def particles(
    target: Any, start: Float[Array, " d"], n: Any = DEFAULT, spread: Any = None
) -> Particles:
    """Normal points around a start.

    Args:
        target: the target that they are for.
        start: unconstrained point.
        n: how many, two or more.
        spread: their standard deviation. None leaves it to the solver where they stand: at the
            mode, with the covariance that the curvature there tells.

    Returns:
        the cloud.

    Raises:
        RitzError: for one particle, or a spread that is not positive.

    >>> import jax.numpy as jnp
    >>> particles(None, jnp.zeros(3), n=50).points.shape
    (50, 3)
    """
    whole_number("n", n, 1)
    if n < 2:
        raise RitzError(
            "n=1 particle arrived, which no other repels: it finds a mode; use 2 or more"
        )
    is_number = isinstance(spread, int | float) and not isinstance(spread, bool)
    if spread is not None and not (is_number and 0.0 < spread < float("inf")):
        raise RitzError(f"spread={spread!r} arrived, expected a positive number, or None")
    noise = jax.random.normal(jax.random.key(0), (int(n), start.shape[0]), start.dtype)
    return Particles(start + (1.0 if spread is None else float(spread)) * noise, spread is not None)
