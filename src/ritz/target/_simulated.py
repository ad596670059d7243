"""Targets that parameters and data can be drawn from together: what an amortised fit learns of."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.target._base import LOG_DET, AbstractTarget, float_dtype
from ritz.target._laws import is_factor
from ritz.target._log_density import from_log_density
from ritz.target._numpyro import NumPyroTarget
from ritz.target._without_density import AbstractWithoutDensity


class SimulatedTarget(AbstractWithoutDensity):
    r"""A joint law :math:`p(\theta, y)` to draw from; made by `from_simulator` and `amortise`.

    Its own density is not known; that of the posterior for given data may be, see `given`.

    Attributes:
        draw: from `base` and a key to values by site name, and data.
        density: of parameters and data, or None.
    """

    instead: ClassVar[str] = (
        "a simulator has no log density at given data; give from_simulator(simulate, log_density)"
    )
    draw: Callable[..., Any] = eqx.field(static=True)
    density: Callable[..., Any] | None = eqx.field(static=True, default=None)

    def __init__(self, base: AbstractTarget, draw: Callable[..., Any], density: Any = None) -> None:
        self.sites, self.observed, self.deterministic = base.sites, (), base.deterministic
        self.base, self.draw, self.density = base, draw, density

    def simulate(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], Any]:
        """A draw of the unconstrained parameters, and data given these."""
        values, data = self.draw(self.base, key)
        return self.base.unconstrain(values), data

    def given(self, data: Any) -> AbstractTarget:
        """The posterior for given data; without a density where that is not known."""
        if self.density is None:
            return self
        return dataclasses.replace(self.base, fn=_posterior(self.density, data))  # pyright: ignore

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        return self.simulate(key)[0], "a draw from the simulator"


def _posterior(density: Callable[..., Any] | None, data: Any) -> Callable[..., Any]:
    """The density of parameters at given data; zero where it is not known and never asked for."""
    if density is None:
        return lambda parameters: jnp.zeros(())
    return functools.wraps(density)(lambda parameters: density(parameters, data))


def from_simulator(
    simulate: Callable[..., Any], log_density: Any = None, constraints: Any = None
) -> SimulatedTarget:
    r"""The joint law of parameters and data that a function draws from, for `ritz.amortise`.

    Args:
        simulate: from a key to parameters and data, `(theta, y)`: pytrees of arrays, always of the
            same shapes. It is traced by JAX.
        log_density: :math:`\log p(\theta, y)` up to a constant, as a function of both, where it
            is known: then a posterior comes with k-hat and a verdict.
        constraints: of the parameters, as for `from_log_density`.

    Returns:
        the target.

    Raises:
        RitzError: where the function fails, or returns something else.

    >>> import jax
    >>> def simulate(key):
    ...     one, two = jax.random.split(key)
    ...     theta = jax.random.normal(one)
    ...     return {"theta": theta}, theta + jax.random.normal(two, (3,))
    >>> from_simulator(simulate).dim
    1
    """
    if not callable(simulate):
        raise RitzError(f"the simulator is a {type(simulate).__name__}; expected a function")
    if log_density is not None and not callable(log_density):
        raise RitzError(f"log_density is a {type(log_density).__name__}; expected a function")
    try:
        drawn = simulate(jax.random.key(0))
    except Exception as error:  # the user's function may raise anything
        reason = " ".join(str(error).split())[:240]
        raise RitzError(f"the simulator failed: {type(error).__name__}: {reason}") from error
    if not (isinstance(drawn, tuple) and len(drawn) == 2):
        raise RitzError(
            f"the simulator returned {type(drawn).__name__}, expected a pair: parameters and data"
        )
    base = from_log_density(_posterior(log_density, drawn[1]), drawn[0], constraints)

    def draw(base: Any, key: Array) -> Any:
        parameters, data = simulate(key)
        return base.unpack(parameters), data

    return SimulatedTarget(base, draw, log_density)


def simulated(
    target: NumPyroTarget, inputs: Callable[..., Any] | None, least_rows: int | None
) -> SimulatedTarget:
    """The joint law of a NumPyro model's parameters and data.

    Args:
        target: at example data.
        inputs: from a key to the model's arguments, positional and by name; the target's own
            where it is None.
        least_rows: how few of the rows a data set may have; None where it always has all.
    """

    def draw(target: Any, key: Array) -> Any:
        own, rest, rows = jax.random.split(key, 3)
        if inputs is not None:
            args, kwargs = inputs(own)
            target = eqx.tree_at(lambda t: (t.args, t.kwargs), target, (args, kwargs))
        drawn = target.prior_predict(rest)
        data = data_of(target, {q.name: drawn[q.name] for q in target.observed})
        if least_rows is not None:
            total = next(iter(data.values())).shape[0]
            n = jax.random.randint(rows, (), least_rows, total + 1)
            data[PRESENT] = (jnp.arange(total) < n).astype(float_dtype())
        return {site.name: drawn[site.name] for site in target.sites}, data

    return SimulatedTarget(target, draw)


# Names of what an encoder sees beside the observed sites: which rows there are, where not all of
# them are, and the inputs.
PRESENT = "rows present"
_INPUT = "input "


def data_of(target: NumPyroTarget, observed: dict[str, Array]) -> dict[str, Array]:
    """What an encoder sees of a model's data: its observed sites, and the inputs that matter."""
    arrays = [v for v in jax.tree.leaves((target.args, target.kwargs)) if eqx.is_array(v)]
    used = inputs_of(target)
    kept = {f"{_INPUT}{i}": jnp.asarray(arrays[i], float_dtype()) for i in used}
    return {name: jnp.asarray(v, float_dtype()) for name, v in observed.items()} | kept


