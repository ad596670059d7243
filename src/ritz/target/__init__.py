"""What is approximated: an unnormalised log density over named sites, with its data."""

from ritz.target._base import (
    LOG_DET,
    AbstractTarget,
    Quantity,
    Site,
    check_values,
    float_dtype,
    named,
    term_name,
)
from ritz.target._batched import from_batches
from ritz.target._failure import NeedsValues, label, needs_values
from ritz.target._from_numpyro import from_numpyro
from ritz.target._from_pymc import from_pymc, is_pymc
from ritz.target._from_stan import from_stan
from ritz.target._interactions import interactions
from ritz.target._log_density import LogDensityTarget, from_log_density
from ritz.target._numpyro import NumPyroTarget
from ritz.target._pymc import PyMCTarget
from ritz.target._samples import SampleTarget, from_samples, samples_of
from ritz.target._saved import SavedTarget
from ritz.target._simulated import SimulatedTarget, from_simulator
from ritz.target._stan import StanTarget

__all__ = [
    "LOG_DET",
    "AbstractTarget",
    "LogDensityTarget",
    "NeedsValues",
    "NumPyroTarget",
    "PyMCTarget",
    "Quantity",
    "SampleTarget",
    "SavedTarget",
    "SimulatedTarget",
    "Site",
    "StanTarget",
    "check_values",
    "float_dtype",
    "from_batches",
    "from_log_density",
    "from_numpyro",
    "from_pymc",
    "from_samples",
    "from_simulator",
    "from_stan",
    "interactions",
    "is_pymc",
    "label",
    "named",
    "needs_values",
    "samples_of",
    "term_name",
]
