"""Moves of one chain: Langevin and Hamiltonian, with and without a Metropolis test."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number


class Moved(NamedTuple):
    """Where a chain is after its moves.

    Attributes:
        x: the point.
        log_ratio: what they add to the chain's log weight, so that weighted chains keep the
            density: zero where there was a Metropolis test, the test's log ratio where not.
        accepted: the probability that the test accepts, or would have.
    """

    x: Float[Array, " d"]
    log_ratio: Float[Array, ""]
    accepted: Float[Array, ""]


class Moves(eqx.Module):
    r"""A chain's move: leapfrog steps :math:`\varepsilon` from a fresh momentum.

    One leapfrog step is the Langevin step
    :math:`y = x + \tfrac{\varepsilon^2}2\nabla\log\tilde p(x) + \varepsilon\xi`. With H the
    Hamiltonian :math:`-\log\tilde p(x) + \tfrac12|v|^2`, the Metropolis test accepts with
    probability :math:`\min(1, e^{H(x,v) - H(y,v')})`.

    Attributes:
        step: epsilon.
        leapfrogs: how many steps a move makes.
        metropolis: whether it is tested. See `ula`, `mala` and `hmc`.
    """

    step: Float[Array, ""]
    leapfrogs: int = eqx.field(static=True)
    metropolis: bool = eqx.field(static=True)

    def __call__(
        self,
        log_density: Callable[[Float[Array, " d"]], Float[Array, ""]],
        x: Float[Array, " d"],
        key: Key[Array, ""],
        n: int = 1,
    ) -> Moved:
        """n moves of a chain that is at x: their log ratios added, their acceptances averaged."""
        step = self.step.astype(x.dtype)
        of = jax.value_and_grad(log_density)

        def leap(carry: Any, _: Any) -> Any:
            (y, _, slope), v = carry
            half = v + 0.5 * step * slope
            y = y + step * half
            value, slope = of(y)
            return ((y, value, slope), half + 0.5 * step * slope), None

        def move(carry: Any, key: Any) -> Any:
            at, log_ratio, accepted = carry
            noise, test = jax.random.split(key)
            v = jax.random.normal(noise, x.shape, x.dtype)
            (to, end), _ = jax.lax.scan(leap, (at, v), None, length=self.leapfrogs)
            ratio = to[1] - at[1] + 0.5 * (v @ v - end @ end)
            ratio = jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)
            accepted = accepted + jnp.exp(jnp.minimum(ratio, 0.0)) / n
            if not self.metropolis:
                return (to, log_ratio + ratio, accepted), None
            goes = jnp.log(jax.random.uniform(test, dtype=x.dtype)) < ratio
            at = jax.tree.map(lambda new, old: jnp.where(goes, new, old), to, at)
            return (at, log_ratio, accepted), None

        zero = jnp.zeros((), x.dtype)
        start = ((x, *of(x)), zero, zero)
        (at, log_ratio, accepted), _ = jax.lax.scan(move, start, jax.random.split(key, n))
        return Moved(at[0], log_ratio, accepted)


def ula(step: Any = 0.1) -> Moves:
    r"""The unadjusted Langevin algorithm; its law is off by :math:`O(\varepsilon^2)`.

    Args:
        step: epsilon, the sd of a move's noise.

    Raises:
        RitzError: for a step that is not a positive number.

    >>> import jax, jax.numpy as jnp
    >>> gaussian = lambda x: -0.5 * (x**2).sum()
    >>> moved = ula(0.5)(gaussian, jnp.ones(2), jax.random.key(0))
    >>> moved.x.shape
    (2,)
    """
    return Moves(_positive("ula", step), 1, False)


def mala(step: Any = 0.3) -> Moves:
    r"""The Metropolis-adjusted Langevin algorithm, which leaves the density invariant.

    Roberts and Tweedie, "Exponential convergence of Langevin distributions and their discrete
    approximations", 1996.

    Args:
        step: epsilon, the sd of a proposal's noise.

    Raises:
        RitzError: for a step that is not a positive number.

    >>> float(mala(0.5).step)
    0.5
    """
    return Moves(_positive("mala", step), 1, True)


def hmc(step: Any = 0.2, leapfrogs: Any = 10) -> Moves:
    r"""Hamiltonian Monte Carlo: several leapfrog steps between two tests.

    Duane, Kennedy, Pendleton and Roweth, "Hybrid Monte Carlo", 1987.

    Args:
        step: epsilon.
        leapfrogs: how many steps a move makes.

    Raises:
        RitzError: for a step that is not a positive number, or no leapfrog step.

    >>> hmc(0.2, 5).leapfrogs
    5
    """
    return Moves(_positive("hmc", step), whole_number("leapfrogs", leapfrogs, 1), True)


def as_moves(what: str, moves: Any) -> Moves:
    """The moves, if they are some.

    Raises:
        RitzError: naming those that there are.
    """
    if not isinstance(moves, Moves):
        raise RitzError(
            f"{what}: moves arrived as {type(moves).__name__}, expected ritz.particle.ula(), "
            "mala() or hmc()"
        )
    return moves


def _positive(name: str, value: Any) -> Float[Array, ""]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0.0 < value < math.inf:
        raise RitzError(f"{name}: step={value!r} arrived, expected a positive number such as 0.2")
    return jnp.asarray(float(value))
