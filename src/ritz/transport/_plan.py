"""Entropic plans between weighted points: what a problem is, and what a solver returns."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ritz._errors import RitzError, described, whole_number
from ritz.transport._clouds import cloud, positive

# How far marginals may be from a sum of one, and the least error that float32 can tell.
_SUM, _SINGLE = 1e-4, 1e-6


class Plan(NamedTuple):
    """An entropic plan, and how it was found.

    Attributes:
        f: the potential of the first side, -inf where a weight is zero.
        g: that of the second.
        plan: exp((f + g - C) / epsilon), which is zero where a weight is.
        cost: the sum of plan times C, without the entropy.
        marginal_error: the sum of what rows and columns are off by, in absolute value.
        iterations: sweeps, and Newton steps.
        inner_iterations: of conjugate gradients, in all Newton steps.
        converged: whether the error is within the tolerance.
    """

    f: Float[Array, " n"]
    g: Float[Array, " m"]
    plan: Float[Array, "n m"]
    cost: float
    marginal_error: float
    iterations: int
    inner_iterations: int
    converged: bool


@dataclasses.dataclass(frozen=True)
class Problem:
    """Costs and weights that have been looked at, without the points of no weight."""

    cost: np.ndarray
    a: np.ndarray
    b: np.ndarray
    epsilon: float
    tolerance: float
    steps: int

    def solve(self, solver: Callable[..., tuple[Array, Array, Any, Any]]) -> Plan:
        """The plan of potentials, iterations and inner iterations that a solver finds."""
        rows, columns = self.a > 0, self.b > 0
        some = jnp.asarray(self.cost[rows][:, columns])
        a, b = jnp.asarray(self.a[rows]), jnp.asarray(self.b[columns])
        f, g, made, inner = solver(some, a, b, jnp.asarray(self.epsilon))
        plan, cost, error = _seen(some, a, b, f, g, jnp.asarray(self.epsilon))
        if not rows.all() or not columns.all():
            f = jnp.full(len(rows), -jnp.inf).at[np.flatnonzero(rows)].set(f)
            g = jnp.full(len(columns), -jnp.inf).at[np.flatnonzero(columns)].set(g)
            at = np.ix_(np.flatnonzero(rows), np.flatnonzero(columns))
            plan = jnp.zeros(self.cost.shape, plan.dtype).at[at].set(plan)
        error = float(error)
        found = Plan(f, g, plan, float(cost), error, int(made), int(inner), error <= self.tolerance)
        if not found.converged:
            warnings.warn(
                f"after {found.iterations:,} iterations marginals are off by {error:.2g}, more "
                f"than the tolerance {self.tolerance:g}; use more steps, or a larger epsilon",
                RuntimeWarning,
                stacklevel=3,
            )
        return found


@jax.jit
def _seen(cost: Array, a: Array, b: Array, f: Array, g: Array, epsilon: Array) -> Any:
    plan = jnp.exp((f[:, None] + g - cost) / epsilon)
    off = jnp.abs(plan.sum(1) - a).sum() + jnp.abs(plan.sum(0) - b).sum()
    return plan, (plan * cost).sum(), off


def problem(x: Any, y: Any, a: Any, b: Any, epsilon: Any, tolerance: Any, steps: Any) -> Problem:
    """A problem of points, or of a cost matrix where y is None.

    Raises:
        RitzError: for what no plan can be had of.
    """
    if y is None:
        cost = _matrix(x)
    else:
        x, y = cloud("x", x), cloud("y", y)
        if x.shape[1] != y.shape[1]:
            raise RitzError(
                f"points of {x.shape[1]} and {y.shape[1]} coordinates arrived, expected as many; "
                "give a cost matrix instead of x for points of different spaces"
            )
        square = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2.0 * x @ y.T
        cost = 0.5 * np.maximum(square, 0.0)
    single = not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    tolerance = positive("tolerance", tolerance)
    if single and tolerance < _SINGLE:
        raise RitzError(
            f"tolerance={tolerance:g} arrived, which float32 cannot tell; use "
            "jax.config.update('jax_enable_x64', True), or 1e-6 at least"
        )
    return Problem(
        cost,
        _weights("a", a, cost.shape[0]),
        _weights("b", b, cost.shape[1]),
        positive("epsilon", epsilon),
        tolerance,
        whole_number("steps", steps, 1),
    )


def _matrix(cost: Any) -> np.ndarray:
    try:
        found = np.asarray(cost, np.float64)
    except (TypeError, ValueError):
        raise RitzError(f"a cost arrived as {described(cost)}, expected (n, m) numbers") from None
    if found.ndim != 2 or found.size == 0:
        raise RitzError(f"a cost of shape {found.shape} arrived, expected (n, m); or give x and y")
    if not np.isfinite(found).all():
        i, j = np.argwhere(~np.isfinite(found))[0]
        raise RitzError(f"the cost holds {found[i, j]} at ({i}, {j}), expected finite numbers")
    return found


def _weights(name: str, given: Any, n: int) -> np.ndarray:
    if given is None:
        return np.full(n, 1.0 / n)
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise RitzError(f"{name} arrived as {described(given)}, expected {n} weights") from None
    if found.shape != (n,):
        raise RitzError(f"{name} of shape {found.shape} arrived, expected ({n},), as the cost has")
    if not np.isfinite(found).all():
        raise RitzError(f"{name} holds values that are not finite")
    if found.min() < 0:
        raise RitzError(f"{name} holds {found.min():g} at {found.argmin()}; weights are 0 or more")
    if abs(found.sum() - 1.0) > _SUM:
        raise RitzError(
            f"{name} sums to {found.sum():.6g}, expected 1; divide it by its sum, if that is what "
            "is meant"
        )
    return found / found.sum()
