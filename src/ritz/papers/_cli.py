"""`ritz papers`: list, show, run, check, report. Nothing heavy until a command needs it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ritz._command import Command, Debug, one_line

EXIT_CODES = (
    "Exit codes: 0 done, 1 something unforeseen, 2 bad input, 4 a check failed (or the wrong "
    "variant passed), 130 interrupted."
)


class Commands(TyperGroup):
    """The commands; called without one, their help."""

    def parse_args(self, ctx: Any, args: Any) -> Any:
        """Read the arguments."""
        return super().parse_args(ctx, args or ["--help"])


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Papers as runnable checks: what each claims, and whether it holds here.",
    epilog=EXIT_CODES,
)
Slug = Annotated[str, typer.Argument(metavar="SLUG", help="A name from `ritz papers list`.")]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, help="First seed; as many follow as the paper uses. By default the paper's own."
    ),
]


@app.command("list", cls=Command, epilog=EXIT_CODES)
def list_(
    module: Annotated[str | None, typer.Option(help="Only this module.")] = None,
    tier: Annotated[str | None, typer.Option(help="Only this tier, A to D.")] = None,
    status: Annotated[str | None, typer.Option(help="Only works, fails or missing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with the reasons.")] = False,
    debug: Debug = False,
) -> None:
    """List the papers and where each stands.

    works: a recorded run of this very file in which each check holds and the wrong variant fails.
    fails: anything else that has a file. missing: no file yet.
    """
    import collections
    import sys

    from ritz._errors import RitzError, listed
    from ritz.papers import _record, _rows, _table

    words = ("works", "fails", "missing")
    if status is not None and status not in words:
        raise RitzError(f"--status {status!r} arrived; choose from {listed(words)}")
    found = [(row, _record.status(row)) for row in _rows.select(module, tier)]
    found = [(row, state) for row, state in found if status in (None, state.word)]
    if as_json:
        import json

        names = ("id", "slug", "title", "module", "tier", "compute")
        out = [
            {n: getattr(row, n) for n in names} | {"status": state.word, "reason": state.reason}
            for row, state in found
        ]
        typer.echo(json.dumps(out, indent=1, ensure_ascii=False))
        return
    cells = [[s.word, r.slug, r.module, r.tier, r.compute, r.title] for r, s in found]
    header = ["status", "slug", "module", "tier", "time", "title"]
    typer.echo(_table.table(header, cells, cut=sys.stdout.isatty()))  # whole, in a file
    counts = collections.Counter(state.word for _, state in found)
    typer.echo(f"\n{len(found)} papers: " + ", ".join(f"{counts[w]} {w}" for w in words))


@app.command(cls=Command, epilog=EXIT_CODES)
def show(slug: Slug, debug: Debug = False) -> None:
    """Show what a paper claims, what its file says, and its recorded figures."""
    from ritz.papers import _record, _rows, _source, _table

    row = _rows.find(slug)
    state = _record.status(row)
    tier = f"{row.tier} ({_rows.TIERS[row.tier]})"
    minutes = _rows.MINUTES[row.compute]
    time = "on a GPU only" if minutes is None else f"within {minutes} min on 2 CPU cores"
    typer.echo(f"{row.slug}: {row.title}\n")
    for name, text in {
        "status": state.word + (f": {state.reason}" if state.reason else ""),
        "place": f"{row.place}, number {row.id}",
        "tier": tier,
        "time": f"{row.compute} ({time})",
        "builds": row.system,
        "claim": row.check,
        "data": row.data,
    }.items():
        typer.echo(_table.field(name, text))
    if row.file.is_file():
        typer.echo(f"\n{_source.docstring(row)}")
    if state.record is not None:
        record = state.record
        seconds = f"{record.seconds:.0f} s and {record.wrong_seconds:.0f} s for the wrong variant"
        typer.echo(f"\nrecorded {record.date}, {_table.span(record.seeds)}, {seconds}")
        typer.echo(_table.checks(record.checks, record.wrong_checks))


@app.command(cls=Command, epilog=EXIT_CODES)
def run(
    slug: Slug,
    seed: Seed = None,
    quick: Annotated[bool, typer.Option(help="A smaller experiment, for looking.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where figure and numbers go.")] = Path(
        "ritz-papers"
    ),
    debug: Debug = False,
) -> None:
    """Run a paper's experiment: print its checks, save its figure and its numbers."""
    from ritz._errors import RitzError
    from ritz.papers import _experiment, _picture, _record, _rows, _table

    row = _rows.find(slug)
    paper = _experiment.load(row)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RitzError(f"--out {out} cannot be made: {error.strerror}") from error
    _keep_programs()
    seeds = _experiment.seeds_of(paper, seed)
    known = _record.status(row).record
    with _experiment.bar(row.slug, None if quick or known is None else known.seconds):
        result, seconds = _experiment.perform(paper, seeds, quick=quick)
    typer.echo(f"{row.slug}: {row.title}\n{_table.span(seeds)}, {seconds:.1f} s")
    typer.echo(_table.checks(result.checks))
    if result.figures:
        cells = [[name, f"{value:.5g}"] for name, value in result.figures.items()]
        typer.echo("\n" + _table.table(["number", ""], cells))
    made = _experiment.record(row, (result, seconds), None, quick=quick)
    (out / f"{row.slug}.json").write_text(made.to_json(), encoding="utf-8")
    (out / f"{row.slug}.png").write_bytes(_picture.png(paper.plot(result), limit=None))
    typer.echo(f"\nsaved    {out / row.slug}.png and .json")
    if quick:
        typer.echo("quick: these checks are not the claim")
    elif not result.holds:
        raise typer.Exit(4)


