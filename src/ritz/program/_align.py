"""Which axis of a value goes with which plate of a random choice, and what is linear in what.

Elements of a plate (an axis of independent choices) can be summed out all at once, and credited
each with its own cost, as long as a program keeps them apart: element n of a value depends on
element n of the choice alone. `align` follows an axis through an operation, and says None where
elements mix. A rule that is missing is safe: it means that everything mixes.
"""

import math
from collections.abc import Callable
from typing import Any

from jax.extend.core import Literal
from jax.extend.core.primitives import cond_p, scan_p

from ritz.program._scan import operands

# For each choice, the axis of a value that goes with each plate, or None where elements mix.
Deps = dict[int, tuple[int | None, ...]]
Axes = dict[int, int]  # an axis of an operand -> the same axis of a result

_WORDS = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp conj convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2
    expm1 floor ge gt igamma igammac igamma_grad_a is_finite integer_pow le lgamma log log1p
    logistic lt max min mul ne neg nextafter not or polygamma pow random_gamma_grad
    reduce_precision regularized_incomplete_beta rem round rsqrt select_n sign sin sinh sqrt square
    stop_gradient sub tan tanh xor zeta
"""
ELEMENTWISE = set(_WORDS.split())
REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"}
REDUCTIONS |= {"argmax", "argmin", "reduce_xor"}
ALONG = {"cumsum": "axis", "cumlogsumexp": "axis", "cummax": "axis", "cummin": "axis"}
ALONG |= {"cumprod": "axis", "sort": "dimension", "concatenate": "dimension", "split": "axis"}
BATCHED_MATRICES = {"cholesky", "triangular_solve", "lu", "eigh", "svd", "qr"}


def align(op: Any, deps: list[Deps]) -> list[Deps]:
    """The dependencies of an operation's results, from those of its operands."""
    inner = op.params.get("call_jaxpr") or op.params.get("fun_jaxpr")
    if (inner is not None and hasattr(inner, "eqns")) or hasattr(inner, "jaxpr"):
        return _through(inner, deps)
    if op.primitive is scan_p:
        return _along_scan(op, deps)
    if op.primitive is cond_p:
        which: list[Deps] = [{s: (None,) * len(a) for s, a in deps[0].items()}]
        cases = [_through(branch, deps[1:]) for branch in op.params["branches"]]
        return [merge([*which, *case]) for case in zip(*cases, strict=True)]
    maps = [_axes(op, i) for i in range(len(op.inputs))]
    return [merge([_moved(d, m) for d, m in zip(deps, maps, strict=True)]) for _ in op.outputs]


def merge(parts: list[Deps]) -> Deps:
    """Dependencies of a value made from several; where they disagree, elements mix."""
    out: Deps = {}
    for deps in parts:
        for site, axes in deps.items():
            old = out.get(site, axes)
            out[site] = tuple(a if a == b else None for a, b in zip(old, axes, strict=True))
    return out


def _moved(deps: Deps, axes: Axes) -> Deps:
    return {
        # An axis below zero is that of a scan around the operation, which leaves it alone.
        site: tuple(a if a is None or a < 0 else axes.get(a) for a in plates)
        for site, plates in deps.items()
    }


def _along_scan(op: Any, deps: list[Deps]) -> list[Deps]:
    """Dependencies through a scan: rows stay apart if no carry takes them to the next step."""
    p = op.params
    consts, carries = operands(p)
    fixed = [_deeper(d) for d in deps[:consts]]
    carry = [_deeper(d) for d in deps[consts : consts + carries]]
    rows = [_shifted(d, -1) for d in deps[consts + carries :]]
    while True:
        found = _through(p["jaxpr"], [*fixed, *carry, *rows])
        after = [_apart(d) for d in found[:carries]]
        grown = [merge([old, new]) for old, new in zip(carry, after, strict=True)]
        if grown == carry:
            outside = [_deeper(d, 1) for d in carry]
            return [*outside, *(_shifted(d, 1) for d in found[carries:])]
        carry = grown


def _shifted(deps: Deps, by: int) -> Deps:
    return {s: tuple(None if a is None else a + by for a in axes) for s, axes in deps.items()}


def _deeper(deps: Deps, by: int = -1) -> Deps:
    """Of what a scan does not take apart: only axes of scans around it count one more."""
    return {
        s: tuple(a if a is None or a >= 0 else a + by for a in axes) for s, axes in deps.items()
    }


def _apart(deps: Deps) -> Deps:
    """Of a carry: rows of the scan's own axis have come together."""
    return {s: tuple(None if a == -1 else a for a in axes) for s, axes in deps.items()}


def _through(inner: Any, deps: list[Deps]) -> list[Deps]:
    """Dependencies through the operations inside one, as of a custom derivative."""
    jaxpr = getattr(inner, "jaxpr", inner)
    env = dict(zip(jaxpr.invars, deps, strict=True))
    read = lambda v: {} if isinstance(v, Literal) else env.get(v, {})
    for eqn in jaxpr.eqns:
        nested = eqn.params.get("jaxpr")
        given = [read(v) for v in eqn.invars]
        if nested is not None and eqn.primitive.name == "jit":
            found = _through(nested, given)
        else:
            found = align(_Equation(eqn), given)
        env.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


