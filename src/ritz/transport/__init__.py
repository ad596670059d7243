"""Transport: plans, bridges, flows of samples and learned diffusions."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ritz.transport._bridge import Bridge, bridge
    from ritz.transport._cmcd import CMCD, cmcd
    from ritz.transport._conditional import ConditionalTransport, Navigated, conditional_transport
    from ritz.transport._control import Control
    from ritz.transport._diffusion import AbstractDiffusion
    from ritz.transport._dis import DIS, dis
    from ritz.transport._domain import Domain, domain
    from ritz.transport._energy_plan import EnergyPlan, EnergyPlanLoss, energy_plan
    from ritz.transport._gaussian import GaussianPlan, gaussian_plan
    from ritz.transport._interpolant import Interpolant, interpolant
    from ritz.transport._interpolant_loss import InterpolantLoss
    from ritz.transport._ipf import IPF, ipf
    from ritz.transport._jko import JKO, jko
    from ritz.transport._kinetic import (
        data_separation,
        empirical_velocity,
        kinetic_energy,
        kinetic_optimal,
        normalised,
    )
    from ritz.transport._light_bridge import LightBridge, light_bridge
    from ritz.transport._paths import Path, brownian, linear, trigonometric, variance_preserving
    from ritz.transport._pis import PIS, pis
    from ritz.transport._plan import Plan
    from ritz.transport._reflected import ReflectedBridge, reflected_bridge
    from ritz.transport._sinkhorn import sinkhorn
    from ritz.transport._sinkhorn_newton import sinkhorn_newton
    from ritz.transport._wasserstein_flow import WassersteinFlow, wasserstein_flow

__all__ = [
    "CMCD",
    "DIS",
    "IPF",
    "JKO",
    "PIS",
    "AbstractDiffusion",
    "Bridge",
    "ConditionalTransport",
    "Control",
    "Domain",
    "EnergyPlan",
    "EnergyPlanLoss",
    "GaussianPlan",
    "Interpolant",
    "InterpolantLoss",
    "LightBridge",
    "Navigated",
    "Path",
    "Plan",
    "ReflectedBridge",
    "WassersteinFlow",
    "bridge",
    "brownian",
    "cmcd",
    "conditional_transport",
    "data_separation",
    "dis",
    "domain",
    "empirical_velocity",
    "energy_plan",
    "gaussian_plan",
    "interpolant",
    "ipf",
    "jko",
    "kinetic_energy",
    "kinetic_optimal",
    "light_bridge",
    "linear",
    "normalised",
    "pis",
    "reflected_bridge",
    "sinkhorn",
    "sinkhorn_newton",
    "trigonometric",
    "variance_preserving",
    "wasserstein_flow",
]

# Each is imported when one of its names is asked for.
_WHERE = {
    "_bridge": (
        "Bridge",
        "bridge",
    ),
    "_cmcd": (
        "CMCD",
        "cmcd",
    ),
    "_conditional": (
        "ConditionalTransport",
        "Navigated",
        "conditional_transport",
    ),
    "_control": ("Control",),
    "_diffusion": ("AbstractDiffusion",),
    "_dis": (
        "DIS",
        "dis",
    ),
    "_domain": (
        "Domain",
        "domain",
    ),
    "_energy_plan": (
        "EnergyPlan",
        "EnergyPlanLoss",
        "energy_plan",
    ),
    "_gaussian": (
        "GaussianPlan",
        "gaussian_plan",
    ),
    "_interpolant": (
        "Interpolant",
        "interpolant",
    ),
    "_interpolant_loss": ("InterpolantLoss",),
    "_ipf": (
        "IPF",
        "ipf",
    ),
    "_jko": (
        "JKO",
        "jko",
    ),
    "_kinetic": (
        "data_separation",
        "empirical_velocity",
        "kinetic_energy",
        "kinetic_optimal",
        "normalised",
    ),
    "_light_bridge": (
        "LightBridge",
        "light_bridge",
    ),
    "_paths": (
        "Path",
        "brownian",
        "linear",
        "trigonometric",
        "variance_preserving",
    ),
    "_pis": (
        "PIS",
        "pis",
    ),
    "_plan": ("Plan",),
    "_reflected": (
        "ReflectedBridge",
        "reflected_bridge",
    ),
    "_sinkhorn": ("sinkhorn",),
    "_sinkhorn_newton": ("sinkhorn_newton",),
    "_wasserstein_flow": (
        "WassersteinFlow",
        "wasserstein_flow",
    ),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
