"""Clouds of particles, and the chains and measures that are made of them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from ritz.particle._moves import Moves, hmc, mala, ula
    from ritz.particle._persistent import PersistentChains, persistent_chains

__all__ = [
    "EnergyModel",
    "FictitiousPlay",
    "FiniteSum",
    "Moves",
    "ParticleFictitiousPlay",
    "PersistentChains",
    "contrastive_divergence",
    "denoising_score_matching",
    "energy_model",
    "fictitious_play",
    "finite_sum",
    "hmc",
    "mala",
    "noise_contrastive",
    "persistent_chains",
    "score_matching",
    "ula",
]

_WHERE = {
    "_energy": ("EnergyModel", "energy_model"),
    "_energy_losses": (
        "contrastive_divergence",
        "denoising_score_matching",
        "noise_contrastive",
        "score_matching",
    ),
    "_fictitious_play": ("FictitiousPlay", "ParticleFictitiousPlay", "fictitious_play"),
    "_finite_sum": ("FiniteSum", "finite_sum"),
    "_moves": ("Moves", "hmc", "mala", "ula"),
    "_persistent": ("PersistentChains", "persistent_chains"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
