"""Ritz: variational inference, with one vocabulary, one loop and one kind of result."""

from ritz import data, diagnose, estimator, family, objective, solver, target
from ritz._compile import enable_compilation_cache
from ritz._errors import RitzError
from ritz._result import Estimate, Fit
from ritz.check import check
from ritz.fit import fit
from ritz.io import load

__all__ = [
    "Estimate",
    "Fit",
    "RitzError",
    "check",
    "data",
    "diagnose",
    "enable_compilation_cache",
    "estimator",
    "family",
    "fit",
    "load",
    "objective",
    "solver",
    "target",
]
