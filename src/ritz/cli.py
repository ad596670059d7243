"""The command line: `ritz fit`, `ritz summary`, `ritz targets`, `ritz doctor`.

Nothing heavy is imported until a command needs it.
"""

import contextlib
import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ritz._errors import RitzError, listed, suggest

EXIT_CODES = (
    "Exit codes: 0 done (`fit` prints its verdict), 1 something unforeseen, 2 bad input, 3 the fit "
    "met a number that is not finite (the state before it is kept), 130 interrupted (what was "
    "fitted so far is kept)."
)


class Commands(TyperGroup):
    """The commands; whatever goes wrong in one is a line on stderr and an exit code."""

    def main(self, args: Any = None, prog_name: Any = None, *rest: Any, **extra: Any) -> Any:
        """Run one command, and exit."""
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        options: dict[str, Any] = extra.setdefault("obj", {"debug": False})
        try:
            with _warnings_as_lines():
                code = super().main(given, prog_name, standalone_mode=False, **extra)
        except Exception as error:
            if options["debug"]:
                traceback.print_exc()
            code = _report(error, options["debug"])
        sys.exit(code or 0)

    def invoke(self, ctx: Any) -> Any:
        """Run one command; Ctrl-C ends it."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


def _debug(ctx: typer.Context, value: bool) -> bool:
    ctx.obj["debug"] = value
    return value


Debug = Annotated[
    bool, typer.Option("--debug", callback=_debug, help="Show the traceback of an error.")
]
app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Variational inference: a model and data in, a posterior and a verdict out.",
    epilog=EXIT_CODES,
)


@app.command(epilog=EXIT_CODES)
def fit(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="A packaged name (`ritz targets`) or FILE.py:MODEL."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="CSV, JSON, NPZ or NetCDF, bound to the model's arguments.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(help="mean_field or full_rank; by default the latter up to 50 dimensions."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the solver.")] = 10_000,
    lr: Annotated[float, typer.Option(help="Initial learning rate.")] = 0.02,
    draws: Annotated[int, typer.Option(help="Draws a step.")] = 4,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bits.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Directory to save the fit in.")] = None,
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
    found = ritz.fit(model, source, family=family, steps=steps, lr=lr, draws=draws, seed=seed)
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


@app.command(epilog=EXIT_CODES)
def summary(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `ritz fit --out DIR` made.")
    ],
    debug: Debug = False,
) -> None:
    """Print the posterior and verdict of a saved fit."""
    import ritz

    typer.echo(str(ritz.load(directory).summary()))


@app.command(epilog=EXIT_CODES)
def targets(debug: Debug = False) -> None:
    """List the packaged targets."""
    # As a file of its own: to import the package around it takes a second.
    packaged = _import(Path(__file__).parent / "target" / "library" / "_packaged.py")
    names = packaged.names()
    width = max(map(len, names))
    for name, description in names.items():
        typer.echo(f"{name:<{width}}  {description}")


@app.command(epilog=EXIT_CODES)
def doctor(debug: Debug = False) -> None:
    """Print versions and devices, and fit a known posterior to see that all works."""
    import importlib.metadata
    import os
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
    if ":" not in name and not name.endswith(".py"):
        from ritz.target import library

        packaged = library.get(name)
        return (
            (packaged.model, packaged.data())
            if data is None
            else (_bound(packaged.model, data), None)
        )
    file, _, function = name.rpartition(":") if ":" in name else (name, "", "")
    path = Path(file).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise RitzError(
            f"there is no Python file {file!r}; expected FILE.py:MODEL or a name from `ritz targets`"
        )
    sys.path.insert(0, str(path.parent.resolve()))  # as for a script: it may import its neighbours
    module = _import(path)
    own = [name for name, value in vars(module).items() if _is_own(module, name, value)]
    if not function:
        example = f"{file}:{own[0] if own else 'MODEL'}"
        raise RitzError(f"{file} is a file; say which model in it, as in {example}")
    if not hasattr(module, function):
        has = f"{suggest(function, own)} (it has {listed(own)})" if own else "it has no functions"
        raise RitzError(f"{path} has no {function!r}; {has}")
    model = getattr(module, function)
    if data is not None:
        return _bound(model, data), None
    needs = _required(model)
    if needs:
        raise RitzError(f"{name} needs {listed(needs)}; give a file that holds them with --data")
    return model, None


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
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _same(f, path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f" at line {line}" if line else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise RitzError(f"{path} failed{where}: {type(error).__name__}: {reason}") from error
    return module


def _same(frame: traceback.FrameSummary, path: Path) -> bool:
    return Path(frame.filename).name == path.name


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


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    def show(message: Any, *_: Any, **__: Any) -> None:
        typer.echo(f"warning: {_line(message)}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        # A cache that cannot be read or written costs time only; a summary tells of a failed step.
        warnings.filterwarnings("ignore", r"Error (reading|writing) persistent compilation cache")
        warnings.filterwarnings("ignore", r"step \d+ is not finite", RuntimeWarning)
        yield


def _report(error: Exception, debug: bool) -> int:
    """Say in one line what went wrong; the exit code."""
    if hasattr(error, "format_message"):  # Click's usage errors, which Typer carries a copy of
        usage: Any = error
        ctx = getattr(usage, "ctx", None)
        more = f"; try: {ctx.command_path} --help" if ctx is not None else ""
        typer.echo(f"error: {_line(usage.format_message()).rstrip('.')}{more}", err=True)
        return int(usage.exit_code)
    if isinstance(error, RitzError):
        typer.echo(f"error: {_line(error)}", err=True)
        return 2
    more = "" if debug else " (--debug shows where)"
    typer.echo(f"error: {type(error).__name__}: {_line(error)}{more}", err=True)
    return 1


def _line(text: object) -> str:
    return " ".join(str(text).split())


def main() -> None:
    """Run the command line."""
    app(prog_name="ritz")


if __name__ == "__main__":
    main()
