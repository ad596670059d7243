"""Ritz: variational inference, with one vocabulary, one loop and one kind of result.

What is named here is imported when it is first used, so that `ritz --help` does not wait for JAX.
"""

import importlib
import importlib.metadata
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

# Before JAX 0.11 two batched Cholesky factors in one program wait for each other for ever where a
# processor has two cores: each takes a thread and waits for others. JAX reads this when it is first
# used, and is as fast with it.
if (os.cpu_count() or 1) < 8:
    os.environ.setdefault("PJRT_NPROC", "8")

if TYPE_CHECKING:
    from ritz import (
        data,
        diagnose,
        estimator,
        family,
        gp,
        latent,
        linalg,
        multiscale,
        objective,
        particle,
        plot,
        solver,
        target,
        transport,
        wavelets,
    )
    from ritz._compile import enable_compilation_cache
    from ritz._errors import RitzError
    from ritz._result import Estimate, Fit
    from ritz.amortise import amortise
    from ritz.check import check
    from ritz.fit import fit
    from ritz.io import load
    from ritz.resume import resume
    from ritz.sweep import Sweep, sweep

__all__ = [
    "Estimate",
    "Fit",
    "RitzError",
    "Sweep",
    "amortise",
    "check",
    "data",
    "diagnose",
    "enable_compilation_cache",
    "estimator",
    "family",
    "fit",
    "gp",
    "latent",
    "linalg",
    "load",
    "multiscale",
    "objective",
    "particle",
    "plot",
    "resume",
    "solver",
    "sweep",
    "target",
    "transport",
    "wavelets",
]
_HOMES = {
    "Estimate": "_result",
    "Fit": "_result",
    "RitzError": "_errors",
    "amortise": "amortise",
    "check": "check",
    "enable_compilation_cache": "_compile",
    "fit": "fit",
    "load": "io",
    "resume": "resume",
    "Sweep": "sweep",
    "sweep": "sweep",
}


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name == "__version__":
            return importlib.metadata.version("ritz")
        if name not in __all__:
            raise AttributeError(f"module 'ritz' has no attribute {name!r}")
        module = importlib.import_module(f"ritz.{_HOMES.get(name, name)}")
        value = getattr(module, name) if name in _HOMES else module
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # To import the module `ritz.fit` must not put it in the place of the function `ritz.fit`.
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Lazy
