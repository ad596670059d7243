"""Measures of how good an approximation is."""

from ritz.diagnose._energy import Energy, energy_test
from ritz.diagnose._hill import hill
from ritz.diagnose._ksd import KSD, ksd
from ritz.diagnose._linear_response import LinearResponse, linear_response
from ritz.diagnose._psis import PSIS, MomentShift, moment_shift, psis
from ritz.diagnose._stein import Stein, stein
from ritz.diagnose._unbiased import Unbiased, check_unbiased

__all__ = [
    "KSD",
    "PSIS",
    "Energy",
    "LinearResponse",
    "MomentShift",
    "Stein",
    "Unbiased",
    "check_unbiased",
    "energy_test",
    "hill",
    "ksd",
    "linear_response",
    "moment_shift",
    "psis",
    "stein",
]
