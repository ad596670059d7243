"""Gaussian process regression on UCI sets: seconds, error and log density, a process for each.

    RITZ_DATA=... python bench/gp.py [--sets kin8nm power protein] [--inducing 256]

Nine tenths of the rows are for training. Seconds are of `fit`, compilation included; the error
and the density are of standardised outputs. No peer is measured yet.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "results" / "gp.json"


def one(name: str, inducing: int, seed: int) -> dict[str, float]:
    from ritz.gp import GP

    held = np.load(Path(os.environ["RITZ_DATA"]) / "uci" / f"{name}.npz")
    order = np.random.default_rng(seed).permutation(len(held["x"]))
    x, y = held["x"][order], held["y"][order].reshape(-1)
    n = int(0.9 * len(x))
    began = time.perf_counter()
    gp = GP(inducing=inducing or None, progress=False).fit(x[:n], y[:n])
    seconds = time.perf_counter() - began
    off = gp.predict(x[n:]) - y[n:]
    density = gp.log_density(x[n:], y[n:]).mean() + np.log(y.std())
    rmse = float(np.sqrt(np.mean(off**2)) / y.std())
    return {"rows": n, "seconds": seconds, "rmse": rmse, "log_density": float(density)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", nargs="*", default=["kin8nm", "power", "protein"])
    parser.add_argument("--inducing", type=int, default=256, help="0 for GP's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", help="measure this set in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one, args.inducing, args.seed)))
        return
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    for name in args.sets:
        options = ["--one", name, "--inducing", str(args.inducing), "--seed", str(args.seed)]
        ran = subprocess.run(
            [sys.executable, __file__, *options], check=True, capture_output=True, text=True
        )
        row = json.loads(ran.stdout.splitlines()[-1])
        found[f"{name}, {args.inducing or 'own'}, seed {args.seed}"] = row
        print(name, row, flush=True)
        OUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