class _Equation:
    """An equation of a jaxpr in the form of an operation."""

    def __init__(self, eqn: Any) -> None:
        self.primitive, self.params = eqn.primitive, eqn.params
        self.inputs, self.outputs = eqn.invars, eqn.outvars


def _axes(op: Any, i: int) -> Axes:
    """Where each axis of operand i goes, if elements along it stay apart."""
    name, params, shape = op.primitive.name, op.params, op.inputs[i].aval.shape
    out = op.outputs[0].aval.shape
    every = range(len(shape))
    if name in ELEMENTWISE:
        return {a: a for a in every} if len(shape) == len(out) else {}
    if name in REDUCTIONS:
        kept = [a for a in every if a not in params["axes"]]
        return {a: k for k, a in enumerate(kept)}
    if name in ALONG:
        along = params[ALONG[name]]
        return {a: a for a in every if a != along}
    if name in BATCHED_MATRICES:
        return {a: a for a in range(len(shape) - 2)}
    rule = RULES.get(name)
    return {} if rule is None else rule(params, i, shape, out)


def _broadcast(params: Any, i: int, shape: Any, out: Any) -> Axes:
    pairs = enumerate(params["broadcast_dimensions"])
    return {a: int(b) for a, b in pairs if shape[a] == out[b]} if i == 0 else {}


def _stack(params: Any, i: int, shape: Any, out: Any) -> Axes:
    return {a: a + (a >= params["axis"]) for a in range(len(shape))}


def _reshape(params: Any, i: int, shape: Any, out: Any) -> Axes:
    places = {(math.prod(out[:b]), out[b]): b for b in reversed(range(len(out)))}
    keys = [(math.prod(shape[:a]), shape[a]) for a in range(len(shape))]
    return {a: places[key] for a, key in enumerate(keys) if key in places and key[1] != 1}


def _squeeze(params: Any, i: int, shape: Any, out: Any) -> Axes:
    kept = [a for a in range(len(shape)) if a not in params["dimensions"]]
    return {a: k for k, a in enumerate(kept)}


def _transpose(params: Any, i: int, shape: Any, out: Any) -> Axes:
    return {a: k for k, a in enumerate(params["permutation"])}


def _same_size(params: Any, i: int, shape: Any, out: Any) -> Axes:
    """Slices and pads: an axis taken whole."""
    return {a: a for a in range(len(shape)) if shape[a] == out[a]} if i == 0 else {}


def _slice(params: Any, i: int, shape: Any, out: Any) -> Axes:
    return _same_size(params, i, shape, out)


def _pad(params: Any, i: int, shape: Any, out: Any) -> Axes:
    whole = [c == (0, 0, 0) for c in params["padding_config"]]
    return {a: a for a in range(len(shape)) if whole[a]} if i == 0 else {}


def _reverse(params: Any, i: int, shape: Any, out: Any) -> Axes:
    return {a: a for a in range(len(shape)) if a not in params["dimensions"]}


def _dot(params: Any, i: int, shape: Any, out: Any) -> Axes:
    contracted, batch = params["dimension_numbers"]
    axes = {a: k for k, a in enumerate(batch[i])}
    free = [a for a in range(len(shape)) if a not in contracted[i] and a not in batch[i]]
    first = len(batch[0]) if i == 0 else len(out) - len(free)
    return axes | {a: first + k for k, a in enumerate(free)}


def _gather(params: Any, i: int, shape: Any, out: Any) -> Axes:
    numbers = params["dimension_numbers"]
    offset = numbers.offset_dims
    if i == 1:
        rest = [b for b in range(len(out)) if b not in offset]
        return dict(enumerate(rest))  # the last axis of the indices is not among them
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [a for a in range(len(shape)) if a not in gone]
    sizes = params["slice_sizes"]
    axes = {a: b for a, b in zip(kept, offset, strict=True) if sizes[a] == shape[a]}
    rest = [b for b in range(len(out)) if b not in offset]
    pairs = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    return axes | {a: rest[b] for a, b in pairs}


RULES: dict[str, Callable[[Any, int, Any, Any], Axes]] = {
    "broadcast_in_dim": _broadcast,
    "stack": _stack,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "slice": _slice,
    "dynamic_slice": _same_size,
    "pad": _pad,
    "rev": _reverse,
    "dot_general": _dot,
    "gather": _gather,
}

LINEAR = {"add", "add_any", "sub", "neg", "reduce_sum", "copy", "copy_p", "concatenate", "cumsum"}
LINEAR |= {
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "transpose",
    "slice",
    "rev",
    "pad",
    "split",
    "stack",
}
LINEAR |= {"convert_element_type"}
FIRST = {"div", "dynamic_slice", "gather"}  # linear in the first operand, the others held fixed
EITHER = {"mul", "dot_general"}  # linear in each operand, the other held fixed


def linear(op: Any, i: int, random: list[bool]) -> bool:
    """Whether an operation is linear in operand i: then its mean is that of the operand."""
    name = op.primitive.name
    if op.inputs[i].aval.dtype.kind != "f" or op.outputs[0].aval.dtype.kind != "f":
        return False
    others = any(r for k, r in enumerate(random) if k != i)
    if name in LINEAR:
        return True
    if name in FIRST:
        return i == 0 and not others
    if name == "select_n":
        # The mean of a case that is left out must not be taken: it may be no number, and its
        # derivative would be none either.
        return i > 0 and not random[0] and not op.guard
    return name in EITHER and not others
