"""The expectation of a program, and its gradient.

A program is traced once by JAX. Its value is split at the operations that are linear in random
values: the mean of a sum is the sum of means. So the mean of each term is taken as soon as the
term is known, over the choices that it depends on and no others, and a choice is credited only
with the terms that it can change.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, described
from ritz.program._align import Deps, align, linear, merge
from ritz.program._choose import choose
from ritz.program._graph import Constant, Graph, Op, Var, graph, op_samples
from ritz.program._loop import repeat
from ritz.program._mean import biases, in_one_line, ordinary
from ritz.program._site import sample_p
from ritz.program._value import Records, Value, lifted, settled
from ritz.target import NeedsValues, label, needs_values


class Expectation(eqx.Module):
    """See `expectation`."""

    program: Callable[..., Any]

    def value(self, key: Key[Array, ""], *args: Any) -> Float[Array, ""]:
        """An unbiased estimate of the expectation.

        Its derivative in the arguments, by any transformation of JAX, is the estimated gradient.

        Args:
            key: for the random choices.
            *args: the program's own.
        """
        closed, arrays = self._traced(args)
        flow = graph(closed)
        inputs = [Value(jnp.asarray(x)) for x in jax.tree.leaves(arrays)]
        return run(flow, inputs, key, Records(), [True])[0].array

    def bias(self, *args: Any) -> str | None:
        """How the bias of a program falls that plugs averages into functions, or None.

        Only `ritz.objective.plug_in` is looked for; the program is traced and nothing computed.

        Args:
            *args: the program's own.

        >>> expectation(lambda x: x).bias(1.0) is None
        True
        """
        return "; ".join(biases(self._traced(args)[0].jaxpr)) or None

    def _traced(self, args: Any) -> tuple[Any, Any]:
        arrays, static = eqx.partition(args, eqx.is_array_like)
        scalar = lambda arrays: self._scalar(eqx.combine(arrays, static))
        try:
            return jax.make_jaxpr(scalar)(arrays), arrays
        except Exception as error:
            if not needs_values(error):
                raise
            raise NeedsValues(self.program, error, "program") from error

    def _scalar(self, args: Any) -> Any:
        with in_one_line():
            out = ordinary(self.program(*args))
        if not eqx.is_array_like(out):
            forgot = ": does it lack a return?" if out is None else ""
            raise RitzError(
                f"{label(self.program)} returned {described(out)}; a program returns one real "
                f"number{forgot}"
            )
        if jnp.shape(out) != () or jnp.result_type(out).kind != "f":
            raise RitzError(
                f"{label(self.program)} returned {jnp.result_type(out)} of shape "
                f"{jnp.shape(out)}; a program returns one real number: sum or average it"
            )
        return out

    def grad(self, key: Key[Array, ""], *args: Any) -> Any:
        """An estimate of the gradient in the first argument's floating arrays."""
        return self.value_and_grad(key, *args)[1]

    def value_and_grad(self, key: Key[Array, ""], *args: Any) -> tuple[Float[Array, ""], Any]:
        """Estimates of the expectation and of its gradient in the first argument."""
        if not args:
            raise RitzError("a program without arguments has no gradient; pass its parameters")
        first, *rest = args
        inexact = lambda x: eqx.is_array_like(x) and jnp.result_type(x).kind == "f"
        params, fixed = eqx.partition(first, inexact)
        if not jax.tree.leaves(params):
            raise RitzError(
                f"the first argument is {described(first)}, without a floating number that "
                "could have a gradient; pass floats, such as 1.0 for 1"
            )
        params = jax.tree.map(jnp.asarray, params)
        at = lambda params: self.value(key, eqx.combine(params, fixed), *rest)
        return jax.value_and_grad(at)(params)


