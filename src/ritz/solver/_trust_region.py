r"""Newton's method that cannot be led astray: a model of curvature, a radius, and a search.

A minimiser of a smooth function f from any start where it is finite. A step minimises

.. math:: g^\top p + \tfrac12 p^\top |H| p \quad\text{within}\quad \|Dp\| \le r,

where :math:`|H|` has the absolute eigenvalues of the Hessian, so that saddles repel (Dauphin et
al. 2014), and D makes its diagonal one, so that no coordinate's unit matters. The radius follows
how well the model predicts (Conn, Gould and Toint 2000, algorithm 6.1.1); a trial point where f is
larger, infinite or not a number is drawn back to a quarter of the way.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_SHRINK, _TRIALS = 0.25, 40
_BISECTIONS = 60
# A radius, or a distance, that is as good as infinite and yet a number.
UNBOUNDED = 1e18


class Curvature(NamedTuple):
    """A Hessian's eigenvalues in coordinates where none of its rows is larger than one.

    Attributes:
        scale: D.
        values: ascending eigenvalues of the scaled Hessian.
        vectors: their eigenvectors, in columns.
    """

    scale: Float[Array, " n"]
    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]

    @property
    def floor(self) -> Float[Array, ""]:
        """What rounding leaves of an eigenvalue that is zero."""
        n = self.values.shape[0]
        return 10.0 * n * jnp.finfo(self.values.dtype).eps * jnp.abs(self.values).max() + 1e-30

    @property
    def positive(self) -> Float[Array, " n"]:
        """The absolute eigenvalues, and no less than what can be told from zero."""
        return jnp.maximum(jnp.abs(self.values), self.floor)

    @property
    def wrong(self) -> Int[Array, ""]:
        """How many eigenvalues are not positive."""
        return (self.values <= self.floor).sum()

    def root(self) -> Float[Array, "n n"]:
        r"""F with :math:`FF^\top = |H|^{-1}`."""
        return self.vectors / jnp.sqrt(self.positive) / self.scale[:, None]

    def decrement(self, grad: Float[Array, " n"]) -> Float[Array, ""]:
        r""":math:`g^\top |H|^{-1} g`: the squared distance to the minimum, in its own widths."""
        along = self.vectors.T @ (grad / self.scale)
        return jnp.minimum((along**2 / self.positive).sum(), UNBOUNDED)

    def half_log_det(self) -> Float[Array, ""]:
        r""":math:`\tfrac12\log\det |H|`."""
        return 0.5 * jnp.log(self.positive).sum() + jnp.log(self.scale).sum()


class Step(NamedTuple):
    """A proposed step.

    Attributes:
        step: p.
        slope: g'p, not positive.
        bend: p'|H|p.
        length: of Dp.
        products: Hessian-vector products that it took.
    """

    step: Float[Array, " n"]
    slope: Float[Array, ""]
    bend: Float[Array, ""]
    length: Float[Array, ""]
    products: Float[Array, ""]


def curvature_of(hessian: Float[Array, "n n"]) -> Curvature:
    """Equilibrate a symmetric matrix (Ruiz 2001) and take its eigenvalues.

    Of a positive definite matrix the scaling is that of its diagonal.
    """
    hessian = 0.5 * (hessian + hessian.T)

    def once(_: Any, scale: Array) -> Array:
        rows = jnp.abs(hessian / scale[:, None] / scale).max(axis=1)
        return scale * jnp.where(rows > 0, jnp.sqrt(rows), 1.0)

    scale = jax.lax.fori_loop(0, 12, once, jnp.ones(hessian.shape[0], hessian.dtype))
    values, vectors = jnp.linalg.eigh(hessian / scale[:, None] / scale)
    return Curvature(scale, values, vectors)


def dense_step(curvature: Curvature, grad: Float[Array, " n"], radius: Float[Array, ""]) -> Step:
    """The model's minimum within a radius, by the eigenvalues."""
    sizes = curvature.positive
    along = curvature.vectors.T @ (grad / curvature.scale)
    # At a saddle nothing points away from it: a step of the size of the curvature does.
    least, push = curvature.values[0], jnp.sqrt(sizes[0])
    stuck = (least < -curvature.floor) & ((along**2 / sizes).sum() < 1e-2)
    along = along.at[0].add(jnp.where(stuck, push, 0.0))
    length = lambda shift: jnp.sqrt(((along / (sizes + shift)) ** 2).sum())

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = jnp.sqrt(low * high)
        long = length(middle) > radius
        return jnp.where(long, middle, low), jnp.where(long, high, middle)

    most = jnp.linalg.norm(along) / radius + sizes[-1]
    ends = (1e-3 * curvature.floor, most)
    shift = jax.lax.fori_loop(0, _BISECTIONS, halve, ends)[1]
    shift = jnp.where(length(0.0) <= radius, 0.0, shift)
    inner = -along / (sizes + shift)
    step = (curvature.vectors @ inner) / curvature.scale
    return Step(
        step,
        along @ inner,
        sizes @ inner**2,
        jnp.linalg.norm(inner),
        jnp.zeros((), grad.dtype),
    )


