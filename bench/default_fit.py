"""`ritz.fit` with nothing asked for: right, or not "ok"?

For the posteriors of tests/posteriors, and the packaged targets that have a reference, by seed:
the largest error of a mean, in reference sds, and of a log sd; the verdict; gradients of the log
density (a value counts a third) and seconds of a first fit, compilation and draws included. Beside
it NumPyro's NUTS, 4 chains of 1,000 + 1,000 side by side, with its gradients and seconds. The
references of packaged targets are those of `references.py`. Right: no mean off by more than 0.1, no
log sd by more than 0.2. Beside these how far the share of draws below a 5%, 50% or 95% quantile of
the reference is from that, at most: where a verdict says to go by quantiles, these are right where
that is below 0.05.
With --peers instead what others give for tests/posteriors with their own settings: NumPyro's guides
(Adam 0.01, 10,000 steps), BlackJAX's Pathfinder and PyMC's ADVI (10,000 steps), as `families.py`
runs them, in float64, with seed 0.

Each precision in a process of its own; results are added to what is there.

    python bench/default_fit.py [--x64] [--nuts] [--refine WAY] [--seeds 5] [--only NAME ...]
        [--out FILE]
    python bench/default_fit.py --peers [--only NAME ...]
    python bench/default_fit.py --table
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from references import (  # noqa: E402
    POSTERIORS,
    QUANTILES,
    REFERENCE,
    flat,
    known,
    model_of,
    of_nuts,
)

import ritz  # noqa: E402


def errors(name: str, draws: dict[str, Any]) -> dict[str, float]:
    values, exact = flat(name, draws), known(name)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.abs(values.mean(axis=0) - exact["mean"]) / exact["sd"]
        log_sd = np.abs(np.log(values.std(axis=0) / exact["sd"]))
    worst = lambda v: float(v.max()) if np.isfinite(v).all() else float("inf")
    found = {"mean_error": worst(mean), "log_sd_error": worst(log_sd)}
    if "q50" in exact:
        shares = [np.abs((values < exact[k]).mean(axis=0) - p) for k, p in QUANTILES.items()]
        found["quantile_error"] = worst(np.stack(shares))
    return found


def of_ritz(name: str, seed: int, refine: str | None = None) -> dict[str, Any]:
    model, data = model_of(name)
    began = time.perf_counter()
    fit = ritz.fit(model, data, seed=seed, progress=False)
    draws, status = fit.draws, fit.status
    seconds = time.perf_counter() - began
    assert fit.psis is not None
    weighed = len(fit.psis.log_weights) / 3 if fit.correction else 0.0
    asked = len(fit.stored()["x"]) / 3 if "tails" in fit.info else 0.0
    row = {
        "status": status,
        "seconds": seconds,
        "evaluations": fit.info["evaluations"] + weighed + asked,
        "khat": fit.khat,
        "ess": fit.psis.ess,
        "reasons": list(fit.reasons),
        "stop": fit.stop_reason,
    }
    if refine and status != "ok":
        began = time.perf_counter()
        better = fit.refine(refine)
        row["refined"] = {"way": refine, "status": better.status, "reasons": list(better.reasons)}
        row["refined"] |= better.info.get("nuts", {}) | errors(name, better.draws)
        row["refined"]["seconds"] = time.perf_counter() - began
    return row | errors(name, draws)


def of_peers(names: list[str], found: dict[str, Any], out: Path) -> None:
    """Rows by peer and posterior, kept as they come."""
    import families

    def keep(peer: str, name: str, row: dict[str, Any]) -> None:
        found.setdefault("peers", {}).setdefault(peer, {})[name] = row
        print(f"{name[:44]:44} {peer:30}", right(row), row, flush=True)
        out.write_text(json.dumps(found, indent=1) + "\n")

    for name in names:
        for guide in ("AutoNormal", "AutoMultivariateNormal", "AutoLaplace"):
            row = families.tried(lambda n=name, g=guide: families.of_numpyro(n, g))
            keep(f"numpyro {guide}", name, row)
        row = families.tried(lambda n=name: families.of_pathfinder(n))
        keep("blackjax pathfinder", name, row)
    for name, rows in families.of_pymc(names, "advi").items():
        for peer, row in rows.items():
            keep(peer, name, row)


def right(row: dict[str, Any], times: float = 1.0) -> bool:
    if "failed" in row:
        return False
    return row["mean_error"] < 0.1 * times and row["log_sd_error"] < 0.2 * times


def table_of_peers(found: dict[str, Any]) -> None:
    """A row each, of the posteriors that all of them have been run on."""
    peers = found.get("peers", {})
    if not peers:
        return
    names = set.intersection(*(set(rows) for rows in peers.values()))
    own = {n: r[0] for n, r in found["ritz"].get("float64", {}).items() if r and n in names}
    print(f"\n{'float64, seed 0':44} {'right':>8} {'seconds':>8} {'gradients':>10}  tells")
    for who, rows in {**({"ritz": own} if own else {}), **peers}.items():
        shown = [rows[n] for n in sorted(names & set(rows))]
        made = [r for r in shown if "failed" not in r]
        median = lambda key, made=made: statistics.median(r[key] for r in made) if made else 0.0
        wrong = [r for r in shown if not right(r)]
        told = sum("failed" in r or r.get("status", "ok") != "ok" for r in wrong)
        tells = f"{told} of {len(wrong)} wrong" if told else "never"
        print(
            f"{who:44} {len(shown) - len(wrong)} of {len(shown):2} {median('seconds'):8.2f} "
            f"{median('evaluations'):10,.0f}  {tells}"
        )


def table(found: dict[str, Any]) -> None:
    for precision in ("float32", "float64"):
        models = {n: r for n, r in found["ritz"].get(precision, {}).items() if r}
        if not models:
            continue
        print(f"\n{precision:44} {'right':>6} {'ok':>4} {'mean':>6} {'log sd':>6} ", end="")
        print(f"{'gradients':>9} {'seconds':>7} {'/ NUTS':>7} {'/ NUTS':>7}")
        cheaper, quicker = [], []
        for name, rows in models.items():
            cost = statistics.median(r["evaluations"] for r in rows)
            seconds = rows[0]["seconds"]
            nuts = found["nuts"].get(precision, {}).get(name)
            shares = [float("nan")] * 2
            if nuts:
                shares = [cost / nuts["evaluations"], seconds / nuts["seconds"]]
                cheaper.append(shares[0])
                quicker.append(shares[1])
            print(
                f"{name[:44]:44} {sum(map(right, rows))} of {len(rows)} "
                f"{sum(r['status'] == 'ok' for r in rows):3} "
                f"{max(r['mean_error'] for r in rows):7.3f} "
                f"{max(r['log_sd_error'] for r in rows):6.3f} {cost:9,.0f} {seconds:7.2f} "
                f"{shares[0]:7.4f} {shares[1]:7.2f}"
            )
        runs = [r for rows in models.values() for r in rows]
        good = [r for r in runs if right(r)]
        told = [
            r
            for r in runs
            if not right(r)
            and r.get("quantile_error", np.inf) < 0.05
            and any("quantiles" in line for line in r["reasons"])
        ]
        fooled = [r for r in runs if r["status"] == "ok" and not right(r, 2.0)]
        print(
            f"right in {len(good)} of {len(runs)} runs; ok said of "
            f"{sum(r['status'] == 'ok' for r in good)} of these; ok said of {len(fooled)} runs "
            "that are wrong by more than twice the limits"
        )
        print(
            f"doubtful for sds that rest on tails, with right quantiles: {len(told)} of the others"
        )
        if cheaper:
            print(
                f"medians: gradients {statistics.median(cheaper):.4f} of NUTS's (1/50 is 0.02), "
                f"seconds of a first fit {statistics.median(quicker):.2f}"
            )
    table_of_peers(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--x64", action="store_true")
    parser.add_argument("--nuts", action="store_true", help="measure NUTS as well")
    parser.add_argument("--refine", choices=("flow", "nuts"), help="refine doubtful fits so")
    parser.add_argument("--peers", action="store_true", help="measure peers, and nothing else")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "default_fit.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    jax.config.update("jax_enable_x64", args.x64)
    found = json.loads(args.out.read_text()) if args.out.exists() else {"ritz": {}, "nuts": {}}
    if args.table:
        table(found)
        return
    if args.peers:
        of_peers(args.only or sorted(POSTERIORS), found, args.out)
        table(found)
        return
    precision = "float64" if args.x64 else "float32"
    there = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    for name in args.only or [*sorted(POSTERIORS), *there]:
        rows = [of_ritz(name, seed, args.refine) for seed in range(args.seeds)]
        found["ritz"].setdefault(precision, {})[name] = rows
        if args.nuts:
            found["nuts"].setdefault(precision, {})[name] = of_nuts(name, 0)[0]
        print(
            f"{name[:44]:44}",
            [(r["status"], round(r["mean_error"], 2), round(r["log_sd_error"], 2)) for r in rows],
            f"{rows[0]['evaluations']:,.0f} gradients, {rows[0]['seconds']:.1f} s",
            found["nuts"].get(precision, {}).get(name, {}),
            *(r["refined"] for r in rows if "refined" in r),
            flush=True,
        )
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    table(found)


if __name__ == "__main__":
    main()
