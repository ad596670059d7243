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


class Kept(NamedTuple):
    """What a file says of a run.

    Attributes:
        state: the solver's state after `done` steps.
        history: the record up to there.
        done: steps made.
        seconds: time spent in them.
        stop: why the run ended as it was meant to; "steps" where it may go on.
        message: the same in a line.
    """

    state: PyTree
    history: History
    done: int
    seconds: float
    stop: str
    message: str


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

    def save(
        self, state: PyTree, history: History, done: int, seconds: float, stop: str, message: str
    ) -> None:
        """Replace what the file holds. Where that fails it warns, and the file stays as it was."""
        if not self._run or self._written == (done, stop):
            return
        try:
            self._write(state, history, done, seconds, stop, message)
            self._written = (done, stop)
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            last = self._written
            has = f"that of {last[0]} steps is kept" if last is not None else "there is none yet"
            warnings.warn(
                f"no checkpoint of {done} steps in {self.file.parent}: {reason}; {has}, and the "
                "run goes on",
                RuntimeWarning,
                stacklevel=4,
            )
        self._last = time.monotonic()

    def _write(
        self, state: PyTree, history: History, done: int, seconds: float, stop: str, message: str
    ) -> None:
        if _form(state) != self._run["state"]:
            raise OSError("the solver's state has changed its structure")
        leaves = enumerate(jax.tree.leaves(state))
        arrays = {f"state/{i}": _saved(leaf) for i, leaf in leaves if _is_data(leaf)}
        arrays |= {f"history/{name}": v for name, v in history.columns.items()}
        arrays |= {f"pending/{name}": v for name, v in history.pending.items()}
        meta = {"format": FORMAT, "versions": versions(), "run": self._run, "done": done}
        meta |= {"seconds": seconds, "every": history.every, "stop": stop, "message": message}
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


def forward(batches: Any, done: int) -> None:
    """Read a source that is read in order up to where a run goes on.

    Raises:
        RitzError: if it ends before.
    """
    while getattr(batches, "position", done) < done:
        at = batches.position
        if batches.chunk(at, min(batches.capacity, done - at)) is None:
            raise RitzError(
                f"the batches end after {at} steps, but the checkpoint was made after {done}; "
                "give the batches of the run, from the first one"
            )


def _parsed(meta: dict[str, Any], arrays: dict[str, np.ndarray], first: PyTree) -> Kept:
    leaves, treedef = jax.tree.flatten(first)
    new = [_restored(arrays[f"state/{i}"], v) if _is_data(v) else v for i, v in enumerate(leaves)]
    of = lambda kind: {k.removeprefix(kind): v for k, v in arrays.items() if k.startswith(kind)}
    history = History(of("history/"), meta["every"], of("pending/"))
    done, seconds, message = meta["done"], meta["seconds"], meta["message"]
    if type(done) is not int or type(seconds) is not float or type(message) is not str:
        raise ValueError("its numbers are of other kinds")
    if meta["stop"] not in ("steps", "converged", "callback", "data ended"):
        raise ValueError(f"it ended for {meta['stop']!r:.40}")
    return Kept(treedef.unflatten(new), history, done, seconds, meta["stop"], message)


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