def expectation(program: Any) -> Expectation:
    r"""The expectation of a program that samples, as a function with a gradient.

    .. math:: F(\lambda) = \mathbb{E}_{x_1 \sim q_1, x_2 \sim q_2(\cdot; x_1), \dots}
        f(x_1, x_2, \dots; \lambda).

    The program is plain JAX around `sample`: it may call vmap, scan, cond and jit, and later
    choices may depend on earlier ones. Each choice has its own estimator. What is linear in the
    choices is split into terms, and a choice is credited with the terms that it changes;
    elements of a vmap or of a batch of a distribution are credited each with their own.

    The expectation is of the number that is returned. A logarithm of an average of K draws is a
    fine program, whose expectation differs from the logarithm of the expectation; written with
    `mean` and `plug_in`, it is marked as such.

    Both branches of a cond run; a while loop that samples is refused.

    Args:
        program: from any arguments to a real number.

    Returns:
        an object with `value(key, *args)`, `grad(key, *args)` and `value_and_grad(key, *args)`,
        gradients in the first argument, and `bias(*args)`, which tells of `plug_in`.

    Sources: Schulman et al. 2015 (stochastic computation graphs); Lew et al. 2023 (ADEV); van
    Krieken et al. 2021 (Storchastic); Becker et al. 2024 (programmable variational inference).

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(p):
    ...     z = sample(dist.Bernoulli(p))
    ...     return (z - 0.3) ** 2
    >>> value, grad = expectation(program).value_and_grad(jax.random.key(0), 0.5)
    >>> print(round(float(value), 4), round(float(grad), 4))
    0.29 0.4
    """
    if not callable(program):
        raise RitzError(f"expectation: {type(program).__name__} arrived, expected a function")
    return Expectation(program)


def run(
    flow: Graph,
    inputs: list[Value],
    key: Any,
    records: Records,
    settle: list[bool],
) -> list[Value]:
    """Values of a program's outputs; those to settle are replaced by their means.

    Args:
        flow: the program.
        inputs: their values.
        key: for its choices.
        records: of choices that were made before; those of this program are added.
        settle: which outputs are only used linearly.
    """
    first = max(records, default=-1) + 1
    deps = _dependencies(flow, [v.deps for v in inputs], first)
    means = _means(flow, deps, settle)
    joint = _mixed(flow, deps, means)
    env: dict[Var, Value] = {v: Value(c) for v, c in flow.constants.items()}
    env.update(zip(flow.inputs, inputs, strict=True))
    mean = lambda v: Value(settled(v, records)) if v.deps else v

    def read(v: Any) -> Value:
        return Value(v.val) if isinstance(v, Constant) else env[v]

    site = first
    for op in flow.ops:
        given = [read(v) for v in op.inputs]
        if op.primitive is sample_p:
            value, records[site] = choose(op, given, key, site, joint.get(site, set()))
            found = [value._replace(deps=deps[op.outputs[0]])]
            site += 1
        elif op.primitive.name == "scan" and op_samples(op):
            about = [deps[v] for v in op.outputs]
            settled_now = [v in means for v in op.outputs]
            found, records[site] = repeat(op, given, key, site, about, settled_now)
            site += 1
        elif _taken_linearly(op, deps, means):
            found = [Value(x) for x in op.bind(*(mean(v).array for v in given))]
        else:
            arrays, stacked = lifted(op.bind, given)
            found = [Value(x, stacked, deps[v]) for x, v in zip(arrays, op.outputs, strict=True)]
        for v, value in zip(op.outputs, found, strict=True):
            env[v] = mean(value) if v in means else value
    outputs = [read(v) for v in flow.outputs]
    return [mean(v) if s else v for v, s in zip(outputs, settle, strict=True)]


def _dependencies(flow: Graph, inputs: list[Deps], first: int) -> dict[Any, Deps]:
    """For each variable, the choices it depends on."""
    deps: dict[Any, Deps] = dict(zip(flow.inputs, inputs, strict=True))
    site = first
    for op in flow.ops:
        given = [_of(deps, v) for v in op.inputs]
        if op.primitive is sample_p:
            deps[op.outputs[0]] = _of_choice(op, given, site)
            site += 1
        elif op.primitive.name == "scan" and op_samples(op):
            mixed = merge([{s: (None,) * len(p) for s, p in d.items()} for d in given])
            for v in op.outputs:
                deps[v] = {**mixed, site: ()}
            site += 1
        else:
            deps.update(zip(op.outputs, align(op, given), strict=True))
    return deps


