"""Programs that sample, and their expectations."""

from ritz.program._estimator_of import compared, estimator_of, with_default
from ritz.program._expectation import Expectation, expectation
from ritz.program._log_weights import of_log_weights
from ritz.program._mean import Mean, mean, plug_in
from ritz.program._nested import importance, marginal
from ritz.program._normalize import normalize, sir
from ritz.program._site import Nested, check_nested, log_prob, sample, sample_and_log_prob

__all__ = [
    "Expectation",
    "Mean",
    "Nested",
    "check_nested",
    "compared",
    "estimator_of",
    "expectation",
    "importance",
    "log_prob",
    "marginal",
    "mean",
    "normalize",
    "of_log_weights",
    "plug_in",
    "sample",
    "sample_and_log_prob",
    "sir",
    "with_default",
]
