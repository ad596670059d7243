"""The directory of a fit that is under way: what it was asked for, and the state of its runs."""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._container import damaged, is_draft, read_packed, write_packed
from ritz._errors import RitzError
from ritz._fingerprint import fingerprint, program_fingerprint
from ritz._result import Fit
from ritz.solver import Checkpoint
from ritz.solver._checkpoint import check_versions, versions
from ritz.target import float_dtype

FORMAT = 1
_CALL = "fit.npz"
_RUN = re.compile(r"run-\d+\.npz")
# What `ritz.fit` is told of the parts; `ritz.resume` takes the first six again, if objects.
OBJECTS = ("family", "objective", "estimator", "discrete", "solver", "init")
NUMBERS = ("steps", "lr", "draws")


class Checkpoints:
    """Where a fit keeps its runs while they go.

    Args:
        path: the directory; another one's is refused.
        every: seconds between two writes.
        resumed: go on from what the directory holds.

    Raises:
        RitzError: if the place is taken, or holds no checkpoint to go on from.
    """

    def __init__(self, path: str | os.PathLike[str], every: Any, resumed: bool = False) -> None:
        self.path, self.every = Path(os.path.expanduser(path)), every
        self._runs: list[Checkpoint] = []
        Checkpoint(self.path, every)  # looks at the interval
        self._found = _read(self.path) if resumed else None
        if not resumed:
            _check_place(self.path)

    def begin(
        self, target: Any, batches: Any, asked: dict[str, Any], key: jax.Array, writes: bool
    ) -> None:
        """Note what the fit is of, before it runs; or, if it goes on, see that it is the same.

        Only the process that `writes` touches the directory.

        Raises:
            RitzError: naming what differs, or if nothing can be written.
        """
        told = {
            "dtype": str(np.dtype(float_dtype())),
            "sites": target.describe(),
            "data": data_identity(target, batches),
            "model": model_identity(target),
        }
        with contextlib.suppress(OSError):  # of writes that were killed; none of ours is under way
            for draft in filter(is_draft, self.path.iterdir() if writes else ()):
                draft.unlink()
        if self._found is not None:
            _check_same(self.path, self._found, told)
            return
        call = {name: _described(value) for name, value in asked.items()}
        numbers = np.asarray(jax.random.key_data(key)).tolist()
        call["seed"] = {"key": numbers, "impl": str(jax.random.key_impl(key))}
        meta = {"format": FORMAT, "versions": versions(), "call": call, "of": told}
        # Runs of one fit share this, so that files of two are never mixed.
        self._found = meta | {"stamp": secrets.token_hex(8)}
        if not writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_packed(self.path / _CALL, self._found, {})
        except OSError as error:
            raise RitzError(
                f"cannot keep checkpoints in {self.path}: {error.strerror or error}"
            ) from error

    def run(self, number: int = 0) -> Checkpoint:
        """The file of one of the fit's runs."""
        stamp = None if self._found is None else self._found["stamp"]
        self._runs.append(Checkpoint(self.path / f"run-{number}.npz", self.every, stamp))
        return self._runs[-1]

    @property
    def seconds(self) -> float:
        """Time spent in steps by earlier processes."""
        return sum(run.seconds for run in self._runs)

    def call(self, given: dict[str, Any]) -> dict[str, Any]:
        """What `ritz.fit` was asked for, with the objects that are given again.

        Raises:
            RitzError: naming one that is missing or another.
        """
        found: dict[str, Any] = self._found or {}
        try:
            return self._call(given, found["call"])
        except RitzError:
            raise
        except Exception as error:  # a file that was not written here may hold anything
            raise damaged(self.path / _CALL, error) from error

    def _call(self, given: dict[str, Any], call: dict[str, Any]) -> dict[str, Any]:
        numbers, impl = call["seed"]["key"], str(call["seed"]["impl"])
        seed = jax.random.wrap_key_data(jnp.asarray(np.asarray(numbers, np.uint32)), impl=impl)
        asked: dict[str, Any] = {"seed": seed}
        for name in (*OBJECTS, *NUMBERS):
            saved, value = call[name], given.get(name)
            if "value" in saved:
                if value is not None and _described(value) != saved:
                    raise RitzError(
                        f"{name}={_shown(value)} arrived, but the fit in {self.path} was made "
                        f"with {name}={saved['value']!r}; leave it out"
                    )
                asked[name] = saved["value"]
                continue
            if value is None:
                raise RitzError(
                    f"the fit in {self.path} was given {name}, {saved['object']}, which no file "
                    f"holds; give ritz.resume the same: {name}=..."
                )
            if _described(value) != saved:
                raise RitzError(
                    f"{name}={_shown(value)} arrived, but the fit in {self.path} was given "
                    f"another, {saved['object']}; give the same one"
                )
            asked[name] = value
        return asked


