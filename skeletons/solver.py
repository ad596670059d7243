"""A solver: copy to src/ritz/solver/_NAME.py, import it in solver/__init__.py.

The state holds what the next step needs, with the answer so far in `.params`; the info holds
scalars for people, `loss` among them. Declare the oracles that the step calls on the problem.
"""

from typing import Any, ClassVar, NamedTuple

import jax
from jaxtyping import Array, Key, PyTree

from ritz.solver import AbstractSolver


class DescentState(NamedTuple):
    """The parameters; plain descent needs no more."""

    params: PyTree


class Descent(AbstractSolver):
    r"""Plain gradient descent, :math:`\lambda_{t+1} = \lambda_t - \eta\,\hat g_t`.

    Attributes:
        rate: eta. A float is part of the program; an array could change without compiling.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    rate: float

    def init(self, problem: Any, key: Key[Array, ""]) -> DescentState:
        return DescentState(problem.params)

    def step(
        self, problem: Any, state: DescentState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[DescentState, dict[str, Array]]:
        grad, info = problem.grad(state.params, key, batch)
        moved = jax.tree.map(lambda p, g: p - self.rate * g, state.params, grad)
        return DescentState(moved), info
