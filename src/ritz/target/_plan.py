"""How the discrete sites of a model are summed out: what depends on them, and in which order."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.interpreters import partial_eval

from ritz._compile import compile
from ritz._errors import RitzError
from ritz.target import _factors
from ritz.target._base import float_dtype, term_name
from ritz.target._chain import PATH
from ritz.target._effects import Plates
from ritz.target._factors import Factor, Mixed
from ritz.target._support import LIMIT, Discrete, TooMany, elements, moving_support
from ritz.target._tables import Indices, look_up, tables, unlike


@dataclasses.dataclass(frozen=True)
class Plan:
    """How discrete sites are summed out.

    Attributes:
        sites: the discrete sites.
        dims: each factor that depends on any, with those that it depends on.
        order: the order in which they are summed.
        hidden: deterministic sites that depend on a discrete one, and so have no value.
    """

    sites: tuple[Discrete, ...]
    dims: tuple[tuple[str, tuple[str, ...]], ...] = ()
    order: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The names of the discrete sites."""
        return frozenset(site.name for site in self.sites)

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for each site, such as `z: summed, 3 values, plate of 1000`."""
        hidden = (f"{name}: depends on a summed site, left out" for name in self.hidden)
        return (*(site.words() for site in self.sites), *hidden)

    def value_of(self, indices: Indices, others: Callable[..., Any]) -> Callable[..., Any]:
        """Values of discrete sites at indices (zero where there is none), and of other sites."""
        sites = {site.name: site for site in self.sites}

        def value_of(msg: Any, plates: Plates) -> Any:
            site = sites.get(msg["name"])
            if site is None:
                return others(msg, plates)
            return site.values(indices.get(site.name, 0), elements(msg))

        return value_of

    def tables(self, run: Callable[[Indices], list[Factor]]) -> list[Factor]:
        """Factors at every value of the discrete sites that each depends on.

        The model runs as it is written, for one value of each site: `vmap` makes the tables, so
        that nothing in it has to broadcast over axes of values.

        Args:
            run: gives the factors at indices.
        """
        return tables(run, self.sites, dict(self.dims))

    def sum_out(
        self, run: Callable[[Indices], list[Factor]], extra: Sequence[Factor] = ()
    ) -> list[Factor]:
        """The factors that remain when every discrete site is summed out.

        Args:
            run: gives the factors at indices.
            extra: further factors.
        """
        return _factors.eliminate([*self.tables(run), *extra], self.sites, self.order)

    def each(
        self, log_likelihood: dict[str, Any], run: Callable[[Indices], list[Factor]]
    ) -> dict[str, Any]:
        """Log densities of observations, with the discrete sites that are theirs alone summed out.

        Args:
            log_likelihood: by observed site, where discrete sites have their first value.
            run: gives the factors at indices.
        """
        discrete, out = {site.name for site in self.sites}, {}
        for f in self.sum_out(run):
            others = [name for name in f.names if name not in discrete]
            value = log_likelihood.get(others[0]) if len(others) == 1 else None
            if value is not None and f.names == (others[0],):
                out[others[0]] = value
            elif value is not None and f.value.size == value.size:
                out[others[0]] = f.value.reshape(value.shape)
        return {name: out[name] for name in log_likelihood if name in out}


def plan(target: Any, sites: tuple[Discrete, ...]) -> Plan:
    """How a target's discrete sites are summed out.

    Args:
        target: a `NumPyroTarget` that holds data.
        sites: its discrete sites.

    Returns:
        the plan. It has been checked: at random values of the discrete sites, each factor is
        what its table says.

    Raises:
        RitzError: if a sum would have more than 4,096 terms, or another latent site's values
            depend on a discrete one.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((target.args, target.kwargs))):
        raise RitzError(
            f"site {sites[0].name!r} is discrete; make the target of such a model outside of a "
            "transformation of JAX"
        )
    while True:
        here = Plan(sites)
        try:
            dims, hidden = dependence(dataclasses.replace(target, plan=here))
            chosen = _factors.order(_shapes(target, here, dims), sites)
            found = Plan(sites, tuple(dims.items()), tuple(chosen), hidden)
            check(dataclasses.replace(target, plan=found))
        except Mixed as mixed:
            sites = joined(sites, mixed)
        else:
            return found


