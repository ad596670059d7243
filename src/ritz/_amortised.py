"""What `ritz.amortise` returns."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz import data as _data
from ritz._compile import compile, spent
from ritz._errors import RitzError
from ritz._result import Fit
from ritz.family import AbstractAmortised
from ritz.solver import History
from ritz.target import NumPyroTarget, SimulatedTarget, from_numpyro
from ritz.target import _simulated as simulation


@dataclasses.dataclass(eq=False)
class Amortised:
    """What `ritz.amortise` learned: the posterior of any data set, by `fit`.

    Attributes:
        q: the family conditional on data.
        target: the joint law of parameters and data.
        history: the loss by step.
        stop_reason: why the run ended.
        message: the same in a line; empty where all went well.
        key: of draws.
        info: how it was made.
        least_rows: how few rows a data set may have; None where it must have all.
        free_inputs: whether inputs other than the example's were seen.
    """

    q: AbstractAmortised
    target: SimulatedTarget
    history: History
    stop_reason: str
    message: str
    key: jax.Array
    info: dict[str, Any]
    least_rows: int | None = None
    free_inputs: bool = False

    def fit(self, data: Any) -> Fit:
        """The posterior at data, in one pass of the network.

        Its k-hat and verdict are computed as for any fit, when they are first asked for. To
        improve on it, `ritz.fit(model, data, family=posterior.q)` goes on from there.

        Args:
            data: as `ritz.fit` takes them, of the shapes of the example; with fewer rows where
                `least_rows` allows. For a simulator, what it returns as data.

        Returns:
            a `Fit`.

        Raises:
            RitzError: for data of other shapes, or at inputs that the network has not seen.
        """
        began, spent_before = time.perf_counter(), spent()
        base = self.target.base
        if not isinstance(base, NumPyroTarget):
            seen, binding = self._as_simulated(data), None
            target, q = self.target.given(seen), self._once(_condition, self.q, seen)
        else:
            binding = _data.bind(base.model, data)
            arguments = base.prepare(binding.args, binding.kwargs)
            alike = _same((base.args, base.kwargs), arguments)
            if alike:  # new numbers in the same arrays: nothing is traced again
                target = eqx.tree_at(lambda t: (t.args, t.kwargs), base, arguments)
            else:
                target = from_numpyro(base.model, binding.args, binding.kwargs)
            at = functools.partial(_at_data, self._rows(base, target))
            parts = (self.q, target, base)
            q = self._once(at, *parts) if alike else compile(at, *parts)(*parts)
        info = self.info | {
            "start": "amortised over simulated data",
            "compile_seconds": spent() - spent_before,
            "total_seconds": time.perf_counter() - began,
        }
        return Fit(
            q=q,
            target=target,
            history=self.history,
            stop_reason=self.stop_reason,
            message=self.message,
            key=self.key,
            info=info,
            binding=binding,
        )

    @functools.cached_property
    def _drawn_shapes(self) -> Any:
        return jax.eval_shape(self.target.simulate, self.key)[1]

    def _once(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run a program that is traced for the first data of these shapes alone."""
        if "_program" not in self.__dict__:
            self.__dict__["_program"] = compile(fn, *args)
        return self.__dict__["_program"](*args)

    def _as_simulated(self, data: Any) -> Any:
        """Data of a simulator as arrays of the shapes that it draws."""
        expected = self._drawn_shapes
        if jax.tree.structure(data) != jax.tree.structure(expected):
            raise RitzError(
                f"data arrived with structure {jax.tree.structure(data)}, but the simulator draws "
                f"{jax.tree.structure(expected)}"
            )
        for mine, theirs in zip(jax.tree.leaves(data), jax.tree.leaves(expected), strict=True):
            if np.shape(mine) != theirs.shape:
                raise RitzError(
                    f"data arrived with shape {np.shape(mine)}, but the simulator draws "
                    f"{theirs.shape}; the network knows no other"
                )
        return jax.tree.map(lambda v, e: jnp.asarray(v, e.dtype), data, expected)

    def _rows(self, base: NumPyroTarget, target: NumPyroTarget) -> int | None:
        """How many rows new data have; None where all of them are always there."""
        old, new = ([q.shape for q in t.observed] for t in (base, target))
        same_sites = [s.shape for s in base.sites] == [s.shape for s in target.sites]
        if self.least_rows is None or not same_sites:
            if old != new or not same_sites:
                raise RitzError(
                    f"data arrived with observed shapes {new}, but the network was trained at "
                    f"{old}; train it at these"
                    + (", or with least_rows for any number of rows" if same_sites else "")
                )
        else:
            total, n = old[0][0], new[0][0]
            if not self.least_rows <= n <= total or [s[1:] for s in old] != [s[1:] for s in new]:
                raise RitzError(
                    f"data arrived with observed shapes {new}, but the network was trained with "
                    f"{self.least_rows} to {total} rows, of shapes {old}; train it at these"
                )
        if not self.free_inputs:
            self._check_inputs(base, target)
        return None if self.least_rows is None else new[0][0]

    def _check_inputs(self, base: NumPyroTarget, target: NumPyroTarget) -> None:
        """Refuse inputs that the network has not seen."""
        leaves = lambda t: [v for v in jax.tree.leaves((t.args, t.kwargs)) if eqx.is_array(v)]
        old, new = leaves(base), leaves(target)
        for i in inputs_of(base) if self.info["inputs"] else []:
            if old[i].shape != new[i].shape or not np.allclose(old[i], new[i]):
                raise RitzError(
                    f"data arrived with other values of an input (array {i} among the arguments) "
                    "than those of the example, at which the network was trained; train it with "
                    "amortise(..., inputs=function of a key that draws the arguments)"
                )


def _same(old: Any, new: Any) -> bool:
    """Whether two sets of arguments differ in the numbers in arrays alone."""
    (a, static_a), (b, static_b) = (eqx.partition(v, eqx.is_array) for v in (old, new))
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    shapes = all(x.shape == y.shape and x.dtype == y.dtype for x, y in pairs)
    return shapes and bool(eqx.tree_equal(static_a, static_b))


def inputs_of(base: Any) -> list[int]:
    """Which arrays among a model's arguments are inputs; a simulator has none."""
    return simulation.inputs_of(base) if isinstance(base, NumPyroTarget) else []


def _condition(q: Any, data: Any) -> Any:
    return paramax.unwrap(q).condition(data)


def _at_data(rows: int | None, q: Any, target: Any, base: Any) -> Any:
    """The family at a target's own data, with rows that are not there marked."""
    data = simulation.data_of(target, target.observed_data())
    if rows is not None:
        total = base.observed[0].shape[0]
        fill = lambda v: jnp.resize(v, (total, *v.shape[1:]))
        data = {name: fill(value) for name, value in data.items()}
        data[simulation.PRESENT] = (jnp.arange(total) < rows).astype(
            next(iter(data.values())).dtype
        )
    return _condition(q, data)
