"""The target of a Stan program: its density, gradient and maps are computed on the host."""

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.target._base import AbstractTarget, Quantity, Site, check_values, float_dtype, no_batch
from ritz.target._start import search


class Host:
    """A `bridgestan.StanModel`, for points with any leading axes, in float64.

    Where Stan throws, as it does outside a support, the density is zero; `said` is its last reason.
    NumPy only: a callback that waits for JAX may wait for ever. One call at a time: Stan's own
    memory is not made for more. With slots and a text of its own, so that a checkpoint knows the
    same program and data in another process.
    """

    __slots__ = ("_lock", "_model", "_text", "said")

    def __init__(self, model: Any, text: str) -> None:
        self._model, self._text, self._lock = model, text, threading.Lock()
        self.said: str | None = None

    def __repr__(self) -> str:
        return self._text

    def _each(self, fn: Callable[[np.ndarray], Any], x: Any, lost: Any) -> list[np.ndarray]:
        """What `fn` gives at each point, part by part; `lost` where it throws."""
        rows = np.ascontiguousarray(np.asarray(x), np.float64).reshape(-1, np.shape(x)[-1])
        found = []
        for row in rows:
            with self._lock:
                try:
                    found.append(fn(row))
                except RuntimeError as error:
                    self.said = " ".join(str(error).split())[:240]
                    found.append(lost)
        lead, dtype = np.shape(x)[:-1], x.dtype
        with np.errstate(over="ignore"):  # infinite, in JAX's precision
            stacked = [np.asarray(part).astype(dtype) for part in zip(*found, strict=True)]
        return [part.reshape((*lead, *part.shape[1:])) for part in stacked]

    def value(self, x: Any) -> Any:
        """The log density with its Jacobian."""
        of = functools.partial(self._model.log_density, propto=False, jacobian=True)
        return self._each(lambda row: (of(row),), x, (-np.inf,))[0]

    def without_jacobian(self, x: Any) -> Any:
        """The log density of the program's own parameters."""
        of = functools.partial(self._model.log_density, propto=False, jacobian=False)
        return self._each(lambda row: (of(row),), x, (-np.inf,))[0]

    def score(self, x: Any) -> Any:
        """`value` and its gradient."""
        of = functools.partial(self._model.log_density_gradient, propto=False, jacobian=True)
        return tuple(self._each(of, x, (-np.inf, np.zeros(np.shape(x)[-1]))))

    def constrained(self, x: Any) -> Any:
        """Parameters and transformed parameters, in Stan's order."""
        of = functools.partial(self._model.param_constrain, include_tp=True)
        lost = np.full(len(self._model.param_names(include_tp=True)), np.nan)
        return self._each(lambda row: (of(row),), x, (lost,))[0]

    def unconstrained(self, theta: Any) -> Any:
        """From parameters in Stan's order."""
        lost = np.full(self._model.param_unc_num(), np.nan)
        return self._each(lambda row: (self._model.param_unconstrain(row),), theta, (lost,))[0]


def _called(fn: Callable[..., Any], x: Array, *shapes: tuple[int, ...]) -> Any:
    out = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in shapes]
    # Batched, a call has all points at once.
    return jax.pure_callback(
        fn, tuple(out) if len(out) > 1 else out[0], x, vmap_method="expand_dims"
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _density(host: Host, x: Array) -> Array:
    return _called(host.value, x, ())


def _forward(host: Host, x: Array) -> tuple[Array, Array]:
    return _called(host.score, x, (), x.shape)


def _backward(host: Host, score: Array, cotangent: Array) -> tuple[Array]:
    return (cotangent * score,)


_density.defvjp(_forward, _backward)


class StanTarget(AbstractTarget):
    """The posterior of a Stan program; made by `from_stan`.

    Attributes:
        host: the compiled program with its data.
        name: of the program.
        places: of each site and transformed parameter, where its entries are in Stan's order.
    """

    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    host: Host = eqx.field(static=True)
    name: str = eqx.field(static=True)
    places: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def log_density(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> Float[Array, ""]:
        no_batch(f"the Stan program {self.name!r}", batch)
        return _density(self.host, jnp.asarray(x, float_dtype()))

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        return {self.name: self.log_density(x, key, batch)}

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        size = sum(len(place) for place in self.places)
        flat = _called(self.host.constrained, jnp.asarray(x, float_dtype()), (size,))
        quantities = zip((*self.sites, *self.deterministic), self.places, strict=True)
        return {q.name: flat[np.asarray(place)].reshape(q.shape) for q, place in quantities}

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        check_values(self.sites, values)
        size = sum(math.prod(site.shape) for site in self.sites)
        if not any(isinstance(v, Tracer) for v in values.values()):
            # In float64, as Stan refuses a simplex whose sum is off by more than 1e-8.
            theta = np.zeros(size)
            for site, place in zip(self.sites, self.places, strict=False):
                theta[np.asarray(place)] = np.ravel(np.asarray(values[site.name], np.float64))
            return jnp.asarray(self.host.unconstrained(theta), float_dtype())
        flat = jnp.zeros(size, float_dtype())
        for site, place in zip(self.sites, self.places, strict=False):
            entries = jnp.ravel(jnp.asarray(values[site.name], float_dtype()))
            flat = flat.at[np.asarray(place)].set(entries)
        return _called(self.host.unconstrained, flat, (self.dim,))

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        x = jnp.asarray(x, float_dtype())
        return _called(self.host.value, x, ()) - _called(self.host.without_jacobian, x, ())

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        strategies = (
            ("the origin of unconstrained space", 0.0, 1),
            ("a uniform draw between -2 and 2, unconstrained", 2.0, 30),
        )

        def point(target: StanTarget, width: float, key: Array) -> Array:
            unit = jax.random.uniform(key, (target.dim,), float_dtype(), -1.0, 1.0)
            return width * unit

        try:
            return search(self, key, strategies, point)
        except RitzError as error:
            if self.host.said is None:
                raise
            raise RitzError(f"{error}; Stan says: {self.host.said}") from None
