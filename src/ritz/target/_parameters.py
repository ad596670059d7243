"""The parameters of a target itself: an argument of its function, or `numpyro.param` sites."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpyro.distributions.transforms import biject_to

from ritz._compile import compile
from ritz._errors import RitzError
from ritz.target import _effects as effects
from ritz.target._base import float_dtype
from ritz.target._constraints import describe
from ritz.target._held import release
from ritz.target._structure import anywhere


def trainable(theta: Any) -> PyTree:
    """A function's own argument, with arrays for its floating numbers.

    Raises:
        RitzError: where it has none, or one that is not finite.
    """

    def array(leaf: Any) -> Any:
        if not isinstance(leaf, float | np.ndarray | np.floating):
            return leaf
        leaf = np.asarray(leaf)
        return jnp.asarray(leaf, float_dtype() if leaf.dtype.kind == "f" else leaf.dtype)

    theta = jax.tree.map(array, theta)
    arrays = [v for v in jax.tree.leaves(theta) if eqx.is_inexact_array(v)]
    if not arrays:
        raise RitzError(
            f"theta arrived as {type(theta).__name__} without floating numbers; give what is to be "
            "trained, such as 1.0 for 1"
        )
    if not all(np.isfinite(v).all() for v in arrays):
        raise RitzError("theta holds a number that is not finite; give a finite starting value")
    return theta


def parameters(
    model: Callable[..., Any], held: tuple[Any, Any], constraints: dict[str, Any]
) -> tuple[dict[str, PyTree], dict[str, Any]]:
    """The initial values of a model's parameters, unconstrained, and the maps to the model.

    Args:
        model: the model.
        held: its arguments.
        constraints: of each parameter, by name.

    Raises:
        RitzError: for a value that is no floating number or outside its constraint.
    """

    def initial(held: Any) -> Any:
        args, kwargs = release(held)
        traced, _ = effects.run(model, args, kwargs, jax.random.key(0), anywhere)
        # Of a parameter in a subsampled plate the argument is the whole.
        whole = lambda site: site["args"][0] if site["args"] else site["value"]
        return {name: jax.tree.map(jnp.asarray, whole(traced[name])) for name in constraints}

    values = compile(initial, held)(held)
    maps = {name: _map(name, kind) for name, kind in constraints.items()}
    return {name: _free(name, value, maps[name]) for name, value in values.items()}, maps


def _map(name: str, kind: Any) -> Any:
    try:
        return biject_to(kind)
    except NotImplementedError:
        raise RitzError(
            f"the constraint of numpyro.param({name!r}, …), {describe(kind)[0]}, has no map from "
            "the reals; use another one"
        ) from None


def _free(name: str, value: PyTree, transform: Any) -> PyTree:
    def one(value: Any) -> Any:
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise RitzError(
                f"numpyro.param({name!r}, …) has dtype {value.dtype}; write a floating number, or "
                "fix it: an integer cannot be trained"
            )
        free = jnp.asarray(transform.inv(value), float_dtype())
        if not np.isfinite(free).all() or not np.allclose(transform(free), value, 1e-3, 1e-5):
            raise RitzError(
                f"numpyro.param({name!r}, …) starts outside its support "
                f"{describe(transform.codomain)[0]}, or on its edge; start inside"
            )
        return free

    return jax.tree.map(one, value)
