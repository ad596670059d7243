"""The state of a run in a file, from which it goes on as if it had not been interrupted."""

import importlib.metadata
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ritz._container import damaged, read_packed, write_packed
from ritz._errors import RitzError
from ritz.solver._history import History

FORMAT = 1
EVERY = 30.0
# What a file says in JSON, and of what types.
_NUMBERS: dict[str, tuple[type, ...]] = {
    "done": (int,),
    "seconds": (float,),
    "stop": (str,),
    "message": (str,),
    "seen": (int, type(None)),
}


class Kept(NamedTuple):
    """Where a run stands, as its file says.

    Attributes:
        state: the solver's state after `done` steps.
        history: the record up to there.
        done: steps made.
        seconds: time spent in them.
        stop: why the run ended as it was meant to; "steps" where it may go on.
        message: the same in a line.
        seen: the checksum of the batches of these steps, where they are read in order.
    """

    state: PyTree
    history: History
    done: int
    seconds: float
    stop: str
    message: str
    seen: int | None


class Checkpoint:
    """A file in which `run` keeps its state while it goes, and from which it goes on.

    Args:
        file: its directory must exist.
        every: seconds between two writes; 0 writes after every chunk of steps.
        stamp: what the file must be marked with, to be of the same fit.

    Attributes:
        file: the file.
        seconds: time spent in steps by earlier processes.

    Raises:
        RitzError: for an interval that is no number of seconds.

    >>> import jax, jax.numpy as jnp, ritz, tempfile
    >>> from ritz.solver import Checkpoint, adam, run
    >>> target = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.ones(2))
    >>> q = ritz.family.build("mean_field", target, jnp.ones(2))
    >>> parts = ritz.objective.negative_elbo(), ritz.estimator.pathwise()
    >>> problem = ritz.objective.Problem(target, q, *parts)
    >>> folder = tempfile.TemporaryDirectory()
    >>> kept = Checkpoint(f"{folder.name}/run.npz")
    >>> first = run(problem, adam(), 50, jax.random.key(0), checkpoint=kept)
    >>> again = run(problem, adam(), 50, jax.random.key(0), checkpoint=kept)  # is there already
    >>> bool((again.state.params.loc == first.state.params.loc).all())
    True
    >>> folder.cleanup()
    """

    def __init__(
        self, file: str | os.PathLike[str], every: Any = EVERY, stamp: str | None = None
    ) -> None:
        number = isinstance(every, int | float) and not isinstance(every, bool)
        if not number or not math.isfinite(every) or every < 0:
            raise RitzError(
                f"checkpoint_every={every!r} arrived, expected a number of seconds from 0 up"
            )
        self.file, self.every, self.stamp = Path(file), float(every), stamp
        self.seconds = 0.0
        self._last = time.monotonic()
        self._run: dict[str, Any] = {}  # empty until it is known that the file is this run's
        self._written: tuple[int, str] | None = None

    def open(self, run: dict[str, Any], first: PyTree) -> Kept | None:
        """What the file holds of this run; None where there is no file yet.

        Args:
            run: what makes it this run, by name.
            first: the solver's first state, which says what a state is like.

        Raises:
            RitzError: if the file is damaged or of another run, or the state cannot be kept.
        """
        run = run | {"state": _form(first), "dtype": _dtype(), "fit": self.stamp}
        self._last = time.monotonic()
        try:
            meta, arrays = read_packed(self.file, FORMAT)
        except FileNotFoundError:
            self._run = run
            return None
        except OSError as error:
            raise RitzError(f"cannot read {self.file}: {error.strerror or error}") from error
        self._check(meta, run)
        try:
            kept = _parsed(meta, arrays, first)
        except Exception as error:  # a file that was not written here may hold anything
            raise damaged(self.file, error) from error
        self.seconds, self._written, self._run = kept.seconds, (kept.done, kept.stop), run
        return kept

    def _check(self, meta: dict[str, Any], run: dict[str, Any]) -> None:
        theirs = meta.get("run")
        if not isinstance(theirs, dict):
            raise damaged(self.file, ValueError("it does not say of what run it is"))
        for name in ("dtype", *run):
            ours, found = run[name], theirs.get(name)
            if ours != found:
                raise RitzError(
                    f"{self.file} is the checkpoint of another run: its {name} is "
                    f"{_short(found)}, but here it is {_short(ours)}; give the parts that it was "
                    "made with, or another place"
                )
        check_versions(self.file, meta)

    def save(self, kept: Kept) -> None:
        """Replace what the file holds. Where that fails it warns, and the file stays as it was."""
        if not self._run or self._written == (kept.done, kept.stop):
            return
        try:
            self._write(kept)
            self._written = (kept.done, kept.stop)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            last = self._written
            has = f"that of {last[0]} steps is kept" if last is not None else "there is none yet"
            warnings.warn(
                f"no checkpoint of {kept.done} steps in {self.file.parent}: {reason}; {has}, and "
                "the run goes on",
                RuntimeWarning,
                stacklevel=4,
            )
        self._last = time.monotonic()

    def _write(self, kept: Kept) -> None:
        if _form(kept.state) != self._run["state"]:
            raise OSError("the solver's state has changed its structure")
        leaves, history = enumerate(jax.tree.leaves(kept.state)), kept.history
        arrays = {f"state/{i}": _saved(leaf) for i, leaf in leaves if _is_data(leaf)}
        arrays |= {f"history/{name}": v for name, v in history.columns.items()}
        arrays |= {f"pending/{name}": v for name, v in history.pending.items()}
        meta = {"format": FORMAT, "versions": versions(), "run": self._run, "every": history.every}
        meta |= {name: getattr(kept, name) for name in _NUMBERS}
        write_packed(self.file, meta, arrays)

    @property
    def due(self) -> bool:
        """Whether the interval has passed."""
        return time.monotonic() - self._last >= self.every


