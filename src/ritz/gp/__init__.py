"""Gaussian processes: kernels, likelihoods, and inference that is exact, Gaussian or sparse."""

from ritz.gp._classes import bernoulli, ordinal, preference, softmax
from ritz.gp._gp import GP
from ritz.gp._inducing import greedy_variance
from ritz.gp._kernel import AbstractKernel, difference, on
from ritz.gp._likelihood import AbstractLikelihood
from ritz.gp._noise import gaussian, heteroscedastic, poisson, student_t
from ritz.gp._nonstationary import arc_cosine, linear, neural_network, polynomial
from ritz.gp._stationary import matern, periodic, rational_quadratic, rbf, spectral_mixture

__all__ = [
    "GP",
    "AbstractKernel",
    "AbstractLikelihood",
    "arc_cosine",
    "bernoulli",
    "difference",
    "gaussian",
    "greedy_variance",
    "heteroscedastic",
    "linear",
    "matern",
    "neural_network",
    "on",
    "ordinal",
    "periodic",
    "poisson",
    "polynomial",
    "preference",
    "rational_quadratic",
    "rbf",
    "softmax",
    "spectral_mixture",
    "student_t",
]
