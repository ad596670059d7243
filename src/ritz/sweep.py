"""`ritz.sweep`: fits over data sets and a grid of options, and one table of what they found."""

import inspect
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ritz._cells import LOST, by_processes, by_ray, made, packed
from ritz._checkpoints import data_identity, model_identity
from ritz._errors import RitzError, described, suggest, whole_number
from ritz._fingerprint import fingerprint
from ritz._models import targeted as make_target
from ritz._result import Fit
from ritz.fit import fit
from ritz.io import load
from ritz.target import float_dtype

# What a cell's fit is given here, or what belongs to one fit and not to a table.
_OURS = ("model", "data", "callbacks", "progress", "strict", "checkpoint", "checkpoint_every")
_RESULTS = ("status", "khat", "elbo", "elbo_se", "seconds", "message", "path")


class Cell(NamedTuple):
    """One fit of a sweep: its data set and options, and the directory it is saved in."""

    name: str
    data: Any
    options: dict[str, Any]
    shown: dict[str, Any]
    path: Path | None
    error: str = ""

    @property
    def work(self) -> tuple[Any, dict[str, Any], str]:
        """What it takes, beside the model."""
        return self.data, self.options, str(self.path)


class Sweep(Sequence[Any]):
    """What `ritz.sweep` found: a row for each fit; `sweep[i]` loads the i-th one.

    Attributes:
        rows: a dict for each fit: `data`, its options, `status` ("ok", "doubtful" or "failed"),
            `khat`, `elbo` and `elbo_se` (None where the family has no density), `seconds`,
            `message` (the error, or the first reason for doubt) and `path` (None where no fit
            was saved).
    """

    def __init__(self, rows: list[dict[str, Any]], model: Any, cells: list[Cell]) -> None:
        self.rows, self._model, self._cells = rows, model, cells

    @property
    def table(self) -> Any:
        """The rows as a pandas DataFrame."""
        import pandas

        return pandas.DataFrame(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: Any) -> Any:
        row = self.rows[i]
        if row["path"] is None:
            raise RitzError(f"fit {i} of the sweep was not made: {row['message']}")
        return load(row["path"], self._model, self._cells[i].data)

    def __str__(self) -> str:
        head = [name for name in self.rows[0] if name not in ("elbo_se", "path")]
        cells = [[_shown(name, row) for name in head] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        line = lambda row: "  ".join(f"{v:<{w}}" for v, w in zip(row, widths, strict=True)).rstrip()
        return "\n".join(map(line, [head, *cells]))

    __repr__ = __str__


def sweep(
    model: Any,
    data: Any = None,
    grid: Any = None,
    *,
    directory: Any,
    processes: Any = 1,
) -> Sweep:
    """Fit a model to each of several data sets with each combination of options.

    Each fit is saved in a directory of its own as it ends, named after its options and a hash of
    the model, the data, the options and the precision. A sweep that is called again, after a kill
    or with more options, makes the fits that are missing; where the model or data have changed
    that is all of them, beside the old ones. A fit that raises is a row with its error, and is
    tried again by the next call.

    Args:
        model: a NumPyro model, or a target.
        data: a mapping from a name of your own to a data set as `ritz.fit` takes it. None where
            the target holds its own.
        grid: a mapping from options of `ritz.fit` to lists of their values.
        directory: for the fits; those of other sweeps may be there.
        processes: how many fits at once, each in a process of its own, for which the model and
            all options must be importable; 1 fits here. "ray" hands all to a Ray cluster
            (`pip install 'ritz[ray]'`), whose machines must share the directory.

    Returns:
        a `Sweep`: print it, or read `rows` or `table`.

    Raises:
        RitzError: for an unknown option, or what cannot be sent to another process.

    >>> import jax.numpy as jnp, ritz, tempfile
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.ones(2))
    >>> folder = tempfile.TemporaryDirectory()
    >>> grid = {"family": ["mean_field", "full_rank"], "steps": [300]}
    >>> found = sweep(target, grid=grid, directory=folder.name)
    >>> [(row["family"], row["status"]) for row in found.rows]
    [('mean_field', 'ok'), ('full_rank', 'ok')]
    >>> found[1].info["steps"]
    300
    >>> folder.cleanup()
    """
    if processes != "ray":
        whole_number("processes", processes, 1)
    sets, options = _data_sets(data), _grid(grid)
    if not isinstance(directory, str | os.PathLike):
        raise RitzError(f"sweep: directory: {described(directory)} arrived, expected a path")
    # Absolute: other machines and later calls may work in other directories.
    folder = Path(os.path.expanduser(directory)).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RitzError(f"sweep: cannot make {folder}: {error.strerror or error}") from error
    cells = [cell for name in sets for cell in _cells(model, name, sets[name], options, folder)]
    missing = [i for i, c in enumerate(cells) if c.path and not (c.path / "fit.json").exists()]
    failed: dict[int, str] = {}
    if processes == 1 or not missing:
        for i in missing:
            failed[i] = made(model, *cells[i].work)
    else:
        sent = {i: packed(model, *cells[i].work) for i in missing}
        failed |= by_ray(sent) if processes == "ray" else by_processes(sent, processes)
        if all(failed[i] == LOST for i in missing):
            raise RitzError(f"sweep: {LOST}")
    rows = [_row(cell, failed.get(i) or cell.error) for i, cell in enumerate(cells)]
    return Sweep(rows, model, cells)


def _data_sets(data: Any) -> dict[str, Any]:
    if data is None:
        return {"": None}
    example = "as in {'first': (x, y), 'second': (x2, y2)}"
    if not isinstance(data, Mapping) or not data:
        raise RitzError(
            f"sweep: data: {described(data)} arrived, expected data sets by name, {example}"
        )
    for name, value in data.items():
        if hasattr(value, "dtype") or isinstance(value, int | float):
            raise RitzError(
                f"sweep: data[{name!r}] is {described(value)}, expected a whole data set, {example}"
            )
        if hasattr(value, "position"):
            raise RitzError(
                f"sweep: data[{name!r}] is batches of an iterable, which can be read once; give "
                "batches of arrays"
            )
    named = {str(name): value for name, value in data.items()}
    if len(named) < len(data):
        raise RitzError(f"sweep: two data sets have one name, of {', '.join(map(str, data))}")
    return named


def _grid(grid: Any) -> dict[str, list[Any]]:
    known = [name for name in inspect.signature(fit).parameters if name not in _OURS]
    if not isinstance(grid, Mapping | None):
        raise RitzError(
            f"sweep: grid: {described(grid)} arrived, expected options of ritz.fit with lists of "
            "their values, as in {'seed': [0, 1]}"
        )
    for name, values in (grid or {}).items():
        if name not in known:
            raise RitzError(
                f"sweep: grid has {name!r}, which it cannot vary; {suggest(str(name), known)}"
            )
        if not isinstance(values, list | tuple) or not values:
            raise RitzError(
                f"sweep: grid[{name!r}]: {described(values)} arrived, expected a list of values"
            )
    return {name: list(values) for name, values in (grid or {}).items()}


def _cells(
    model: Any, name: str, data: Any, grid: dict[str, list[Any]], folder: Path
) -> Iterator[Cell]:
    """The cells of one data set; without a path, and with the reason, where it does not fit."""
    identity, error = None, ""
    try:
        target, batches, _ = make_target(model, data)
        identity = data_identity(target, batches), model_identity(target), str(float_dtype())
    except RitzError as reason:
        error = str(reason)
    for places in itertools.product(*(range(len(values)) for values in grid.values())):
        chosen = {option: grid[option][i] for option, i in zip(grid, places, strict=True)}
        shown = {k: _word(v, i) for (k, v), i in zip(chosen.items(), places, strict=True)}
        path = None
        if not error:
            words = [name, *(f"{k}={v}" for k, v in shown.items())]
            label = re.sub(r"[^\w.=-]+", "_", ",".join(filter(None, words)))[:100] or "fit"
            path = folder / f"{label}-{fingerprint((identity, chosen))[:12]}"
        yield Cell(name, data, chosen, shown, path, error)


def _word(value: Any, place: int) -> Any:
    """An option as a table shows it: itself, or what it is and its place in the list."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"{getattr(value, '__name__', type(value).__name__)}[{place}]"


def _row(cell: Cell, error: str) -> dict[str, Any]:
    head = {"data": cell.name} if cell.name else {}
    empty: dict[str, Any] = dict.fromkeys(_RESULTS)
    try:
        if error:
            raise RitzError(error)
        found: Fit = load(str(cell.path))
        elbo = found.elbo
        said = next(iter(found.reasons), "")
    except RitzError as reason:
        return head | cell.shown | empty | {"status": "failed", "message": str(reason)}
    return (
        head
        | cell.shown
        | {
            "status": found.status,
            "khat": found.khat,
            "elbo": None if elbo is None else elbo.value,
            "elbo_se": None if elbo is None else elbo.se,
            "seconds": found.info["total_seconds"],
            "message": found.message or said,
            "path": str(cell.path),
        }
    )


def _shown(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if value is None:
        return ""
    if name == "elbo":
        return f"{value:.2f} ± {row['elbo_se']:.2g}"
    if name == "message":
        return value if len(value) <= 72 else f"{value[:71]}…"
    return f"{value:.2f}" if name in ("khat", "seconds") else str(value)
