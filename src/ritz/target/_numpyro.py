"""Targets from NumPyro models: any model whose latent sites are continuous."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.target import _effects as effects
from ritz.target._base import AbstractTarget, Quantity, Site, check_values, float_dtype
from ritz.target._constraints import describe
from ritz.target._failure import concretised, explain
from ritz.target._start import search


class NumPyroTarget(AbstractTarget):
    """The posterior of a NumPyro model given its arguments; made by `from_numpyro`."""

    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    model: Callable[..., Any] = eqx.field(static=True)
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    # Plates over a batch's rows, each with the rows of the whole.
    totals: tuple[tuple[str, int], ...] = eqx.field(static=True)
    holds_all: bool = eqx.field(static=True)

    @property
    def has_full_density(self) -> bool:
        return self.holds_all

    @property
    def has_model(self) -> bool:
        return True

    def _trace(self, x: Array, key: Any = None, batch: Any = None) -> dict[str, Any]:
        args, kwargs = (self.args, self.kwargs) if batch is None else split_batch(batch)
        totals = {} if batch is None else dict(self.totals)
        sites = {site.name: site for site in self.sites}
        return effects.trace_at(self.model, args, kwargs, sites, x, key=key, totals=totals)

    def log_density(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> Float[Array, ""]:
        return jnp.stack(list(self.terms(x, key, batch).values())).sum()

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        trace = self._trace(x, key, batch)
        return {
            name: jnp.asarray(effects.log_prob(site), float_dtype()).sum()
            for name, site in trace.items()
            if site["type"] == "sample"
        }

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        trace = self._trace(x)
        names = [q.name for q in (*self.sites, *self.deterministic)]
        return {name: jnp.asarray(trace[name]["value"]) for name in names}

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        check_values(self.sites, values)
        substituted = effects.substitute(self.model, data=values)
        trace = effects.run(substituted, self.args, self.kwargs, jax.random.key(0))
        parts = [effects.inverse(trace[site.name]).reshape(-1) for site in self.sites]
        return jnp.concatenate(parts).astype(float_dtype())

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        trace = self._trace(x)
        parts = [
            effects.log_prob(site).sum()
            for name, site in trace.items()
            if name.endswith(effects.LOG_DET) and site["type"] == "sample"
        ]
        return jnp.asarray(sum(parts, start=0.0), float_dtype())

    def log_likelihood(self, x: Float[Array, " d"]) -> dict[str, Array]:
        """Log density of each observation, unscaled, by observed site."""
        trace = self._trace(x)
        return {q.name: effects.log_prob(trace[q.name], scaled=False) for q in self.observed}

    def predict(
        self, x: Float[Array, " d"], key: Key[Array, ""], args: tuple[Any, ...], kwargs: dict
    ) -> dict[str, Array]:
        """A draw of the observed sites given the latent ones, for the arguments given.

        Raises:
            RitzError: where a site is observed inside a `scan`, which cannot be redrawn.
        """
        trace = self._trace(x)
        values = {site.name: trace[site.name]["value"] for site in self.sites}
        model = effects.substitute(effects.unconditioned(self.model), data=values)
        return effects.draws_of(effects.run(model, args, kwargs, key), self.observed)

    def prior_predict(self, key: Key[Array, ""]) -> dict[str, Array]:
        """A draw of every site from the model without its data.

        Raises:
            RitzError: for a site without a proper prior, naming it.
        """
        free = effects.unconditioned(self.model)
        try:
            trace = effects.run(free, self.args, self.kwargs, key)
        except NotImplementedError as error:
            raise explain(error, self.model) from error
        names = [q.name for q in (*self.sites, *self.deterministic)]
        drawn = {name: jnp.asarray(trace[name]["value"]) for name in names}
        return drawn | effects.draws_of(trace, self.observed)

    def observed_data(self) -> dict[str, Array]:
        """The data at the observed sites."""
        trace = self._trace(jnp.zeros(self.dim, float_dtype()))
        return {q.name: jnp.asarray(trace[q.name]["value"]) for q in self.observed}

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        return search(self, key, effects.prior_strategies(), NumPyroTarget._prior_point)

    def _prior_point(self, strategy: Callable[..., Any], key: Array) -> Array:
        model = effects.substitute(effects.seed(self.model, key), substitute_fn=strategy)
        trace = effects.run(model, self.args, self.kwargs, key)
        parts = [effects.inverse(trace[site.name]).reshape(-1) for site in self.sites]
        return jnp.concatenate(parts).astype(float_dtype())


def from_numpyro(
    model: Callable[..., Any], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> NumPyroTarget:
    """The posterior of a NumPyro model given its arguments.

    Plates (subsampled ones too), `scan`, `factor`, improper priors, constrained and
    reparameterised sites and `deterministic` sites are understood. Arrays among the arguments
    are traced, so that other data of the same shapes compile nothing; where a model computes
    Python values from its data (`int(group.max()) + 1`), they are closed over instead.

    Args:
        model: a function of NumPyro primitives.
        args: its positional arguments, data included.
        kwargs: its keyword arguments.

    Returns:
        the target.

    Raises:
        RitzError: if the model fails, has no latent site, or has one that is discrete.

    >>> import numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> from_numpyro(model, (np.zeros(3),)).dim
    1
    """
    raw = (tuple(args), dict(kwargs or {}))
    try:
        return _discover(model, *_traced(raw))
    except concretised():
        return _discover(model, *raw)


def from_batches(model: Callable[..., Any], batches: Any) -> NumPyroTarget:
    """The posterior of a model that is given `batches.total` rows a batch at a time.

    A plate that is as long as the batch is a plate over rows: its sites are scaled by
    `batches.total / batch rows`. Plates that the model itself subsamples are left alone.

    Args:
        model: a function of NumPyro primitives.
        batches: a `ritz.data.Batches`.

    Raises:
        RitzError: if a latent or an observed site makes the scale ambiguous.
    """
    rows, total = batches.size, batches.total
    small = _structure(model, *split_batch(batches.abstract(rows)))
    large = _structure(model, *split_batch(batches.abstract(rows + 1)))
    growing = {name for name, size in large.plates.items() if size != small.plates.get(name)}
    for entry in small.entries:
        inside = growing & set(entry.plates)
        if entry.latent and inside:
            raise RitzError(
                f"site {entry.name!r} is local to each row of a batch; fit all rows at once, or "
                "subsample inside the model: numpyro.plate(name, N, subsample_size=...)"
            )
        if entry.data and not inside and not small.subsampled & set(entry.plates):
            raise RitzError(
                f"observed site {entry.name!r} is in no plate over the batch's {rows} rows, so "
                f"its scale to {total} rows is unknown; put it in numpyro.plate('rows', len(y))"
            )
    totals = tuple((name, total) for name in sorted(growing))
    whole = batches.whole()
    held = split_batch(batches.example() if whole is None else whole)
    args, kwargs = _traced(held)
    return _discover(model, args, kwargs, totals, whole is not None)


def split_batch(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A batch as positional and keyword arguments of a model."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return (tuple(batch) if isinstance(batch, tuple | list) else (batch,)), {}


def _traced(arguments: Any) -> Any:
    """The arrays among a model's arguments as JAX arrays, which are traced."""
    kinds = np.ndarray | np.generic | jax.Array
    return jax.tree.map(lambda v: jnp.asarray(v) if isinstance(v, kinds) else v, arguments)


