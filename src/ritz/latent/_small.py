"""Many small matrices: products, inverses, and what a sequence of maps makes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def product(a: Float[Array, "*#n i j"], b: Float[Array, "*#n j k"]) -> Float[Array, "... i k"]:
    """Of matrices; of a few rows it is several times as fast as a call of BLAS for each."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(axis=-2)


def along(a: Float[Array, "*#n i j"], x: Float[Array, "*#n j"]) -> Float[Array, "... i"]:
    """Of matrices and vectors."""
    return (a * x[..., None, :]).sum(axis=-1)


def transposed(a: Float[Array, "*n i j"]) -> Float[Array, "*n j i"]:
    return jnp.swapaxes(a, -1, -2)


@jax.custom_jvp
def inverse(a: Float[Array, "*n d d"]) -> Float[Array, "*n d d"]:
    """Of matrices; its derivative is of products alone."""
    return jnp.linalg.inv(a)


@inverse.defjvp
def _(primals: Any, tangents: Any) -> Any:
    found = inverse(primals[0])
    return found, -product(product(found, tangents[0]), found)


def prefixes(join: Callable[[Any, Any], Any], elements: Any, reverse: bool = False) -> Any:
    """What the elements up to each make, joined, as `jax.lax.associative_scan` has it.

    On a CPU, which has nothing to do side by side, one after another: a program of one step is
    compiled much sooner than one of a logarithm of T, and has half of the work.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.associative_scan(join, elements, reverse=reverse)
    ends = (slice(-1, None), slice(None, -1)) if reverse else (slice(None, 1), slice(1, None))
    first, rest = (jax.tree.map(lambda a, at=at: a[at], elements) for at in ends)

    def step(made: Any, new: Any) -> Any:
        made = jax.tree.map(lambda a: a[0], join(*jax.tree.map(lambda a: a[None], (made, new))))
        return made, made

    start = jax.tree.map(lambda a: a[0], first)
    found = jax.lax.scan(step, start, rest, reverse=reverse)[1]
    pair = lambda a, b: jnp.concatenate([b, a] if reverse else [a, b])
    return jax.tree.map(pair, first, found)
