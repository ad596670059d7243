"""Clouds of particles: families without a parametric form, and what moves them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ritz.particle._cloud import particles
    from ritz.particle._coin import coin
    from ritz.particle._energy import EnergyModel, energy_model
    from ritz.particle._energy_losses import (
        contrastive_divergence,
        denoising_score_matching,
        noise_contrastive,
        score_matching,
    )
    from ritz.particle._fictitious_play import (
        FictitiousPlay,
        ParticleFictitiousPlay,
        fictitious_play,
    )
    from ritz.particle._finite_sum import FiniteSum, finite_sum
    from ritz.particle._functional import functional, mean_discrepancy
    from ritz.particle._kernels import AbstractKernel, adaptive, imq, rbf
    from ritz.particle._langevin import Langevin, langevin, mean_field_langevin
    from ritz.particle._mirrored import MirroredSVGD, NaturalSVGD, mirrored_svgd, natural_svgd
    from ritz.particle._moves import Moves, hmc, mala, ula
    from ritz.particle._persistent import PersistentChains, persistent_chains
    from ritz.particle._structured import Structured, structured_langevin
    from ritz.particle._svgd import SVGD, svgd
    from ritz.particle._wasserstein import WassersteinFlow, wasserstein_flow

__all__ = [
    "SVGD",
    "AbstractKernel",
    "EnergyModel",
    "FictitiousPlay",
    "FiniteSum",
    "Langevin",
    "MirroredSVGD",
    "Moves",
    "NaturalSVGD",
    "ParticleFictitiousPlay",
    "PersistentChains",
    "Structured",
    "WassersteinFlow",
    "adaptive",
    "coin",
    "contrastive_divergence",
    "denoising_score_matching",
    "energy_model",
    "fictitious_play",
    "finite_sum",
    "functional",
    "hmc",
    "imq",
    "langevin",
    "mala",
    "mean_discrepancy",
    "mean_field_langevin",
    "mirrored_svgd",
    "natural_svgd",
    "noise_contrastive",
    "particles",
    "persistent_chains",
    "rbf",
    "score_matching",
    "structured_langevin",
    "svgd",
    "ula",
    "wasserstein_flow",
]

# Each is imported when one of its names is asked for.
_WHERE = {
    "_cloud": ("particles",),
    "_coin": ("coin",),
    "_energy": (
        "EnergyModel",
        "energy_model",
    ),
    "_energy_losses": (
        "contrastive_divergence",
        "denoising_score_matching",
        "noise_contrastive",
        "score_matching",
    ),
    "_fictitious_play": (
        "FictitiousPlay",
        "ParticleFictitiousPlay",
        "fictitious_play",
    ),
    "_finite_sum": (
        "FiniteSum",
        "finite_sum",
    ),
    "_functional": (
        "functional",
        "mean_discrepancy",
    ),
    "_kernels": (
        "AbstractKernel",
        "adaptive",
        "imq",
        "rbf",
    ),
    "_langevin": (
        "Langevin",
        "langevin",
        "mean_field_langevin",
    ),
    "_mirrored": (
        "MirroredSVGD",
        "NaturalSVGD",
        "mirrored_svgd",
        "natural_svgd",
    ),
    "_moves": (
        "Moves",
        "hmc",
        "mala",
        "ula",
    ),
    "_persistent": (
        "PersistentChains",
        "persistent_chains",
    ),
    "_structured": (
        "Structured",
        "structured_langevin",
    ),
    "_svgd": (
        "SVGD",
        "svgd",
    ),
    "_wasserstein": (
        "WassersteinFlow",
        "wasserstein_flow",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
