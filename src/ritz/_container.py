"""Files of arrays and JSON that are written whole or not at all, and that never execute code."""

import contextlib
import json
import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ritz._errors import RitzError

_DRAFT = re.compile(r".+-[0-9a-f]{16}\.tmp")


def write_synced(file: Path, write: Callable[[Any], Any]) -> None:
    """A new file whose bytes are on the disk before it is named anywhere."""
    with file.open("xb") as handle:
        write(handle)
        handle.flush()
        os.fsync(handle.fileno())


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file; each must have the checksum that it was written with.

    Raises:
        FileNotFoundError: where there is none.
        RitzError: where it is damaged, or would have to be unpickled.
    """
    with file.open("rb") as handle:
        try:
            with warnings.catch_warnings(action="ignore"):
                # NumPy stops reading where a header says so, before the checksum is seen.
                bad = zipfile.ZipFile(handle).testzip()
                if bad is not None:
                    raise ValueError(f"{bad} does not have its checksum")
                handle.seek(0)
                archive = np.load(handle, allow_pickle=False)
                return {name: archive[name] for name in archive.files}
        except Exception as error:  # zipfile, zlib, ast and NumPy each have their own
            raise damaged(file, error) from error


def damaged(file: Path, error: Exception) -> RitzError:
    """What is said of a file that cannot be believed."""
    reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    short = " ".join(reason.split())[:120] or type(error).__name__
    return RitzError(f"{file} is damaged or not from Ritz ({short}); restore it or fit again")


def write_packed(file: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Replace one file of JSON and arrays, in one step.

    Args:
        file: in a directory that exists; it holds what it held or this, whole.
        meta: what JSON can say.
        arrays: by name.

    Raises:
        OSError: if it cannot be written.
    """
    text = json.dumps({"meta": meta, "names": list(arrays)})
    content = {f"a{i}": value for i, value in enumerate(arrays.values())}
    content["json"] = np.frombuffer(text.encode(), np.uint8)
    draft = file.with_name(f"{file.stem}-{secrets.token_hex(8)}.tmp")
    try:
        write_synced(draft, lambda handle: np.savez(handle, **content))  # pyright: ignore
        os.replace(draft, file)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def read_packed(file: Path, format: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `write_packed` wrote: the JSON and the arrays.

    Args:
        file: the file.
        format: what its "format" must be.

    Raises:
        FileNotFoundError: where there is none.
        RitzError: where it is damaged or of another format.
    """
    content = read_arrays(file)
    try:
        told = json.loads(content.pop("json").tobytes().decode())
        meta, names = dict(told["meta"]), [str(name) for name in told["names"]]
        arrays = {name: content.pop(f"a{i}") for i, name in enumerate(names)}
        if content or len(arrays) != len(names):
            raise ValueError("its arrays are not those that it names")
    except (KeyError, TypeError, ValueError, RecursionError, AttributeError) as error:
        raise damaged(file, error) from error
    if meta.get("format") != format:
        found = meta.get("format")
        raise RitzError(f"{file} has format {found!r:.40}; this Ritz reads format {format}")
    return meta, arrays


def is_draft(file: Path) -> bool:
    """Whether a file is what a write leaves that was killed."""
    return _DRAFT.fullmatch(file.name) is not None
