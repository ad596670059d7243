"""The command line: `ritz fit`, `ritz summary`, `ritz targets`, `ritz doctor`.

Exit codes: 0 a fit was made (its verdict is printed), 2 bad input, 3 the fit failed and its last
finite state was kept, 130 interrupted (what was fitted so far is kept), 1 anything unforeseen.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Variational inference: a model and data in, a posterior and a verdict out.",
)
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def fit(
    target: Annotated[
        str, typer.Argument(help="A packaged name (`ritz targets`) or FILE.py:MODEL")
    ],
    data: Annotated[
        Path | None, typer.Option(help="CSV, JSON, NPZ or NetCDF, bound to the model's arguments.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="mean_field or full_rank.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of the solver.")] = 10_000,
    lr: Annotated[float, typer.Option(help="Initial learning rate.")] = 0.02,
    draws: Annotated[int, typer.Option(help="Draws a step.")] = 4,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bits.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Directory to save the fit in.")] = None,
    debug: Debug = False,
) -> None:
    """Fit a model and print its posterior and verdict."""
    import ritz

    ritz.enable_compilation_cache()
    model, held = _model(target)
    source: Any = held if data is None else str(data)
    if data is not None:
        for line in ritz.data.bind(model, source).report:
            typer.echo(line)
    found = ritz.fit(
        model, source, family=family, steps=steps, lr=lr, draws=draws, seed=seed
    )  # fmt: skip
    if out is not None:
        found.save(out)
    typer.echo(str(found.summary()))
    if out is not None:
        typer.echo(f"saved   {out} (ritz summary {out})")
    if found.stop_reason == "interrupted":
        raise typer.Exit(130)
    if found.status == "failed":
        raise typer.Exit(3)


@app.command()
def summary(
    directory: Annotated[Path, typer.Argument(help="What `ritz fit --out` made.")],
    debug: Debug = False,
) -> None:
    """Print the posterior and verdict of a saved fit."""
    import ritz

    typer.echo(str(ritz.load(directory).summary()))


@app.command()
def targets(debug: Debug = False) -> None:
    """List the packaged targets."""
    from ritz.target import library

    names = library.names()
    width = max(map(len, names))
    for name, description in names.items():
        typer.echo(f"{name:<{width}}  {description}")


@app.command()
def doctor(debug: Debug = False) -> None:
    """Print versions and devices, and fit a conjugate model to see that all works."""
    import importlib.metadata
    import os
    import platform

    import jax
    import numpy as np

    import ritz

    typer.echo(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in ("ritz", "jax", "jaxlib", "numpyro", "equinox", "optax", "flowjax", "arviz"):
        typer.echo(f"{name} {importlib.metadata.version(name)}")
    typer.echo(f"devices {', '.join(str(d) for d in jax.devices())}")
    typer.echo(f"float64 {'on' if jax.config.jax_enable_x64 else 'off'}")  # pyright: ignore
    folder = os.environ.get("RITZ_DATA")
    known = (
        f"{folder} ({'found' if Path(folder).is_dir() else 'NOT FOUND'})" if folder else "not set"
    )
    typer.echo(f"RITZ_DATA {known}")
    log_density = lambda x: -0.5 * ((x - 3.0) / 2.0) ** 2
    found = ritz.fit(ritz.target.from_log_density(log_density, 0.0), steps=2000)
    right = abs(float(found.mean()) - 3.0) < 0.2 and abs(float(found.sd()) - 2.0) < 0.2
    good = right and np.isfinite(found.khat if found.khat is not None else np.nan)
    typer.echo(
        f"a normal fitted in {found.info['total_seconds']:.1f} s: {'right' if good else 'WRONG'}"
    )
    if not good:
        raise typer.Exit(1)


def _model(name: str) -> tuple[Any, Any]:
    """The model that a name or FILE.py:NAME stands for, and its own data if it has any."""
    from ritz import RitzError
    from ritz.target import library

    if ":" not in name:
        if name.endswith(".py"):
            raise RitzError(f"{name} names a file; say which function in it: {name}:model")
        packaged = library.get(name)
        return packaged.model, packaged.data()
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise RitzError(f"no file {file}; expected FILE.py:MODEL or a name from `ritz targets`")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise RitzError(f"{file} is not a Python file; expected FILE.py:MODEL")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file may raise anything
        raise RitzError(f"{file} failed to import: {type(error).__name__}: {error}") from error
    if not hasattr(module, function):
        found = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise RitzError(f"{file} has no {function!r}; it has {', '.join(found) or 'no functions'}")
    return getattr(module, function), None


def main() -> None:
    """Run the command line; errors are one line unless --debug is given."""
    debug = "--debug" in sys.argv
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise SystemExit(130) from None
    except Exception as error:
        from ritz import RitzError

        if debug:
            raise
        if isinstance(error, RitzError):
            typer.echo(f"error: {error}", err=True)
            raise SystemExit(2) from None
        text = " ".join(str(error).split())
        typer.echo(f"error: {type(error).__name__}: {text} (--debug shows where)", err=True)
        raise SystemExit(1) from None
