"""Families and solvers on the posteriordb models, beside the peers' ways to approximate them.

For each of the 18 posteriors of tests/posteriors, in float64, each combination of a family and a
solver and each peer: what it cost (gradients of the log density; a value counts a third, a Hessian
d) and how long it took (a first fit, compilation included); the largest error of a mean in
reference sds and of a log sd; k-hat, and the ELBO's gap to the best that anyone found. Peers:
NumPyro's autoguides (Adam 0.01, 10,000 steps), BlackJAX's meanfield_vi, fullrank_vi and
pathfinder, FlowJAX's own training of a spline flow, and PyMC's ADVI. Writes families.json and
families.png; a part of the models at a time with `--models`, added to what is there.

A combination is as accurate as another where its error, the larger of mean / 0.1 and log sd / 0.2,
is no larger, or below three standard errors of the reference itself.

    python bench/families.py [--models NAME ...] [--out bench/results/families.json]
    python bench/families.py --ours LABEL ...   # these of Ritz's own anew; all other rows stay
"""

import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from posteriors import POSTERIORS, flatten, load_data, reference  # noqa: E402

import ritz  # noqa: E402

DRAWS = 20_000
WEIGHED = 4_000  # the draws behind a fit's importance weights
PEER_STEPS = 10_000

# Family, solver, and the settings that differ from the solver's own.
COMBINATIONS: list[dict[str, Any]] = [
    {},  # what fit chooses by itself
    {"family": "mean_field", "solver": "adam"},
    {"family": "mean_field", "solver": "natural_gradient"},
    {"family": "mean_field", "solver": "dadvi"},
    {"family": "full_rank", "solver": "adam"},
    {"family": "full_rank", "solver": "natural_gradient"},
    {"family": "full_rank", "solver": "natural_gradient", "steps": 30},
    {"family": "full_rank", "solver": "batch_and_match"},
    {"family": "full_rank", "solver": "laplace"},
    {"family": "full_rank", "solver": "pathfinder"},
    {"family": "student_t", "solver": "adam"},
    {"family": "low_rank", "solver": "adam"},
    {"family": "mixture", "solver": "adam"},
    {"family": "spline", "solver": "adam", "steps": 3000},
]
ADVI = ("numpyro AutoNormal", "numpyro AutoMultivariateNormal", "numpyro AutoLowRank")
ADVI += ("blackjax meanfield_vi", "blackjax fullrank_vi", "pymc advi", "pymc fullrank_advi")
QUICK = ("numpyro AutoLaplace", "blackjax pathfinder")


def model_of(name: str) -> tuple[Any, dict[str, Any]]:
    posterior = POSTERIORS[name]
    return posterior.model, posterior.data(load_data(name))


def target_of(name: str) -> Any:
    model, data = model_of(name)
    return ritz.target.from_numpyro(model, (), data)


def errors(name: str, samples: Any, weights: Any = None) -> dict[str, float]:
    """The largest error of a mean, in sds, and of a log sd."""
    known = reference(name)
    values = flatten(name, samples, batch_ndim=1)
    mean = np.average(values, axis=0, weights=weights)
    sd = np.average((values - mean) ** 2, axis=0, weights=weights) ** 0.5
    with np.errstate(divide="ignore"):
        log_sd = np.abs(np.log(sd / known["sd"])).max()
    mean_error = np.abs(mean - known["mean"]) / known["sd"]
    return {"mean_error": float(mean_error.max()), "log_sd_error": float(log_sd)}


def noise(name: str) -> float:
    """Three standard errors of the reference, in the units of `score`."""
    known = reference(name)
    mean = known["mcse_mean"] / known["sd"] / 0.1
    sd = known["mcse_sd"] / known["sd"] / 0.2
    return float(3 * max(mean.max(), sd.max()))


def score(row: dict[str, Any]) -> float:
    if "failed" in row:
        return float("inf")
    return max(row["mean_error"] / 0.1, row["log_sd_error"] / 0.2)


def label(settings: dict[str, Any]) -> str:
    if not settings:
        return "automatic"
    rest = {k: v for k, v in settings.items() if k not in ("family", "solver")}
    return f"{settings['family']} {settings['solver']}" + (f" {rest}" if rest else "")


