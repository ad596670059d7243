"""Running NumPyro models under effect handlers: the only place that touches messages.

NumPyro runs the bodies of `scan` and `cond` behind a block, so that handlers outside do not see
the sites in them until the loop is done. The handlers here follow into the bodies.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from ritz._errors import RitzError
from ritz.target._base import LOG_DET, Site

# The unconstrained value of a latent site is noted under this name: after a scan the site's own
# support may no longer broadcast against its values.
FREE = " unconstrained"

Trace = Mapping[str, Any]


class Plates(Messenger):
    """Notes plates and the position in scans; makes subsampled plates whole.

    Args:
        fn: the model.
        whole: whether to make subsampled plates whole.
        keep: plates that are never made whole.

    Attributes:
        sizes: plate -> its rows.
        taken: plate -> how many of them this run sees.
        rows: plate -> which ones, for those of which it sees some.
        steps: the index of each scan that is being traced, outermost first.
    """

    def __init__(self, fn: Any, *, whole: bool, keep: frozenset[str] = frozenset()) -> None:
        self.whole = whole
        self.keep = keep
        self.sizes: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self.rows: dict[str, Any] = {}
        self.steps: list[Any] = []
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "plate":
            name, (size, subsample_size) = msg["name"], msg["args"]
            if self.whole and name not in self.keep and subsample_size not in (None, size):
                msg["args"] = (size, None)
                msg["value"] = jnp.arange(size)
            self.sizes[name] = size
        if msg["type"] == "control_flow":
            self._follow(msg)

    def postprocess_message(self, msg: Any) -> None:
        if msg["type"] == "plate":
            name = msg["name"]
            self.taken[name] = len(msg["value"])
            self.rows.pop(name, None)
            if self.taken[name] != self.sizes[name]:
                self.rows[name] = msg["value"]

    def _follow(self, msg: Any) -> None:
        if msg["fn"].__name__ != "scan_wrapper":
            _follow(msg, self)
            return
        body, carry, xs, length, reverse = msg["args"]
        length = len(jax.tree.leaves(xs)[0]) if length is None else length

        # NumPyro counts steps as they run; counted with the data, a step of a reversed scan
        # finds its own values.
        def counted(carry: Any, x: Any) -> Any:
            with self, self._at(x[0]):
                return body(carry, x[1])

        msg["args"] = (counted, carry, (jnp.arange(length), xs), length, reverse)

    @contextmanager
    def _at(self, step: Any) -> Iterator[None]:
        self.steps.append(step)
        try:
            yield
        finally:
            self.steps.pop()

    def here(self, value: Any) -> Any:
        """The part of a site's whole value that belongs to the present step of each scan."""
        for step in self.steps:
            value = value[step]
        return value

    def scale(self, frames: Any) -> float:
        """How many rows of the whole each row in these plates stands for."""
        return math.prod(self.sizes[frame.name] / frame.size for frame in frames)


class _ScaleRows(Messenger):
    """Scales the sites in a plate over a batch's rows to the rows of the whole."""

    def __init__(self, fn: Any, plates: Plates, totals: Mapping[str, int]) -> None:
        self.plates = plates
        self.totals = totals
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample":
            for frame in msg["cond_indep_stack"]:
                if frame.name in self.totals:
                    factor = self.totals[frame.name] / self.plates.sizes[frame.name]
                    msg["scale"] = factor * (1.0 if msg["scale"] is None else msg["scale"])


