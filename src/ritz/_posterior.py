"""Drawing from a fit's posterior: from q, or from q corrected by importance weights."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz import _only_if as only_if
from ritz import data as _data
from ritz._compile import compile
from ritz._draws import CHUNK, at_keys, at_rows, generator
from ritz._errors import RitzError
from ritz.diagnose import PSIS, psis
from ritz.family import Mixture

DRAWS = 4000
# A correction draws from q until its weights are worth half of what it keeps, or this many times
# that.
_POOL = 4


def drawn(q: Any, target: Any, n: int, key: jax.Array, start: int = 0) -> dict[str, Any]:
    """n draws from q: `values` by site, `x`, and `log_weights` where there are any.

    Those from the `start`-th on, of the endless row that a key stands for.
    """
    weigh = only_if.weighs(q) and target.has_full_density
    if isinstance(q, Mixture):
        q = compile(lambda q: q.prepared(), q, quick=True)(q)

    def one(parts: Any, key: Any, _: Any) -> Any:
        q, target = paramax.unwrap(parts[0]), parts[1]
        if not weigh:
            x = target.at_random(q, jax.random.fold_in(key, 1)).sample(key)
            return {"x": x, "values": target.constrain(x)}
        x, log_q = q.sample_and_log_prob(key)
        weight = target.log_density(x) - log_q
        return {"x": x, "values": target.constrain(x), "log_weights": weight}

    out = at_keys(one, (q, target), n, jax.random.fold_in(key, 0), (), start)
    names = [quantity.name for quantity in (*target.sites, *target.deterministic)]
    out["values"] = {name: out["values"][name] for name in names}  # JAX sorts by name
    return out


def resampled(q: Any, target: Any, n: int, key: jax.Array) -> dict[str, Any]:
    r"""n draws from q corrected: resampled by Pareto-smoothed importance weights.

    Of a pool of n draws (at least 4,000; up to 4n, as many as leave an effective sample size of
    n/2) the i-th is taken :math:`\lfloor n w_i\rfloor` or :math:`\lceil n w_i\rceil` times, by
    systematic resampling: none twice unless its weight demands it. `log_weights` are those of the
    pool, before smoothing.
    """
    pool = drawn(q, target, max(n, DRAWS), key)
    smoothed = smooth(pool["log_weights"])
    size = len(pool["x"])
    wanted = math.ceil(1.1 * size * 0.5 * n / max(smoothed.ess, 1e-3 * size))
    if smoothed.ess < 0.5 * n and size < _POOL * n:
        wanted = min(CHUNK * math.ceil(wanted / CHUNK), _POOL * n)
        more = drawn(q, target, wanted - size, key, size)
        pool = jax.tree.map(lambda a, b: np.concatenate([a, b]), pool, more)
        smoothed = smooth(pool["log_weights"])
    weights = np.exp(smoothed.log_weights)
    rng = generator(key)
    chosen = systematic(weights, n, rng)
    take = lambda v: v[chosen]
    return {
        "values": {name: take(v) for name, v in pool["values"].items()},
        "x": take(pool["x"]),
        "log_weights": pool["log_weights"],
    }


def smooth(log_weights: np.ndarray) -> PSIS:
    """`psis` of weights that are zero where the log density is not a number."""
    return psis(np.where(np.isnan(log_weights), -np.inf, log_weights))


def systematic(weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n indices by systematic resampling, in random order.

    >>> counts = np.bincount(systematic(np.array([0.5, 0.3, 0.2]), 10, np.random.default_rng(0)))
    >>> counts.tolist()
    [5, 3, 2]
    """
    edges = np.cumsum(weights) / weights.sum()
    edges[-1] = 1.0
    places = (np.arange(n) + rng.uniform(1e-9, 1.0 - 1e-9)) / n
    # The pool is in no order, but what is resampled from it is.
    return rng.permutation(np.searchsorted(edges, places))


def log_prob(q: Any, target: Any, values: Any) -> np.ndarray:
    """Log density of q at values in the model's own parameters; see `Fit.log_prob`."""
    named = target.unpack(values)
    named = {s.name: jnp.asarray(_site(named, s)) for s in target.sites}
    first = target.sites[0]
    lead = jnp.shape(named[first.name])[: jnp.ndim(named[first.name]) - len(first.shape)]
    flat = {n: v.reshape(-1, *v.shape[len(lead) :]) for n, v in named.items()}

    def at(q: Any, target: Any, flat: Any) -> Any:
        def one(values: Any) -> Any:
            x = target.unconstrain(values)
            return paramax.unwrap(q).log_prob(x) - target.log_det(x)

        return jax.lax.map(one, flat, batch_size=256)

    args = (q, target, flat)
    return np.asarray(compile(at, *args)(*args)).reshape(lead)


def predict(
    fit: Any, data: Any, n: int, reduce: Callable[[dict[str, jax.Array]], Any] | None, key: Any
) -> Any:
    """Draws of the observed sites; see `Fit.predict`."""
    target, kept = fit.target, (lambda drawn: drawn) if reduce is None else reduce
    if data is None:
        arguments = (target.args, target.kwargs)
    else:
        binding = _data.bind(target.model, data, partial=True, like=fit.binding)
        arguments = target.prepare(binding.args, binding.kwargs)
    base = jax.random.fold_in(key, 1)
    if fit.correction is None:

        def one(parts: Any, key: Any, arguments: Any) -> Any:
            q, target = parts
            latent, noise = jax.random.split(key)
            return kept(target.predict(paramax.unwrap(q).sample(latent), noise, *arguments))

        return at_keys(one, (fit.q, target), n, base, arguments)

    def given(target: Any, row: Any, extra: Any) -> Any:
        (key, arguments), (x, i) = extra, row
        return kept(target.predict(x, jax.random.fold_in(key, i), *arguments))

    x = fit.take(n, key)["x"]
    return at_rows(given, target, (x, np.arange(n)), (base, arguments))


def _site(named: dict[str, Any], site: Any) -> Any:
    if site.name not in named:
        raise RitzError(f"log_prob: the values lack site {site.name!r}")
    shape = np.shape(named[site.name])
    if shape[len(shape) - len(site.shape) :] != site.shape:
        raise RitzError(
            f"log_prob: site {site.name!r} has shape {site.shape}, but the value's is {shape}"
        )
    return named[site.name]
