"""Running NumPyro models under effect handlers: the only place that touches messages.

NumPyro runs the bodies of `scan` and `cond` behind a block, so that handlers outside do not see
the sites in them until the loop is done. The handlers here follow into the bodies.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.core import Tracer
from numpyro.handlers import seed, substitute, trace
from numpyro.primitives import Messenger

from ritz._errors import RitzError
from ritz.target._base import FREE, LOG_DET, Site
from ritz.target._constraints import bijection, describe
from ritz.target._laws import is_discrete, is_factor, is_identity, location_and_scale

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
        lengths: their lengths.
        depth: how many bodies of `scan` and `cond` are being traced.
    """

    def __init__(self, fn: Any, *, whole: bool, keep: frozenset[str] = frozenset()) -> None:
        self.whole = whole
        self.keep = keep
        self.sizes: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self.rows: dict[str, Any] = {}
        self.steps: list[Any] = []
        self.lengths: list[int] = []
        self.depth = 0
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "plate":
            name, (size, subsample_size) = msg["name"], msg["args"]
            if self.whole and name not in self.keep and subsample_size not in (None, size):
                msg["args"] = (size, None)
                msg["value"] = jnp.arange(size)
            self.sizes[name] = int(size)
        if msg["type"] == "param" and self.depth > 0:
            raise RitzError(
                f"numpyro.param({msg['name']!r}, …) is inside scan or cond, where it cannot be "
                "trained; write it before them"
            )
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
            _follow(msg, self._inside)
            return
        body, carry, xs, length, reverse = msg["args"]
        length = len(jax.tree.leaves(xs)[0]) if length is None else length

        # NumPyro counts steps as they run; counted with the data, a step of a reversed scan
        # finds its own values.
        def counted(carry: Any, x: Any) -> Any:
            with self._inside(), self._at(x[0], length):
                return body(carry, x[1])

        msg["args"] = (counted, carry, (jnp.arange(length), xs), length, reverse)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        self.depth += 1
        try:
            with self:
                yield
        finally:
            self.depth -= 1

    @contextmanager
    def _at(self, step: Any, length: int) -> Iterator[None]:
        self.steps.append(step)
        self.lengths.append(length)
        try:
            yield
        finally:
            del self.steps[-1], self.lengths[-1]

    def here(self, value: Any) -> Any:
        """The part of a site's whole value that belongs to the present step of each scan."""
        for step in self.steps:
            value = value[step]
        return value

    def scale(self, frames: Any) -> float:
        """How many rows of the whole each row in these plates stands for."""
        return math.prod((self.sizes[f.name] / f.size for f in frames), start=1.0)


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


class parameters(Messenger):
    """Gives the model's own parameters their values.

    Args:
        fn: the model.
        values: by name.
    """

    def __init__(self, fn: Any, values: Mapping[str, Any]) -> None:
        self.values = values
        super().__init__(fn)

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "param" and msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


class unconditioned(Messenger):
    """Turns observed sites into sampled ones, as many as there are data; factors stay."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and not is_factor(msg["fn"]):
            fn, shape = msg["fn"], jnp.shape(msg["value"])
            batch = jnp.broadcast_shapes(fn.batch_shape, shape[: len(shape) - fn.event_dim])
            msg["fn"] = fn if batch == fn.batch_shape else fn.expand(batch)
            msg["is_observed"] = False
            msg["value"] = None
        if msg["type"] == "control_flow":
            _follow(msg, lambda: self)


def _follow(msg: Any, handler: Callable[[], Any]) -> None:
    """Put a handler, a context, into the bodies of a scan or cond."""

    def inside(body: Callable[..., Any]) -> Callable[..., Any]:
        def run(*operands: Any) -> Any:
            with handler():
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
    steps: Sequence[Any] = (),
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
        steps: the position in scans of which the model is a step.
    """
    plates = Plates(model, whole=whole, keep=keep)
    plates.steps = list(steps)
    wrapped: Any = seed(plates, key) if keyed else plates
    if value_of is not None:

        def value(msg: Any) -> Any:
            latent = msg["type"] == "sample" and not msg["is_observed"]
            return value_of(msg, plates) if latent else None

        wrapped = substitute(wrapped, substitute_fn=value)
    if totals:
        wrapped = _ScaleRows(wrapped, plates, totals)
    return trace(seed(wrapped, key)).get_trace(*args, **kwargs), plates


