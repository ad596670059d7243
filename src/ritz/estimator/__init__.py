"""How gradients of expectations are estimated, for each random choice."""

from ritz.estimator import law
from ritz.estimator._base import (
    AbstractEstimator,
    Draw,
    Registered,
    detached,
    register,
    registered,
    stop,
)
from ritz.estimator._control_variates import KernelControlVariates, kernel_control_variates
from ritz.estimator._coordinates import one_at_a_time, weights_one_at_a_time
from ritz.estimator._default import default
from ritz.estimator._doubly import DoublyReparameterised, doubly_reparameterised
from ritz.estimator._enumerate import Enumerate, enumerate_support
from ritz.estimator._implicit import Implicit, implicit
from ritz.estimator._inner import Inner
from ritz.estimator._measure_valued import MeasureValued, measure_valued
from ritz.estimator._pathwise import Pathwise, StickingTheLanding, pathwise, sticking_the_landing
from ritz.estimator._per_part import PerPart, per_part
from ritz.estimator._quadrature import GaussHermite, Unscented, gauss_hermite, unscented
from ritz.estimator._quasi import Antithetic, QuasiMonteCarlo, antithetic, quasi_monte_carlo
from ritz.estimator._rebar import Rebar, Relax, rebar, relax
from ritz.estimator._reference import reference
from ritz.estimator._rejection import Rejection, rejection
from ritz.estimator._relaxed import GumbelSoftmax, StraightThrough, gumbel_softmax, straight_through
from ritz.estimator._score import LeaveOneOut, Score, running_mean, score
from ritz.estimator._stratified import Stratified, stratified
from ritz.estimator._vector_control_variates import (
    VectorControlVariates,
    langevin_kernel,
    likeliest_kernel,
    vector_control_variates,
)

__all__ = [
    "AbstractEstimator",
    "Antithetic",
    "DoublyReparameterised",
    "Draw",
    "Enumerate",
    "GaussHermite",
    "GumbelSoftmax",
    "Implicit",
    "Inner",
    "KernelControlVariates",
    "LeaveOneOut",
    "MeasureValued",
    "Pathwise",
    "PerPart",
    "QuasiMonteCarlo",
    "Rebar",
    "Registered",
    "Rejection",
    "Relax",
    "Score",
    "StickingTheLanding",
    "StraightThrough",
    "Stratified",
    "Unscented",
    "VectorControlVariates",
    "antithetic",
    "default",
    "detached",
    "doubly_reparameterised",
    "enumerate_support",
    "gauss_hermite",
    "gumbel_softmax",
    "implicit",
    "kernel_control_variates",
    "langevin_kernel",
    "law",
    "likeliest_kernel",
    "measure_valued",
    "one_at_a_time",
    "pathwise",
    "per_part",
    "quasi_monte_carlo",
    "rebar",
    "reference",
    "register",
    "registered",
    "rejection",
    "relax",
    "running_mean",
    "score",
    "sticking_the_landing",
    "stop",
    "straight_through",
    "stratified",
    "unscented",
    "vector_control_variates",
    "weights_one_at_a_time",
]