def _structure(model: Callable[..., Any], args: Any, kwargs: Any) -> "effects.Structure":
    """Run the model abstractly and note its sites; every failure names its site."""
    found: list[effects.Structure] = []

    def probe(args: Any, kwargs: Any) -> None:
        proper = effects.substitute(model, substitute_fn=effects.improper_value)
        trace, plates = effects.run_whole(proper, args, kwargs, jax.random.key(0))
        found.append(effects.structure(trace, plates))

    try:
        eqx.filter_eval_shape(probe, args, kwargs)
    except (RitzError, *concretised()):
        raise
    except Exception as error:
        raise explain(error, model) from error
    return found[-1]


def _discover(
    model: Callable[..., Any],
    args: Any,
    kwargs: Any,
    totals: tuple[tuple[str, int], ...] = (),
    holds_all: bool = True,
) -> NumPyroTarget:
    found = _structure(model, args, kwargs)
    sites, start = [], 0
    for entry in found.entries:
        if entry.latent:
            words, spec = describe(entry.support)
            free = entry.unconstrained_shape
            sites.append(Site(entry.name, entry.shape, free, start, words, spec, entry.dims))
            start = sites[-1].stop
    if not sites:
        raise RitzError(
            f"model {getattr(model, '__name__', model)!r} has no latent site: nothing to infer"
        )
    observed = [Quantity(e.name, e.shape, e.dims) for e in found.entries if e.data]
    return NumPyroTarget(
        sites=tuple(sites),
        observed=tuple(observed),
        deterministic=found.deterministic,
        model=model,
        args=args,
        kwargs=kwargs,
        totals=totals,
        holds_all=holds_all,
    )
