"""Trial sets: what the approximation may look like."""

from ritz.family._base import AbstractFamily, Registered, build, name_of, register, registered
from ritz.family._full_rank import FullRank, full_rank
from ritz.family._mean_field import MeanField, mean_field

__all__ = [
    "AbstractFamily",
    "FullRank",
    "MeanField",
    "Registered",
    "build",
    "full_rank",
    "mean_field",
    "name_of",
    "register",
    "registered",
]