def inputs_of(target: NumPyroTarget) -> list[int]:
    """Which of the arrays among a model's arguments its draws depend on: not the observed ones."""
    return _used(target, lambda target, key: target.prior_predict(key))


def observed_of(target: NumPyroTarget) -> list[int]:
    """Which of the arrays among a model's arguments are observed."""
    return _used(target, lambda target, key: target.observed_data())


def has_factor(target: NumPyroTarget) -> bool:
    """Whether the model has a `numpyro.factor`, which no data can be drawn from."""
    found: list[bool] = []

    def look(x: Array) -> Array:
        sites = [v for k, v in target.run(x)[0].items() if not k.endswith(LOG_DET)]
        found.extend(is_factor(site["fn"]) for site in sites if site["type"] == "sample")
        return x

    jax.eval_shape(look, jax.ShapeDtypeStruct((target.dim,), float_dtype()))
    return any(found)


def _used(target: NumPyroTarget, values: Callable[..., Any]) -> list[int]:
    arrays, static = eqx.partition((target.args, target.kwargs), eqx.is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    shapes = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in leaves]

    def at(leaves: list[Any], key: Any) -> list[Any]:
        arguments = eqx.combine(jax.tree.unflatten(treedef, leaves), static)
        moved = eqx.tree_at(lambda t: (t.args, t.kwargs), target, arguments)
        return list(values(moved, key).values())

    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr = jax.make_jaxpr(at)(shapes, key).jaxpr
    used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]
    return [i for i, is_used in enumerate(used[: len(leaves)]) if is_used]


def exchangeable(target: NumPyroTarget, key: Array) -> bool:
    """Whether the rows of a model's data may change places: its log density tells.

    Rows are the first axis of each observed site, and of every array among the arguments that is
    as long.
    """
    lengths = {q.shape[:1] for q in target.observed}
    if len(lengths) != 1 or () in lengths:
        return False
    ((n,),) = lengths
    of_rows = lambda v: eqx.is_array(v) and v.ndim > 0 and v.shape[0] == n
    whole = [v for v in jax.tree.leaves((target.args, target.kwargs)) if eqx.is_array(v)]
    inputs = [whole[i] for i in inputs_of(target)]
    if n < 2 or not all(map(of_rows, inputs)):
        return False
    order = jax.random.permutation(key, n)
    swapped = jax.tree.map(lambda v: v[order] if of_rows(v) else v, (target.args, target.kwargs))
    other = eqx.tree_at(lambda t: (t.args, t.kwargs), target, swapped)
    xs = jax.vmap(lambda key: target.simulate(key)[0])(jax.random.split(key, 4))
    one, two = (jax.vmap(t.log_density)(xs) for t in (target, other))
    return bool(jnp.allclose(one, two, rtol=1e-4, atol=1e-3))
