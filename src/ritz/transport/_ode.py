"""Ordinary differential equations, by Diffrax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ritz._errors import RitzError

_TOLERANCE = 1e-4
_MOST = 1000  # steps


def solve(field: Callable[..., Any], x: Any, start: float, end: float) -> Any:
    r"""The end of :math:`\dot x = f(t, x)`; not a number where it takes more than 1,000 steps.

    By Tsitouras' method of order 5, with steps that keep local errors below 1e-4, absolutely and
    relatively.

    Args:
        field: f, of a time and a pytree.
        x: where it begins, a pytree of arrays.
        start: the first time.
        end: the last; may be the earlier one.

    Raises:
        RitzError: where Diffrax is not installed.

    >>> round(float(solve(lambda t, x: -x, jnp.ones(()), 0.0, 1.0)), 3)
    0.368
    """
    try:
        import diffrax
    except ImportError:
        raise RitzError(
            "this needs Diffrax, which is not installed; pip install 'ritz[transport]'"
        ) from None
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, args: field(t, x)),
        diffrax.Tsit5(),
        t0=start,
        t1=end,
        dt0=0.02 * (end - start),
        y0=x,
        stepsize_controller=diffrax.PIDController(rtol=_TOLERANCE, atol=_TOLERANCE),
        max_steps=_MOST,
        throw=False,
    )
    fine = found.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda v: jnp.where(fine, v[-1], jnp.nan), found.ys)