def versions() -> dict[str, str]:
    """What decides on the bits of a run."""
    return {name: importlib.metadata.version(name) for name in ("ritz", "jax")}


def check_versions(file: Path, meta: dict[str, Any]) -> None:
    """Warn where another version wrote a checkpoint: its run goes on, with other bits perhaps."""
    if meta.get("versions") != versions():
        warnings.warn(
            f"{file} was written by {_named(meta.get('versions'))}, this is {_named(versions())}: "
            "the run goes on, but perhaps not to the same bits",
            RuntimeWarning,
            stacklevel=2,
        )


def _named(found: Any) -> str:
    words = found.items() if isinstance(found, dict) else [("an unknown", "version")]
    return ", ".join(f"{name} {version}" for name, version in words)[:80]


def forward(batches: Any, kept: Kept) -> None:
    """Read a source that is read in order up to where a run goes on.

    Raises:
        RitzError: if it ends before, or is another one.
    """
    done = kept.done
    while getattr(batches, "position", done) < done:
        at = batches.position
        if batches.chunk(at, min(batches.capacity, done - at)) is None:
            raise RitzError(
                f"the batches end after {at} steps, but the checkpoint was made after {done}; "
                "give the batches of the run, from the first one"
            )
    if kept.seen not in (None, seen(batches, done)):
        raise RitzError(
            f"the batches differ from those of the first {done} steps, which the checkpoint was "
            "made after; give the batches of the run, from the first one"
        )


def seen(batches: Any, done: int) -> int | None:
    """The checksum of the batches of so many steps, where no more were read."""
    in_order = getattr(batches, "position", None) == done
    return getattr(batches, "checksum", None) if in_order else None


def _parsed(meta: dict[str, Any], arrays: dict[str, np.ndarray], first: PyTree) -> Kept:
    leaves, treedef = jax.tree.flatten(first)
    new = [_restored(arrays[f"state/{i}"], v) if _is_data(v) else v for i, v in enumerate(leaves)]
    of = lambda kind: {k.removeprefix(kind): v for k, v in arrays.items() if k.startswith(kind)}
    history = History(of("history/"), meta["every"], of("pending/"))
    numbers = {name: meta[name] for name in _NUMBERS}
    for name, value in numbers.items():
        if type(value) not in _NUMBERS[name]:
            raise ValueError(f"{name} is {value!r:.40}")
    if numbers["stop"] not in ("steps", "converged", "callback", "data ended"):
        raise ValueError(f"it ended for {numbers['stop']!r:.40}")
    return Kept(treedef.unflatten(new), history, **numbers)


def _is_data(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _saved(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _restored(array: np.ndarray, like: Any) -> Any:
    """An array as the leaf that it stands for."""
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    if isinstance(like, bool | int | float):
        return type(like)(array)
    # NumPy knows types such as bfloat16 only by their size.
    array = array.view(like.dtype) if array.dtype.kind == "V" else array
    if (array.shape, array.dtype) != (like.shape, like.dtype):
        raise ValueError(f"{array.dtype}{array.shape} stands for {like.dtype}{like.shape}")
    if isinstance(like, jax.Array):
        return jnp.asarray(array)
    return array if isinstance(like, np.ndarray) else array[()]


def _form(state: PyTree) -> list[str]:
    """What a state is like, a line for each leaf."""

    def line(path: Any, leaf: Any) -> str:
        of = f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else type(leaf).__name__
        return f"{jax.tree_util.keystr(path)}: {of}"

    return [line(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _dtype() -> str:
    return str(np.dtype(jax.dtypes.canonicalize_dtype(float)))


def _short(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = str(value)
    return text if len(text) <= 120 else text[:119] + "…"
