"""Trial sets: what the approximation may look like."""

from ritz.family._base import AbstractFamily, Registered, register, registered
from ritz.family._build import build, name_of
from ritz.family._finite import Finite
from ritz.family._full_rank import FullRank, full_rank
from ritz.family._mean_field import MeanField, mean_field
from ritz.family._product import Product

__all__ = [
    "AbstractFamily",
    "Finite",
    "FullRank",
    "MeanField",
    "Product",
    "Registered",
    "build",
    "full_rank",
    "mean_field",
    "name_of",
    "register",
    "registered",
]
