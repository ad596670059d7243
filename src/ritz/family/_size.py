"""How many bytes a family would take, before it takes them."""

import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ritz._errors import RitzError
from ritz.family._base import registered

# A solver holds the parameters, their gradient, and two averages of it; compiled code copies some.
_COPIES = 6


def check_size(name: str, builder: Callable[..., Any], target: Any, start: Any) -> None:
    """Refuse a family whose training would not fit into memory, before it is allocated.

    Raises:
        RitzError: with the bytes that it would take, and a family that fits.
    """
    wanted, there = bytes_of(builder, target, start), available()
    if wanted is None or there is None or _COPIES * wanted <= there:
        return
    cheaper = [n for n in ("low_rank", "mean_field") if n in registered()]
    fits = [n for n in cheaper if _COPIES * (_bytes(n, target, start) or 0) <= there]
    instead = f"use family={fits[0]!r}" if fits else "use a machine with more memory"
    raise RitzError(
        f"the family {name!r} in {len(start):,} dimensions takes {said(wanted)} for its "
        f"parameters and about {said(_COPIES * wanted)} to train, but {said(there)} are free; "
        f"{instead}"
    )


def bytes_of(builder: Callable[..., Any], target: Any, start: Any) -> int | None:
    """The bytes of a family's arrays, without making them; None where it cannot be known.

    >>> import jax.numpy as jnp
    >>> from ritz.family import full_rank
    >>> bytes_of(full_rank, None, jnp.zeros(100_000, jnp.float32)) > 4 * 10**10
    True
    """
    try:
        shapes = eqx.filter_eval_shape(lambda x: builder(target, x), start)
    except Exception:  # a builder that looks at numbers cannot be asked without them
        return None
    leaves = [v for v in jax.tree.leaves(shapes) if isinstance(v, jax.ShapeDtypeStruct)]
    return sum(int(np.prod(v.shape, dtype=object)) * v.dtype.itemsize for v in leaves)


def _bytes(name: str, target: Any, start: Any) -> int | None:
    return bytes_of(registered()[name].build, target, start)


def available() -> int | None:
    """Bytes of memory that are free on the device; None where nobody tells."""
    stats = jnp.zeros(()).devices().pop().memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return on_host()


def on_host() -> int | None:
    """Bytes of memory that are free beside the device's; None where nobody tells."""
    try:
        with open("/proc/meminfo") as lines:
            free = next(line for line in lines if line.startswith("MemAvailable"))
        return int(free.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def said(n: int) -> str:
    """A number of bytes in words.

    >>> said(3 * 2**29)
    '1.5 GiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            return f"{n:,.0f} {unit}" if unit == "bytes" else f"{n:,.1f} {unit}"
        n /= 1024  # pyright: ignore
    return ""
