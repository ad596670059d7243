"""Running NumPyro models under effect handlers: the only place that touches messages."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from ritz._errors import RitzError
from ritz.target._base import Quantity, Site

LOG_DET = "_log_det"

__all__ = ["seed", "substitute"]


class _Plates(Messenger):
    """Notes every plate's rows; without a key it makes subsampled plates whole."""

    def __init__(self, fn: Any = None, *, whole: bool) -> None:
        self.whole = whole
        self.rows: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.subsampled: set[str] = set()
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "plate":
            size, subsample_size = msg["args"]
            self.sizes[msg["name"]] = size
            if subsample_size is not None and subsample_size != size:
                self.subsampled.add(msg["name"])
                if self.whole:
                    msg["args"] = (size, None)
                    msg["value"] = jnp.arange(size)

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "plate":
            self.rows[msg["name"]] = msg["value"]


class _ScaleRows(Messenger):
    """Scales the sites in a plate over a batch's rows to the rows of the whole."""

    def __init__(self, fn: Any, totals: Mapping[str, int]) -> None:
        self.totals = totals
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample":
            for frame in msg["cond_indep_stack"]:
                if frame.name in self.totals:
                    factor = self.totals[frame.name] / frame.size
                    msg["scale"] = factor * (1.0 if msg["scale"] is None else msg["scale"])


def run(model: Any, args: Any, kwargs: Any, key: Any) -> dict[str, Any]:
    """The trace of one run with all subsampled plates made whole."""
    return run_whole(model, args, kwargs, key)[0]


def run_whole(model: Any, args: Any, kwargs: Any, key: Any) -> tuple[dict[str, Any], _Plates]:
    """As `run`, with what was noted of the plates."""
    plates = _Plates(model, whole=True)
    return trace(seed(plates, key)).get_trace(*args, **kwargs), plates


def trace_at(
    model: Any,
    args: Any,
    kwargs: Any,
    sites: Mapping[str, Site],
    x: Any,
    *,
    key: Any,
    totals: Mapping[str, int],
) -> dict[str, Any]:
    """The trace of a model with its latent sites at an unconstrained vector.

    Each constrained site adds a factor, named `NAME_log_det`, for its Jacobian.
    """
    plates = _Plates(model, whole=key is None)

    def value_of(msg: Any) -> Any:
        site = sites.get(msg["name"])
        if site is None or msg["type"] != "sample":
            return None
        transform = biject_to(msg["fn"].support)
        free = site.take(x)
        index = msg["infer"].get("_scan_current_index")
        if index is not None:  # inside a scan: one step's part of the whole sequence
            free = free[index]
        for frame in msg["cond_indep_stack"]:
            if frame.name in plates.subsampled and not plates.whole:
                axis = frame.dim - transform.domain.event_dim - _extra_event_dims(msg, transform)
                free = jnp.take(free, plates.rows[frame.name], axis=axis)
        if _is_identity(transform):
            return free
        value = transform(free)
        log_det = transform.log_abs_det_jacobian(free, value)
        spare = jnp.ndim(log_det) - (jnp.ndim(value) - len(msg["fn"].event_shape))
        log_det = log_det.sum(axis=tuple(range(-spare, 0))) if spare > 0 else log_det
        numpyro.factor(msg["name"] + LOG_DET, log_det)
        return value

    model = substitute(plates, substitute_fn=value_of)
    if totals:
        model = _ScaleRows(model, totals)
    return trace(seed(model, jax.random.key(0) if key is None else key)).get_trace(*args, **kwargs)


def _extra_event_dims(msg: Any, transform: Any) -> int:
    """Event axes of a site beyond those its support's transform treats as one event."""
    return len(msg["fn"].event_shape) - transform.codomain.event_dim


def _is_identity(transform: Any) -> bool:
    while isinstance(transform, dist.transforms.IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, dist.transforms.IdentityTransform)


def improper_value(msg: Any) -> Any:
    """A value for a site whose prior cannot be sampled; None for every other."""
    if msg["type"] != "sample" or not isinstance(_base(msg["fn"]), dist.ImproperUniform):
        return None
    transform = biject_to(msg["fn"].support)
    return transform(jnp.zeros(transform.inverse_shape(msg["fn"].shape())))


def log_prob(site: Any, *, scaled: bool = True) -> Any:
    """Log density of a traced site, an array over its batch."""
    if site["intermediates"]:
        value = site["fn"].log_prob(site["value"], site["intermediates"])
    else:
        value = site["fn"].log_prob(site["value"])
    return value * site["scale"] if scaled and site["scale"] is not None else value