def of_ritz(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    model, data = model_of(name)
    began = time.perf_counter()
    fit = ritz.fit(model, data, progress=False, **settings)
    fit.draws  # noqa: B018
    seconds = time.perf_counter() - began
    row = {"evaluations": fit.info["evaluations"], "seconds": seconds, "steps": fit.info["steps"]}
    row |= errors(name, fit.sample(DRAWS)) | {"status": fit.status, "stop": fit.stop_reason}
    if fit.psis is not None and fit.elbo is not None:
        row |= {"khat": fit.khat, "elbo": fit.elbo.value, "elbo_se": fit.elbo.se}
        if fit.correction is None:
            stored = fit.stored()["values"]
            row["weighted"] = errors(name, stored, np.exp(fit.psis.log_weights))
        else:
            row["evaluations"] += len(fit.psis.log_weights) / 3
    return row


def weighted(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same fits under Pareto-smoothed importance weights, which cost a value a draw."""
    out = {}
    for key, row in rows.items():
        if "weighted" in row and row["evaluations"] is not None:
            cost = {"evaluations": row["evaluations"] + WEIGHED / 3}
            out[f"{key} + importance"] = row | row.pop("weighted") | cost
    return out


def of_numpyro(name: str, guide_name: str) -> dict[str, Any]:
    from numpyro import optim
    from numpyro.infer import SVI, Predictive, Trace_ELBO, autoguide, init_to_median

    model, data = model_of(name)
    kind = {
        "AutoLaplace": "AutoLaplaceApproximation",
        "AutoLowRank": "AutoLowRankMultivariateNormal",
    }
    began = time.perf_counter()
    make = getattr(autoguide, kind.get(guide_name, guide_name))
    guide = make(model, init_loc_fn=init_to_median)
    svi = SVI(model, guide, optim.Adam(0.01), Trace_ELBO())
    found = svi.run(jax.random.key(0), PEER_STEPS, progress_bar=False, **data)
    samples = guide.sample_posterior(jax.random.key(1), found.params, sample_shape=(DRAWS,))
    seconds = time.perf_counter() - began
    samples = {**samples, **Predictive(model, samples)(jax.random.key(2), **data)}
    out = {"evaluations": float(PEER_STEPS), "seconds": seconds} | errors(name, samples)
    if guide_name == "AutoLaplace":
        out["evaluations"] += len(found.params["auto_loc"])  # the Hessian
    else:
        loss = Trace_ELBO(num_particles=2000)
        value = loss.loss(jax.random.key(3), found.params, model, guide, **data)
        out["elbo"] = -float(value)
    return out


def _of_points(name: str, x: Any) -> dict[str, float]:
    target = target_of(name)
    return errors(name, jax.jit(jax.vmap(target.constrain))(jnp.asarray(x)))


def of_blackjax_vi(name: str, kind: str) -> dict[str, Any]:
    import blackjax
    import optax

    target = target_of(name)
    start = target.start(jax.random.key(0))[0]
    samples = 10  # BlackJAX's own default is 100
    began = time.perf_counter()
    algorithm = getattr(blackjax, kind)(target.log_density, optax.adam(0.01), samples)

    @jax.jit
    def trained(key: Any) -> Any:
        step = lambda state, key: (algorithm.step(key, state)[0], None)
        state = algorithm.init(start)
        return jax.lax.scan(step, state, jax.random.split(key, PEER_STEPS))[0]

    state = trained(jax.random.key(0))
    x = algorithm.sample(jax.random.key(1), state, DRAWS)
    seconds = time.perf_counter() - began
    return {"evaluations": float(PEER_STEPS * samples), "seconds": seconds} | _of_points(name, x)


def of_pathfinder(name: str) -> dict[str, Any]:
    """Its own defaults: at most 30 steps, an ELBO of 200 draws at each.

    Counted as one gradient a step, whatever its line search looks at: a lower bound.
    """
    from blackjax.vi import pathfinder

    target = target_of(name)
    start = target.start(jax.random.key(0))[0]
    began = time.perf_counter()
    approximate = jax.jit(lambda key: pathfinder.approximate(key, target.log_density, start))
    state, info = approximate(jax.random.key(0))
    x, _ = pathfinder.sample(jax.random.key(1), state, DRAWS)
    seconds = time.perf_counter() - began
    made = int(np.isfinite(np.asarray(info.path.elbo)).sum())
    out = {"evaluations": made * (1 + 200 / 3), "seconds": seconds, "steps": made}
    return out | _of_points(name, x)


def of_flowjax(name: str) -> dict[str, Any]:
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow
    from flowjax.train import fit_to_key_based_loss
    from flowjax.train.losses import ElboLoss

    target = target_of(name)
    steps, samples = 3000, 10
    began = time.perf_counter()
    flow = coupling_flow(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(target.dim)),
        transformer=RationalQuadraticSpline(knots=8, interval=4),
        invert=False,
    )
    loss = ElboLoss(target.log_density, num_samples=samples)
    flow, _ = fit_to_key_based_loss(
        jax.random.key(1), flow, loss_fn=loss, learning_rate=1e-3, steps=steps, show_progress=False
    )
    x = flow.sample(jax.random.key(2), (DRAWS,))
    seconds = time.perf_counter() - began
    return {"evaluations": float(steps * samples), "seconds": seconds} | _of_points(name, x)


def tried(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a combination gives, or why it gives nothing: a row of the table like others."""
    try:
        with warnings.catch_warnings(action="ignore"):
            row = measure()
            print(".", end="", flush=True)
            return row
    except Exception as error:
        return {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:160]}


def own(name: str, labels: list[str] | None = None) -> dict[str, dict[str, Any]]:
    chosen = [s for s in COMBINATIONS if labels is None or label(s) in labels]
    rows = {"ritz " + label(s): tried(lambda s=s: of_ritz(name, s)) for s in chosen}
    return rows | weighted(rows)


def measured(name: str) -> dict[str, dict[str, Any]]:
    rows = own(name)
    for guide in ("AutoNormal", "AutoMultivariateNormal", "AutoLowRank", "AutoLaplace"):
        rows[f"numpyro {guide}"] = tried(lambda guide=guide: of_numpyro(name, guide))
    for kind in ("meanfield_vi", "fullrank_vi"):
        rows[f"blackjax {kind}"] = tried(lambda kind=kind: of_blackjax_vi(name, kind))
    rows["blackjax pathfinder"] = tried(lambda: of_pathfinder(name))
    rows["flowjax spline"] = tried(lambda: of_flowjax(name))
    return rows


def of_pymc(names: list[str], *methods: str) -> dict[str, Any]:
    """PyMC's rows, from a process of its own: it sets XLA's flags."""
    done = subprocess.run(
        [sys.executable, HERE / "pymc_peer.py", str(PEER_STEPS), ",".join(methods), *names],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"pymc_peer.py failed: {done.stderr[-500:]}")
    said = json.loads(done.stdout.rpartition("JSON")[2])
    out: dict[str, Any] = {}
    for name, methods in said.items():
        for method, row in methods.items():
            file = row.pop("draws", None)
            found = (
                row
                if file is None
                else row | tried(lambda f=file, n=name: _of_points(n, np.load(f)))
            )
            out.setdefault(name, {})[f"pymc {method}"] = found
    return out


def judged(name: str, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The issue's two questions of a model: as accurate, and cheaper?"""
    ours = {k: r for k, r in rows.items() if k.startswith("ritz ")}
    peers = {k: r for k, r in rows.items() if not k.startswith("ritz ")}
    floor = noise(name)
    best_peer = min(peers, key=lambda k: score(peers[k]))
    enough = max(score(peers[best_peer]), floor)
    able = [k for k in ours if score(ours[k]) <= enough and ours[k].get("evaluations")]
    best = min(able, key=lambda k: ours[k]["evaluations"]) if able else None
    most = min(ours, key=lambda k: score(ours[k]))
    advi = min((k for k in peers if k in ADVI), key=lambda k: score(peers[k]))
    out = {
        "noise": floor,
        "most_accurate": most,
        "score": score(ours[most]),
        "best_peer": best_peer,
        "peer_score": score(peers[best_peer]),
        "best_advi": advi,
        "advi_score": score(peers[advi]),
        "chosen": best,
    }
    if best is None:
        return out | {"as_accurate": False}
    cost = ours[best]["evaluations"]
    quick = {k: peers[k]["evaluations"] for k in QUICK if score(peers.get(k, {"failed": 1})) <= 1.0}
    return out | {
        "as_accurate": True,
        "evaluations": cost,
        "chosen_score": score(ours[best]),
        "seconds": ours[best]["seconds"],
        "evaluations_over_advi": cost / peers[advi].get("evaluations", float("nan")),
        "evaluations_over_quick": {k: cost / v for k, v in quick.items()},
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'':34} {'evaluations':>12} {'seconds':>8} {'mean':>7} {'log sd':>7} {'k-hat':>6}"]
    for key, r in sorted(rows.items(), key=lambda item: score(item[1])):
        if "failed" in r:
            lines.append(f"{key:34} failed: {r['failed'][:80]}")
            continue
        cost = r["evaluations"] if r["evaluations"] is not None else float("nan")
        lines.append(
            f"{key[:34]:34} {cost:12,.0f} {r['seconds']:8.2f} {r['mean_error']:7.3f} "
            f"{r['log_sd_error']:7.3f} {r.get('khat', float('nan')):6.2f}"
        )
    return "\n".join(lines)


def picture(models: dict[str, Any], path: Path) -> None:
    """Error against gradient evaluations, a panel a model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 6
    height = -(-len(models) // columns)
    figure, axes = plt.subplots(height, columns, figsize=(3.2 * columns, 2.6 * height), sharex=True)
    groups = {"ritz": "#0b5cad", "numpyro": "#c1440e", "blackjax": "#6a8d2f", "pymc": "#8a4fbf"}
    groups |= {"flowjax": "#7a7a7a"}
    flat = np.atleast_1d(axes).ravel()
    for axis, (name, rows) in zip(flat, models.items(), strict=False):
        for key, r in rows.items():
            if "failed" in r or not r.get("evaluations"):
                continue
            who = key.split()[0]
            axis.scatter(r["evaluations"], score(r), s=18, color=groups[who], alpha=0.8, lw=0)
        axis.axhline(1.0, color="0.6", lw=0.8)
        axis.set(xscale="log", yscale="log", ylim=(1e-2, 1e3))
        axis.set_title(name.split("-")[-1], fontsize=9)
    for axis in flat[len(models) :]:
        axis.set_visible(False)
    handles = [plt.Line2D([], [], marker="o", ls="", color=c, label=g) for g, c in groups.items()]
    figure.legend(handles=handles, loc="lower right", ncols=5, frameon=False)
    figure.supxlabel("gradient evaluations")
    figure.supylabel("error (1: a mean off by 0.1 sd, or an sd by 20%)")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=sorted(POSTERIORS))
    parser.add_argument("--ours", nargs="*")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "families.json")
    args = parser.parse_args()
    kept = json.loads(args.out.read_text())["models"] if args.out.exists() else {}
    if args.ours is not None:
        for name in args.models:
            kept.setdefault(name, {}).update(own(name, args.ours))
            print(f"\n{name}\n{table(kept[name])}", flush=True)
        write(args.out, kept)
        picture(kept, args.out.with_suffix(".png"))
        return
    pymc = of_pymc(args.models, "advi", "fullrank_advi")
    for name in args.models:
        rows = measured(name) | pymc.get(name, {})
        kept[name] = rows
        print(f"\n{name}\n{table(rows)}", flush=True)
        write(args.out, kept)
    picture(kept, args.out.with_suffix(".png"))


def write(path: Path, models: dict[str, Any]) -> None:
    verdicts = {name: judged(name, rows) for name, rows in models.items()}
    made = {"platform": platform.platform(), "jax": jax.__version__, "x64": True}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"made": made, "verdicts": verdicts, "models": models}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
