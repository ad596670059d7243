"""Transport: plans, bridges, flows of samples and learned diffusions."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ritz.transport._gaussian import GaussianPlan, gaussian_plan
    from ritz.transport._light_bridge import LightBridge, light_bridge

__all__ = ["GaussianPlan", "LightBridge", "gaussian_plan", "light_bridge"]

# Each is imported when it is first asked for.
_WHERE = {
    "_gaussian": ("GaussianPlan", "gaussian_plan"),
    "_light_bridge": ("LightBridge", "light_bridge"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
