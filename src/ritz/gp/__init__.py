"""Gaussian processes: kernels, and regression that is exact or by inducing inputs."""

from ritz.gp._inducing import greedy_variance
from ritz.gp._kernel import AbstractKernel, on
from ritz.gp._nonstationary import arc_cosine, linear, neural_network, polynomial
from ritz.gp._regression import GP
from ritz.gp._stationary import matern, periodic, rational_quadratic, rbf, spectral_mixture

__all__ = [
    "GP",
    "AbstractKernel",
    "arc_cosine",
    "greedy_variance",
    "linear",
    "matern",
    "neural_network",
    "on",
    "periodic",
    "polynomial",
    "rational_quadratic",
    "rbf",
    "spectral_mixture",
]
