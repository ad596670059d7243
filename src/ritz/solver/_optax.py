"""Any Optax transformation as a solver."""

import functools
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.family._base import in_units
from ritz.solver._base import AbstractSolver, register
from ritz.solver._gradient_step import gradient_step, revised
from ritz.solver._staged_adam import StagedAdam


class OptaxState(NamedTuple):
    """Trainable parameters and the transformation's own state."""

    params: PyTree
    opt: PyTree


class OptaxSolver(AbstractSolver):
    r"""Gradient steps :math:`\lambda_{t+1} = \lambda_t + c\,u_t(c\,\hat g_t)` with u from Optax.

    c is the unit that a family moves an array in, mostly one: see `AbstractFamily.in_units`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    guarantees: ClassVar[str] = "a stationary point of the loss, as the rate falls"
    revises: ClassVar[bool] = True
    transformation: Any = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> OptaxState:
        params = problem.params
        return OptaxState(params, self.transformation.init(in_units(params, -1.0)))

    def step(
        self, problem: Any, state: OptaxState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[OptaxState, dict[str, Array]]:
        params = revised(problem, state.params, key, batch)
        grad, info = problem.grad(params, key, batch)
        return OptaxState(*gradient_step(self.transformation, grad, state.opt, params)), info

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


def adam(lr: Any = 0.02, steps: Any = 10_000, clip: float | None = None) -> AbstractSolver:
    r"""Adam whose learning rate falls to zero along a half cosine.

    .. math:: \eta_t = \tfrac12 \eta\,(1 + \cos(\pi t / T)).

    A constant rate leaves the parameters wandering by about its size; a falling one lets the
    gradient noise average out (Kingma and Ba 2015; Loshchilov and Hutter 2017).

    Args:
        lr: the initial rate, eta.
        steps: T; None for a rate that is lowered, and a run that ends, when a rule says so (see
            `StagedAdam`).
        clip: gradients longer than this many times the running mean of their lengths, in the
            smaller half of the arrays, are shortened to that. One draw far out in a heavy tail can
            have a gradient millions of times the usual one, and Adam's second moments would
            remember it for thousands of steps. None leaves them as they are.

    Raises:
        RitzError: for a rate, number of steps or clip that is not positive.
    """
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise RitzError(f"lr={lr!r} arrived, expected a positive number such as 0.02")
    if steps is not None:
        whole_number("steps", steps, 1)
    import optax  # a seventh of what importing Ritz would cost

    if clip is not None and not 0 < clip < math.inf:
        raise RitzError(f"clip={clip!r} arrived, expected a positive number such as 5.0, or None")
    shortened = [] if clip is None else [_clip(float(clip))]
    # As an array the rate is lifted out of the program, so that another one compiles nothing.
    rate = jnp.asarray(float(lr))
    if steps is None:
        return StagedAdam(optax.chain(*shortened, optax.scale_by_adam()), rate)
    moves = optax.adam(functools.partial(_cosine, rate, jnp.asarray(float(steps))))
    return OptaxSolver(optax.chain(*shortened, moves) if shortened else moves)


# The weight of the past in the running mean of gradients' lengths.
_DECAY = 0.99


class _Lengths(NamedTuple):
    mean: Array
    count: Array


def _clip(times: float) -> Any:
    r"""Shorten gradients to `times` the bias-corrected running mean of (shortened) lengths.

    The length is that of the smaller half of the arrays, a network's biases and a base's location:
    a draw far out reaches them through the same chain rule as the large ones, and a sum over the
    large ones would keep the compiler from fusing their gradients into their updates, a quarter
    of what a step costs. A gradient of finite entries whose length overflows becomes zero; others
    that are not finite stay so, and end the run.
    """
    import optax

    def init(params: PyTree) -> _Lengths:
        return _Lengths(jnp.zeros(()), jnp.zeros(()))

    def update(updates: Any, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        arrays = sorted(jax.tree.leaves(updates), key=jnp.size)
        length = optax.tree.norm(arrays[: (len(arrays) + 1) // 2])
        usual = state.mean / jnp.where(state.count > 0, 1.0 - _DECAY**state.count, 1.0)
        most = jnp.where(state.count > 0, times * usual, jnp.finfo(length.dtype).max)
        factor = jnp.where(length > most, most / length, 1.0)
        mean = _DECAY * state.mean + (1.0 - _DECAY) * jnp.minimum(length, most)
        mean = mean.astype(state.mean.dtype)
        return jax.tree.map(lambda g: factor.astype(g.dtype) * g, updates), _Lengths(
            mean, state.count + 1.0
        )

    return optax.GradientTransformation(init, update)


def _cosine(rate: Float[Array, ""], total: Float[Array, ""], count: Any) -> Float[Array, ""]:
    return 0.5 * rate * (1.0 + jnp.cos(jnp.pi * jnp.minimum(count / total, 1.0)))


register("adam", adam, "gradient steps of the objective, for any family")