@app.command(cls=Command, epilog=EXIT_CODES)
def check(
    slug: Annotated[str | None, typer.Argument(metavar="[SLUG]", help="One paper.")] = None,
    module: Annotated[str | None, typer.Option(help="All written papers of a module.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All written papers.")] = False,
    seed: Seed = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write docs/papers/results/SLUG.json and .png.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run the experiment and its wrong variant: the first must hold, the second must fail."""
    from ritz._errors import RitzError
    from ritz.papers import _rows

    if (slug is not None) + (module is not None) + every != 1:
        raise RitzError("check needs one of SLUG, --module MODULE and --all")
    if record and seed is not None:
        raise RitzError("--record arrived with --seed, but a record is of the paper's own seeds")
    if record and _rows.checkout_results() is None:
        raise RitzError(
            "--record writes into docs/papers/results of a checkout; there is none here"
        )
    if slug is not None:
        if not _check(_rows.find(slug), seed, record):
            raise typer.Exit(4)
        return
    rows = [row for row in _rows.select(module) if row.file.is_file()]
    if not rows:
        raise RitzError(f"no paper{f' of {module}' if module else ''} is written yet")
    codes = {row.slug: _check_apart(row.slug, seed, record) for row in rows}
    bad = {name: code for name, code in codes.items() if code}
    typer.echo(f"{len(codes) - len(bad)} of {len(codes)} hold")
    for name, code in bad.items():
        typer.echo(f"FAILS  {name}" + ("" if code == 4 else f" (it ended with code {code})"))
    if bad:
        raise typer.Exit(4)


@app.command(cls=Command, epilog=EXIT_CODES)
def report(
    out: Annotated[Path, typer.Option(metavar="FILE.html", help="Where the page goes.")] = Path(
        "ritz-papers.html"
    ),
    debug: Debug = False,
) -> None:
    """Make one HTML page of all papers: their status, figures and numbers. It runs nothing."""
    from ritz._errors import RitzError
    from ritz.papers import _report

    text, counts = _report.page()
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RitzError(f"--out {out} cannot be written: {error.strerror}") from error
    typer.echo(f"saved    {out} ({counts}; {len(text.encode()) / 1e6:.1f} MB)")


def _check(row: Any, seed: int | None, record: bool) -> bool:
    """Check one paper, here."""
    from ritz.papers import _experiment, _picture, _record, _rows, _table

    paper = _experiment.load(row)
    seeds = _experiment.seeds_of(paper, seed)
    known = _record.status(row).record
    with _experiment.bar(row.slug, None if known is None else known.seconds):
        right = _experiment.perform(paper, seeds)
    with _experiment.bar(f"{row.slug}, wrong", None if known is None else known.wrong_seconds):
        wrong = _experiment.perform(paper, seeds, wrong=True)
    made = _experiment.record(row, right, wrong)
    time = f"{made.seconds:.1f} s, wrong variant {made.wrong_seconds:.1f} s"
    typer.echo(f"{row.slug}: {_table.span(seeds)}, {time}")
    typer.echo(_table.checks(made.checks, made.wrong_checks, about=False))
    failures = made.failures()
    for line in failures:
        typer.echo(f"FAILS  {one_line(line)}")
    minutes = _rows.MINUTES[row.compute]
    if minutes and made.seconds > 60 * minutes:
        typer.echo(f"note   {row.compute} means under {minutes} min on 2 CPU cores")
    if record:
        path = _record.record_path(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = _picture.png(paper.plot(right[0]))  # before the text: it may fail
        path.with_suffix(".png").write_bytes(picture)
        path.write_text(made.to_json(), encoding="utf-8")
        typer.echo(f"recorded {path.name} and its figure; status: {_record.status(row).word}")
    elif not failures:
        typer.echo("holds: each check, and the wrong variant fails")
    return not failures


def _check_apart(slug: str, seed: int | None, record: bool) -> int:
    """Check one paper in a process of its own; the exit code.

    What one paper leaves behind (programs in memory, settings, a crash) is not the next one's.
    """
    import subprocess
    import sys

    words = ["check", slug, *([] if seed is None else ["--seed", str(seed)])]
    words += ["--record"] if record else []
    program = "from ritz.papers._cli import app; app()"
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as child:
        assert child.stdout is not None
        for line in child.stdout:
            typer.echo(line, nl=False)
    typer.echo("")
    return child.returncode


def _keep_programs() -> None:
    """Keep compiled programs on disk; a disk that cannot be written costs time only."""
    import ritz

    try:
        ritz.enable_compilation_cache()
    except (OSError, RuntimeError):
        return
