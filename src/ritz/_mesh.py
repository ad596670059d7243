"""Several devices: where arrays are put, and which axes of a program are split among them.

An array knows where it is: a program that is compiled for arrays on a mesh runs on all of its
devices, and its results come back as ordinary arrays. Only `place` decides what is split; the
compiler (GSPMD) splits the work that follows from it and adds up what the devices found.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ritz._errors import RitzError, described

AXIS = "ritz"
# An array with fewer rows for each device is copied to all: its sums are not worth a message.
LEAST_ROWS = 16

# While a program is traced: its mesh, and whether rows of its arrays are split already.
_Traced = tuple[Mesh | None, bool]
_traced = contextvars.ContextVar[_Traced]("ritz_mesh", default=(None, False))


def as_mesh(given: Any) -> Mesh:
    """The devices given, in one row.

    Args:
        given: a `jax.sharding.Mesh`, a list of devices, or how many of `jax.devices()`.

    Raises:
        RitzError: for anything else, more devices than there are, one twice, or none of this
            process.

    >>> as_mesh(1).size
    1
    """
    known = jax.devices()
    if isinstance(given, Mesh):
        devices = list(given.devices.ravel())
    elif isinstance(given, int | np.integer) and not isinstance(given, bool) and given >= 1:
        if given > len(known):
            raise RitzError(
                f"mesh={given} arrived, but JAX sees {len(known)} {known[0].platform} device"
                f"{'s' * (len(known) > 1)}; give at most that many (of a CPU, "
                "XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight)"
            )
        devices = known[: int(given)]
    else:
        devices = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
        if not devices or not all(isinstance(d, jax.Device) for d in devices):
            raise RitzError(
                f"mesh: {described(given)} arrived, expected a jax.sharding.Mesh, a list of "
                "jax.devices(), or how many of them"
            )
    if len(set(devices)) < len(devices):
        raise RitzError("mesh names a device twice; give each once")
    if all(d.process_index != jax.process_index() for d in devices):
        raise RitzError(
            f"mesh has no device of process {jax.process_index()}, which runs this; give one of "
            "jax.devices(), those of all processes"
        )
    # In one row, and of the kind of axes that asks nothing of the model.
    return Mesh(np.asarray(devices), (AXIS,))


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh that the arrays of a tree are on, if they are on one of ours."""
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.mesh.axis_names == (AXIS,):
            return sharding.mesh  # pyright: ignore[reportReturnType]
    return None


def place(tree: Any, mesh: Mesh | None, rows: bool = True) -> Any:
    """A tree with its arrays on a mesh: their rows split where they can be, or else copies.

    Args:
        tree: arrays, and anything else, which stays.
        mesh: None leaves all as it is.
        rows: whether any rows are to be split.
    """
    if mesh is None:
        return tree

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        split = rows and _divides(leaf, mesh.size)
        return _put(leaf, NamedSharding(mesh, PartitionSpec(AXIS) if split else PartitionSpec()))

    return jax.tree.map(one, tree)


def _divides(leaf: Any, n: int) -> bool:
    shape = np.shape(leaf)
    return n > 1 and bool(shape) and shape[0] % n == 0 and shape[0] >= LEAST_ROWS * n


def _put(leaf: Any, sharding: NamedSharding) -> Any:
    if getattr(leaf, "sharding", None) == sharding:
        return leaf
    if not sharding.mesh.is_multi_process:  # pyright: ignore[reportAttributeAccessIssue]
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, sharding)
    # Each process has the whole, and gives its devices their part without asking the others.
    value = np.asarray(leaf).astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def copies(mesh: Mesh) -> NamedSharding:
    """The whole on each device."""
    return NamedSharding(mesh, PartitionSpec())


def everywhere(leaves: Any, mesh: Mesh | None) -> Any:
    """Arrays on a mesh; those that are not there yet as copies."""
    here = lambda v: v if mesh_of(v) == mesh else _put(v, copies(mesh))  # pyright: ignore
    return leaves if mesh is None else jax.tree.map(here, leaves)


