"""Algorithms that move parameters, and the one loop that runs them."""

import importlib
from typing import TYPE_CHECKING, Any

from ritz.solver._base import (
    AbstractSolver,
    BatchSource,
    Registered,
    check_elbo,
    check_moves,
    register,
    registered,
)
from ritz.solver._budget import Budget
from ritz.solver._checkpoint import Checkpoint
from ritz.solver._history import History
from ritz.solver._optax import OptaxSolver, OptaxState, adam, optax_solver
from ritz.solver._run import Result, run
from ritz.solver._staged_adam import StagedAdam, StagedAdamState

if TYPE_CHECKING:
    from ritz.solver._batch_and_match import BatchAndMatch, BatchAndMatchState, batch_and_match
    from ritz.solver._dadvi import DADVI, DADVIState, dadvi
    from ritz.solver._early_stopping import EarlyStopping, early_stopping
    from ritz.solver._forward_backward import (
        AbstractBuresWasserstein,
        BuresWassersteinGradient,
        Expected,
        ForwardBackward,
        bures_wasserstein_gradient,
        cubature,
        forward_backward,
    )
    from ritz.solver._grow import Grow, GrowState, grow
    from ritz.solver._ivon import IVON, IVONState, ivon
    from ritz.solver._ivon_solver import IVONSolver, IVONSolverState
    from ritz.solver._laplace import Laplace, LaplaceState, laplace
    from ritz.solver._lbfgs_solver import LBFGS, LBFGSState, lbfgs
    from ritz.solver._mixflow import MixFlowSolver, MixFlowState, mixflow
    from ritz.solver._natural_gradient import (
        NaturalGradient,
        NaturalGradientState,
        natural_gradient,
    )
    from ritz.solver._pathfinder import Pathfinder, PathfinderState, pathfinder
    from ritz.solver._score_matching import (
        ScoreMatching,
        ScoreMatchingState,
        gaussian_score_matching,
    )

__all__ = [
    "DADVI",
    "IVON",
    "LBFGS",
    "AbstractBuresWasserstein",
    "AbstractSolver",
    "BatchAndMatch",
    "BatchAndMatchState",
    "BatchSource",
    "Budget",
    "BuresWassersteinGradient",
    "Checkpoint",
    "DADVIState",
    "EarlyStopping",
    "Expected",
    "ForwardBackward",
    "Grow",
    "GrowState",
    "History",
    "IVONSolver",
    "IVONSolverState",
    "IVONState",
    "LBFGSState",
    "Laplace",
    "LaplaceState",
    "MixFlowSolver",
    "MixFlowState",
    "NaturalGradient",
    "NaturalGradientState",
    "OptaxSolver",
    "OptaxState",
    "Pathfinder",
    "PathfinderState",
    "Registered",
    "Result",
    "ScoreMatching",
    "ScoreMatchingState",
    "StagedAdam",
    "StagedAdamState",
    "adam",
    "batch_and_match",
    "bures_wasserstein_gradient",
    "check_elbo",
    "check_moves",
    "cubature",
    "dadvi",
    "early_stopping",
    "forward_backward",
    "gaussian_score_matching",
    "grow",
    "ivon",
    "laplace",
    "lbfgs",
    "mixflow",
    "natural_gradient",
    "optax_solver",
    "pathfinder",
    "register",
    "registered",
    "run",
]

# Solvers that most fits do not use are imported when one is asked for.
_WHERE = {
    "_batch_and_match": ("BatchAndMatch", "BatchAndMatchState", "batch_and_match"),
    "_dadvi": ("DADVI", "DADVIState", "dadvi"),
    "_early_stopping": ("EarlyStopping", "early_stopping"),
    "_forward_backward": (
        "AbstractBuresWasserstein",
        "BuresWassersteinGradient",
        "Expected",
        "ForwardBackward",
        "bures_wasserstein_gradient",
        "cubature",
        "forward_backward",
    ),
    "_laplace": ("Laplace", "LaplaceState", "laplace"),
    "_lbfgs_solver": ("LBFGS", "LBFGSState", "lbfgs"),
    "_mixflow": ("MixFlowSolver", "MixFlowState", "mixflow"),
    "_grow": ("Grow", "GrowState", "grow"),
    "_ivon": ("IVON", "IVONState", "ivon"),
    "_ivon_solver": ("IVONSolver", "IVONSolverState"),
    "_natural_gradient": ("NaturalGradient", "NaturalGradientState", "natural_gradient"),
    "_score_matching": ("ScoreMatching", "ScoreMatchingState", "gaussian_score_matching"),
    "_pathfinder": ("Pathfinder", "PathfinderState", "pathfinder"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register(
    "natural_gradient",
    "ritz.solver._natural_gradient:natural_gradient",
    "Newton-like steps of a Gaussian, from gradients",
)
register(
    "batch_and_match",
    "ritz.solver._batch_and_match:batch_and_match",
    "closed-form steps that match the target's scores",
)
register(
    "forward_backward",
    "ritz.solver._forward_backward:forward_backward",
    "a gradient step and a proximal step in the Bures-Wasserstein space",
)
register(
    "bures_wasserstein_gradient",
    "ritz.solver._forward_backward:bures_wasserstein_gradient",
    "gradient descent in the Bures-Wasserstein space",
)
register(
    "laplace",
    "ritz.solver._laplace:laplace",
    "the Gaussian at the mode, by Newton's method",
)
register(
    "lbfgs",
    "ritz.solver._lbfgs_solver:lbfgs",
    "the Gaussian at the mode, found with gradients alone",
)
register(
    "dadvi",
    "ritz.solver._dadvi:dadvi",
    "the ELBO on fixed draws, by Newton's method",
)
register(
    "pathfinder",
    "ritz.solver._pathfinder:pathfinder",
    "the best Gaussian on the way to a mode, from gradients",
)
register(
    "mixflow",
    "ritz.solver._mixflow:mixflow",
    "a mixed variational flow's reference by its gradients, then its step size by search",
)
register(
    "gaussian_score_matching",
    "ritz.solver._score_matching:gaussian_score_matching",
    "closed-form steps that match the target's score at single draws",
)
register(
    "grow",
    "ritz.solver._grow:grow",
    "a mixture grown by one component after another, while it helps",
)

# Those of domains, by their place: nothing is imported until one is asked for.
register(
    "svgd",
    "ritz.particle._svgd:svgd",
    "particles along Stein's direction, from gradients",
)
