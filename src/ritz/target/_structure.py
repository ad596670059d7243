"""The sites and plates of a NumPyro model, from one abstract run."""

import dataclasses
import math
from collections.abc import Callable, Container
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import biject_to

from ritz._errors import RitzError
from ritz.target import _effects as effects
from ritz.target import _laws as laws
from ritz.target import _terms
from ritz.target._base import FREE, Quantity, Site
from ritz.target._constraints import describe
from ritz.target._failure import explain
from ritz.target._held import release
from ritz.target._support import Discrete, discrete, first


@dataclasses.dataclass(frozen=True)
class Entry:
    """A sample site as an abstract run shows it.

    Attributes:
        name: its name.
        latent: whether it is neither data nor a factor, and not summed out.
        data: whether it is observed.
        shape: shape of its value.
        unconstrained_shape: of a latent site, shape before the transform.
        support: of a latent site.
        dims: a name for each axis.
        plates: the plates around it.
    """

    name: str
    latent: bool
    data: bool
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    support: Any
    dims: tuple[str, ...]
    plates: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Structure:
    """What an abstract run of a model shows of its sites and plates.

    Attributes:
        entries: the sample sites.
        deterministic: the deterministic sites.
        plates: plate -> its rows.
        taken: plate -> how many of them the run saw.
        discrete: the latent sites that are summed out.
        params: the constraint of each `numpyro.param`.
    """

    entries: tuple[Entry, ...]
    deterministic: tuple[Quantity, ...]
    plates: dict[str, int]
    taken: dict[str, int]
    discrete: tuple[Discrete, ...] = ()
    params: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The latent sites, laid out one after the other, the continuous ones first."""
        sites, start = [], 0
        latent = (e for e in self.entries if e.latent)
        for e in sorted(latent, key=lambda e: getattr(e.support, "is_discrete", False)):
            words, spec = describe(e.support)
            sites.append(Site(e.name, e.shape, e.unconstrained_shape, start, words, spec, e.dims))
            start = sites[-1].stop
        return tuple(sites)

    @property
    def observed(self) -> tuple[Quantity, ...]:
        """The observed sites."""
        return tuple(Quantity(e.name, e.shape, e.dims) for e in self.entries if e.data)


def structure(
    model: Callable[..., Any],
    args: Any,
    kwargs: Any,
    *,
    whole: bool = True,
    keep: frozenset[str] = frozenset(),
    drawn: Container[str] = (),
) -> Structure:
    """Run a model abstractly and note its sites.

    Nothing is computed and no site is sampled: a latent site takes the value of zero in
    unconstrained space.

    Args:
        model: the model.
        args: its positional arguments; arrays may be `jax.ShapeDtypeStruct`.
        kwargs: its keyword arguments.
        whole: whether to make subsampled plates whole.
        keep: plates that are never made whole.
        drawn: discrete sites that are not to be summed out.

    Raises:
        NeedsValues: where the model needs the value of an array.
        RitzError: where it fails, or has a site that Ritz cannot treat, naming the site.
    """
    found: list[Structure] = []

    def probe(dynamic: Any) -> None:
        args, kwargs = release(eqx.combine(dynamic, static))
        key = jax.random.key(0)
        summed: dict[str, Discrete] = {}
        own: dict[str, Discrete] = {}

        def value(msg: Any, plates: effects.Plates) -> Any:
            if laws.is_discrete(msg["fn"]):
                into = own if msg["name"] in drawn else summed
                into[msg["name"]] = discrete(msg, plates.lengths[-1] if plates.lengths else None)
            return anywhere(msg, plates)

        look = effects.noted(value, summed)
        traced, plates = effects.run(model, args, kwargs, key, look, whole=whole, keep=keep)
        found.append(_read(traced, plates, summed, own))

    is_traced = lambda v: isinstance(v, jax.Array | jax.ShapeDtypeStruct)
    dynamic, static = eqx.partition((args, kwargs), is_traced)
    try:
        jax.eval_shape(probe, dynamic)
    except RitzError as error:
        raise RitzError(str(error)) from None  # without the notes that JAX adds to it
    except Exception as error:
        raise explain(error, model) from error
    return found[-1]


def anywhere(msg: Any, plates: effects.Plates) -> Any:
    """Any value of a latent site: zero in unconstrained space, or the first."""
    return first(msg) if laws.is_discrete(msg["fn"]) else _placeholder(msg)


def _placeholder(msg: Any) -> Any:
    """Zero in unconstrained space, for a latent site that has a density over the reals."""
    name, fn = msg["name"], msg["fn"]
    base = laws.unwrapped(fn)
    if isinstance(base, dist.Delta):
        raise RitzError(
            f"site {name!r} has a Delta distribution; write numpyro.deterministic({name!r}, value)"
        )
    if msg["value"] is not None:
        raise RitzError(
            f"site {name!r} has been given a value but is not observed; fix it with "
            "numpyro.handlers.condition in place of substitute"
        )
    try:
        transform = biject_to(fn.support)
    except NotImplementedError:
        raise RitzError(
            f"site {name!r} has support {describe(fn.support)[0]}, which has no map from the "
            "reals; reparameterise it (numpyro.handlers.reparam)"
        ) from None
    shape = (*msg["kwargs"]["sample_shape"], *fn.shape())
    value = transform(jnp.zeros(transform.inverse_shape(shape)))
    if jnp.iscomplexobj(value):
        raise RitzError(f"site {name!r} is complex; sample its real and imaginary parts")
    return value


def _read(
    traced: effects.Trace,
    plates: effects.Plates,
    summed: dict[str, Discrete],
    own: dict[str, Discrete],
) -> Structure:
    entries, deterministic, params = [], [], {}
    frees = _terms.attached(traced, FREE)
    for name, site in traced.items():
        if site["type"] == "param":
            params[name] = site["kwargs"].get("constraint", constraints.real)
        if site["type"] == "deterministic" and not name.endswith(FREE):
            shape = jnp.shape(site["value"])
            deterministic.append(Quantity(name, shape, _dims(site, shape, 0)))
        if site["type"] == "sample":
            entries.append(_entry(name, site, frees.get(name), summed, own))
    sizes, taken = dict(plates.sizes), dict(plates.taken)
    return Structure(
        tuple(entries), tuple(deterministic), sizes, taken, tuple(summed.values()), params
    )


def _entry(name: str, site: Any, free: Any, summed: Container[str], own: Any) -> Entry:
    fn, latent = site["fn"], not site["is_observed"]
    shape = jnp.shape(site["value"])
    frames = frozenset(frame.name for frame in site["cond_indep_stack"])
    dims = _dims(site, shape, len(fn.event_shape))
    if latent and name in summed:
        return Entry(name, False, False, shape, (), None, dims, frames)
    if latent:
        support = fn.support
        if name in own:
            values = own[name].support
            if values != tuple(range(values[0], values[0] + len(values))):
                raise RitzError(f"site {name!r} has values {values}, which are not neighbours")
            support = constraints.integer_interval(values[0], values[-1])
        free_shape = jnp.shape(free["value"])
        return Entry(name, True, False, shape, free_shape, support, dims, frames)
    _check_data(name, fn, shape)
    return Entry(name, False, not laws.is_factor(fn), shape, (), None, dims, frames)


def _check_data(name: str, fn: Any, shape: tuple[int, ...]) -> None:
    """Data of shape (n, 1) against a distribution of shape (n,) would give n² terms."""
    expected = tuple(fn.shape())
    try:
        together = jnp.broadcast_shapes(shape, expected)
    except ValueError:
        together = None
    if together is None or math.prod(together) > max(math.prod(shape), math.prod(expected)):
        raise RitzError(
            f"site {name!r}: its data have shape {shape}, but its distribution has shape "
            f"{expected}; reshape the data, or make the plates around the site match them"
        )


def _dims(site: Any, shape: tuple[int, ...], event_dim: int) -> tuple[str, ...]:
    """A name for each axis: its plate's, or the site's own."""
    names = [f"{site['name']}_dim_{i}" for i in range(len(shape))]
    for frame in site.get("cond_indep_stack", ()):
        axis = len(shape) - event_dim + frame.dim
        if 0 <= axis < len(shape) and shape[axis] == frame.size:
            names[axis] = frame.name
    return tuple(names)
