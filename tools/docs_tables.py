"""Writes the tables of parts in the documents from the registries: `python tools/docs_tables.py`.

A table stands between the comments `<!-- NAME -->` and `<!-- end of NAME -->`. A new one is a
function here, from nothing to rows, and its name in TABLES.
"""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ritz

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("objectives.md", "families.md", "particles.md", "latent.md")
PAGES = tuple(ROOT / "docs" / name for name in NAMES)
RESULTS = ROOT / "bench" / "results"
PAPERS = ROOT / "docs" / "papers" / "results"
NEEDS = {"log_prob": "log q", "slope": "slopes"}


def objectives() -> Iterable[tuple[str, ...]]:
    """What each registered objective declares."""
    yield "objective", "", "the family has", "points of the target", "biased by"
    for name, part in sorted(ritz.objective.registered().items()):
        loss = part.example()
        needs = ", ".join(sorted(loss.needs - {"sample"}))
        yield f"`{name}`", part.description, needs, loss.cost, loss.bias or ""


def estimators() -> Iterable[tuple[str, ...]]:
    """What each registered estimator declares."""
    yield "estimator", "for", "needs", "evaluations of the rest of the program", ""
    for name, part in sorted(ritz.estimator.registered().items()):
        how = part.example()
        needs = " and ".join(NEEDS[need] for need in sorted(how.needs))
        yield f"`{name}`", part.description, needs, how.cost, "biased" * how.biased


def families() -> Iterable[tuple[str, ...]]:
    """What each registered family declares."""
    yield "family", "is", "parameters", "can"
    for name, part in ritz.family.registered().items():
        yield f"`{name}`", part.description, part.parameters, ", ".join(sorted(part.capabilities))


def solvers() -> Iterable[tuple[str, ...]]:
    """What each registered solver declares."""
    yield "solver", "is", "moves", "needs", "ends at"
    for name, part in ritz.solver.registered().items():
        made = part.build()
        moves = ", ".join(f"`{f}`" for f in made.families) or "any family"
        needs = ", ".join(sorted(made.needs))
        yield f"`{name}`", part.description, moves, needs, made.guarantees


def combinations() -> Iterable[tuple[str, ...]]:
    """By combination: how many of the posteriors it gets right, and at what cost."""
    models = json.loads((RESULTS / "families.json").read_text())["models"]
    yield "family, solver", "right", "gradients", "seconds", "k-hat"
    keys = sorted({key for rows in models.values() for key in rows})
    lines = [(key, [rows[key] for rows in models.values() if key in rows]) for key in keys]
    for key, rows in sorted(lines, key=lambda line: (-sum(map(_right, line[1])), line[0])):
        fine = [row for row in rows if "failed" not in row]
        costs = [row["evaluations"] for row in fine if row["evaluations"] is not None]
        tails = [row["khat"] for row in fine if row.get("khat") is not None]
        yield (
            key.removeprefix("ritz "),
            f"{sum(map(_right, rows))} of {len(rows)}",
            f"{statistics.median(costs):,.0f}" if costs else "",
            f"{statistics.median(row['seconds'] for row in fine):.1f}" if fine else "",
            f"{statistics.median(tails):.2f}" if tails else "",
        )


def flows() -> Iterable[tuple[str, ...]]:
    """By flow: KL from it as a share of the best full-rank Gaussian's, and a step's cost."""
    found = json.loads((RESULTS / "flows.json").read_text())
    measured = found["kl"]
    timed = sorted({int(key.rpartition("=")[2]) for key in found["step"]})
    yield "flow", *measured, *(f"step, d = {d}" for d in timed)
    for flow in next(iter(measured.values())):
        if flow != "full_rank":
            shares = [f"{rows[flow]['share of full_rank']:.2f}" for rows in measured.values()]
            timings = [found["step"][f"{flow}, d = {d}"] for d in timed]
            steps = [f"{t['ratio']:.2f} ({t['ratio, gradients clipped']:.2f})" for t in timings]
            yield f"`{flow}`", *shares, *steps


def side_by_side() -> Iterable[tuple[str, ...]]:
    """By method: errors of a posterior with two modes, and what it cost."""
    found = json.loads((RESULTS / "side_by_side.json").read_text())
    errors = ("share of the larger mode", "mean, sds", "log sd", "energy distance")
    yield "method", *errors, "gradients", "seconds", "verdict"
    for name, row in found.items():
        yield (
            name,
            f"{row['mass']:+.2f}",
            f"{row['mean']:.2f}",
            f"{row['log sd']:.2f}",
            f"{row['energy']:.3f}",
            f"{row['gradients']:,.0f}",
            f"{row['seconds']:.0f}",
            row["verdict"],
        )


def variants() -> Iterable[tuple[str, ...]]:
    """By autoencoder: what samples and reconstructions are like, and what training takes."""
    figures = json.loads((PAPERS / "vae-green-survey.json").read_text())["figures"]
    measures = ("Fréchet distance", "error", "operations an image", "parameters", "seconds")
    yield "variant", *measures
    names = sorted({key.rpartition(": ")[0] for key in figures})
    for name in sorted(names, key=lambda name: figures[f"{name}: Fréchet distance"]):
        far, error, work, size, seconds = (figures[f"{name}: {what}"] for what in measures)
        told = (f"{far:.1f}", f"{error:.4f}", f"{work / 1e6:.2f} M", f"{size / 1e3:.0f} k")
        yield name, *told, f"{seconds:.1f}"


def _right(row: dict[str, Any]) -> bool:
    """The largest error of a mean below 0.1 sd, and every sd within 20%."""
    return "failed" not in row and row["mean_error"] < 0.1 and row["log_sd_error"] < 0.2


TABLES: dict[str, Callable[[], Iterable[tuple[str, ...]]]] = {
    "objectives": objectives,
    "estimators": estimators,
    "families": families,
    "solvers": solvers,
    "combinations": combinations,
    "flows": flows,
    "side_by_side": side_by_side,
    "variants": variants,
}


def table(rows: Iterable[tuple[str, ...]]) -> str:
    """Rows as Markdown; the first is the header."""
    header, *rest = rows
    lines = [header, ("---",) * len(header), *rest]
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in lines)


def written(page: str) -> str:
    """A page with its tables as the registries have them now."""
    for name, rows in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        if begin in page:
            before, _, after = page.partition(begin)
            page = before + begin + table(rows()) + end + after.partition(end.lstrip("\n"))[2]
    return page


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(written(path.read_text()))
