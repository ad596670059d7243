"""Runs the experiment of a paper."""

import contextlib
import datetime
import importlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from ritz._errors import RitzError
from ritz.papers._base import Check, Result
from ritz.papers._record import Record
from ritz.papers._rows import Row

_VERSIONS = ("ritz", "jax", "jaxlib", "numpyro", "equinox", "optax", "flowjax", "numpy", "scipy")


def load(row: Row) -> Any:
    """The module of a paper.

    Args:
        row: which.

    Returns:
        a module with what `ritz.papers._base.Paper` lists.

    Raises:
        RitzError: where it has no file yet, or lacks something.

    >>> from ritz.papers import _rows
    >>> load(_rows.find("pv-rnn"))  # doctest: +SKIP
    """
    if not row.file.is_file():
        raise RitzError(f"{row.slug} has no file yet: it goes to {row.place}; see docs/papers.md")
    paper = importlib.import_module(row.import_name)
    seeds = getattr(paper, "SEEDS", None)
    if not (isinstance(seeds, tuple) and seeds and all(type(s) is int for s in seeds)):
        raise RitzError(f"{row.place} needs SEEDS, a tuple of integers; it has {seeds!r}")
    for name in ("run", "plot"):
        if not callable(getattr(paper, name, None)):
            raise RitzError(f"{row.place} needs a function {name}; see papers/_skeleton.py")
    if not (paper.__doc__ or "").strip():
        raise RitzError(f"{row.place} needs a docstring that states its claim")
    return paper


def seeds_of(paper: Any, first: int | None) -> tuple[int, ...]:
    """The seeds of a run.

    Args:
        paper: a module.
        first: the first seed; None for the paper's own.

    Returns:
        as many seeds as the paper has.
    """
    return paper.SEEDS if first is None else tuple(range(first, first + len(paper.SEEDS)))


def perform(
    paper: Any, seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False
) -> tuple[Result, float]:
    """Run an experiment once.

    Args:
        paper: a module.
        seeds: what its randomness starts from.
        wrong: run the wrong variant.
        quick: run the small experiment.

    Returns:
        what came out, and the seconds that it took.

    Raises:
        RitzError: where the result breaks the contract of `ritz.papers._base`.
    """
    x64 = bool(jax.config.jax_enable_x64)  # pyright: ignore
    began = time.perf_counter()
    try:
        result = paper.run(seeds, wrong=wrong, quick=quick)
    finally:  # a paper that changes the precision changes it for itself alone
        jax.config.update("jax_enable_x64", x64)
    seconds = time.perf_counter() - began
    name = paper.__name__.rpartition(".")[2]
    if not isinstance(result, Result):
        raise RitzError(f"run of {name} returned {type(result).__name__}, expected a papers Result")
    if not result.checks or not all(isinstance(c, Check) for c in result.checks):
        raise RitzError(f"run of {name} returned no checks")
    if tuple(result.seeds) != tuple(seeds):
        raise RitzError(f"run of {name} was given seeds {seeds}, but its result has {result.seeds}")
    return result, seconds


def record(
    row: Row,
    right: tuple[Result, float],
    wrong: tuple[Result, float] | None,
    *,
    quick: bool = False,
) -> Record:
    """What goes on disk of an experiment.

    Args:
        row: the paper.
        right: the result of its method, and seconds.
        wrong: the same of its wrong variant.
        quick: whether it was the small experiment.

    Returns:
        the record, with this machine and these versions.
    """
    result, seconds = right
    return Record(
        slug=row.slug,
        source_sha256=row.source_sha256,
        quick=quick,
        seeds=tuple(int(s) for s in result.seeds),
        checks=tuple(result.checks),
        figures=dict(result.figures),
        seconds=round(seconds, 2),
        wrong_checks=None if wrong is None else tuple(wrong[0].checks),
        wrong_figures={} if wrong is None else dict(wrong[0].figures),
        wrong_seconds=0.0 if wrong is None else round(wrong[1], 2),
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions={name: _version(name) for name in _VERSIONS},
        machine=machine(),
    )


def machine() -> dict[str, Any]:
    """What an experiment ran on.

    Returns:
        cpus, python, platform, device.

    >>> sorted(machine())
    ['cpus', 'device', 'platform', 'python']
    """
    can_tell = hasattr(os, "sched_getaffinity")
    cpus = len(os.sched_getaffinity(0)) if can_tell else os.cpu_count() or 1  # pyright: ignore
    return {
        "cpus": cpus,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": jax.devices()[0].device_kind,
    }


@contextlib.contextmanager
def bar(text: str, seconds: float | None) -> Iterator[None]:
    """A progress bar while an experiment runs; silent where nobody watches.

    An experiment does not say how far it is: the bar goes by the time that its recorded run took.

    Args:
        text: what runs.
        seconds: how long that may take; None where it is not known.

    Yields:
        nothing.
    """
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    class Clock(BarColumn):
        def render(self, task: Any) -> Any:
            if task.total:
                task.completed = min(task.elapsed or 0.0, 0.98 * task.total)
            return super().render(task)

    about = f"of about {seconds:.0f} s" if seconds else ""
    columns = (TextColumn(text, markup=False), Clock(), TimeElapsedColumn(), TextColumn(about))
    with Progress(*columns, transient=True, console=Console(stderr=True)) as shown:
        shown.add_task("", total=seconds)
        with contextlib.redirect_stderr(_Unwatched(sys.stderr)):  # pyright: ignore
            yield


class _Unwatched:
    """The terminal for what an experiment writes, hidden from bars of its own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
