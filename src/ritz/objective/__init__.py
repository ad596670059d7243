"""Losses, always minimised, and the problems they make of a target and a family."""

from ritz.objective._base import AbstractObjective, Density, Program
from ritz.objective._negative_elbo import NegativeELBO, negative_elbo
from ritz.objective._problem import Problem
from ritz.program import Expectation, expectation, sample, sample_and_log_prob

__all__ = [
    "AbstractObjective",
    "Density",
    "Expectation",
    "NegativeELBO",
    "Problem",
    "Program",
    "expectation",
    "negative_elbo",
    "sample",
    "sample_and_log_prob",
]