class unconditioned(Messenger):
    """Turns observed sites into sampled ones; factors are left alone."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and not is_factor(msg["fn"]):
            msg["is_observed"] = False
            msg["value"] = None
        if msg["type"] == "control_flow":
            _follow(msg, self)


def _follow(msg: Any, handler: Messenger) -> None:
    """Put a handler into the bodies of a scan or cond."""

    def inside(body: Callable[..., Any]) -> Callable[..., Any]:
        def run(*operands: Any) -> Any:
            with handler:
                return body(*operands)

        return run

    bodies = (0,) if msg["fn"].__name__ == "scan_wrapper" else (1, 2)
    msg["args"] = tuple(inside(a) if i in bodies else a for i, a in enumerate(msg["args"]))


def run(
    model: Any,
    args: Any,
    kwargs: Any,
    key: Any,
    value_of: Callable[[Any, Plates], Any] | None = None,
    *,
    whole: bool = True,
    keep: frozenset[str] = frozenset(),
    totals: Mapping[str, int] | None = None,
    keyed: bool = False,
) -> tuple[Trace, Plates]:
    """The trace of one run, and what was noted of the plates.

    Args:
        model: the model.
        args: its positional arguments.
        kwargs: its keyword arguments.
        key: for sites without a value, and for subsamples.
        value_of: `value_of(message, plates)` gives a sampled site's value; None leaves it alone.
        whole: whether to make subsampled plates whole.
        keep: plates that are never made whole.
        totals: plates over a batch's rows, each with the rows of the whole.
        keyed: give every site a key before `value_of` sees it.
    """
    plates = Plates(model, whole=whole, keep=keep)
    wrapped: Any = seed(plates, key) if keyed else plates
    if value_of is not None:

        def value(msg: Any) -> Any:
            return value_of(msg, plates) if msg["type"] == "sample" else None

        wrapped = substitute(wrapped, substitute_fn=value)
    if totals:
        wrapped = _ScaleRows(wrapped, plates, totals)
    return trace(seed(wrapped, key)).get_trace(*args, **kwargs), plates


def at(sites: Mapping[str, Site], x: Any) -> Callable[[Any, Plates], Any]:
    """Latent values at an unconstrained vector.

    Each constrained site adds a factor, named `NAME` + `LOG_DET`, for its Jacobian.
    """

    def value_of(msg: Any, plates: Plates) -> Any:
        site = sites.get(msg["name"])
        if site is None:
            return None
        transform = biject_to(msg["fn"].support)
        free = plates.here(site.take(x))
        event_dim = len(msg["fn"].event_shape)
        free_event_dim = event_dim - transform.codomain.event_dim + transform.domain.event_dim
        for frame in msg["cond_indep_stack"]:
            if frame.name in plates.rows:
                axis = frame.dim - free_event_dim
                free = jnp.take(free, plates.rows[frame.name], axis=axis)
        if _is_identity(transform):
            return free
        value = transform(free)
        log_det = transform.log_abs_det_jacobian(free, value)
        spare = jnp.ndim(log_det) - (jnp.ndim(value) - event_dim)
        log_det = log_det.sum(axis=tuple(range(-spare, 0))) if spare > 0 else log_det
        numpyro.factor(msg["name"] + LOG_DET, log_det)
        return value

    return value_of


def given(values: Mapping[str, Any]) -> Callable[[Any, Plates], Any]:
    """Latent values in the model's own parameters.

    Raises:
        RitzError: when run, for a value whose shape is not the site's.
    """

    def value_of(msg: Any, plates: Plates) -> Any:
        if msg["name"] not in values:
            return None
        value = plates.here(values[msg["name"]])
        expected = (*msg["kwargs"]["sample_shape"], *msg["fn"].shape())
        if jnp.shape(value) != expected:
            raise RitzError(
                f"site {msg['name']!r} has values of shape {jnp.shape(value)}, but with these data "
                f"it has shape {expected}; keep the size of its plate"
            )
        return value

    return value_of


def noted(value_of: Callable[[Any, Plates], Any]) -> Callable[[Any, Plates], Any]:
    """The same values; each unconstrained value is noted as `NAME` + `FREE` too."""

    def and_note(msg: Any, plates: Plates) -> Any:
        value = value_of(msg, plates)
        if value is not None:
            free = biject_to(msg["fn"].support).inv(value)
            numpyro.deterministic(msg["name"] + FREE, free)
        return value

    return and_note


def _is_identity(transform: Any) -> bool:
    while isinstance(transform, dist.transforms.IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, dist.transforms.IdentityTransform)


def is_factor(fn: Any) -> bool:
    """Whether a sample site's distribution is that of a `numpyro.factor`."""
    return isinstance(unwrapped(fn), dist.Unit)


def unwrapped(fn: Any) -> Any:
    """A distribution without what expands, masks or reinterprets it."""
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def log_prob(site: Any, *, scaled: bool = True) -> Any:
    """Log density of a traced site, an array over its batch."""
    if site["intermediates"]:
        value = site["fn"].log_prob(site["value"], site["intermediates"])
    else:
        value = site["fn"].log_prob(site["value"])
    return value * site["scale"] if scaled and site["scale"] is not None else value


def imputed(traced: Trace, plates: Plates) -> dict[str, Any]:
    """A standard normal density for each entry of an `obs_mask` site that has been observed.

    NumPyro keeps a latent value for each entry, uses those that are missing, and masks out the
    density of the others: an improper density, which no family can match. With a proper one that
    depends on nothing else, the posterior of everything else is the same.
    """
    out = {}
    for name, site in traced.items():
        whole = name.removesuffix("_unobserved")
        if whole == name or f"{whole}_observed" not in traced or site["is_observed"]:
            continue
        fn, mask = site["fn"], True
        while hasattr(fn, "base_dist"):
            mask = getattr(fn, "_mask", mask)
            fn = fn.base_dist
        free = biject_to(site["fn"].support).inv(site["value"])
        batch_dim = len(site["fn"].batch_shape)
        each = dist.Normal(0.0, 1.0).log_prob(free)
        each = each.sum(axis=tuple(range(batch_dim, each.ndim)))
        if name + LOG_DET in traced:
            each -= unwrapped(traced[name + LOG_DET]["fn"]).log_factor
        scale = plates.scale(site["cond_indep_stack"])
        out[f"{name} where observed"] = scale * jnp.where(mask, 0.0, each).sum()
    return out


def log_dets(traced: Trace, plates: Plates) -> dict[str, Any]:
    """The log Jacobian determinant of each constrained latent site, scaled by plates only.

    `handlers.scale` and `handlers.mask` change a density, never a Jacobian.
    """
    out = {}
    for name, site in traced.items():
        if name.endswith(LOG_DET) and site["type"] == "sample":
            scale = plates.scale(site["cond_indep_stack"])
            out[name] = scale * jnp.sum(unwrapped(site["fn"]).log_factor)
    return out
