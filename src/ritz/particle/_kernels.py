r"""Radial kernels :math:`k(x, y) = \kappa(\|x - y\|^2 / h^2)` and their scales."""

import abc
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError, positive

# The median is that of the pairs of so many particles, in so many halvings of so many powers of
# two: to within 0.2%.
_SOME, _HALVINGS, _OCTAVES = 64, 14, 43


class AbstractKernel(eqx.Module):
    r"""A radial kernel.

    Attributes:
        scale: h; None for a rule that looks at the particles.
        proportional: whether :math:`\kappa'` is a multiple of :math:`\kappa`.
    """

    proportional: ClassVar[float | None] = None
    scale: eqx.AbstractVar[Float[Array, ""] | None]

    @abc.abstractmethod
    def of(self, u: Array) -> tuple[Array, Array, Array]:
        r""":math:`\kappa, \kappa'` and :math:`\kappa''` at u."""

    @abc.abstractmethod
    def rule(self, x: Float[Array, "n d"]) -> Float[Array, ""]:
        r""":math:`h^2` of a cloud."""

    def squared_scale(self, x: Float[Array, "n d"]) -> Float[Array, ""]:
        r""":math:`h^2`."""
        return self.rule(x) if self.scale is None else self.scale.astype(x.dtype) ** 2


class RBF(AbstractKernel):
    """See `rbf`.

    Attributes:
        by_count: whether the rule divides by log(n + 1).
    """

    proportional: ClassVar[float | None] = -1.0
    scale: Float[Array, ""] | None
    by_count: bool = eqx.field(static=True)

    def of(self, u: Array) -> tuple[Array, Array, Array]:
        k = jnp.exp(-u)
        return k, -k, k

    def rule(self, x: Float[Array, "n d"]) -> Float[Array, ""]:
        return median(x) / (math.log(len(x) + 1.0) if self.by_count else 1.0)


class IMQ(AbstractKernel):
    """See `imq`.

    Attributes:
        power: beta.
    """

    scale: Float[Array, ""] | None
    power: float = eqx.field(static=True)

    def of(self, u: Array) -> tuple[Array, Array, Array]:
        b = self.power
        k = (1.0 + u) ** b
        return k, b * k / (1.0 + u), b * (b - 1.0) * k / (1.0 + u) ** 2

    def rule(self, x: Float[Array, "n d"]) -> Float[Array, ""]:
        return median(x)


class Adaptive(AbstractKernel):
    """See `adaptive`.

    Attributes:
        kernel: whose scale it multiplies.
        factors: by what.
    """

    scale: Float[Array, ""] | None
    kernel: AbstractKernel
    factors: Float[Array, " F"]

    def of(self, u: Array) -> tuple[Array, Array, Array]:
        return self.kernel.of(u)

    def rule(self, x: Float[Array, "n d"]) -> Float[Array, ""]:
        return self.kernel.squared_scale(x)


def median(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """The median squared distance of pairs of particles (of 64, where there are more).

    By bisection on the bits of numbers, which rise as they do: a sort of all pairs would cost more
    than a step.
    """
    some = x[:: max(1, -(-len(x) // _SOME))]
    some = some - some.mean(axis=0)
    n = len(some)
    squares = (some**2).sum(axis=1)
    far = squares[:, None] + squares - 2.0 * some @ some.T
    whole, fraction = (jnp.int64, 52) if x.dtype == jnp.float64 else (jnp.int32, 23)
    bits = jax.lax.bitcast_convert_type(jnp.maximum(far, 0.0), whole)
    most = jax.lax.bitcast_convert_type(4.0 * squares.max(), whole)
    half = n * (n - 1) // 2 + n  # of the pairs, and each particle with itself

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        few = (bits <= middle).sum() < half
        return jnp.where(few, middle, low), jnp.where(few, high, middle)

    least = 1 << fraction  # the smallest number that is not rounded to zero
    most = jnp.maximum(most, 2 * least)
    least = jnp.maximum(most - (_OCTAVES << fraction), least)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (least, most))
    return jax.lax.bitcast_convert_type(low + (high - low) // 2, x.dtype)


def _scale(name: str, scale: Any) -> Float[Array, ""] | None:
    if scale is None:
        return None
    positive(f"{name}: scale", scale)
    return jnp.asarray(float(scale))


def rbf(scale: Any = "median") -> RBF:
    r"""The Gaussian kernel :math:`\exp(-\|x - y\|^2 / h^2)`.

    Args:
        scale: h, as a number; or, at each step, "median": the median distance of two particles; or
            "median/log n": that of Liu and Wang 2016 (section 5), :math:`h^2 = \mathrm{med}^2 /
            \log(n + 1)`, such that all others count about as much as a particle does for itself.
            In many dimensions that is so little that particles hardly repel one another.

    Raises:
        RitzError: for another word, or a scale that is not positive.

    >>> float(rbf(2.0).scale)
    2.0
    """
    if isinstance(scale, str):
        if scale not in ("median", "median/log n"):
            raise RitzError(
                f"rbf: scale={scale!r} arrived, expected a number, 'median' or 'median/log n'"
            )
        return RBF(None, scale == "median/log n")
    return RBF(_scale("rbf", scale), False)


def imq(scale: Any = None, power: Any = -0.5) -> IMQ:
    r"""The inverse multiquadric kernel :math:`(1 + \|x - y\|^2 / h^2)^\beta`.

    Its discrepancy, unlike a Gaussian kernel's, sees mass that escapes to infinity (Gorham and
    Mackey 2017, theorem 8).

    Args:
        scale: h; None for the median distance of two particles at each step.
        power: beta, between -1 and 0.

    Raises:
        RitzError: for a scale that is not positive, or another power.

    >>> imq().power
    -0.5
    """
    if isinstance(power, bool) or not isinstance(power, int | float) or not -1 < power < 0:
        raise RitzError(f"imq: power={power!r} arrived, expected a number between -1 and 0")
    return IMQ(_scale("imq", scale), float(power))


def adaptive(kernel: Any = None, factors: Any = (0.25, 0.5, 1.0, 2.0, 4.0)) -> Adaptive:
    r"""A kernel whose scale is the one by which particles are furthest from right, at each step.

    Of the scales :math:`c\,h` that of the largest :math:`\mathrm{KSD}^2` between different
    particles is taken: the direction of steepest descent of the divergence over the union of
    their unit balls. Ai, Liu, Zhou and Ong, "Stein variational gradient descent with multiple
    kernels", 2021.

    Args:
        kernel: `rbf()` by default, or `imq()`.
        factors: c.

    Raises:
        RitzError: for another kernel, or factors that are not positive.

    >>> len(adaptive(factors=(1.0, 3.0)).factors)
    2
    """
    base = rbf() if kernel is None else kernel
    if not isinstance(base, RBF | IMQ):
        raise RitzError(f"adaptive: a {type(base).__name__} arrived, expected rbf() or imq()")
    values = jnp.atleast_1d(jnp.asarray(factors, float))
    if values.ndim != 1 or not values.size or not bool((values > 0).all()):
        raise RitzError(f"adaptive: factors={factors!r} arrived, expected positive numbers")
    return Adaptive(None, base, values)
