"""How a command of `ritz papers` ends: what goes wrong is one line and an exit code."""

import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ritz._errors import RitzError

EXIT_CODES = (
    "Exit codes: 0 done, 1 something unforeseen, 2 bad input, 4 a check failed (or the wrong "
    "variant passed), 130 interrupted."
)
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Commands(TyperGroup):
    """The commands; called without one, their help."""

    def parse_args(self, ctx: Any, args: Any) -> Any:
        """Read the arguments."""
        return super().parse_args(ctx, args or ["--help"])


class Command(TyperCommand):
    """A command; errors are lines on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show
                return super().invoke(ctx)
        except (typer.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            debug = ctx.params.get("debug", False)
            if debug:
                traceback.print_exc()
            raise typer.Exit(_report(error, debug)) from None


def _report(error: Exception, debug: bool) -> int:
    """Say in one line what went wrong; the exit code."""
    if isinstance(error, RitzError):
        typer.echo(f"error: {one_line(error)}", err=True)
        return 2
    where = "" if debug else " (--debug shows where)"
    typer.echo(f"error: {type(error).__name__}: {one_line(error)}{where}", err=True)
    return 1


def one_line(text: object) -> str:
    """Anything as text without line breaks.

    Args:
        text: anything.

    Returns:
        one line.

    >>> one_line(" a\\n  b ")
    'a b'
    """
    return " ".join(str(text).split())


def _show(message: Any, *_: Any, **__: Any) -> None:
    typer.echo(f"warning: {one_line(message)}", err=True)
