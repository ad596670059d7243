"""Losses as programs that sample and score, and the problems they make with a target."""

from ritz.objective._amortised import amortised_forward_kl
from ritz.objective._annealed import Annealed, annealed
from ritz.objective._base import (
    AbstractDirect,
    AbstractObjective,
    Density,
    Program,
    Registered,
    register,
    registered,
    subsample_key,
)
from ritz.objective._detached import forward_kl, log_variance, tail_adaptive
from ritz.objective._discrepancy import fisher_divergence, maximum_mean_discrepancy
from ritz.objective._importance import (
    AbstractImportance,
    chi_square,
    iwae,
    log_mean_exp,
    renyi,
    thermodynamic,
)
from ritz.objective._likelihood import maximum_likelihood
from ritz.objective._linearised import linearised_elbo
from ritz.objective._negative_elbo import NegativeELBO, negative_elbo
from ritz.objective._problem import Both, Problem
from ritz.objective._stein import stein_discrepancy
from ritz.objective._wake_sleep import WakeSleep, wake_sleep
from ritz.objective._weighted_elbo import beta_elbo, data_emphasised_elbo, tempered_elbo
from ritz.program import (
    Expectation,
    Mean,
    expectation,
    importance,
    log_prob,
    marginal,
    mean,
    normalize,
    of_log_weights,
    plug_in,
    sample,
    sample_and_log_prob,
    sir,
)

__all__ = [
    "AbstractDirect",
    "AbstractImportance",
    "AbstractObjective",
    "Annealed",
    "Both",
    "Density",
    "Expectation",
    "Mean",
    "NegativeELBO",
    "Problem",
    "Program",
    "Registered",
    "WakeSleep",
    "amortised_forward_kl",
    "annealed",
    "beta_elbo",
    "chi_square",
    "data_emphasised_elbo",
    "expectation",
    "fisher_divergence",
    "forward_kl",
    "importance",
    "iwae",
    "linearised_elbo",
    "log_mean_exp",
    "log_prob",
    "log_variance",
    "marginal",
    "maximum_likelihood",
    "maximum_mean_discrepancy",
    "mean",
    "negative_elbo",
    "normalize",
    "of_log_weights",
    "plug_in",
    "register",
    "registered",
    "renyi",
    "sample",
    "sample_and_log_prob",
    "sir",
    "stein_discrepancy",
    "subsample_key",
    "tail_adaptive",
    "tempered_elbo",
    "thermodynamic",
    "wake_sleep",
]
