"""The command line: fit, fit-vae, resume, summary, targets, families, solvers, doctor, papers.

Nothing heavy is imported until a command needs it.
"""

import importlib.util
import inspect
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ritz._command import Command, Debug, one_line
from ritz._errors import RitzError, listed, suggest
from ritz._fit_vae import fit_vae
from ritz.papers._cli import app as papers

EXIT_CODES = (
    "Exit codes: 0 done (`fit` prints its verdict), 1 something unforeseen, 2 bad input, 3 the fit "
    "met a number that is not finite (the state before it is kept), 130 interrupted (what was "
    "fitted so far is kept)."
)


class Commands(TyperGroup):
    """The commands; an error in how one is called is a line on stderr, too."""

    def main(self, args: Any = None, prog_name: Any = None, *rest: Any, **extra: Any) -> Any:
        """Run one command, and exit."""
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        try:
            code = super().main(given, prog_name, standalone_mode=False, **extra)
        except Exception as error:
            if not hasattr(error, "format_message"):  # what Click raises, of which Typer has a copy
                raise
            usage: Any = error
            where = f"; try: {usage.ctx.command_path} --help" if usage.ctx is not None else ""
            typer.echo(f"error: {one_line(usage.format_message()).rstrip('.')}{where}", err=True)
            code = usage.exit_code
        sys.exit(code or 0)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Variational inference: a model and data in, a posterior and a verdict out.",
    epilog=EXIT_CODES,
)
app.add_typer(papers, name="papers")
app.command("fit-vae", cls=Command, epilog=EXIT_CODES)(fit_vae)


Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="A packaged name (`ritz targets`) or FILE.py:MODEL.")
]
Data = Annotated[
    Path | None, typer.Option(help="CSV, JSON, NPZ or NetCDF, bound to the model's arguments.")
]
Out = Annotated[Path | None, typer.Option(help="Directory to save the fit in.")]
Cost = Annotated[
    str | None,
    typer.Option(help="The most that it may cost: seconds, as 30s, or gradient evaluations."),
]


@app.command(cls=Command, epilog=EXIT_CODES)
def fit(
    target: Target,
    data: Data = None,
    family: Annotated[
        str | None,
        typer.Option(help="A name from `ritz families`. With no option the fit chooses all parts."),
    ] = None,
    solver: Annotated[
        str | None, typer.Option(help="A name from `ritz solvers`; by default adam.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the solver, at most; by default its own.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's rate at first (0.02).")] = None,
    draws: Annotated[int | None, typer.Option(help="Draws a step of Adam (4).")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bits.")] = 0,
    out: Out = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Directory to keep the run in while it goes, for `ritz resume`."),
    ] = None,
    budget: Cost = None,
    debug: Debug = False,
) -> None:
    """Fit a model and print its posterior and verdict.

    Ctrl-C ends the fit early; what was fitted so far is printed and saved.
    """
    import ritz
    from ritz.io import check_place

    if out is not None:
        check_place(out)
    _keep_programs()
    model, source = _model(target, data)
    parts = {"family": family, "solver": solver, "steps": steps, "lr": lr, "draws": draws}
    limits = {"checkpoint": checkpoint, "budget": _budget(budget)}
    _finish(ritz.fit(model, source, **parts, seed=seed, **limits), out)


@app.command(cls=Command, epilog=EXIT_CODES)
def resume(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `ritz fit --checkpoint DIR` made.")
    ],
    target: Target,
    data: Data = None,
    out: Out = None,
    budget: Cost = None,
    debug: Debug = False,
) -> None:
    """Go on with a fit that was interrupted, from its last checkpoint.

    TARGET and data are those of the fit; its options are read back.
    """
    import ritz
    from ritz.io import check_place

    if out is not None:
        check_place(out)
    _keep_programs()
    model, source = _model(target, data)
    _finish(ritz.resume(directory, model, source, budget=_budget(budget)), out)


