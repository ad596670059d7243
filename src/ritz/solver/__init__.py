"""Algorithms that move parameters, and the one loop that runs them."""

from ritz.solver._base import AbstractSolver, BatchSource
from ritz.solver._forward_backward import (
    AbstractBuresWasserstein,
    BuresWassersteinGradient,
    Expected,
    ForwardBackward,
    bures_wasserstein_gradient,
    cubature,
    forward_backward,
)
from ritz.solver._history import History
from ritz.solver._natural_gradient import (
    NaturalGradient,
    NaturalGradientState,
    natural_gradient,
)
from ritz.solver._optax import OptaxSolver, OptaxState, adam, optax_solver
from ritz.solver._run import Result, run

__all__ = [
    "AbstractBuresWasserstein",
    "AbstractSolver",
    "BatchSource",
    "BuresWassersteinGradient",
    "Expected",
    "ForwardBackward",
    "History",
    "NaturalGradient",
    "NaturalGradientState",
    "OptaxSolver",
    "OptaxState",
    "Result",
    "adam",
    "bures_wasserstein_gradient",
    "cubature",
    "forward_backward",
    "natural_gradient",
    "optax_solver",
    "run",
]