def _of(deps: dict[Any, Deps], v: Any) -> Deps:
    return {} if isinstance(v, Constant) else deps.get(v, {})


def _of_choice(op: Op, given: list[Deps], site: int) -> Deps:
    """A draw's dependencies: on itself, element by element, and on what its parameters depend."""
    what, mapped = op.params["site"], op.params["mapped"]
    outer, plates = len(mapped), len(what.plates)
    parts: list[Deps] = [{site: tuple(range(outer + plates))}]
    for i, deps in enumerate(given):
        levels = [level for level in range(outer) if mapped[level][i]]
        axes = dict(enumerate(levels))
        if what.own is not None:  # parameters broadcast against the batch from the right
            shape = op.inputs[i].aval.shape[len(levels) :]
            own = shape[: max(len(shape) - what.own, 0)]
            skip = plates - len(own)
            for a, size in enumerate(own):
                if skip + a >= 0 and size == what.plates[skip + a]:
                    axes[len(levels) + a] = outer + skip + a
        parts.append(
            {s: tuple(None if a is None else axes.get(a) for a in p) for s, p in deps.items()}
        )
    return merge(parts)


def linear_inputs(flow: Graph, settle: list[bool], which: range) -> list[bool]:
    """Which carries of a scan are sums: only added to, on the way to outputs to settle.

    Args:
        flow: the body.
        settle: which of its outputs are to be settled outside.
        which: the places of the carries among the inputs.
    """
    sums = list(settle[: len(which)])
    everything = {v: {0: ()} for v in flow.inputs}  # as if all were random
    deps = _dependencies(flow, [everything[v] for v in flow.inputs], 1)
    while True:
        means = _means(flow, deps, [*sums, *settle[len(which) :]])
        kept = [s and flow.inputs[i] in means for s, i in zip(sums, which, strict=True)]
        if kept == sums:
            return sums
        sums = kept


def _means(flow: Graph, deps: dict[Any, Deps], settle: list[bool]) -> set[Any]:
    """Variables whose every use is linear on the way to the outputs to settle."""
    wanted = {v for v, s in zip(flow.outputs, settle, strict=True) if s}
    means = {v for v in wanted if not isinstance(v, Constant)}
    means -= {v for v, s in zip(flow.outputs, settle, strict=True) if not s}
    spoiled = {v for v, s in zip(flow.outputs, settle, strict=True) if not s}
    for op in reversed(flow.ops):
        random = [bool(_of(deps, v)) for v in op.inputs]
        good = op.primitive is not sample_p and bool(op.outputs)
        good = good and all(v in means for v in op.outputs)
        for i, v in enumerate(op.inputs):
            if isinstance(v, Constant) or v in spoiled:
                continue
            if good and linear(op, i, random):
                means.add(v)
            else:
                spoiled.add(v)
                means.discard(v)
    return means


def _taken_linearly(op: Op, deps: dict[Any, Deps], means: set[Any]) -> bool:
    """Whether an operation may run on the means of its operands."""
    if op.primitive is sample_p or not op.outputs or not all(v in means for v in op.outputs):
        return False
    random = [bool(_of(deps, v)) for v in op.inputs]
    return any(random) and all(linear(op, i, random) for i, r in enumerate(random) if r)


def _mixed(flow: Graph, deps: dict[Any, Deps], means: set[Any]) -> dict[int, set[int]]:
    """For each choice, the plates whose elements mix in a value of which a mean is taken."""
    taken: list[Any] = [v for v in flow.outputs if v not in means]
    for op in flow.ops:
        if _taken_linearly(op, deps, means):
            taken += [v for v in op.inputs if v not in means]
        else:
            taken += [v for v in op.outputs if v in means]
    out: dict[int, set[int]] = {}
    for v in taken:
        for site, axes in _of(deps, v).items():
            out.setdefault(site, set()).update(p for p, a in enumerate(axes) if a is None)
    return out