def truncated_step(
    product: Callable[[Array], Array], grad: Float[Array, " n"], radius: Float[Array, ""], most: int
) -> Step:
    """The same by conjugate gradients, without a matrix (Steihaug 1983).

    They stop at a residual that falls with the gradient, at the radius, and where the curvature
    is not positive, which they follow to the radius.

    Args:
        product: a vector to its product with the Hessian, in coordinates that need no scale.
        grad: g.
        radius: r, finite.
        most: how many products.
    """
    size = jnp.linalg.norm(grad)
    goal = size * jnp.minimum(0.1, jnp.sqrt(size))
    zero = jnp.zeros_like(grad)

    def more(carry: Any) -> Any:
        i, _, _, residual, _, ended = carry
        return (i < most) & ~ended & (jnp.linalg.norm(residual) > goal)

    def body(carry: Any) -> Any:
        i, p, bent, residual, direction, _ = carry
        image = product(direction)
        finite = jnp.isfinite(image).all()
        image = jnp.where(finite, image, 0.0)
        bend, square = direction @ image, residual @ residual
        share = square / jnp.where(bend > 0, bend, 1.0)
        outside = (bend <= 0) | (jnp.linalg.norm(p + share * direction) > radius)
        a, b, c = direction @ direction, p @ direction, radius**2 - p @ p
        edge = (jnp.sqrt(b * b + a * jnp.maximum(c, 0.0)) - b) / a
        share = jnp.where(finite, jnp.where(outside, edge, share), 0.0)
        left = residual - share * image
        following = left + (left @ left) / square * direction
        p, bent = p + share * direction, bent + share * image
        return i + 1, p, bent, left, following, outside

    start = (jnp.zeros((), int), zero, zero, -grad, -grad, jnp.array(False))
    i, p, image, *_ = jax.lax.while_loop(more, body, start)
    return Step(
        p,
        grad @ p,
        jnp.maximum(p @ image, 0.0),
        jnp.linalg.norm(p),
        i.astype(grad.dtype),
    )


class Trial(NamedTuple):
    """What the search along a step found.

    Attributes:
        found: what `evaluate` gave at the new point (f first); that of the old where none served.
        share: how much of the step was made; 0 where none served.
        radius: the next one.
        tried: how many points were looked at.
    """

    found: Any
    share: Float[Array, ""]
    radius: Float[Array, ""]
    tried: Float[Array, ""]


def search(
    evaluate: Callable[[Array], Any],
    old: Any,
    proposed: Step,
    radius: Float[Array, ""],
) -> Trial:
    """Draw a step back until f falls, and say how far to trust the model next.

    Args:
        evaluate: from a share of the step to a tuple, f first, whose entries must be finite.
        old: the same where the step starts.
        proposed: the step.
        radius: within which it was made.
    """
    value = old[0]
    dtype = value.dtype
    noise = rounding(value)
    predicted = lambda t: -(t * proposed.slope + 0.5 * t * t * proposed.bend)

    def good(found: Any, t: Array) -> Array:
        finite = jnp.stack([jnp.isfinite(v).all() for v in jax.tree.leaves(found)]).all()
        return finite & (value - found[0] >= 1e-4 * predicted(t) - noise)

    def more(carry: Any) -> Any:
        _, _, tried, accepted = carry
        return (tried < _TRIALS) & ~accepted

    def body(carry: Any) -> Any:
        _, t, tried, _ = carry
        t = jnp.where(tried == 0, 1.0, _SHRINK * t).astype(dtype)
        found = evaluate(t)
        return found, t, tried + 1, good(found, t)

    start = (old, jnp.ones((), dtype), jnp.zeros((), int), jnp.array(False))
    found, t, tried, accepted = jax.lax.while_loop(more, body, start)
    found = jax.tree.map(lambda new, kept: jnp.where(accepted, new, kept), found, old)
    foreseen = predicted(t)
    ratio = (value - found[0]) / jnp.maximum(foreseen, jnp.finfo(dtype).tiny)
    made = t * proposed.length
    following = jnp.where(ratio > 0.75, jnp.maximum(radius, 3.0 * made), radius)
    following = jnp.where((ratio < 0.25) | (t < 1.0), jnp.maximum(2.0 * t, 0.5) * made, following)
    following = jnp.where((t == 1.0) & (foreseen <= noise), radius, following)
    following = jnp.where(accepted, following, _SHRINK * made)
    return Trial(found, jnp.where(accepted, t, 0.0), following, tried.astype(dtype))


def rounding(value: Float[Array, ""]) -> Float[Array, ""]:
    """What differences of a function's values may be without meaning anything."""
    return 10.0 * jnp.finfo(value.dtype).eps * jnp.maximum(jnp.abs(value), 1.0)


def is_done(
    decrement: Float[Array, ""], before: Float[Array, ""], value: Float[Array, ""]
) -> Array:
    """Whether a minimum is reached: to a millionth of its width, or as far as rounding lets.

    Args:
        decrement: the squared Newton decrement, in units of f.
        before: that of the step before.
        value: f.
    """
    small = decrement < 1e-14 if value.dtype == jnp.float64 else decrement < 1e-9
    stalled = (decrement < 10.0 * rounding(value)) & (decrement >= 0.25 * before)
    return small | stalled
