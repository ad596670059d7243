"""One posterior with two modes by many methods: what each gets right, and what it costs.

Two groups of measurements, 30% and 70% of them, with means to be found: exchanging the means
explains the data nearly as well, so that there are two modes of unequal mass. The posterior is in
the plane, and exact by a sum over a grid. For each method: the error of the first mode's mass, of
means and of sds (in posterior sds), the energy distance of 2,000 draws to as many exact ones,
gradients of the log density, seconds with compilation, and the verdict. Writes side_by_side.json
and side_by_side.png; `tools/docs_tables.py` puts the table on docs/particles.md.

    python bench/side_by_side.py [--only NAME ...]
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.spatial.distance import cdist

import ritz
from ritz.particle import coin, langevin, particles, svgd
from ritz.plot import canvas

OUT = Path(__file__).resolve().parent / "results" / "side_by_side.json"
WEIGHTS = np.array([0.3, 0.7])
GRID = np.linspace(-6.0, 8.0, 701)


def data() -> np.ndarray:
    """Twelve measurements of two groups."""
    rng = np.random.default_rng(2)
    return np.concatenate([rng.normal(-0.6, 1.0, 4), rng.normal(1.9, 1.0, 8)])


def model(y: Any) -> None:
    """Two means."""
    m = numpyro.sample("m", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    parts = dist.Normal(m, 1.0)
    weights = dist.Categorical(probs=jnp.asarray(WEIGHTS))
    numpyro.sample("y", dist.MixtureSameFamily(weights, parts).expand([len(y)]), obs=y)


def exact() -> dict[str, Any]:
    """Moments, the mass where the first mean is the smaller, and draws."""
    y = data()
    one, two = np.meshgrid(GRID, GRID, indexing="ij")
    normal = lambda m: np.exp(-0.5 * (y[:, None, None] - m) ** 2)
    log_p = np.log(WEIGHTS[0] * normal(one) + WEIGHTS[1] * normal(two)).sum(0)
    log_p += -0.5 * (one**2 + two**2) / 9.0
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    points = np.stack([one.ravel(), two.ravel()], 1)
    mean = p.ravel() @ points
    sd = np.sqrt(p.ravel() @ (points - mean) ** 2)
    chosen = np.random.default_rng(0).choice(p.size, 2000, p=p.ravel())
    jitter = np.random.default_rng(1).uniform(-0.5, 0.5, (2000, 2)) * (GRID[1] - GRID[0])
    return {
        "mass": float(p[one < two].sum()),
        "mean": mean,
        "sd": sd,
        "draws": points[chosen] + jitter,
        "density": p,
    }


def methods() -> dict[str, dict[str, Any]]:
    """What `ritz.fit` is told, by name."""
    cloud = particles(200, spread=2.0)
    return {
        "ritz.fit": {},
        "full rank": {"family": "full_rank"},
        "mixture": {"family": "mixture"},
        "spline flow": {"family": "spline"},
        "SVGD": {"family": cloud, "solver": svgd()},
        "coin SVGD": {"family": cloud, "solver": svgd(optimiser=coin())},
        "Langevin": {"family": cloud, "solver": langevin(0.02)},
        "PIS, log-variance": {
            "family": "pis",
            "objective": ritz.objective.log_variance(64),
            "steps": 3000,
        },
        "DIS, log-variance": {
            "family": "dis",
            "objective": ritz.objective.log_variance(64),
            "steps": 3000,
        },
        "CMCD": {"family": "cmcd", "steps": 3000},
    }


def measured(told: dict[str, Any], known: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """A row of the table, and draws."""
    began = time.perf_counter()
    fit = ritz.fit(model, {"y": data()}, progress=False, **told)
    x = np.asarray(fit.sample(2000)["m"], np.float64)
    seconds = time.perf_counter() - began
    apart = lambda a, b: cdist(a, b).mean()
    draws = known["draws"]
    energy = 2 * apart(x, draws) - apart(x, x) - apart(draws, draws)
    row = {
        "mass": float((x[:, 0] < x[:, 1]).mean()) - known["mass"],
        "mean": float(np.abs((x.mean(0) - known["mean"]) / known["sd"]).max()),
        "log sd": float(np.abs(np.log(x.std(0) / known["sd"])).max()),
        "energy": float(energy),
        "gradients": fit.info["evaluations"],
        "seconds": seconds,
        "verdict": fit.status,
    }
    return row, x


def picture(known: dict[str, Any], drawn: dict[str, np.ndarray], path: Path) -> None:
    """Draws over the exact density."""
    columns = 5
    rows = -(-len(drawn) // columns)
    with canvas(rows, columns, size=(2.2 * columns, 2.2 * rows)) as (figure, axes):
        for ax, (name, x) in zip(axes.ravel(), drawn.items(), strict=False):
            ax.contour(GRID, GRID, known["density"].T, 6, colors="0.6", linewidths=0.6)
            ax.plot(x[:400, 0], x[:400, 1], ".", ms=2)
            ax.set(title=name, xlim=(-3.5, 5.0), ylim=(-3.5, 5.0))
        for ax in axes.ravel()[len(drawn) :]:
            ax.remove()
        figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    known, drawn = exact(), {}
    print(f"the first mode has {known['mass']:.1%} of the mass")
    rows = json.loads(args.out.read_text()) if args.only and args.out.exists() else {}
    for name, told in methods().items():
        if args.only and name not in args.only:
            continue
        rows[name], drawn[name] = measured(told, known)
        print(name, rows[name], flush=True)
        jax.clear_caches()
    args.out.write_text(json.dumps(rows, indent=1) + "\n")
    if not args.only:
        picture(known, drawn, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
