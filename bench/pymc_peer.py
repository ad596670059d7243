"""PyMC's ADVI on the posteriors of `families.py`: on the same log density, in unconstrained space.

    python bench/pymc_peer.py STEPS METHOD,... POSTERIOR ...

`families.py` and `default_fit.py` run this file in a process of its own. It prints JSON: by
posterior and method the gradient evaluations, the seconds (compilation included) and where the
draws are, unconstrained. The density is a JAX function behind a PyTensor Op.
"""

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.graph import Apply, Op

jax.config.update("jax_enable_x64", True)
sys.path.insert(0, str(Path(__file__).parent))

from families import DRAWS, target_of  # noqa: E402


class Gradient(Op):
    """The gradient of a log density."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn

    def make_node(self, x: Any) -> Apply:
        return Apply(self, [pt.as_tensor_variable(x)], [pt.dvector()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        outputs[0][0] = np.asarray(self.fn(inputs[0]))


class LogDensity(Op):
    """A log density whose gradient is known."""

    def __init__(self, fn: Any, grad: Any) -> None:
        self.fn, self.gradient = fn, Gradient(grad)

    def make_node(self, x: Any) -> Apply:
        return Apply(self, [pt.as_tensor_variable(x)], [pt.dscalar()])

    def perform(self, node: Any, inputs: Any, outputs: Any) -> None:
        outputs[0][0] = np.asarray(self.fn(inputs[0]))

    def grad(self, inputs: Any, outputs: Any) -> list[Any]:
        return [outputs[0] * self.gradient(inputs[0])]

    pullback = lambda self, inputs, outputs, cotangents: self.grad(inputs, cotangents)


def measured(name: str, method: str, steps: int, folder: str) -> dict[str, Any]:
    target = target_of(name)
    start = np.asarray(target.start(jax.random.key(0))[0], float)
    began = time.perf_counter()
    density = LogDensity(
        jax.jit(lambda x: target.log_density(x)), jax.jit(jax.grad(lambda x: target.log_density(x)))
    )
    with pm.Model():
        x = pm.Flat("x", shape=len(start), initval=start)
        pm.Potential("density", density(x))
        found = pm.fit(steps, method=method, random_seed=0, progressbar=False)
    seconds = time.perf_counter() - began
    file = Path(folder) / f"{name}-{method}.npy"
    np.save(file, found.sample(DRAWS, random_seed=1, return_inferencedata=False)["x"])
    return {"evaluations": steps, "seconds": seconds, "draws": str(file)}


def main() -> None:
    steps, methods, names = int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
    folder, out = tempfile.mkdtemp(), {}
    for name in names:
        out[name] = {}
        for method in methods:
            try:
                with warnings.catch_warnings(action="ignore"):
                    out[name][method] = measured(name, method, steps, folder)
            except Exception as error:  # a peer that fails is a row of the table
                out[name][method] = {"failed": f"{type(error).__name__}: {error}"[:200]}
    print("JSON" + json.dumps(out))


if __name__ == "__main__":
    main()
