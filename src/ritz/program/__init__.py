"""Programs that sample, and their expectations."""

from ritz.program._expectation import Expectation, expectation
from ritz.program._site import sample, sample_and_log_prob

__all__ = ["Expectation", "expectation", "sample", "sample_and_log_prob"]
