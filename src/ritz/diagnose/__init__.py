"""Measures of how good an approximation is."""

from ritz.diagnose._psis import PSIS, MomentShift, moment_shift, psis
from ritz.diagnose._unbiased import Unbiased, check_unbiased

__all__ = ["PSIS", "MomentShift", "Unbiased", "check_unbiased", "moment_shift", "psis"]
