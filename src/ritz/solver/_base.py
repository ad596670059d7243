"""The protocol between the loop and what it runs."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import Array, Key, PyTree

from ritz._errors import RitzError
from ritz.family import continuous_part, name_of


class AbstractSolver(eqx.Module):
    """An algorithm that moves a state, a step at a time.

    Attributes:
        needs: the oracles that it calls on a problem.
        families: the registered names of those that it moves; empty where it moves any. The
            first is what `ritz.fit` takes where none is named and its own choice is not there.
        guarantees: what is known of where it ends, in a line.
        steps: how many are enough, as a rule.
        jittable: whether `step` can be compiled; one that cannot runs on the host.
        revises: whether its steps let the objective set parameters itself (`problem.revise`).
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    families: ClassVar[tuple[str, ...]] = ()
    guarantees: ClassVar[str] = ""
    steps: ClassVar[int] = 10_000
    jittable: ClassVar[bool] = True
    revises: ClassVar[bool] = False

    def init(self, problem: Any, key: Key[Array, ""]) -> PyTree:
        """The first state: what the next step needs, with the answer so far in `.params`."""
        raise NotImplementedError

    def step(
        self, problem: Any, state: PyTree, key: Key[Array, ""], batch: Any = None
    ) -> tuple[PyTree, dict[str, Array]]:
        """The next state, and scalars for people to inspect, `loss` among them.

        Where `converged` is among them, the run ends with the first step that says so.
        """
        raise NotImplementedError

    def evaluations(self, problem: Any, state: PyTree, steps: int) -> float | None:
        """What `steps` steps that led to a state cost, in gradients of the log density.

        One is the gradient at one point; a value counts a third, a Hessian d. None where it is
        not known.
        """
        return None

    def next_look(self, state: PyTree) -> int | None:
        """The number of steps after which `look` is called next; None where it never is."""
        return None

    def look(self, problem: Any, state: PyTree, history: Any) -> tuple[PyTree, bool]:
        """What the record says: the state to go on from, and whether the run has converged.

        Called on the host between chunks. It must depend on the state and the record alone, and
        do nothing when called again.
        """
        return state, False

    def answer(self, state: PyTree) -> PyTree:
        """The parameters that a run which ends at a state has found."""
        return state.params

    @property
    def correction(self) -> str | None:
        """What a fit's draws are corrected by, if by anything; see `Fit.refine`."""
        return None

    def prepare(self, family: Any) -> Any:
        """The family that a run moves, made from the one that was asked for."""
        return family

    def caution(self, state: PyTree) -> str | None:
        """One line on what a finished run's state should not be trusted for, if anything."""
        return None


def check_moves(solver: AbstractSolver, problem: Any) -> None:
    """Refuse a family that a solver does not move, in whole or in part.

    Raises:
        RitzError: naming one that it moves.
    """
    q, name = continuous_part(problem.family), type(solver).__name__
    if name_of(q) not in solver.families or q is not problem.family:
        known = " or ".join(f"family={f!r}" for f in solver.families)
        what = type(problem.family).__name__
        raise RitzError(f"{name} does not move a {what}; use {known}, or ritz.solver.adam()")
    if len(jax.tree.leaves(problem.params)) != len(
        jax.tree.leaves(eqx.filter(q, eqx.is_inexact_array))
    ):
        raise RitzError(
            f"{name} moves all of a {type(q).__name__}, but part of this one is frozen; use "
            "ritz.solver.adam() to train the rest"
        )


def check_elbo(solver: AbstractSolver, problem: Any) -> None:
    """Refuse another objective than the negative ELBO.

    Raises:
        RitzError: naming it.
    """
    from ritz.objective import NegativeELBO

    if not isinstance(problem.objective, NegativeELBO):
        raise RitzError(
            f"{type(solver).__name__} minimises the negative ELBO, but the objective is "
            f"{type(problem.objective).__name__}; use ritz.objective.negative_elbo()"
        )


@dataclasses.dataclass(frozen=True)
class Registered:
    """A solver that is known by name.

    Attributes:
        name: of the function that makes it.
        builder: that function, or its place, "module:function".
        description: one line.
    """

    name: str
    builder: Callable[..., AbstractSolver] | str
    description: str

    @functools.cached_property
    def build(self) -> Callable[..., AbstractSolver]:
        """The function; its module is imported when it is first asked for."""
        if not isinstance(self.builder, str):
            return self.builder
        module, _, function = self.builder.partition(":")
        return getattr(importlib.import_module(module), function)


_REGISTRY: dict[str, Registered] = {}


def register(name: str, builder: Callable[..., AbstractSolver] | str, description: str) -> None:
    """Make a solver known by name: to the command line, the conformance tests and the docs.

    Args:
        name: of the function that makes it, which can be called without arguments.
        builder: that function, or its place as "module:function".
        description: one line.
    """
    _REGISTRY[name] = Registered(name, builder, description)


def registered() -> dict[str, Registered]:
    """The solvers that are known by name.

    >>> registered()["adam"].build().guarantees
    'a stationary point of the loss, as the rate falls'
    """
    return dict(_REGISTRY)


@runtime_checkable
class BatchSource(Protocol):
    """Where `run` gets its batches; `ritz.data.batches` makes one.

    Attributes:
        arrays: a pytree handed to every compiled chunk as a whole.
        capacity: the most batches to ask for at once.
    """

    arrays: Any
    capacity: int

    def chunk(self, start: int, n: int) -> Any:
        """Something for each of up to `n` steps from `start`, stacked; None at the end."""
        ...

    def get(self, arrays: Any, x: Any) -> Any:
        """The batch of one step (traceable)."""
        ...
