"""Algorithms that move parameters, and the one loop that runs them."""

from ritz.solver._base import AbstractSolver, BatchSource
from ritz.solver._history import History
from ritz.solver._optax import OptaxSolver, OptaxState, adam, optax_solver
from ritz.solver._run import Result, run

__all__ = [
    "AbstractSolver",
    "BatchSource",
    "History",
    "OptaxSolver",
    "OptaxState",
    "Result",
    "adam",
    "optax_solver",
    "run",
]