def dependence(target: Any) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The discrete sites that each factor depends on; deterministic sites that depend on any.

    Raises:
        RitzError: if the value of another latent site depends on a discrete one.
    """
    kinds: list[tuple[str, str]] = []
    hidden: list[str] = []

    def look(x: Any, indices: Indices) -> list[Any]:
        run = target.factors(x, indices)
        parts = {("factor", f.names[0]): f.value for f in run.factors}
        parts |= {
            (kind, q.name): run.traced[q.name]["value"]
            for kind, quantities in (("latent", target.sites), ("value", target.deterministic))
            for q in quantities
            if q.name in run.traced
        }
        kinds[:], hidden[:] = parts, run.hidden
        return list(parts.values())

    sites = [site.name for site in target.plan.sites]
    x, ordered = jnp.zeros(target.dim, float_dtype()), sorted([*sites, PATH])
    jaxpr = jax.make_jaxpr(look)(x, dict.fromkeys(ordered, jnp.zeros((), int))).jaxpr
    dims = {}
    for i, (kind, name) in enumerate(kinds):
        _, *used = partial_eval.dce_jaxpr(jaxpr, [j == i for j in range(len(kinds))])[1]
        on = {site for site, is_used in zip(ordered, used, strict=True) if is_used}
        if PATH in on and kind != "value":
            raise RitzError(
                f"{term_name(name)} depends on what a scan with discrete sites returns for each "
                "step; put what needs it into the body of the scan"
            )
        if on and kind == "latent":
            raise moving_support(name, min(on))
        if on and kind == "value":
            hidden.append(name)
        if on and kind == "factor":
            dims[name] = tuple(site for site in sites if site in on)
    return dims, tuple(hidden)


def _shapes(target: Any, here: Plan, dims: Mapping[str, tuple[str, ...]]) -> list[Factor]:
    """The factors with their dims and plates, and no values."""
    target, found = dataclasses.replace(target, plan=here), []
    jax.eval_shape(lambda x: found.extend(target.factors(x, {}).factors), jnp.zeros(target.dim))
    return [dataclasses.replace(f, value=None, dims=dims.get(f.names[0], ())) for f in found]


def joined(sites: Sequence[Discrete], mixed: Mixed) -> tuple[Discrete, ...]:
    """Sites of which one enumerates one more plate jointly: that with the fewest combinations.

    Raises:
        RitzError: if even that has more than 4,096.
    """
    options = []
    for site in sites:
        for plate in site.local:
            if (site.name, plate) in mixed.choices:
                options.append((dataclasses.replace(site, joint=site.joint | {plate}), plate))
    best, plate = min(options, key=lambda option: option[0].count)
    if best.count > LIMIT:
        raise TooMany(
            f"the density of {', '.join(map(repr, mixed.names))} mixes the elements of site "
            f"{best.name!r} along plate {plate!r}: {best.combinations} combinations, and at most "
            f"{LIMIT:,} are enumerated; use discrete={{{best.name!r}: 'score'}}",
            best.name,
        )
    return tuple(best if site.name == best.name else site for site in sites)


def check(target: Any) -> None:
    """Compare each factor with its table, at random values that differ along plates.

    The tables are made with equal values along each plate. A factor that combines the values of
    different elements, in whatever way the model's code does so, differs from its table here.

    Raises:
        Mixed: for a factor that does.
    """
    sites = {site.name: site for site in target.plan.sites}
    rng = np.random.default_rng(0)
    scales = np.array([[0.3], [1.0], [0.1]])  # at some points a density may be zero
    points = rng.normal(0.0, scales, (3, target.dim))
    for site in target.sites:
        if site.values is not None:
            size = (3, site.stop - site.start)
            points[:, site.start : site.stop] = rng.integers(
                site.values[0], site.values[1] + 1, size
            )
    xs = jnp.asarray(points, float_dtype())
    everything = [_draw(site, rng) for site in sites.values()]
    trials = [dict(zip(sites, v, strict=True)) for v in zip(*everything, strict=True)]
    wrong = _differ(target, xs, trials)
    if not wrong:
        return
    names, dims = wrong[0]
    choices = [(name, plate) for name in dims for plate in sites[name].local]
    culprits = set()
    for name, plate in choices:
        alone = [
            {n: _along(sites[n], plate, v) * (n == name) for n, v in t.items()} for t in trials
        ]
        if any(name in own for _, own in _differ(target, xs, alone)):
            culprits.add((name, plate))
    raise Mixed(culprits or set(choices), names)


def _along(site: Discrete, plate: str, index: np.ndarray) -> np.ndarray:
    """Indices that vary along one plate only."""
    axis = index.ndim + dict(site.plates).get(plate, -index.ndim - 1)
    kept = tuple(slice(None) if i == axis else slice(1) for i in range(index.ndim))
    return np.broadcast_to(index[kept], index.shape)


def _draw(site: Discrete, rng: Any) -> list[np.ndarray]:
    """Indices of a site over its elements: some at random, and one element unlike the others."""
    local = {axis for name, axis in site.plates if name in site.local}
    n = len(site.shape)
    shape = tuple(site.shape[a] if a in local else 1 for a in range(-n, 0))
    one = np.zeros(shape, int)
    one.flat[rng.integers(one.size)] = site.count - 1
    return [*(rng.integers(0, site.count, shape) for _ in range(3)), one]


def _differ(
    target: Any, xs: Any, trials: Sequence[Indices]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The names and dims of factors that differ from their tables in any of some trials."""
    about: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    sites = {site.name: site for site in target.plan.sites}

    def compare(target: Any, x: Any, trials: Any) -> list[Any]:
        tables = target.plan.tables(lambda indices: target.factors(x, indices).factors)
        tables = [f for f in tables if any(sites[d].local for d in f.dims)]
        about[:], wrong = [], []
        for indices in trials:
            run = target.factors(x, indices)
            direct = {f.names[0]: f.value for f in run.factors}
            about.extend((f.names, f.dims) for f in tables)
            wrong.extend(unlike(direct[f.names[0]], look_up(f, sites, indices)) for f in tables)
            about.extend((names, dims) for names, dims, _ in run.mixed)
            wrong.extend(bad for _, _, bad in run.mixed)
        return wrong

    def at_points(target: Any, xs: Any, trials: Any) -> list[Any]:
        found = jax.lax.map(lambda x: compare(target, x, trials), xs)
        return [bad.any() for bad in found]

    found = compile(at_points, target, xs, list(trials))(target, xs, list(trials))
    return [pair for pair, bad in zip(about, found, strict=True) if bad]
