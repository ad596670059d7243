"""Packaged targets: good models on real data, to learn from and to test methods with."""

from ritz.target.library._packaged import Packaged, get, names

__all__ = ["Packaged", "get", "names"]
