"""Measures of how good an approximation is."""

from ritz.diagnose._psis import PSIS, psis

__all__ = ["PSIS", "psis"]
