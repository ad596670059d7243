"""How a command of the command line ends: what goes wrong is one line and an exit code."""

import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ritz._errors import RitzError

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Command(TyperCommand):
    """A command; errors are lines on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show
                # A cache that cannot be read or written costs time only.
                cache = r"Error (reading|writing) persistent compilation cache"
                warnings.filterwarnings("ignore", cache)
                # A summary tells of a failed step.
                warnings.filterwarnings("ignore", r"step \d+ is not finite", RuntimeWarning)
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
