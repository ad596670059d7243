"""Algorithms that move parameters, and the one loop that runs them."""

import importlib
from typing import TYPE_CHECKING, Any

from ritz.solver._base import AbstractSolver, BatchSource
from ritz.solver._history import History
from ritz.solver._optax import OptaxSolver, OptaxState, adam, optax_solver
from ritz.solver._run import Result, run

if TYPE_CHECKING:
    from ritz.solver._batch_and_match import BatchAndMatch, BatchAndMatchState, batch_and_match
    from ritz.solver._forward_backward import (
        AbstractBuresWasserstein,
        BuresWassersteinGradient,
        Expected,
        ForwardBackward,
        bures_wasserstein_gradient,
        cubature,
        forward_backward,
    )
    from ritz.solver._natural_gradient import (
        NaturalGradient,
        NaturalGradientState,
        natural_gradient,
    )

__all__ = [
    "AbstractBuresWasserstein",
    "AbstractSolver",
    "BatchAndMatch",
    "BatchAndMatchState",
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
    "batch_and_match",
    "bures_wasserstein_gradient",
    "cubature",
    "forward_backward",
    "natural_gradient",
    "optax_solver",
    "run",
]

# Solvers that most fits do not use are imported when one is asked for.
_WHERE = {
    "_batch_and_match": ("BatchAndMatch", "BatchAndMatchState", "batch_and_match"),
    "_forward_backward": (
        "AbstractBuresWasserstein",
        "BuresWassersteinGradient",
        "Expected",
        "ForwardBackward",
        "bures_wasserstein_gradient",
        "cubature",
        "forward_backward",
    ),
    "_natural_gradient": ("NaturalGradient", "NaturalGradientState", "natural_gradient"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
