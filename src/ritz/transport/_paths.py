"""Paths between two distributions: the coefficients of an interpolant."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError, described


class Path(eqx.Module):
    r"""Coefficients of :math:`x_t = \alpha(t)\,x_0 + \beta(t)\,x_1 + \gamma(t)\,z`.

    With :math:`\alpha(0) = \beta(1) = 1` and :math:`\alpha(1) = \beta(0) = \gamma(0) = \gamma(1)
    = 0` it leads from the distribution of :math:`x_0` to that of :math:`x_1`; z is standard normal.

    Attributes:
        alpha: of a time, differentiable.
        beta: of a time, differentiable.
        gamma: of a time, differentiable inside (0, 1); None for no noise.
    """

    alpha: Callable[..., Any]
    beta: Callable[..., Any]
    gamma: Callable[..., Any] | None = None

    def at(self, t: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        r""":math:`\alpha, \beta, \gamma`."""
        return (
            self.alpha(t),
            self.beta(t),
            jnp.zeros_like(t) if self.gamma is None else self.gamma(t),
        )

    def rates(self, t: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        r"""Their derivatives in t."""
        return jax.jvp(self.at, (t,), (jnp.ones_like(t),))[1]


class _Brownian(eqx.Module):
    scale: float = eqx.field(static=True)

    def __call__(self, t: Any) -> Any:
        return jnp.sqrt(self.scale * t * (1.0 - t))


class _Preserving(eqx.Module):
    """The share of the data, or of the noise, in a diffusion that preserves variance."""

    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    noise: bool = eqx.field(static=True)

    def __call__(self, t: Any) -> Any:
        s = 1.0 - t
        spent = s * self.low + 0.5 * s**2 * (self.high - self.low)
        return jnp.sqrt(-jnp.expm1(-spent)) if self.noise else jnp.exp(-0.5 * spent)


def brownian(scale: Any = 2.0) -> Callable[..., Any]:
    r"""The noise of a Brownian bridge: :math:`\gamma(t) = \sqrt{a\,t(1-t)}`.

    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic interpolants" (section 4).

    Args:
        scale: a.

    Raises:
        RitzError: for a scale that is not positive.

    >>> float(brownian(1.0)(0.5))
    0.5
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise RitzError(f"brownian: scale={scale!r} arrived, expected a positive number, as 2.0")
    return _Brownian(float(scale))


def linear(gamma: Any = None) -> Path:
    r""":math:`\alpha = 1 - t`, :math:`\beta = t`.

    Without noise and from a standard normal it is the conditional optimal transport path of flow
    matching (Lipman et al. 2023).

    Args:
        gamma: a function of time, such as `brownian()`; None for no noise.

    Raises:
        RitzError: where it is no function.

    >>> import jax.numpy as jnp
    >>> [float(v) for v in linear(brownian()).at(jnp.array(0.25))][:2]
    [0.75, 0.25]
    """
    return Path(_falls, _rises, _function(gamma))


def trigonometric(gamma: Any = None) -> Path:
    r""":math:`\alpha = \cos\frac{\pi t}{2}`, :math:`\beta = \sin\frac{\pi t}{2}`.

    Args:
        gamma: a function of time, such as `brownian()`; None for no noise.

    Raises:
        RitzError: where it is no function.

    >>> import jax.numpy as jnp
    >>> round(float(trigonometric().rates(jnp.array(0.0))[1]), 4)
    1.5708
    """
    return Path(_cosine, _sine, _function(gamma))


def variance_preserving(low: Any = 0.1, high: Any = 20.0) -> Path:
    r"""The diffusion path :math:`\beta = e^{-\frac12 T(1-t)}`, :math:`\alpha = \sqrt{1-\beta^2}`.

    With :math:`T(s) = s\,b_0 + \tfrac12 s^2 (b_1 - b_0)` (Song et al. 2021, equation 33). At t = 0
    a share :math:`e^{-\frac12 T(1)}` of the data is left, 0.7% by default.

    Args:
        low: :math:`b_0`, the rate of the noise at the data.
        high: :math:`b_1`, that at the other end.

    Raises:
        RitzError: for rates that are not positive.

    >>> import jax.numpy as jnp
    >>> float(variance_preserving().at(jnp.array(1.0))[1])
    1.0
    """
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e3:
            raise RitzError(f"variance_preserving: {name}={value!r} arrived, expected a rate > 0")
    rates = float(low), float(high)
    return Path(_Preserving(*rates, True), _Preserving(*rates, False))


def _falls(t: Any) -> Any:
    return 1.0 - t


def _rises(t: Any) -> Any:
    return t


def _cosine(t: Any) -> Any:
    return jnp.cos(0.5 * jnp.pi * t)


def _sine(t: Any) -> Any:
    return jnp.sin(0.5 * jnp.pi * t)


def _function(gamma: Any) -> Any:
    if gamma is not None and not callable(gamma):
        raise RitzError(
            f"gamma: {described(gamma)} arrived, expected a function of time such as "
            "ritz.transport.brownian(), or None for no noise"
        )
    return gamma
