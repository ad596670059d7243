"""Transport: plans, bridges, flows of samples and learned diffusions."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ritz.transport._bridge import Bridge, bridge
    from ritz.transport._cmcd import CMCD, cmcd
    from ritz.transport._control import Control
    from ritz.transport._diffusion import AbstractDiffusion
    from ritz.transport._dis import DIS, dis
    from ritz.transport._pis import PIS, pis

__all__ = [
    "CMCD",
    "DIS",
    "PIS",
    "AbstractDiffusion",
    "Bridge",
    "Control",
    "bridge",
    "cmcd",
    "dis",
    "pis",
]

_WHERE = {
    "_bridge": ("Bridge", "bridge"),
    "_cmcd": ("CMCD", "cmcd"),
    "_control": ("Control",),
    "_diffusion": ("AbstractDiffusion",),
    "_dis": ("DIS", "dis"),
    "_pis": ("PIS", "pis"),
}


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
