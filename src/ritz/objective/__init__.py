"""Losses, always minimised, and the problems they make of a target and a family."""

from ritz.objective._negative_elbo import AbstractObjective, NegativeELBO, negative_elbo
from ritz.objective._problem import Problem

__all__ = ["AbstractObjective", "NegativeELBO", "Problem", "negative_elbo"]
