"""Predictions, compiled: of functions and of outputs."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ritz.gp._density import WAYS, parts_of
from ritz.gp._evidence import predicted
from ritz.gp._factor import factor


# Functions of the likelihood and the moments; by name, so that they are compiled once.
def response(likelihood: Any, mean: Any, var: Any, y: Any) -> Any:
    return likelihood.response(mean, var)


def first(likelihood: Any, mean: Any, var: Any, y: Any) -> Any:
    return mean[0]


def log_mean(likelihood: Any, mean: Any, var: Any, y: Any) -> Any:
    return likelihood.log_mean(mean, var, y)


@eqx.filter_jit
def learned(way: str, parts: dict[str, Any], data: dict[str, Any]) -> Any:
    return WAYS[way](parts, data)


def _functions(parts: Any, seen: Any, data: Any, rows: Any, joint: bool) -> tuple[Any, Any]:
    """Moments of each function, the functions' axis last."""
    kernels, _, level = parts_of(parts, data)
    one = lambda kernel, level, seen: predicted(kernel, level, seen, rows, joint=joint)
    if len(kernels) == 1:
        many = jax.vmap(lambda level, seen: one(kernels[0], level, seen))(level, seen)
    else:
        stacked = jax.tree.map(lambda *v: jnp.stack(v), *kernels)
        many = jax.vmap(one)(stacked, level, seen)
    return many


@eqx.filter_jit
def at(of: Any, parts: Any, seen: Any, data: Any, rows: Any, y: Any) -> Any:
    mean, var = _functions(parts, seen, data, rows, False)
    # Where data tell nearly all, rounding may leave less than nothing.
    mean, var = mean.T, jnp.maximum(var.T, jnp.finfo(var.dtype).tiny)
    likelihood = parts_of(parts, data)[1]
    return mean, var, jax.vmap(lambda m, v, y: of(likelihood, m, v, y))(mean, var, y)


@eqx.filter_jit
def drawn(parts: Any, seen: Any, data: Any, rows: Any, key: Any, n: int) -> Any:
    mean, cov = _functions(parts, seen, data, rows, True)
    lower = jax.vmap(lambda c: factor(0.5 * (c + c.T))[0])(cov)
    noise = jax.random.normal(key, (n, *mean.shape), mean.dtype)
    return jnp.moveaxis(mean + jnp.einsum("cij,ncj->nci", lower, noise), 1, 2)
