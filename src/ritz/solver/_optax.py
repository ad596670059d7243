"""Any Optax transformation as a solver."""

import functools
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.solver._base import AbstractSolver, register


class OptaxState(NamedTuple):
    """Trainable parameters and the transformation's own state."""

    params: PyTree
    opt: PyTree


class OptaxSolver(AbstractSolver):
    r"""Gradient steps :math:`\lambda_{t+1} = \lambda_t + u_t(\hat g_t)` with u from Optax."""

    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    guarantees: ClassVar[str] = "a stationary point of the loss, as the rate falls"
    transformation: Any = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> OptaxState:
        return OptaxState(problem.params, self.transformation.init(problem.params))

    def step(
        self, problem: Any, state: OptaxState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[OptaxState, dict[str, Array]]:
        import optax

        grad, info = problem.grad(state.params, key, batch)
        update, opt = self.transformation.update(grad, state.opt, state.params)
        return OptaxState(optax.apply_updates(state.params, update), opt), info

    def evaluations(self, problem: Any, state: OptaxState, steps: int) -> float | None:
        return None if problem.points is None else float(problem.points * steps)


def optax_solver(transformation: Any) -> AbstractSolver:
    """A solver from any Optax transformation.

    One that needs more than gradients, as `ivon` does, has a method `solver` that makes its own.

    Args:
        transformation: for example `optax.adam(1e-2)` or an `optax.chain`.

    Raises:
        RitzError: for something that is not an Optax transformation.

    >>> import optax
    >>> type(optax_solver(optax.sgd(0.1))).__name__
    'OptaxSolver'
    """
    if not (hasattr(transformation, "init") and hasattr(transformation, "update")):
        raise RitzError(
            f"a solver arrived as {type(transformation).__name__}; expected an Optax "
            "transformation such as optax.adam(0.01), or a ritz.solver.AbstractSolver"
        )
    if hasattr(transformation, "solver"):
        return transformation.solver()
    return OptaxSolver(transformation)


def adam(lr: Any = 0.02, steps: Any = 10_000) -> OptaxSolver:
    r"""Adam whose learning rate falls to zero along a half cosine.

    .. math:: \eta_t = \tfrac12 \eta\,(1 + \cos(\pi t / T)).

    A constant rate leaves the parameters wandering by about its size; a falling one lets the
    gradient noise average out (Kingma and Ba 2015; Loshchilov and Hutter 2017).

    Args:
        lr: the initial rate, eta.
        steps: T.

    Raises:
        RitzError: for a rate or number of steps that is not positive.
    """
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise RitzError(f"lr={lr!r} arrived, expected a positive number such as 0.02")
    whole_number("steps", steps, 1)
    import optax  # a seventh of what importing Ritz would cost

    # As arrays these are lifted out of the program, so that other values compile nothing.
    rate, total = jnp.asarray(lr), jnp.asarray(float(steps))
    return OptaxSolver(optax.adam(functools.partial(_cosine, rate, total)))


def _cosine(rate: Float[Array, ""], total: Float[Array, ""], count: Any) -> Float[Array, ""]:
    return 0.5 * rate * (1.0 + jnp.cos(jnp.pi * jnp.minimum(count / total, 1.0)))


register("adam", adam, "gradient steps of the objective, for any family")
