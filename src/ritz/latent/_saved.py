"""Trained autoencoders as files, which never execute code."""

import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ritz._container import damaged, read_packed, write_packed
from ritz._errors import RitzError
from ritz._result import Fit
from ritz.latent._model import LatentModel
from ritz.solver import History

FORMAT = 1


def write(fit: Fit, path: Any) -> Path:
    """Replace a file by the arrays of a fit's model and encoder, in one step.

    Raises:
        RitzError: where it cannot be written.
    """
    file, target = _file(path), fit.target
    assert isinstance(target, LatentModel)
    leaves = jax.tree.leaves(eqx.filter((target, fit.q), eqx.is_array))
    arrays = {f"leaf {i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays |= {f"seen {name}": np.asarray(v) for name, v in target.seen.items()}
    arrays["key"] = np.asarray(jax.random.key_data(fit.key))
    meta = {
        "format": FORMAT,
        "what": "VAE",
        "latent": target.dim,
        "stop_reason": fit.stop_reason,
        "message": fit.message,
        "steps": int(fit.info["steps"]),
        "versions": fit.info["versions"],
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_packed(file, meta, arrays)
    except OSError as error:
        raise RitzError(f"cannot save to {file}: {error.strerror or error}") from error
    return file


def read(path: Any, latent: int | tuple[int, ...], parts: Any) -> Fit:
    """A fit from a file.

    Args:
        path: the file.
        latent: how many latent dimensions there should be, or those of each level.
        parts: from rows to a model and an encoder with the parts that those of the file have.

    Raises:
        RitzError: where there is none, it is damaged, or its parts differ.
    """
    file, total = _file(path), sum(latent) if isinstance(latent, tuple) else latent
    try:
        meta, arrays = read_packed(file, FORMAT)
    except OSError as error:
        raise RitzError(f"cannot read {file}: {error.strerror or error}") from error
    if meta.get("what") != "VAE" or meta.get("latent") != total:
        raise RitzError(
            f"{file} holds {meta.get('latent')!r:.20} latent dimensions, this VAE has {total}"
        )
    try:
        seen = {n: arrays[f"seen {n}"] for n in ("x", "given") if f"seen {n}" in arrays}
        rows, key = (
            {"x": arrays["seen x"]} | seen,
            jax.random.wrap_key_data(jnp.asarray(arrays.pop("key"))),
        )
        stop, message = str(meta["stop_reason"]), str(meta["message"])
        info = {"steps": int(meta["steps"]), "versions": dict(meta["versions"])}
        arrays = {name: v for name, v in arrays.items() if not name.startswith("seen ")}
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(file, error) from error
    held, rest = eqx.partition(parts(rows), eqx.is_array)
    leaves, form = jax.tree.flatten(held)
    found = [arrays.get(f"leaf {i}") for i in range(len(leaves))]
    shapes = lambda values: [getattr(v, "shape", None) for v in values]
    if len(arrays) != len(leaves) or shapes(found) != shapes(leaves):
        raise RitzError(
            f"{file} holds other parts than this VAE has; make it with the encoder, decoder, "
            "likelihood and prior that were saved"
        )
    if any(v is None or v.dtype.kind not in "fiu" for v in found):
        raise damaged(file, TypeError("its arrays are no numbers"))
    new = [jnp.asarray(v, old.dtype) for v, old in zip(found, leaves, strict=True)]
    target, q = eqx.combine(jax.tree.unflatten(form, new), rest)
    info |= {"family": type(q).__name__, "solver": "a file", "start": "a file", "model": "VAE"}
    info |= {"objective": "as saved", "evaluations": None, "compile_seconds": 0.0}
    info |= {"run_seconds": 0.0, "total_seconds": 0.0, "compiled": False}
    info |= {"dtype": str(leaves[0].dtype)}
    return Fit(q, target, History(), stop, message, key, info)


def _file(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise RitzError(f"a path arrived as {type(path).__name__}, expected the name of a file")
    return Path(os.path.expanduser(path))