def inverse(site: Any) -> Any:
    """The unconstrained value of a traced latent site."""
    return biject_to(site["fn"].support).inv(site["value"])


class unconditioned(Messenger):
    """Turns observed sites into sampled ones; factors are left alone."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and not is_factor(msg):
            msg["is_observed"] = False
            msg["value"] = None
            msg["infer"] = dict(msg["infer"]) | {"was_observed": True}


def draws_of(traced: Mapping[str, Any], observed: tuple[Quantity, ...]) -> dict[str, Any]:
    """The drawn values of observed sites.

    Raises:
        RitzError: where one of them kept its data.
    """
    drawn = {}
    for quantity in observed:
        site = traced.get(quantity.name)
        if site is None:
            continue
        if site["is_observed"]:
            raise RitzError(
                f"site {quantity.name!r} is observed inside a scan and cannot be redrawn; let the "
                "model take None for those data, and pass predict data without them"
            )
        drawn[quantity.name] = jnp.asarray(site["value"])
    return drawn


def is_factor(msg: Any) -> bool:
    """Whether a sample message is a `numpyro.factor`."""
    fn = msg["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Unit)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A sample site as an abstract run shows it."""

    name: str
    latent: bool
    data: bool
    shape: tuple[int, ...]
    unconstrained_shape: tuple[int, ...]
    support: Any
    dims: tuple[str, ...]
    plates: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Structure:
    """What an abstract run of a model shows of its sites and plates."""

    entries: tuple[Entry, ...]
    deterministic: tuple[Quantity, ...]
    plates: dict[str, int]
    subsampled: frozenset[str]


def structure(traced: Mapping[str, Any], plates: _Plates) -> Structure:
    """Read a trace.

    Raises:
        RitzError: for a site that Ritz cannot treat, naming it.
    """
    entries, deterministic = [], []
    for name, site in traced.items():
        if site["type"] == "param":
            raise RitzError(
                f"site {name!r} is a numpyro.param; give it a prior with numpyro.sample, or fix it"
            )
        if site["type"] == "deterministic":
            shape = jnp.shape(site["value"])
            deterministic.append(Quantity(name, shape, _dims(site, shape, 0)))
        if site["type"] == "sample":
            entries.append(_entry(name, site))
    return Structure(
        tuple(entries), tuple(deterministic), dict(plates.sizes), frozenset(plates.subsampled)
    )


def _entry(name: str, site: Any) -> Entry:
    fn, latent = site["fn"], not site["is_observed"]
    shape = jnp.shape(site["value"])
    frames = tuple(frame.name for frame in site["cond_indep_stack"])
    dims = _dims(site, shape, len(fn.event_shape))
    if not latent:
        _check_data(name, fn, shape)
        return Entry(name, False, not is_factor(site), shape, (), None, dims, frames)
    support = fn.support
    if getattr(support, "is_discrete", False):
        raise RitzError(
            f"site {name!r} is discrete ({type(_base(fn)).__name__}) and not observed; sum it out "
            "(numpyro.distributions.MixtureSameFamily or logsumexp), or pass its data"
        )
    if isinstance(_base(fn), dist.Delta):
        raise RitzError(
            f"site {name!r} has a Delta distribution; write numpyro.deterministic({name!r}, value)"
        )
    try:
        transform = biject_to(support)
    except NotImplementedError:
        raise RitzError(
            f"site {name!r} has support {support}, which has no map from the reals; "
            "reparameterise it (numpyro.handlers.reparam)"
        ) from None
    free = tuple(transform.inverse_shape(shape))
    return Entry(name, True, False, shape, free, support, dims, frames)


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


def _base(fn: Any) -> Any:
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def _dims(site: Any, shape: tuple[int, ...], event_dim: int) -> tuple[str, ...]:
    """A name for each axis: its plate's, or the site's own."""
    names = [f"{site['name']}_dim_{i}" for i in range(len(shape))]
    for frame in site.get("cond_indep_stack", ()):
        axis = len(shape) - event_dim + frame.dim
        if 0 <= axis < len(shape) and shape[axis] == frame.size:
            names[axis] = frame.name
    return tuple(names)


def prior_strategies() -> tuple[tuple[str, Any, int], ...]:
    """How starting points are drawn: a name, NumPyro's strategy, and how many to try."""
    from numpyro.infer import init_to_median, init_to_sample, init_to_uniform

    return (
        ("the prior median", init_to_median(num_samples=15), 1),
        ("a draw from the prior", init_to_sample, 30),
        ("a uniform draw in unconstrained space", init_to_uniform(radius=2), 30),
    )
