"""Clouds of particles: families without a parametric form, and what moves them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ritz.particle._cloud import particles
    from ritz.particle._coin import coin
    from ritz.particle._functional import functional, mean_discrepancy
    from ritz.particle._kernels import AbstractKernel, adaptive, imq, rbf
    from ritz.particle._langevin import Langevin, langevin, mean_field_langevin
    from ritz.particle._mirrored import MirroredSVGD, NaturalSVGD, mirrored_svgd, natural_svgd
    from ritz.particle._structured import Structured, structured_langevin
    from ritz.particle._svgd import SVGD, svgd
    from ritz.particle._wasserstein import WassersteinFlow, wasserstein_flow

__all__ = [
    "SVGD",
    "AbstractKernel",
    "Langevin",
    "MirroredSVGD",
    "NaturalSVGD",
    "Structured",
    "WassersteinFlow",
    "adaptive",
    "coin",
    "functional",
    "imq",
    "langevin",
    "mean_discrepancy",
    "mean_field_langevin",
    "mirrored_svgd",
    "natural_svgd",
    "particles",
    "rbf",
    "structured_langevin",
    "svgd",
    "wasserstein_flow",
]

_WHERE = {
    "_cloud": ("particles",),
    "_coin": ("coin",),
    "_functional": ("functional", "mean_discrepancy"),
    "_kernels": ("AbstractKernel", "adaptive", "imq", "rbf"),
    "_langevin": ("Langevin", "langevin", "mean_field_langevin"),
    "_mirrored": ("MirroredSVGD", "NaturalSVGD", "mirrored_svgd", "natural_svgd"),
    "_structured": ("Structured", "structured_langevin"),
    "_svgd": ("SVGD", "svgd"),
    "_wasserstein": ("WassersteinFlow", "wasserstein_flow"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
