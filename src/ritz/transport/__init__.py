"""Transport between distributions: interpolants, bridges and Wasserstein flows."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ritz.transport._interpolant import Interpolant, interpolant
    from ritz.transport._interpolant_loss import InterpolantLoss
    from ritz.transport._jko import JKO, jko
    from ritz.transport._kinetic import (
        data_separation,
        empirical_velocity,
        kinetic_energy,
        kinetic_optimal,
        normalised,
    )
    from ritz.transport._paths import (
        Path,
        brownian,
        linear,
        trigonometric,
        variance_preserving,
    )
    from ritz.transport._wasserstein_flow import WassersteinFlow, wasserstein_flow

__all__ = [
    "JKO",
    "Interpolant",
    "InterpolantLoss",
    "Path",
    "WassersteinFlow",
    "brownian",
    "data_separation",
    "empirical_velocity",
    "interpolant",
    "jko",
    "kinetic_energy",
    "kinetic_optimal",
    "linear",
    "normalised",
    "trigonometric",
    "variance_preserving",
    "wasserstein_flow",
]

# Each method is imported when it is first asked for.
_WHERE = {
    "_interpolant": ("Interpolant", "interpolant"),
    "_interpolant_loss": ("InterpolantLoss",),
    "_jko": ("JKO", "jko"),
    "_kinetic": (
        "data_separation",
        "empirical_velocity",
        "kinetic_energy",
        "kinetic_optimal",
        "normalised",
    ),
    "_paths": ("Path", "brownian", "linear", "trigonometric", "variance_preserving"),
    "_wasserstein_flow": ("WassersteinFlow", "wasserstein_flow"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
