"""Fits on all devices there are, in a process of its own: how many is fixed when it starts.

    python mesh_fits.py FOLDER NAMES [PORT PROCESSES PROCESS]

writes `PROCESS.npz` with what each fit found, and `PROCESS.json` with what was split. One process
makes each fit without a mesh too.
"""

import json
import re
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import ritz
from ritz import _compile

warnings.simplefilter("error")
FOLDER, NAMES = Path(sys.argv[1]), sys.argv[2].split(",")
ROWS, ODD, BATCH = 4096, 1001, 64


def model(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0).expand([5]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(5.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(x @ slope, noise), obs=y)


def data(rows, kept=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 5))
    y = x @ np.arange(5.0) + rng.normal(size=rows)
    return x[:kept], y[:kept]


def log_density(p):
    return -0.5 * ((p["a"] - 1.0) ** 2).sum() / 0.3 - 0.5 * (p["b"] - p["a"][0]) ** 2


ROWS_DATA, ODD_DATA = data(ROWS), data(ODD)


def resumed(mesh):
    kept = FOLDER / f"run-{mesh and mesh.size}"
    asked = {"family": "mean_field", "steps": 200, "mesh": mesh, "checkpoint": kept}
    first = ritz.fit(model, ROWS_DATA, **asked)
    again = ritz.resume(kept, model, ROWS_DATA, mesh=mesh)
    assert (first.q.loc == again.q.loc).all()
    return again


FITS = {
    "default": lambda mesh: ritz.fit(model, ROWS_DATA, mesh=mesh),
    "adam": lambda mesh: ritz.fit(model, ROWS_DATA, family="full_rank", steps=500, mesh=mesh),
    # What is found where the shares of the devices are not added up.
    "one share": lambda mesh: ritz.fit(
        model, data(ROWS, ROWS // 8 if mesh else ROWS), family="full_rank", steps=500, mesh=mesh
    ),
    "batches": lambda mesh: ritz.fit(
        model, ritz.data.batches(ROWS_DATA, BATCH), steps=500, mesh=mesh
    ),
    "odd": lambda mesh: ritz.fit(model, ODD_DATA, mesh=mesh),
    "odd adam": lambda mesh: ritz.fit(model, ODD_DATA, draws=8, steps=500, mesh=mesh),
    "paths": lambda mesh: ritz.fit(
        model, ODD_DATA, solver=ritz.solver.pathfinder(paths=4), mesh=mesh
    ),
    "density": lambda mesh: ritz.fit(
        ritz.target.from_log_density(log_density, {"a": np.zeros(3), "b": 0.0}), mesh=mesh
    ),
    "resumed": resumed,
}


def shapes():
    """The shapes of the arrays in all programs that were compiled since this was last asked."""
    texts = [program.as_text() for program in _compile._executables.values()]
    _compile._executables.clear()
    return sorted(set(re.findall(r"f(?:32|64)\[([\d,]+)\]", " ".join(texts))))


def main():
    process, alone = 0, len(sys.argv) == 3
    if not alone:
        port, processes, process = map(int, sys.argv[3:])
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", processes, process)
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    found, told = {}, {}
    for on in (None, mesh) if alone else (mesh,):
        label = "one" if on is None else "mesh"
        for name in NAMES:
            fit = FITS[name](on)
            at = f"{label}/{name}"
            found |= {f"{at}/q/{i}": np.asarray(v) for i, v in enumerate(jax.tree.leaves(fit.q))}
            found |= {f"{at}/mean/{k}": v for k, v in fit.mean().items()}
            found |= {f"{at}/sd/{k}": v for k, v in fit.sd().items()}
            told[at] = {
                "stop": fit.stop_reason,
                "steps": fit.info["steps"],
                "mesh": fit.info.get("mesh"),
                "explained": fit.explain().splitlines()[-1],
                "plain": all(type(v) is np.ndarray for v in fit.draws.values()),
                "shapes": shapes(),
            }
            if name == "adam":
                FITS[name](on)
                told[at]["compiled again"] = FITS[name](on).info["compiled"]
                fit.save(FOLDER / f"saved-{label}")
                told[at]["predicted"] = list(fit.predict(n=20)["y"].shape)
                _compile._executables.clear()
    np.savez(FOLDER / f"{process}.npz", **found)
    (FOLDER / f"{process}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
