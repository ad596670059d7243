"""The protocol between the loop and what it runs."""

from typing import Any, ClassVar, Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Key, PyTree


class AbstractSolver(eqx.Module):
    """An algorithm that moves a state, a step at a time.

    Attributes:
        needs: the oracles that it calls on a problem.
        jittable: whether `step` can be compiled; one that cannot runs on the host.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    jittable: ClassVar[bool] = True

    def init(self, problem: Any, key: Key[Array, ""]) -> PyTree:
        """The first state: what the next step needs, with the answer so far in `.params`."""
        raise NotImplementedError

    def step(
        self, problem: Any, state: PyTree, key: Key[Array, ""], batch: Any = None
    ) -> tuple[PyTree, dict[str, Array]]:
        """The next state, and scalars for people to inspect, `loss` among them."""
        raise NotImplementedError


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
