"""What a function costs, counted."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from ritz._errors import RitzError

# Data are moved; nothing is computed.
_MOVED = ("broadcast_in_dim", "concatenate", "copy", "device_put", "dynamic_slice", "gather")
_SHAPED = (
    "reshape",
    "squeeze",
    "transpose",
    "slice",
    "split",
    "rev",
    "dynamic_update_slice",
    "pad",
)
_MADE = ("convert_element_type", "bitcast_convert_type", "stop_gradient", "random_bits", "iota")
_FREE = frozenset([*_MOVED, *_SHAPED, *_MADE])
_REDUCING = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin")
_LINEAR = ("cholesky", "triangular_solve", "eigh", "eig", "lu", "svd", "qr", "geqrf", "schur")


def flops(function: Callable[..., Any], *args: Any) -> int:
    r"""Floating-point operations of one call of a function that JAX can trace.

    A product of an (m, k) and a (k, n) matrix is 2mkn, a convolution likewise; arithmetic and
    elementary functions are one for each element, and reductions one for each that is reduced. A
    scan counts once for each step, which the compiler's own analysis does not; of a condition the
    dearer branch counts. Moving data, comparing, and making random bits are free. Nothing is run.

    Args:
        function: of arrays.
        args: arrays, or trees of them; their shapes are looked at alone.

    Raises:
        RitzError: where a loop has a number of steps that data decide, or an operation, such as a
            factorisation, that is not counted.

    >>> import jax.numpy as jnp
    >>> flops(lambda a, b: a @ b + 1.0, jnp.ones((2, 3)), jnp.ones((3, 4)))
    56
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(map(_of, jaxpr.eqns))


def _of(eqn: Any) -> int:
    name = eqn.primitive.name
    out = sum(math.prod(v.aval.shape) for v in eqn.outvars if hasattr(v.aval, "shape"))
    inner = [_count(j) for j in _jaxprs(eqn.params)]
    if name == "scan":
        return eqn.params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while":
        raise RitzError(
            "flops: a loop whose number of steps is decided as it runs has no fixed cost; use "
            "jax.lax.scan, or fori_loop with fixed ends"
        )
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2 * out * math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
    if name == "conv_general_dilated":
        return _of_convolution(eqn)
    if name in _REDUCING:
        return math.prod(eqn.invars[0].aval.shape)
    if name in _LINEAR:
        raise RitzError(f"flops: {name} is not counted; count what is around it")
    made = all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars)
    return sum(inner) if inner or not made or name in _FREE else out


def _of_convolution(eqn: Any) -> int:
    """Products of the kernel with what is inside the image; not with zeros around or between."""
    (image, kernel), out = (v.aval.shape for v in eqn.invars), eqn.outvars[0].aval.shape
    of_image, of_kernel, of_out = eqn.params["dimension_numbers"]
    many = out[of_out[0]] * out[of_out[1]] * kernel[of_kernel[1]]
    for i, (low, _) in enumerate(eqn.params["padding"]):
        size, reach = image[of_image[2 + i]], kernel[of_kernel[2 + i]]
        apart, between = eqn.params["lhs_dilation"][i], eqn.params["rhs_dilation"][i]
        at = np.arange(out[of_out[2 + i]])[:, None] * eqn.params["window_strides"][i]
        at = at + np.arange(reach) * between - low
        many *= int(((at >= 0) & (at <= (size - 1) * apart) & (at % apart == 0)).sum())
    return 2 * many


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    """The functions that an operation calls; of those with a rule for gradients the function."""
    found = []
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, core.Jaxpr):
                found.append(one)
    return found