def _budget(given: str | None) -> dict[str, float] | None:
    """The budget that `ritz.fit` takes."""
    if given is None:
        return None
    kind, digits = ("seconds", given[:-1]) if given.endswith("s") else ("evaluations", given)
    try:
        return {kind: float(digits)}
    except ValueError:
        raise RitzError(
            f"--budget {given} arrived, expected seconds, such as 30s, or a number of gradient "
            "evaluations, such as 100000"
        ) from None


def _finish(found: Any, out: Path | None) -> None:
    """Print and save a fit, and exit by how it ended."""
    if found.stop_reason == "interrupted":
        typer.echo(f"{found.message}; wait for its summary", err=True)
    try:
        if out is not None:
            found.save(out)
    finally:  # a full disk must not cost the answer
        typer.echo(str(found.summary()))
    if out is not None:
        typer.echo(f"saved   {out} (ritz summary {out})")
    if found.stop_reason == "interrupted":
        raise typer.Exit(130)
    if found.status == "failed":
        raise typer.Exit(3)


@app.command(cls=Command, epilog=EXIT_CODES)
def summary(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `ritz fit --out DIR` made.")
    ],
    debug: Debug = False,
) -> None:
    """Print the posterior and verdict of a saved fit."""
    import ritz

    typer.echo(str(ritz.load(directory).summary()))


@app.command(cls=Command, epilog=EXIT_CODES)
def targets(debug: Debug = False) -> None:
    """List the packaged targets."""
    # As a file of its own: to import the package around it takes a second.
    packaged = _import(Path(__file__).parent / "target" / "library" / "_packaged.py")
    names = packaged.names()
    width = max(map(len, names))
    for name, description in names.items():
        typer.echo(f"{name:<{width}}  {description}")


@app.command(cls=Command, epilog=EXIT_CODES)
def families(debug: Debug = False) -> None:
    """List the families: what each can do, and how many parameters it has in d dimensions."""
    from ritz.family import registered

    rows = [("family", "parameters", "can", "is")]
    for r in registered().values():
        rows.append((r.name, r.parameters, ", ".join(sorted(r.capabilities)), r.description))
    _print_table(rows)


@app.command(cls=Command, epilog=EXIT_CODES)
def solvers(debug: Debug = False) -> None:
    """List the solvers: what each needs, which families it moves, and what it guarantees."""
    from ritz.solver import registered

    rows = [("solver", "needs", "moves", "ends at", "is")]
    for r in registered().values():
        made = r.build()
        moves = ", ".join(made.families) or "any family"
        needs = ", ".join(sorted(made.needs))
        rows.append((r.name, needs, moves, made.guarantees, r.description))
    _print_table(rows)


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(f"{v:<{w}}" for v, w in zip(row, widths, strict=True)).rstrip())


@app.command(cls=Command, epilog=EXIT_CODES)
def doctor(debug: Debug = False) -> None:
    """Print versions and devices, and fit a known posterior to see that all works."""
    import importlib.metadata
    import platform

    import jax
    import numpy as np

    import ritz

    typer.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in ("ritz", "jax", "jaxlib", "numpyro", "equinox", "optax", "arviz"):
        typer.echo(f"{name} {importlib.metadata.version(name)}")
    typer.echo(f"devices {', '.join(str(d) for d in jax.devices())}")
    typer.echo(f"float64 {'on' if jax.config.jax_enable_x64 else 'off'}")  # pyright: ignore
    folder = os.environ.get("RITZ_DATA")
    state = "not set" if not folder else folder if Path(folder).is_dir() else f"{folder} NOT FOUND"
    typer.echo(f"RITZ_DATA {state}")
    typer.echo(f"compiled programs kept in {_keep_programs() or 'no place that can be written'}")
    log_density = lambda x: -0.5 * ((x - 3.0) / 2.0) ** 2
    found = ritz.fit(ritz.target.from_log_density(log_density, 0.0), steps=2000)
    right = abs(float(found.mean()) - 3.0) < 0.2 and abs(float(found.sd()) - 2.0) < 0.2
    good = right and found.khat is not None and np.isfinite(found.khat)
    seconds = found.info["total_seconds"]
    typer.echo(f"a normal posterior, fitted in {seconds:.1f} s: {'right' if good else 'WRONG'}")
    if not good:
        raise typer.Exit(1)


