"""Sinkhorn's algorithm, as OTT-JAX has it."""

import functools
import warnings
from typing import Any

import jax
from jaxtyping import Array

from ritz._errors import RitzError
from ritz.transport._plan import Plan, problem


def sinkhorn(
    x: Any,
    y: Any = None,
    a: Any = None,
    b: Any = None,
    *,
    epsilon: Any,
    tolerance: Any = 1e-4,
    steps: Any = 10_000,
) -> Plan:
    r"""The entropic plan between weighted points, by Sinkhorn's sweeps in the log domain.

    .. math:: \min_{P\mathbf 1 = a,\;P^\top\mathbf 1 = b}\ \langle P, C\rangle
        + \epsilon\sum_{ij} P_{ij}(\log P_{ij} - 1), \qquad
        P_{ij} = e^{(f_i + g_j - C_{ij})/\epsilon}.

    M. Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS 2013;
    computed by OTT-JAX, which looks at the error after every tenth sweep.

    Args:
        x: points, shape (n, d); or without `y` the cost C itself, shape (n, m).
        y: points, shape (m, d). Their cost is :math:`\tfrac12\|x-y\|^2`.
        a: weights of the first side, which sum to one; equal ones by default.
        b: those of the second.
        epsilon: weight of the entropy, in units of the cost.
        tolerance: what marginals may be off by, in the sum of absolute values.
        steps: sweeps at most.

    Returns:
        a `Plan`; with a warning where the sweeps did not suffice.

    Raises:
        RitzError: for shapes that do not fit, weights that are negative or do not sum to one, a
            cost that is not finite, or a tolerance that the precision cannot reach.

    >>> import numpy as np
    >>> plan = sinkhorn(np.array([[0.0, 1.0], [1.0, 0.0]]), epsilon=0.05)
    >>> np.asarray(plan.plan).round(3).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    asked = problem(x, y, a, b, epsilon, tolerance, steps)
    # OTT measures one side alone, right after the other has been met.
    return asked.solve(functools.partial(_run, tolerance=0.5 * asked.tolerance, steps=asked.steps))


@functools.partial(jax.jit, static_argnames=("tolerance", "steps"))
def _run(
    cost: Array, a: Array, b: Array, epsilon: Array, tolerance: float, steps: int
) -> tuple[Array, Array, Any, Any]:
    linear, geometry = _ott()
    every = 10 if steps >= 10 else 1
    solver = linear.sinkhorn.Sinkhorn(
        threshold=tolerance,
        inner_iterations=every,
        max_iterations=-(-steps // every) * every,
        implicit_diff=None,
    )
    shape = geometry.geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
    asked = linear.sinkhorn.linear_problem.LinearProblem(shape, a=a, b=b)
    found = solver(asked)
    return found.f, found.g, found.n_iters, 0


def _ott() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "JAXopt is no longer maintained", DeprecationWarning)
            from ott import geometry
            from ott.geometry import geometry as _  # noqa: F401
            from ott.solvers import linear
    except ImportError:
        raise RitzError(
            "sinkhorn needs OTT-JAX, which is not installed; pip install 'ritz[transport]'"
        ) from None
    return linear, geometry
