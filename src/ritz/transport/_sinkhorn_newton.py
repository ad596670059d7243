"""Entropic plans by sparse Newton steps on the dual, after a few of Sinkhorn's sweeps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from ritz._errors import whole_number
from ritz.transport._plan import Plan, problem

# Armijo's share of the promised ascent, and how often a step is halved at most.
_ASCENT, _HALVINGS = 1e-4, 30
# The most that is left of a Newton equation, and conjugate-gradient iterations for each unknown.
_INEXACT, _CG = 0.1, 2


class _State(NamedTuple):
    f: Array
    g: Array
    value: Array
    plan: Array
    error: Array
    made: Array
    inner: Array
    stuck: Array


def sinkhorn_newton(
    x: Any,
    y: Any = None,
    a: Any = None,
    b: Any = None,
    *,
    epsilon: Any,
    tolerance: Any = 1e-4,
    steps: Any = 1000,
    sweeps: Any = 20,
    neighbours: Any = 5,
) -> Plan:
    r"""The entropic plan between weighted points, by sparse Newton steps.

    After a few of Sinkhorn's sweeps it climbs the dual

    .. math:: \langle f, a\rangle + \langle g, b\rangle - \epsilon\sum_{ij}
        e^{(f_i + g_j - C_{ij})/\epsilon}, \qquad -\epsilon H = \begin{pmatrix}
        \mathrm{diag}(P\mathbf 1) & P \\ P^\top & \mathrm{diag}(P^\top\mathbf 1)\end{pmatrix},

    with P in the Hessian's blocks replaced by its largest entries: a few for each point, because
    near the end P has few that matter. What remains is positive semi-definite. The equations are
    solved by conjugate gradients, preconditioned by the diagonal, and steps are halved until they
    climb; where none does, a sweep takes its place. X. Tang, M. Shavlovsky, H. Rahmanian,
    E. Tardini, K. Thekumparampil, T. Xiao and L. Ying, "Accelerating Sinkhorn algorithm with sparse
    Newton iterations", ICLR 2024, arXiv:2401.12253, algorithm 1.

    Args:
        x: points, shape (n, d); or without `y` the cost C itself, shape (n, m).
        y: points, shape (m, d). Their cost is :math:`\tfrac12\|x-y\|^2`.
        a: weights of the first side, which sum to one; equal ones by default.
        b: those of the second.
        epsilon: weight of the entropy, in units of the cost.
        tolerance: what marginals may be off by, in the sum of absolute values.
        steps: sweeps and Newton steps at most.
        sweeps: how many of these are sweeps.
        neighbours: entries of P that are kept in the Hessian, for each point of the larger side;
            with 0 its diagonal alone is.

    Returns:
        a `Plan`, whose `inner_iterations` are those of conjugate gradients; with a warning where
        the steps did not suffice.

    Raises:
        RitzError: as `ritz.transport.sinkhorn` does, and for counts that are not whole numbers.

    >>> import numpy as np
    >>> cost = np.random.default_rng(0).uniform(size=(50, 50))
    >>> plan = sinkhorn_newton(cost, epsilon=0.01)
    >>> plan.converged, plan.iterations < 100
    (True, True)
    """
    asked = problem(x, y, a, b, epsilon, tolerance, steps)
    whole_number("sweeps", sweeps, 0)
    whole_number("neighbours", neighbours, 0)
    kept = min(neighbours * max(asked.cost.shape), int(asked.cost.size))
    counts = {"steps": asked.steps, "sweeps": min(sweeps, asked.steps), "kept": kept}
    return asked.solve(functools.partial(_run, tolerance=asked.tolerance, **counts))


@functools.partial(jax.jit, static_argnames=("steps", "sweeps", "kept"))
def _run(
    cost: Array,
    a: Array,
    b: Array,
    epsilon: Array,
    tolerance: Any,
    steps: int,
    sweeps: int,
    kept: int,
) -> tuple[Array, Array, Array, Array]:
    log_a, log_b = jnp.log(a), jnp.log(b)
    kept = min(kept, cost.size)

    def sweep(_: Any, at: Any) -> Any:
        _, g = at
        f = epsilon * (log_a - jax.nn.logsumexp((g - cost) / epsilon, axis=1))
        return f, epsilon * (log_b - jax.nn.logsumexp((f[:, None] - cost) / epsilon, axis=0))

    def dual(f: Array, g: Array) -> tuple[Array, Array, Array]:
        plan = jnp.exp((f[:, None] + g - cost) / epsilon)
        off = jnp.abs(plan.sum(1) - a).sum() + jnp.abs(plan.sum(0) - b).sum()
        return f @ a + g @ b - epsilon * plan.sum(), plan, off

    def newton(state: _State) -> _State:
        rows, columns = state.plan.sum(1), state.plan.sum(0)
        slope = jnp.concatenate([a - rows, b - columns])
        multiply = _sparse(state.plan, kept)
        diagonal = jnp.concatenate([rows, columns])
        goal = jnp.minimum(_INEXACT, jnp.sqrt(state.error))
        solved, inner = _cg(lambda v: diagonal * v + multiply(v), slope, diagonal, goal)
        move = epsilon * solved
        ascent = slope @ move

        def shorter(at: Any) -> Any:
            share, _, _, count = at
            share = jnp.where(count < 0, 1.0, 0.5 * share)
            f, g = state.f + share * move[: len(a)], state.g + share * move[len(a) :]
            return share, (f, g), dual(f, g), count + 1

        def climbs(at: Any) -> Array:
            share, _, (value, _, error), _ = at
            # Near the end rounding hides the ascent, but not the fall of the error.
            enough = (value >= state.value + _ASCENT * share * ascent) | (
                error <= 0.9 * state.error
            )
            return enough & jnp.isfinite(value)

        first = shorter((jnp.ones_like(ascent), None, None, -jnp.ones((), int)))
        at = jax.lax.while_loop(lambda at: ~climbs(at) & (at[3] < _HALVINGS), shorter, first)
        fine = climbs(at)
        _, (f, g), (value, plan, error), _ = at
        new = _State(
            f, g, value, plan, error, state.made + 1, state.inner + inner, jnp.zeros((), bool)
        )

        def swept() -> _State:
            # Where no step climbs, as where much mass has gathered in few entries, a sweep does.
            f, g = sweep(0, (state.f, state.g))
            value, plan, error = dual(f, g)
            stuck = ~((value > state.value) | (error < state.error))
            made, spent = state.made + 1, state.inner + inner
            return _State(f, g, value, plan, error, made, spent, stuck)

        return jax.lax.cond(fine, lambda: new, swept)

    f, g = jax.lax.fori_loop(0, sweeps, sweep, (jnp.zeros_like(a), jnp.zeros_like(b)))
    zero = jnp.zeros((), int)
    start = _State(f, g, *dual(f, g), zero + sweeps, zero, jnp.zeros((), bool))
    go_on = lambda state: (state.error > tolerance) & (state.made < steps) & ~state.stuck
    end = jax.lax.while_loop(go_on, newton, start)
    return end.f, end.g, end.made, end.inner


def _sparse(plan: Array, kept: int) -> Any:
    """Multiplication by the blocks off the diagonal, with the largest entries alone."""
    n, m = plan.shape
    if kept == 0:
        return jnp.zeros_like
    values, at = jax.lax.top_k(plan.ravel(), kept)
    row, column = at // m, at % m

    def multiply(v: Array) -> Array:
        up = jnp.zeros(n, v.dtype).at[row].add(values * v[n + column])
        down = jnp.zeros(m, v.dtype).at[column].add(values * v[row])
        return jnp.concatenate([up, down])

    return multiply


def _cg(multiply: Any, right: Array, diagonal: Array, goal: Array) -> tuple[Array, Array]:
    """Preconditioned conjugate gradients, until the residual is a share `goal` of the first."""

    def step(at: Any) -> Any:
        x, r, p, rho, count = at
        image = multiply(p)
        curve = p @ image
        # Potentials that differ by a constant make one plan: what is left there is rounding.
        flat = curve <= tiny * (p * diagonal @ p)
        by = jnp.where(flat, 0.0, rho / jnp.where(flat, 1.0, curve))
        x, r = x + by * p, r - by * image
        z = r / diagonal
        new = jnp.where(flat, 0.0, r @ z)
        return x, r, z + new / jnp.where(rho > 0, rho, 1.0) * p, new, count + 1

    tiny = 4.0 * jnp.finfo(right.dtype).eps
    z = right / diagonal
    rho = right @ z
    least = goal**2 * rho
    go_on = lambda at: (at[3] > least) & (at[4] < _CG * len(right))
    zero = jnp.zeros_like(right)
    x, *_, count = jax.lax.while_loop(go_on, step, (zero, right, z, rho, jnp.zeros((), int)))
    return x, count
