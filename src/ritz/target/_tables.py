"""Tables of log factors: a model's factors at every value of its discrete sites."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz.target._factors import Factor
from ritz.target._narrow import narrowed
from ritz.target._support import Discrete

# Which of its values each discrete site has.
Indices = Mapping[str, Any]
# A factor of log-weights is named after its site and this.
WEIGHT = " weight"


def tables(
    run: Callable[[Indices], list[Factor]],
    sites: Sequence[Discrete],
    dims: Mapping[str, tuple[str, ...]],
) -> list[Factor]:
    """Factors at every value of the sites that each depends on, as `Plan.tables`."""
    found: list[Factor] = []

    def values(indices: Indices) -> dict[str, Any]:
        found[:] = run(indices)
        return {f.names[0]: f.value for f in found}

    def over(inner: Callable[[Indices], Any], site: Discrete) -> Callable[[Indices], Any]:
        axes = {name: 0 if site.name in dims.get(name, ()) else None for name in names}
        at = lambda indices: lambda i: inner({**indices, site.name: i})
        return lambda indices: jax.vmap(at(indices), out_axes=axes)(jnp.arange(site.count))

    names = list(jax.eval_shape(values, {}))
    mapped: Callable[[Indices], Any] = narrowed(values)
    for site in reversed(sites):
        mapped = over(mapped, site)
    out = mapped({})
    return [
        dataclasses.replace(f, value=out[f.names[0]], dims=dims.get(f.names[0], ())) for f in found
    ]


def weight(site: Discrete, log_weight: Any) -> Factor:
    """A factor that weighs a site's values: an array over them, then over its local plates."""
    ones = dict.fromkeys(site.local, 1.0)
    return Factor((site.name + WEIGHT,), log_weight, (site.name,), site.local, ones)


def unlike(a: Any, b: Any) -> Any:
    """Whether two arrays differ by more than rounding."""
    tolerance = 300.0 * jnp.finfo(a.dtype).eps * (1.0 + jnp.abs(b))
    same = (jnp.abs(a - b) <= tolerance) | (a == b) | (jnp.isnan(a) & jnp.isnan(b))
    return ~same.all()


def look_up(f: Factor, sites: Mapping[str, Discrete], indices: Indices) -> Any:
    """A table's entries at indices of each element, over the factor's plates."""
    sizes = f.value.shape[len(f.dims) :]
    where = []
    for name in f.dims:
        local = sites[name].local
        index = jnp.asarray(indices[name])
        if index.ndim == 0:
            where.append(index)
            continue
        index = index.reshape([n for n in np.shape(index) if n > 1])
        kept = [p for p in local if _size(sites[name], p) > 1]
        order = [kept.index(p) for p in f.plates if p in kept]
        shape = [_size(sites[name], p) if p in kept else 1 for p in f.plates]
        where.append(jnp.transpose(index, order).reshape(shape))
    grid = jnp.meshgrid(*map(jnp.arange, sizes), indexing="ij", sparse=True) if sizes else []
    return f.value[(*where, *grid)] if where or grid else f.value


def _size(site: Discrete, plate: str) -> int:
    return site.shape[dict(site.plates)[plate]]