def _described(value: Any) -> dict[str, Any]:
    """A part as JSON: what can be read back, or else what it must look like."""
    if isinstance(value, np.generic):
        value = value.item()
    plain = lambda v: v is None or isinstance(v, bool | int | float | str)
    if plain(value):
        return {"value": value}
    if isinstance(value, Mapping) and all(plain(v) and type(k) is str for k, v in value.items()):
        return {"value": dict(value)}
    # How long an earlier fit took does not make it another.
    own = (value.q, value.target.params) if isinstance(value, Fit) else value
    return {"object": _shown(value), "hash": fingerprint(own)}


def _shown(value: Any) -> str:
    if isinstance(value, str | int | float | bool):
        return repr(value)
    name = getattr(value, "__name__", None)
    return f"the function {name}" if name else f"an object of type {type(value).__name__}"


def data_identity(target: Any, batches: Any) -> dict[str, str]:
    """A line and a hash for all that the target holds, by its place."""
    told = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(target):
        name = jax.tree_util.keystr(path).lstrip(".")
        kind = f"{leaf.dtype}{list(leaf.shape)}" if hasattr(leaf, "dtype") else _shown(leaf)
        told[name] = f"{kind}, {fingerprint(leaf)}"
    if batches is not None:
        for name in ("size", "total", "seed"):
            told[f"batches.{name}"] = str(getattr(batches, name, None))
    return told


def model_identity(target: Any) -> str:
    """A hash of what the log density computes."""
    if not target.has_density:
        return type(target).__name__
    if target.in_batches:  # whose density is that given rows, which it has not
        return fingerprint(target)
    x = jnp.zeros(target.dim, float_dtype())
    return program_fingerprint(lambda target, x: target.log_density(x), target, x)


def _check_same(path: Path, found: dict[str, Any], told: dict[str, Any]) -> None:
    try:
        of = found["of"]
        theirs = {name: of[name] for name in ("dtype", "sites", "model")}
        data = dict(of["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path / _CALL, error) from error
    if theirs["dtype"] != told["dtype"]:
        raise RitzError(
            f"the fit in {path} is in {theirs['dtype']}, but JAX computes in {told['dtype']} now; "
            'see jax.config.update("jax_enable_x64", ...)'
        )
    if theirs["sites"] != told["sites"]:
        raise RitzError(
            f"the fit in {path} is of {theirs['sites']}, but the model has {told['sites']}; give "
            "the model that was fitted"
        )
    for name in sorted({*data, *told["data"]}):
        was, now = str(data.get(name, "absent")), str(told["data"].get(name, "absent"))
        if was != now:
            was, now = was.rpartition(",")[0] or was, now.rpartition(",")[0] or now
            how = f"{was} there and {now} here" if was != now else f"{now} of other values"
            raise RitzError(
                f"the fit in {path} is of other data: {name} is {how}; give the data that were "
                "fitted"
            )
    if theirs["model"] != told["model"]:
        raise RitzError(
            f"the fit in {path} is of another model: it has the same sites and data, but another "
            "log density; give the model that was fitted"
        )
    check_versions(path / _CALL, found)


def _check_place(path: Path) -> None:
    """Refuse a place that holds anything but what a fit left that made no step."""
    try:
        if not path.exists() and not path.is_symlink():
            return
        files = sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError as error:
        raise RitzError(f"cannot keep checkpoints in {path}: {error.strerror or error}") from error
    if any(_RUN.fullmatch(file.name) for file in files) and path / _CALL in files:
        raise RitzError(
            f"{path} holds the checkpoint of another fit; go on with that by ritz.resume(path, "
            "model, data), or give another directory"
        )
    if any(file.name != _CALL and not is_draft(file) for file in files):
        raise RitzError(f"{path} exists and is no empty directory; give another for checkpoints")


def _read(path: Path) -> dict[str, Any]:
    try:
        meta, _ = read_packed(path / _CALL, FORMAT)
    except (FileNotFoundError, NotADirectoryError):
        made = "expected a directory made by ritz.fit(..., checkpoint=...)"
        raise RitzError(f"no checkpoint at {path}: {made}") from None
    except OSError as error:
        raise RitzError(f"cannot read {path / _CALL}: {error.strerror or error}") from error
    if type(meta.get("stamp")) is not str:
        raise damaged(path / _CALL, ValueError(json.dumps(meta.get("stamp"))))
    return meta
