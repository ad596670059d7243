"""Transport: plans, bridges, flows of samples and learned diffusions."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ritz.transport._conditional import (
        ConditionalTransport,
        Navigated,
        conditional_transport,
    )
    from ritz.transport._energy_plan import EnergyPlan, EnergyPlanLoss, energy_plan
    from ritz.transport._gaussian import GaussianPlan, gaussian_plan
    from ritz.transport._light_bridge import LightBridge, light_bridge
    from ritz.transport._plan import Plan
    from ritz.transport._sinkhorn import sinkhorn
    from ritz.transport._sinkhorn_newton import sinkhorn_newton

__all__ = [
    "ConditionalTransport",
    "EnergyPlan",
    "EnergyPlanLoss",
    "GaussianPlan",
    "LightBridge",
    "Navigated",
    "Plan",
    "conditional_transport",
    "energy_plan",
    "gaussian_plan",
    "light_bridge",
    "sinkhorn",
    "sinkhorn_newton",
]

# Each is imported when it is first asked for.
_WHERE = {
    "_conditional": ("ConditionalTransport", "Navigated", "conditional_transport"),
    "_energy_plan": ("EnergyPlan", "EnergyPlanLoss", "energy_plan"),
    "_gaussian": ("GaussianPlan", "gaussian_plan"),
    "_light_bridge": ("LightBridge", "light_bridge"),
    "_plan": ("Plan",),
    "_sinkhorn": ("sinkhorn",),
    "_sinkhorn_newton": ("sinkhorn_newton",),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
