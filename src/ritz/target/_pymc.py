"""The target of a PyMC model: its sites, its transforms and its log density, as JAX functions."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz.target._base import (
    LOG_DET,
    AbstractTarget,
    Quantity,
    Site,
    check_values,
    float_dtype,
    no_batch,
)
from ritz.target._start import search


class PyMCTarget(AbstractTarget):
    """The posterior of a PyMC model; made by `from_pymc`.

    Attributes:
        density: from the sites' unconstrained values to the summands of the log density.
        values: from them to the sites' own values, and those of deterministic variables.
        inverse: from the sites' own values to their unconstrained ones.
        names: of the summands.
        coords: by the name of an axis, its labels.
        initial: the model's initial point, unconstrained.
    """

    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    density: Callable[..., Any] = eqx.field(static=True)
    values: Callable[..., Any] = eqx.field(static=True)
    inverse: Callable[..., Any] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    coords: tuple[tuple[str, tuple[Any, ...]], ...] = eqx.field(static=True)
    initial: Float[Array, " d"]

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        no_batch("a PyMC model", batch)
        summands = quietly(self.density, self._free(x))
        sums = [jnp.sum(jnp.asarray(value, float_dtype())) for value in summands]
        return dict(zip(self.names, sums, strict=True))

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        found = [jnp.asarray(value) for value in quietly(self.values, self._free(x))]
        n = len(self.sites)
        found[:n] = [value.astype(float_dtype()) for value in found[:n]]
        names = [q.name for q in (*self.sites, *self.deterministic)]
        return dict(zip(names, found, strict=True))

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        check_values(self.sites, values)
        given = [jnp.asarray(values[site.name], float_dtype()) for site in self.sites]
        return jnp.concatenate([jnp.ravel(v) for v in quietly(self.inverse, given)])

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        parts = [value for name, value in self.terms(x).items() if name.endswith(LOG_DET)]
        return functools.reduce(jnp.add, parts, jnp.zeros((), float_dtype()))

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        strategies = (
            ("the model's initial point", 0.0, 1),
            ("a draw around the model's initial point", 1.0, 30),
        )

        def near(target: PyMCTarget, spread: float, key: Array) -> Array:
            return target.initial + spread * jax.random.normal(key, target.initial.shape)

        return search(self, key, strategies, near)

    def _free(self, x: Array) -> list[Array]:
        return [site.take(jnp.asarray(x, float_dtype())) for site in self.sites]


def quietly(fn: Callable[..., Any], arrays: list[Array]) -> Any:
    """PyTensor's graphs ask for float64 by name; in float32 JAX gives what it has, and says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Explicitly requested dtype", UserWarning)
        return fn(*arrays)
