"""How gradients of expectations are estimated."""

from ritz.estimator._pathwise import AbstractEstimator, Pathwise, pathwise

__all__ = ["AbstractEstimator", "Pathwise", "pathwise"]