def ordinary(leaf: jax.Array) -> jax.Array:
    """An array of copies as one that is nowhere in particular, as if there were no mesh."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = ordinary(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jnp.asarray(np.asarray(leaf))


@contextlib.contextmanager
def tracing(mesh: Mesh | None, leaves: Any) -> Iterator[None]:
    """While a program of these arrays is traced, `split_rows` and `split_draws` know of them."""
    token = _traced.set((mesh, any(_is_split(v) for v in jax.tree.leaves(leaves))))
    try:
        yield
    finally:
        _traced.reset(token)


def _is_split(leaf: Any) -> bool:
    return mesh_of(leaf) is not None and not leaf.is_fully_replicated


def split_rows(batch: Any) -> Any:
    """In a program: a batch whose rows are split, where they divide."""
    mesh, split = _traced.get()
    if mesh is None or not split:
        return batch
    even = lambda v: jnp.ndim(v) > 0 and len(v) % mesh.size == 0
    return jax.tree.map(lambda v: _constrained(v, mesh) if even(v) else v, batch)


def split_draws(points: Any) -> Any:
    """In a program: points, starts or keys, split unless rows are.

    One axis of devices cannot split both: at each point each device would need all rows.
    """
    mesh, split = _traced.get()
    if mesh is None or split or mesh.size == 1:
        return points
    return jax.tree.map(lambda v: _constrained(v, mesh), points)


def split_among(tree: Any) -> int:
    """Among how many devices `split_draws` splits, in a program of these arrays."""
    mesh = mesh_of(tree)
    rows = any(_is_split(v) for v in jax.tree.leaves(tree))
    return 1 if mesh is None or rows else mesh.size


def _constrained(v: Any, mesh: Mesh) -> Any:
    if not isinstance(v, jax.Array):
        return v
    return jax.lax.with_sharding_constraint(v, NamedSharding(mesh, PartitionSpec(AXIS)))


def agreed(n: int, mesh: Mesh | None) -> int:
    """The least of a number over the processes of a mesh, whose clocks differ."""
    if mesh is None or not mesh.is_multi_process:
        return n
    rows = NamedSharding(mesh, PartitionSpec(AXIS))
    each = jax.make_array_from_callback((mesh.size,), rows, lambda _: np.full(1, n, np.int32))
    return int(jax.jit(jnp.min, out_shardings=copies(mesh))(each))


def writes(mesh: Mesh | None) -> bool:
    """Whether this process writes files of what runs on a mesh: one of its processes does."""
    if mesh is None or not mesh.is_multi_process:
        return True
    return jax.process_index() == min(d.process_index for d in mesh.devices.ravel())


def told(rows: dict[str, Any], mesh: Mesh, batch: int | None) -> list[str]:
    """What is split among the devices of a mesh and what is copied, a line each.

    Args:
        rows: arrays that may have a row for each observation, by name.
        mesh: the mesh.
        batch: the rows of a batch, where a step sees one.
    """
    n = mesh.size
    hosts = len({d.process_index for d in mesh.devices.ravel()})
    on = f"on {n} device{'s' * (n > 1)}" + (f" of {hosts} processes" if hosts > 1 else "")
    split = any(_divides(v, n) for v in rows.values())
    what = "rows of data are" if split else "draws and points of a step are"
    lines = [f"{on}: {what if n > 1 else 'nothing is'} split"]
    for name, leaf in rows.items():
        if np.ndim(leaf) > 0:
            each = f"{len(leaf) // n:,} rows" if _divides(leaf, n) else "whole"
            shape = "×".join(map(str, np.shape(leaf)))
            lines.append(f"{name} ({shape}): {each} on each device")
    if split and batch is not None and batch % n:
        lines.append(f"batches of {batch} rows: whole on each device, as {n} does not divide them")
    return lines
