"""Trial sets: what the approximation may look like."""

import importlib
from typing import TYPE_CHECKING, Any

from ritz.family._base import DENSITY, AbstractFamily, Registered, lacking, register, registered
from ritz.family._build import build, continuous_part, name_of
from ritz.family._finite import Finite
from ritz.family._full_rank import FullRank, full_rank
from ritz.family._mean_field import MeanField, mean_field
from ritz.family._mixture import Mixture, mixture
from ritz.family._product import Product

if TYPE_CHECKING:
    from ritz.family._amortised import AbstractAmortised, Amortised, amortised, gaussians
    from ritz.family._annealed import Annealed, annealed
    from ritz.family._autoregressive import iaf, maf
    from ritz.family._banded import Banded, banded
    from ritz.family._block_autoregressive import bnaf
    from ritz.family._coupling import coupling, spline
    from ritz.family._flow import Flow, from_flowjax
    from ritz.family._implicit import Implicit, implicit
    from ritz.family._laplace import Laplace, laplace
    from ritz.family._low_rank import LowRank, low_rank
    from ritz.family._mixflow import MixFlow, mixflow
    from ritz.family._planar import planar
    from ritz.family._radial import radial
    from ritz.family._sparse_precision import SparsePrecision, sparse_precision
    from ritz.family._stochastic_flow import StochasticFlow, stochastic_flow
    from ritz.family._structured import Structured, structured
    from ritz.family._student_t import StudentT, student_t
    from ritz.family._sylvester import sylvester

__all__ = [
    "AbstractAmortised",
    "AbstractFamily",
    "Amortised",
    "Annealed",
    "Banded",
    "Finite",
    "Flow",
    "FullRank",
    "Implicit",
    "Laplace",
    "LowRank",
    "MeanField",
    "MixFlow",
    "Mixture",
    "Product",
    "Registered",
    "SparsePrecision",
    "StochasticFlow",
    "Structured",
    "StudentT",
    "amortised",
    "annealed",
    "banded",
    "bnaf",
    "build",
    "continuous_part",
    "coupling",
    "from_flowjax",
    "full_rank",
    "gaussians",
    "iaf",
    "implicit",
    "lacking",
    "laplace",
    "low_rank",
    "maf",
    "mean_field",
    "mixflow",
    "mixture",
    "name_of",
    "planar",
    "radial",
    "register",
    "registered",
    "sparse_precision",
    "spline",
    "stochastic_flow",
    "structured",
    "student_t",
    "sylvester",
]

# Families that most fits do not use are imported when one is asked for.
_WHERE = {
    "_banded": ("Banded", "banded"),
    "_laplace": ("Laplace", "laplace"),
    "_low_rank": ("LowRank", "low_rank"),
    "_annealed": ("Annealed", "annealed"),
    "_particles": ("Particles",),
    "_mixflow": ("MixFlow", "mixflow"),
    "_stochastic_flow": ("StochasticFlow", "stochastic_flow"),
    "_autoregressive": ("iaf", "maf"),
    "_block_autoregressive": ("bnaf",),
    "_coupling": ("coupling", "spline"),
    "_flow": ("Flow", "from_flowjax"),
    "_planar": ("planar",),
    "_radial": ("radial",),
    "_sylvester": ("sylvester",),
    "_amortised": ("AbstractAmortised", "Amortised", "amortised", "gaussians"),
    "_implicit": ("Implicit", "implicit"),
    "_sparse_precision": ("SparsePrecision", "sparse_precision"),
    "_structured": ("Structured", "structured"),
    "_student_t": ("StudentT", "student_t"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_CLOSED = DENSITY | {"entropy"}

register(
    "low_rank",
    "ritz.family._low_rank:low_rank",
    _CLOSED,
    "2d + dr",
    "a Gaussian of diagonal plus rank-r covariance",
)
_PATHS = ("sample", "sample_and_log_prob")

register(
    "annealed",
    "ritz.family._annealed:annealed",
    (*_PATHS, "reparameterised"),
    "3d + K + 1",
    "a path of K Hamiltonian transitions from independent Gaussians to the target",
)
register(
    "stochastic_flow",
    "ritz.family._stochastic_flow:stochastic_flow",
    (*_PATHS, "reparameterised"),
    "O(dwB)",
    "B blocks of coupling layers of width w, with Langevin or Metropolis steps between them",
)
register(
    "mixflow",
    "ritz.family._mixflow:mixflow",
    _PATHS,
    "2d + 1",
    "the average of N pushforwards of a Gaussian by Hamiltonian dynamics; solver='mixflow'",
)
for _name, _parameters, _description in (
    ("pis", "O(dw + w²)", "a path of K steps: Brownian motion from a point, with a learned drift"),
    ("dis", "O(dw + w²)", "a path of K steps that undo the target's turning into noise"),
    ("bridge", "O(dw + w²)", "a path of K steps with learned drifts, one forward, one backward"),
    ("cmcd", "O(dw + w² + K)", "a path of K annealed Langevin steps with a learned drift"),
):
    _where = f"ritz.transport._{_name}:{_name}"
    register(_name, _where, (*_PATHS, "path", "reparameterised"), _parameters, _description)
for _name, _module, _parameters, _description in (
    ("planar", "_planar", "(2d + 1)K + 2d", "K layers that bend space across planes"),
    ("radial", "_radial", "(d + 2)K + 2d", "K layers that draw space to points, or push it away"),
    ("sylvester", "_sylvester", "(Md + 2M² + 3M)K + 2d", "K layers across M planes at once"),
    ("coupling", "_coupling", "O(dwK)", "K affine coupling layers of width w (RealNVP)"),
    ("iaf", "_autoregressive", "O(dwK)", "K inverse autoregressive layers, which sample fast"),
    ("maf", "_autoregressive", "O(dwK)", "K masked autoregressive layers, which score fast"),
    ("spline", "_coupling", "O(dwnK)", "K coupling layers of splines with n knots"),
    ("bnaf", "_block_autoregressive", "O(d²bK)", "K monotone networks of b units a coordinate"),
):
    register(_name, f"ritz.family.{_module}:{_name}", DENSITY, _parameters, _description)
register(
    "particles",
    "ritz.family._particles:particles",
    ("sample", "points"),
    "nd",
    "a cloud of n particles; solver='svgd'",
)
register(
    "implicit",
    "ritz.family._implicit:implicit",
    ("sample", "sample_and_log_prob", "linearised_entropy", "reparameterised"),
    "about 64d; d + 128√d beyond 2,000 dimensions",
    "noise through a network: many modes, curved shapes, no density",
)
register(
    "student_t",
    "ritz.family._student_t:student_t",
    _CLOSED,
    "3d",
    "independent Student t variables, their tails trained or fixed",
)
register(
    "laplace",
    "ritz.family._laplace:laplace",
    _CLOSED,
    "2d",
    "independent double exponentials",
)
register(
    "banded",
    "ritz.family._banded:banded",
    _CLOSED,
    "2d + db",
    "a Gaussian whose precision has the bandwidth b",
)
register(
    "sparse_precision",
    "ritz.family._sparse_precision:sparse_precision",
    _CLOSED,
    "2d + the factor's",
    "a Gaussian with the zeros of a pattern in its precision",
)
register(
    "structured",
    "ritz.family._structured:structured",
    _CLOSED,
    "2d + twice the factor's",
    "local variables given the global ones, read off the model",
)
