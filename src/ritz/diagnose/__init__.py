"""Measures of how good an approximation is."""

from ritz.diagnose._psis import PSIS, MomentShift, moment_shift, psis

__all__ = ["PSIS", "MomentShift", "moment_shift", "psis"]
