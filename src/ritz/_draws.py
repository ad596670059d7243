"""Evaluating something at many draws: in chunks of one shape, gathered on the host."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._compile import compile
from ritz._errors import RitzError
from ritz._mesh import split_among, split_draws
from ritz.family import AbstractFamily
from ritz.family import _size as memory

CHUNK = 500
# Draws whose scores are looked at.
SCORED = 1000
# Elements of data that are worth having side by side: about what a processor's cache holds.
_SIDE_BY_SIDE = 1 << 22
# Results that are smaller are not looked at.
_SMALL = 1 << 28


def generator(key: jax.Array) -> np.random.Generator:
    """Random numbers on the host, where each kind on the device would be a program to compile."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).astype(np.uint64).ravel())


def at_keys(
    one: Callable[..., Any], parts: Any, n: int, key: jax.Array, extra: Any, start: int = 0
) -> Any:
    """`one(parts, fold_in(key, i), extra)` for i from `start` on.

    Args:
        one: evaluates a single draw.
        parts: a pytree that does not change from draw to draw.
        n: how many draws.
        key: draw i depends on it and on i alone.
        extra: as `parts`.
        start: the first i.

    Returns:
        NumPy arrays with a leading axis of length n.
    """

    def draw(parts: Any, i: Any, extra: Any) -> Any:
        key, rest = extra
        return one(parts, jax.random.fold_in(key, i), rest)

    return at_rows(draw, parts, np.arange(start, start + n), (key, extra))


def at_rows(one: Callable[..., Any], parts: Any, rows: Any, extra: Any) -> Any:
    """`one(parts, row, extra)` for each row of an array, or of several; as `at_keys`.

    Raises:
        RitzError: where memory cannot hold the result, before most of it is computed.
    """
    program, pieces = None, []
    n = len(jax.tree.leaves(rows)[0])
    devices = split_among((parts, extra))
    length = devices * -(-CHUNK // devices)
    # Always of one shape, so that one program serves any number of rows.
    pad = lambda some: jnp.asarray(np.resize(some, (length, *some.shape[1:])))
    for begin in range(0, n, length):
        padded = jax.tree.map(lambda v, begin=begin: pad(v[begin : begin + length]), rows)
        program = _mapped(one, parts, padded, extra, devices) if program is None else program
        pieces.append(jax.tree.map(np.asarray, program(parts, padded, extra)))
        if begin == 0:
            _check_room(pieces[0], n)
    return jax.tree.map(lambda *v: np.concatenate(v)[:n], *pieces)


def _check_room(piece: Any, n: int) -> None:
    # The pieces are joined in the end, so that each is there twice.
    wanted = 2 * sum(v.nbytes // len(v) for v in jax.tree.leaves(piece)) * n
    there = memory.on_host() if wanted > _SMALL else None
    if there is not None and wanted > there:
        raise RitzError(
            f"{n:,} draws take {memory.said(wanted)} of memory, but {memory.said(there)} are free; "
            "ask sample for fewer, or predict with reduce= for a part of each; fit.q is there"
        )


def _mapped(one: Callable[..., Any], parts: Any, rows: Any, extra: Any, devices: int) -> Any:
    # Beside data a draw takes about as much as they do; beside a family's own arrays, little.
    small = lambda part: isinstance(part, AbstractFamily) and "log_prob" in part.capabilities
    leaves = jax.tree.leaves((parts, extra), is_leaf=small)
    size = sum(np.size(v) for v in leaves if hasattr(v, "shape") and not small(v))
    batch = max(1, min(CHUNK, _SIDE_BY_SIDE // max(size, 1)))

    def whole(parts: Any, rows: Any, extra: Any) -> Any:
        some = lambda rows: jax.lax.map(lambda row: one(parts, row, extra), rows, batch_size=batch)
        if devices == 1:
            return some(rows)
        each = jax.tree.map(lambda v: v.reshape(devices, -1, *v.shape[1:]), rows)
        out = jax.vmap(some)(split_draws(each))
        return jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), out)

    return compile(whole, parts, rows, extra, quick=True)


def scored(target: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1,000 of some draws at most, and the gradients of the log density at them."""
    x = x[np.linspace(0, len(x) - 1, min(len(x), SCORED)).astype(int)]
    points, which = np.unique(x, axis=0, return_inverse=True)
    slope = lambda target, x, _: jax.grad(target.log_density)(x)
    return x, at_rows(slope, target, points, ())[which.ravel()]