def at(
    sites: Mapping[str, Site],
    x: Any,
    relaxed: frozenset[str] = frozenset(),
    centring: Mapping[str, Any] | None = None,
) -> Callable[[Any, Plates], Any]:
    """Latent values at an unconstrained vector.

    Each constrained site adds a factor, named `NAME` + `LOG_DET`, for its Jacobian, and so does
    each that is not centred.

    Args:
        sites: by name.
        x: the vector.
        relaxed: discrete sites whose values are left between the integers.
        centring: see `ritz.target._centring.centred`.
    """

    def value_of(msg: Any, plates: Plates) -> Any:
        site = sites.get(msg["name"])
        if site is None:
            return None
        transform: Any = bijection(msg["fn"].support)
        if msg["name"] in relaxed:
            transform = dist.transforms.IdentityTransform()
        event_dim = len(msg["fn"].event_shape)
        free_event_dim = event_dim - transform.codomain.event_dim + transform.domain.event_dim

        def here(whole: Any) -> Any:
            part = plates.here(whole)
            for frame in msg["cond_indep_stack"]:
                if frame.name in plates.rows:
                    axis = frame.dim - free_event_dim
                    part = jnp.take(part, plates.rows[frame.name], axis=axis)
            return part

        free, log_det = here(site.take(x)), None
        if msg["name"] in (centring or {}):
            loc, scale = location_and_scale(msg["fn"]) or (0.0, 1.0)
            share = here((centring or {})[msg["name"]])
            log_det = jnp.broadcast_to((1.0 - share) * jnp.log(scale), jnp.shape(free))
            free = loc + jnp.exp(log_det) * (free - share * loc)
        if is_identity(transform):
            value = free
        else:
            value = transform(free)
            if is_discrete(msg["fn"]):
                return value
            own = transform.log_abs_det_jacobian(free, value)
            log_det = own if log_det is None else log_det + own
        if log_det is not None:
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


def noted(
    value_of: Callable[[Any, Plates], Any],
    summed: Container[str] = (),
    centring: Mapping[str, Any] | None = None,
) -> Callable[[Any, Plates], Any]:
    """The same values; each unconstrained value is noted as `NAME` + `FREE` too.

    It could not be found from the trace: after a scan, bounds of unequal rank do not broadcast
    against the values. Sites that are summed out have none.
    """

    def and_note(msg: Any, plates: Plates) -> Any:
        value = value_of(msg, plates)
        if value is not None and msg["name"] not in summed:
            transform = bijection(msg["fn"].support)
            free = transform.inv(value)
            _check_inside(msg, value, free, transform(free))
            if msg["name"] in (centring or {}):
                loc, scale = location_and_scale(msg["fn"]) or (0.0, 1.0)
                share = plates.here((centring or {})[msg["name"]])
                free = share * loc + (free - loc) / scale ** (1.0 - share)
            numpyro.deterministic(msg["name"] + FREE, free)
        return value

    return and_note


def _check_inside(msg: Any, value: Any, free: Any, back: Any) -> None:
    """Where values are known, refuse one that its own transform does not give back."""
    if isinstance(value, Tracer) or isinstance(back, Tracer):
        return
    if not np.isfinite(free).all() or not np.allclose(value, back, rtol=1e-3, atol=1e-5):
        raise RitzError(
            f"site {msg['name']!r}: the value given is outside its support "
            f"{describe(msg['fn'].support)[0]}, or on its edge"
        )
