"""Targets from NumPyro models; discrete latent sites are summed out."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from ritz._mesh import place
from ritz.target import _effects as effects
from ritz.target import _factors, _posterior, _terms
from ritz.target._base import (
    FREE,
    AbstractTarget,
    Quantity,
    Site,
    check_values,
    float_dtype,
    named,
)
from ritz.target._failure import explain
from ritz.target._held import hold, release
from ritz.target._joint import Joint, joint
from ritz.target._plan import Plan
from ritz.target._prior import strategies
from ritz.target._start import search
from ritz.target._tables import Indices


class NumPyroTarget(AbstractTarget):
    """The posterior of a NumPyro model given its arguments; made by `from_numpyro`."""

    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    model: Callable[..., Any] = eqx.field(static=True)
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    # The dtype kinds of arguments whose values the model needs; see `_held`.
    holds: str = eqx.field(static=True)
    # Plates that follow a batch's rows, each with its size at all rows.
    totals: tuple[tuple[str, int], ...] = eqx.field(static=True)
    # Plates of all rows that say how many of them a batch has.
    declared: frozenset[str] = eqx.field(static=True)
    holds_all: bool = eqx.field(static=True)
    # How discrete latent sites are summed out, where any are.
    plan: Plan | None = eqx.field(static=True, default=None)
    # Discrete sites with coordinates of their own, whose values may lie between the integers.
    relaxed: frozenset[str] = eqx.field(static=True, default=frozenset())
    # The model's own parameters (`numpyro.param`), unconstrained, and their maps to the model.
    trainable: ClassVar[tuple[str, ...]] = ("theta",)
    theta: dict[str, PyTree] = eqx.field(default_factory=dict)
    theta_maps: dict[str, Any] = eqx.field(default_factory=dict)
    # How far sites of a hierarchy are centred; see `_centring`.
    centring: dict[str, Array] = eqx.field(default_factory=dict)

    @property
    def bound(self) -> Any:
        """The model, with the values of its parameters."""
        return effects.parameters(self.model, self._own()) if self.theta else self.model

    def _own(self) -> dict[str, PyTree]:
        return {name: jax.tree.map(self.theta_maps[name], v) for name, v in self.theta.items()}

    @property
    def trained(self) -> dict[str, Array]:
        return named({"theta": self._own()})

    @property
    def lines(self) -> tuple[str, ...]:
        """What is done with each discrete latent site, such as `z: summed, 3 values`."""
        drawn = []
        for site in self.sites:
            if site.values is not None:
                how = "relaxed" if site.name in self.relaxed else "score"
                n = site.stop - site.start
                elements = "1 element" if n == 1 else f"{n} elements"
                values = site.values[1] - site.values[0] + 1
                drawn.append(f"{site.name}: {how}, {values} values, {elements}")
        return (*(() if self.plan is None else self.plan.lines), *drawn)

    @property
    def has_full_density(self) -> bool:
        return self.holds_all

    @property
    def has_model(self) -> bool:
        return True

    @property
    def rows(self) -> dict[str, Any]:
        given = inspect.signature(self.model).bind_partial(*self.args, **self.kwargs).arguments
        leaves = jax.tree.leaves_with_path(dict(given))
        name = lambda path: jax.tree_util.keystr(path, simple=True, separator=".")
        return {name(path): leaf for path, leaf in leaves if isinstance(leaf, jax.Array)}

    def on(self, mesh: Any) -> Any:
        args, kwargs = place((self.args, self.kwargs), mesh)
        return dataclasses.replace(self, args=args, kwargs=kwargs)

    def run(
        self,
        x: Array,
        key: Any = None,
        args: Any = None,
        kwargs: Any = None,
        *,
        scaled: bool = True,
        relaxed: frozenset[str] = frozenset(),
    ) -> tuple[effects.Trace, effects.Plates]:
        """The model's trace at an unconstrained vector, and its plates.

        Args:
            x: unconstrained vector.
            key: for subsampled plates; without it they are made whole.
            args: positional arguments in place of the target's own.
            kwargs: keyword arguments in place of the target's own.
            scaled: whether to scale the sites in plates over a batch's rows.
            relaxed: discrete sites whose values are left between the integers.
        """
        if args is None:
            args, kwargs = self.args, self.kwargs
        args, kwargs = release((args, kwargs))
        sites = {site.name: site for site in self.sites}
        value_of = effects.at(sites, x, relaxed, self.centring)
        return effects.run(
            self.bound,
            args,
            kwargs,
            jax.random.key(0) if key is None else key,
            value_of if self.plan is None else self.plan.value_of({}, value_of),
            whole=key is None,
            keep=self.declared,
            totals=dict(self.totals) if scaled else None,
        )

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        if self.plan is not None:
            left = self.plan.sum_out(lambda i: self.factors(x, i, key, batch).factors)
            return {", ".join(f.names): _factors.over_plates(f, ()).value for f in left}
        if batch is None:
            run = self.run(x, key, scaled=not self.holds_all, relaxed=self.relaxed)
        else:
            run = self.run(x, key, *split_batch(batch), relaxed=self.relaxed)
        return _terms.terms(*run)

    def factors(
        self, x: Array, indices: Indices, key: Any = None, batch: Any = None, weights: Any = None
    ) -> Joint:
        """A run where discrete sites have given values; see `joint`."""
        scaled = batch is not None or not self.holds_all
        arguments = (self.args, self.kwargs) if batch is None else split_batch(batch)
        totals = dict(self.totals) if scaled else None
        return joint(self, x, indices, arguments, key=key, totals=totals, weights=weights)

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        traced, _ = self.run(x)
        names = [q.name for q in (*self.sites, *self.deterministic)]
        return {name: jnp.asarray(traced[name]["value"]) for name in names}

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        check_values(self.sites, values)
        discrete = {site.name for site in self.sites if site.values is not None}
        kind = lambda name: int if name in discrete else float_dtype()
        arrays = {name: jnp.asarray(value, kind(name)) for name, value in values.items()}
        return self._free(effects.given(arrays), jax.random.key(0))

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        parts = _terms.log_dets(*self.run(x)).values()
        return jnp.asarray(sum(parts, start=0.0), float_dtype())

    def log_likelihood(self, x: Float[Array, " d"]) -> dict[str, Array]:
        """Log density of each observation, unscaled, by observed site.

        Where it depends on discrete sites in the same plates alone, these are summed out;
        observations that share a discrete site have no log density each, and are left out.
        """
        traced, _ = self.run(x)
        out = {q.name: _terms.log_prob(traced[q.name], scaled=False) for q in self.observed}
        return (
            out if self.plan is None else self.plan.each(out, lambda i: self.factors(x, i).factors)
        )

    def discrete_posterior(self, x: Float[Array, " d"]) -> dict[str, Array]:
        """Probabilities of each discrete site's values given the parameters and the data."""
        return _posterior.probabilities(self, x)

    def predict(
        self, x: Float[Array, " d"], key: Key[Array, ""], args: tuple[Any, ...], kwargs: dict
    ) -> dict[str, Array]:
        """A draw of the observed sites given the latent ones, for the arguments given.

        Discrete sites are drawn given the latent ones, and given the target's own data where
        they are in no plate; those in plates and scans are drawn anew, as for other rows.

        Args:
            x: unconstrained vector.
            key: for the draw.
            args: positional arguments.
            kwargs: keyword arguments; those that are missing are passed as None.

        Raises:
            RitzError: where the model fails on them, or a latent site changes its shape.
        """
        traced, _ = self.run(x)
        values = {site.name: traced[site.name]["value"] for site in self.sites}
        if self.plan is not None:
            key, own = jax.random.split(key)
            values |= _posterior.shared(self, x, own)
        args, kwargs = _completed(self.model, *release((args, kwargs)))
        drawn = self._redraw(key, args, kwargs, effects.given(values))
        return {q.name: drawn[q.name] for q in self.observed if q.name in drawn}

    def prior_predict(self, key: Key[Array, ""]) -> dict[str, Array]:
        """A draw of every site from the model without its data; factors are ignored.

        Raises:
            RitzError: for a site without a proper prior, naming it.
        """
        args, kwargs = release((self.args, self.kwargs))
        drawn = self._redraw(key, args, kwargs, None)
        return {q.name: drawn[q.name] for q in (*self.sites, *self.deterministic, *self.observed)}

    @property
    def can_simulate(self) -> bool:
        return bool(self.observed) and self.holds_all

    def simulate(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], dict[str, Array]]:
        drawn = self.prior_predict(key)
        x = self.unconstrain({site.name: drawn[site.name] for site in self.sites})
        return x, {q.name: drawn[q.name] for q in self.observed}

    def observed_data(self) -> dict[str, Array]:
        """The data at the observed sites."""
        traced, _ = self.run(jnp.zeros(self.dim, float_dtype()))
        return {q.name: jnp.asarray(traced[q.name]["value"]) for q in self.observed}

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        return search(self, key, strategies(self.sites), NumPyroTarget._prior_point)

    def prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """New arguments, with the values that the model needs kept out of tracing.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.

        Returns:
            both, as `predict` takes them.
        """
        return hold((args, kwargs), self.holds)

    def _prior_point(self, strategy: tuple[Callable[..., Any], bool], key: Array) -> Array:
        value_of, keyed = strategy
        return self._free(value_of, key, keyed=keyed)

    def _free(self, value_of: Any, key: Any, *, keyed: bool = False) -> Array:
        """The unconstrained vector of latent values."""
        args, kwargs = release((self.args, self.kwargs))
        summed = () if self.plan is None else self.plan.names
        if self.plan is not None:
            value_of = self.plan.value_of({}, value_of)
        traced, _ = effects.run(
            self.bound,
            args,
            kwargs,
            key,
            effects.noted(value_of, summed, self.centring),
            keep=self.declared,
            keyed=keyed,
        )
        free = _terms.attached(traced, FREE)
        parts = [free[s.name]["value"].reshape(-1) for s in self.sites]
        return jnp.concatenate(parts).astype(float_dtype())

    def _redraw(self, key: Any, args: Any, kwargs: Any, value_of: Any) -> dict[str, Array]:
        """Every site's value where observed ones are drawn."""
        free = effects.unconditioned(self.bound)
        try:
            traced, _ = effects.run(free, args, kwargs, key, value_of, keep=self.declared)
        except Exception as error:
            raise explain(error, self.model) from error
        kinds = ("sample", "deterministic")
        return {n: jnp.asarray(s["value"]) for n, s in traced.items() if s["type"] in kinds}


def split_batch(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as positional and keyword arguments of a model."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


def _completed(model: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Arguments with None for each that is required and missing."""
    try:
        bound = inspect.signature(model).bind_partial(*args, **kwargs)
    except (TypeError, ValueError):
        return args, kwargs  # the call itself says what is wrong
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = {
        name: None
        for name, parameter in bound.signature.parameters.items()
        if name not in bound.arguments
        and parameter.default is parameter.empty
        and parameter.kind in plain
    }
    return args, kwargs | missing
