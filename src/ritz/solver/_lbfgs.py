r"""Limited-memory BFGS with a diagonal of its own, and a search that survives what is not finite.

The inverse Hessian is a positive diagonal that learns each coordinate's scale (Gilbert and
Lemaréchal 1989, section 4), updated by the last J pairs of steps s and differences of gradients y,

.. math:: H \leftarrow (I - \rho s y^\top)\, H\, (I - \rho y s^\top) + \rho s s^\top,
    \qquad \rho = 1 / s^\top y.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ritz.solver._trust_region import rounding

# Armijo's and Wolfe's constants, and how many points a search looks at.
_FALL, _FLAT, _TRIALS = 1e-4, 0.9, 30


class Memory(NamedTuple):
    """What is known of the inverse Hessian.

    Attributes:
        diagonal: before the pairs.
        s: the last steps, the newest last.
        y: differences of gradients of the function that is minimised.
        rho: 1 / s'y; zero where there is no pair yet.
    """

    diagonal: Float[Array, " d"]
    s: Float[Array, "j d"]
    y: Float[Array, "j d"]
    rho: Float[Array, " j"]


def empty(grad: Float[Array, " d"], pairs: int) -> Memory:
    """No pairs, and a diagonal with which a first step moves no coordinate by more than one."""
    none = jnp.zeros((pairs, grad.shape[0]), grad.dtype)
    return Memory(1.0 / jnp.maximum(jnp.abs(grad), 1.0), none, none, none[:, 0])


def remember(memory: Memory, s: Float[Array, " d"], y: Float[Array, " d"]) -> Memory:
    """Add a pair, if the curvature along it is positive beyond rounding."""
    bend = s @ y
    eps = jnp.finfo(s.dtype).eps
    good = (bend > eps * jnp.linalg.norm(s) * jnp.linalg.norm(y)) & jnp.isfinite(bend)
    bend = jnp.where(good, bend, 1.0)
    d = memory.diagonal
    a, c = y @ (d * y), s @ (s / d)
    inverse = a / (bend * d) + y * y / bend - a / (bend * c) * (s / d) ** 2
    diagonal = 1.0 / inverse
    fine = good & jnp.isfinite(diagonal) & (diagonal > 0)
    push = lambda old, row: jnp.where(good, jnp.concatenate([old[1:], row[None]]), old)
    return Memory(
        jnp.where(fine, diagonal, d),
        push(memory.s, s),
        push(memory.y, y),
        push(memory.rho, 1.0 / bend),
    )


def descend(memory: Memory, grad: Float[Array, " d"]) -> Float[Array, " d"]:
    """-Hg, by the two loops of Nocedal 1980."""

    def back(left: Array, pair: Any) -> tuple[Array, Array]:
        s, y, rho = pair
        share = rho * (s @ left)
        return left - share * y, share

    def forth(right: Array, pair: Any) -> tuple[Array, None]:
        s, y, rho, share = pair
        return right + s * (share - rho * (y @ right)), None

    pairs = (memory.s, memory.y, memory.rho)
    left, shares = jax.lax.scan(back, grad, pairs, reverse=True)
    return -jax.lax.scan(forth, memory.diagonal * left, (*pairs, shares))[0]


def root(memory: Memory) -> Float[Array, "d k"]:
    r"""F with :math:`FF^\top = H`, by products alone, so that nothing cancels."""
    pairs, d = memory.s.shape
    factor = jnp.concatenate(
        [jnp.diag(jnp.sqrt(memory.diagonal)), jnp.zeros((d, pairs), memory.s.dtype)], axis=1
    )

    def add(i: Any, factor: Array) -> Array:
        s, y, rho = memory.s[i], memory.y[i], memory.rho[i]
        factor = factor - rho * jnp.outer(s, y @ factor)
        return factor.at[:, d + i].set(jnp.sqrt(rho) * s)

    return jax.lax.fori_loop(0, pairs, add, factor)


class Found(NamedTuple):
    """Where a search ended.

    Attributes:
        share: of the step; zero where no point was lower.
        value: there.
        grad: there.
        tried: how many points were looked at.
    """

    share: Float[Array, ""]
    value: Float[Array, ""]
    grad: Float[Array, " d"]
    tried: Int[Array, ""]


def line_search(
    evaluate: Callable[[Array], tuple[Array, Array]],
    value: Float[Array, ""],
    grad: Float[Array, " d"],
    step: Float[Array, " d"],
    trials: Any = _TRIALS,
) -> Found:
    """A share of a step that meets Wolfe's conditions, by bisection (Lewis and Overton 2013).

    A point that is higher, infinite or not a number is too far; one that falls as steeply as at
    the start is too near. Where the points run out, the lowest that falls enough is taken.

    Args:
        evaluate: from a share to the value and the gradient there.
        value: at the start.
        grad: at the start.
        step: a direction of descent.
        trials: how many points it looks at.
    """
    slope = grad @ step
    slack = rounding(value)

    def more(carry: Any) -> Any:
        _, _, _, _, met, tried = carry
        return (tried < trials) & ~met

    def body(carry: Any) -> Any:
        t, low, high, best, _, tried = carry
        there, steep = evaluate(t)
        finite = jnp.isfinite(there) & jnp.isfinite(steep).all()
        falls = finite & (there <= value + _FALL * t * slope + slack)
        near = falls & (steep @ step < _FLAT * slope)
        pick = lambda new, old: jax.tree.map(lambda a, b: jnp.where(falls, a, b), new, old)
        best = pick((t, there, steep), best)
        low, high = jnp.where(falls, t, low), jnp.where(falls, high, t)
        t = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2.0 * low)
        return t, low, high, best, falls & ~near, tried + 1

    one, zero = jnp.ones_like(value), jnp.zeros_like(value)
    start = (one, zero, jnp.full_like(value, jnp.inf), (zero, value, grad), jnp.array(False), 0)
    *_, (share, lowest, steep), _, tried = jax.lax.while_loop(more, body, start)
    return Found(share, lowest, steep, tried)