def _model(name: str, data: Path | None) -> tuple[Any, Any]:
    """The model that a packaged name or FILE.py:MODEL stands for, and its data."""
    if ":" in name or name.endswith(".py"):
        model = _from_file(name)
        missing = [] if data is not None else _required(model)
        if missing:
            raise RitzError(f"{name} needs {listed(missing)}; give a file with --data")
        return (model, None) if data is None else (_bound(model, data), None)
    from ritz.target import library

    packaged = library.get(name)
    if data is not None:
        return _bound(packaged.model, data), None
    return packaged.model, packaged.data()


def _from_file(name: str) -> Any:
    """What FILE.py:MODEL names."""
    file, _, function = name.rpartition(":") if ":" in name else (name, "", "")
    path = Path(os.path.expanduser(file))
    if path.suffix != ".py" or not path.is_file():
        raise RitzError(
            f"there is no Python file {file!r}; expected FILE.py:MODEL, or a name from `ritz "
            "targets`"
        )
    sys.path.insert(0, str(path.parent.resolve()))  # as for a script: it may import its neighbours
    module = _import(path)
    own = [name for name, value in vars(module).items() if _is_own(module, name, value)]
    if not function:
        example = f"{file}:{own[0] if own else 'MODEL'}"
        raise RitzError(f"{file} is a file; say which model in it, as in {example}")
    if not hasattr(module, function):
        has = f"{suggest(function, own)} (it has {listed(own)})" if own else "it has no functions"
        raise RitzError(f"{file} has no {function!r}; {has}")
    model = getattr(module, function)
    if not (callable(model) or hasattr(model, "log_density")):
        kind = type(model).__name__
        raise RitzError(f"{name} is of type {kind}; expected a model function or a target")
    return model


def _required(model: Any) -> list[str]:
    """The arguments that a model cannot be called without."""
    if not inspect.isroutine(model):
        return []
    parameters = inspect.signature(model).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]


def _is_own(module: ModuleType, name: str, value: Any) -> bool:
    """Whether a module defined a value that may be a model, and did not import it."""
    if name.startswith("_") or isinstance(value, type):
        return False
    return getattr(value, "__module__", None) == module.__name__ or hasattr(value, "log_density")


def _import(path: Path) -> ModuleType:
    """A Python file as a module, under a name that hides no other module.

    Raises:
        RitzError: where the file fails, naming its line.
    """
    name = f"ritz_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise RitzError(f"{path} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # somebody else's file may raise anything
        frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
        reason = str(error)
        if isinstance(error, SyntaxError):
            frames.append((error.filename or "", error.lineno))
            reason = error.msg
        lines = [line for file, line in frames if line and Path(file).name == path.name]
        where = f" at line {lines[-1]}" if lines else ""
        raise RitzError(f"{path} failed{where}: {type(error).__name__}: {reason}") from error
    return module


def _bound(model: Any, data: Path) -> Any:
    """A target of a model and a file of its data; prints which column became which argument."""
    import ritz

    if isinstance(model, ritz.target.AbstractTarget):
        raise RitzError(
            f"--data {data} arrived with a target that holds its own data; leave it out"
        )
    binding = ritz.data.bind(model, str(data))
    for line in binding.report:
        typer.echo(f"data    {line}")
    return ritz.target.from_numpyro(model, binding.args, binding.kwargs)


def _keep_programs() -> str | None:
    """Keep compiled programs on disk, and say where; a disk that cannot be written costs time."""
    import ritz

    try:
        return ritz.enable_compilation_cache()
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return None


def main() -> None:
    """Run the command line."""
    app(prog_name="ritz")


if __name__ == "__main__":
    main()
