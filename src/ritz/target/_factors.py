"""Log factors over plates and discrete sites, and their elimination."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ritz._errors import RitzError
from ritz.target import _terms
from ritz.target._base import LOG_DET, float_dtype
from ritz.target._effects import Plates, Trace
from ritz.target._support import LIMIT, Discrete, TooMany


@dataclasses.dataclass(frozen=True)
class Factor:
    """A log factor.

    Attributes:
        names: the sites whose densities are in it.
        value: an array with an axis for each of `dims`, then one for each of `plates`.
        dims: the discrete sites that it depends on.
        plates: each plate around it.
        scales: plate -> how many rows of the whole each of its rows stands for.
    """

    names: tuple[str, ...]
    value: Any
    dims: tuple[str, ...]
    plates: tuple[str, ...]
    scales: Mapping[str, float]


class Mixed(Exception):
    """Elements of plates that a factor makes dependent, so that they cannot be summed apart.

    Args:
        choices: pairs of a site and a plate, of which one has to be enumerated jointly.
        names: the sites whose densities mix them.
    """

    def __init__(self, choices: set[tuple[str, str]], names: tuple[str, ...]) -> None:
        super().__init__(choices)
        self.choices = choices
        self.names = names


def read(traced: Trace, plates: Plates, totals: Mapping[str, int]) -> list[Factor]:
    """The factors of a run, for the values that discrete sites have in it."""
    found = []
    for name, site in traced.items():
        if site["type"] == "sample" and not name.endswith(LOG_DET):
            found.append(factor(name, site, plates, totals))
    scalars = _terms.log_dets(traced, plates) | _terms.imputed(traced, plates)
    return found + [Factor((n,), jnp.asarray(v), (), (), {}) for n, v in scalars.items()]


def factor(name: str, site: Any, plates: Plates, totals: Mapping[str, int]) -> Factor:
    """The log density of a traced site, over its plates.

    A plate's scale counts rows, each with its own discrete values, so that it belongs outside
    the sum over them; that of `handlers.scale` is a power of the density and belongs inside.
    """
    value = jnp.asarray(_terms.log_prob(site, scaled=False), float_dtype())
    frames = [f for f in site["cond_indep_stack"] if -f.dim <= value.ndim]
    rows = {f.name: totals.get(f.name, plates.sizes.get(f.name, f.size)) for f in frames}
    scales = {f.name: rows[f.name] / f.size for f in frames}
    if site["scale"] is not None:
        value = value * (site["scale"] / math.prod(scales.values()))
    axes = sorted((f.dim + value.ndim, f.name) for f in frames)
    own = set(range(value.ndim)) - {axis for axis, _ in axes}
    return Factor((name,), value.sum(axis=tuple(own)), (), tuple(n for _, n in axes), scales)


def order(
    factors: Sequence[Factor], sites: Sequence[Discrete], keep: Sequence[str] = ()
) -> list[str]:
    """Discrete sites in an order in which they can be summed out, smallest factors first.

    A site can be summed once no factor of it has, along a plate that the site is not in, another
    site: that plate's rows have to be summed first.

    Args:
        factors: the factors; their values are not read.
        sites: the discrete sites.
        keep: sites that stay.

    Returns:
        names of sites.

    Raises:
        Mixed: where the elements of a plate cannot be summed one by one.
        RitzError: where a sum would have too many terms.
    """
    local = {site.name: set(site.local) for site in sites}
    count = {site.name: site.count for site in sites}
    graph = [(set(f.dims), set(f.plates), f.names) for f in factors if f.dims]
    for dims, plates, names in graph:
        for site in sorted(dims):
            outside = local[site] - plates
            if outside:
                raise Mixed({(site, plate) for plate in outside}, names)
    left, chosen = [s.name for s in sites if s.name not in keep], []
    while left:
        best, blocked = None, None
        for site in left:
            mine = [f for f in graph if site in f[0]]
            union = set().union({site}, *(dims for dims, _, _ in mine))
            stuck = {
                (other, plate)
                for dims, plates, _ in mine
                for plate in plates - local[site]
                for other in dims
                if plate in local[other]
            }
            size = math.prod(count[name] for name in union)
            if stuck:
                plates_here = {(site, plate) for plate in local[site] - _common(stuck, local)}
                blocked = (stuck | plates_here, tuple(n for _, _, ns in mine for n in ns))
            elif best is None or size < best[0]:
                best = (size, site, union)
        if best is None:
            assert blocked is not None
            raise Mixed(*blocked)
        size, site, union = best
        if size > LIMIT:
            raise TooMany(
                f"site {site!r} has to be summed jointly with "
                f"{', '.join(sorted(union - {site}))}: {size:,} combinations, and at most "
                f"{LIMIT:,} are enumerated; use discrete={{{site!r}: 'score'}}",
                site,
            )
        mine = [f for f in graph if site in f[0]]
        names = tuple(n for _, _, ns in mine for n in ns)
        graph = [f for f in graph if site not in f[0]]
        graph.append((union - {site}, set(local[site]), names))
        left.remove(site)
        chosen.append(site)
    return chosen


def _common(stuck: set[tuple[str, str]], local: dict[str, set[str]]) -> set[str]:
    """Plates that all the sites in the way are in too."""
    return set.intersection(*(local[other] for other, _ in stuck))


def eliminate(
    factors: Sequence[Factor], sites: Sequence[Discrete], chosen: Sequence[str]
) -> list[Factor]:
    r"""Sum out discrete sites, one after the other.

    With the factors of site z in the plates E of z and further plates F,

    .. math:: \log f_e = \log\sum_z \exp\Big(\sum_j \sum_{f \in F_j} \log f_j(z, e, f)\Big).

    Args:
        factors: the factors.
        sites: the discrete sites.
        chosen: those to sum, as `order` gives them.

    Returns:
        the factors that remain.
    """
    left, local = list(factors), {site.name: site.local for site in sites}
    for name in chosen:
        mine = [f for f in left if name in f.dims]
        left = [f for f in left if name not in f.dims]
        if mine:
            merged = merge([over_plates(f, local[name]) for f in mine], local[name])
            axis = merged.dims.index(name)
            dims = tuple(d for d in merged.dims if d != name)
            value = log_sum_exp(merged.value, axis)
            left.append(dataclasses.replace(merged, value=value, dims=dims))
    return left


def over_plates(f: Factor, keep: Sequence[str]) -> Factor:
    """A factor summed over the plates that are not kept."""
    gone = [plate for plate in f.plates if plate not in keep]
    for plate in gone:
        if f.dims and f.scales[plate] != 1.0:
            raise RitzError(
                f"site {f.dims[0]!r} is outside plate {plate!r}, of which a part stands for the "
                "whole, so that the sum over its values is biased; use all rows, or move the site "
                "into the plate"
            )
    axes = tuple(len(f.dims) + f.plates.index(plate) for plate in gone)
    value = f.value.sum(axis=axes) * math.prod((f.scales[p] for p in gone), start=1.0)
    return dataclasses.replace(f, value=value, plates=tuple(p for p in f.plates if p in keep))


def merge(factors: Sequence[Factor], plates: Sequence[str]) -> Factor:
    """The product of factors in the same plates."""
    dims = tuple(dict.fromkeys(d for f in factors for d in f.dims))
    total, scales, names = jnp.zeros(()), {}, []
    for f in factors:
        axes, here = (*f.dims, *f.plates), (*dims, *plates)
        ordered = jnp.transpose(f.value, [axes.index(a) for a in here if a in axes])
        absent = [i for i, a in enumerate(here) if a not in axes]
        total = total + jnp.expand_dims(ordered, absent)
        scales |= f.scales
        names += f.names
    return Factor(tuple(names), total, dims, tuple(plates), scales)


def log_sum_exp(value: Any, axis: int) -> Any:
    """log Σ exp along an axis, with a zero gradient where every term is zero."""
    top = jax.lax.stop_gradient(value.max(axis=axis, keepdims=True))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.exp(value - top).sum(axis=axis)
    possible = total != 0.0
    log = jnp.log(jnp.where(possible, total, 1.0)) + jnp.squeeze(top, axis)
    return jnp.where(possible, log, -jnp.inf)
