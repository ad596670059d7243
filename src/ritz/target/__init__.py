"""What is approximated: an unnormalised log density over named sites, with its data."""

from ritz.target._base import (
    LOG_DET,
    AbstractTarget,
    Quantity,
    Site,
    check_values,
    float_dtype,
    term_name,
)
from ritz.target._batched import from_batches
from ritz.target._failure import NeedsValues, label, needs_values
from ritz.target._from_numpyro import from_numpyro
from ritz.target._log_density import LogDensityTarget, from_log_density
from ritz.target._numpyro import NumPyroTarget
from ritz.target._saved import SavedTarget

__all__ = [
    "LOG_DET",
    "AbstractTarget",
    "LogDensityTarget",
    "NeedsValues",
    "NumPyroTarget",
    "Quantity",
    "SavedTarget",
    "Site",
    "check_values",
    "float_dtype",
    "from_batches",
    "from_log_density",
    "from_numpyro",
    "label",
    "needs_values",
    "term_name",
]
