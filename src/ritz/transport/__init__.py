"""Transport between distributions: interpolants, bridges and Wasserstein flows."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ritz.transport._interpolant import Interpolant, InterpolantLoss, interpolant
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

__all__ = [
    "Interpolant",
    "InterpolantLoss",
    "Path",
    "brownian",
    "data_separation",
    "empirical_velocity",
    "interpolant",
    "kinetic_energy",
    "kinetic_optimal",
    "linear",
    "normalised",
    "trigonometric",
    "variance_preserving",
]

# Each method is imported when it is first asked for.
_WHERE = {
    "_interpolant": ("Interpolant", "InterpolantLoss", "interpolant"),
    "_kinetic": (
        "data_separation",
        "empirical_velocity",
        "kinetic_energy",
        "kinetic_optimal",
        "normalised",
    ),
    "_paths": ("Path", "brownian", "linear", "trigonometric", "variance_preserving"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
