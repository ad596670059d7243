"""Functions of symmetric positive definite matrices that can be differentiated."""

import functools
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ritz._errors import RitzError

Method = Literal["eigh", "pade", "taylor"]


def sqrtm(
    a: ArrayLike,
    method: Method = "eigh",
    *,
    degree: int = 10,
    lyapunov_steps: int = 10,
) -> Float[Array, "*batch d d"]:
    r"""The symmetric square root of positive definite matrices.

    .. math:: S = A^{1/2}, \qquad S\,\mathrm dS + \mathrm dS\,S = \mathrm dA,

    so that the gradient X in A solves the Lyapunov equation :math:`SX + XS = \tfrac12(G + G^\top)`
    for the gradient G in S. Unlike the derivative of an eigendecomposition it stays finite where
    eigenvalues coincide.

    * "eigh" is exact to rounding, and solves the equation in the basis of the eigenvectors.
    * "pade" and "taylor" use matrix products and, for "pade", one linear solve. With
      :math:`s \ge \lambda_{\max}(A)` from a matrix norm, :math:`x = \lambda_{\min}/s` and
      :math:`\rho = (1 - \sqrt x)/(1 + \sqrt x)`, the Padé approximant of degree [m/m] has relative
      error :math:`2\rho^{2m+1}/(1 - \rho^{2m+1})`. The Taylor polynomial needs no solve, and a
      higher degree. The Lyapunov equation is solved by Newton–Schulz iterations for a matrix
      sign: each multiplies :math:`\sqrt x` by about 1.5 until it is near 1, where its distance
      from 1 is squared. The solve loses more digits at a higher degree: in float32 degrees above 8
      gain nothing.

    Inside `jax.jit` values cannot be checked: for a matrix that is not positive definite "eigh"
    then answers NaN, and the others a number without meaning.

    Args:
        a: symmetric positive definite matrices, in its last two axes.
        method: "eigh", "pade" or "taylor".
        degree: m for "pade"; the polynomial's degree for "taylor".
        lyapunov_steps: iterations for the gradient of "pade" and "taylor".

    Returns:
        the roots.

    Raises:
        RitzError: for matrices that are not square, finite, symmetric and positive definite, and
            for an unknown method, or a degree or number of iterations below 1.

    Song, Sebe and Wang, "Fast differentiable matrix square root", 2022.

    >>> import jax.numpy as jnp
    >>> sqrtm(jnp.diag(jnp.array([4.0, 9.0]))).diagonal().tolist()
    [2.0, 3.0]
    """
    checked = _checked("sqrtm", a, method, degree, lyapunov_steps)
    return _root(checked, method, degree, lyapunov_steps)


def inv_sqrtm(
    a: ArrayLike,
    method: Method = "eigh",
    *,
    degree: int = 10,
    lyapunov_steps: int = 10,
) -> Float[Array, "*batch d d"]:
    r"""The inverse of the symmetric square root, :math:`Y = A^{-1/2}`.

    Its gradient X in A solves :math:`YX + XY = -Y^2 G Y^2`. Otherwise as `sqrtm`, whose arguments
    and errors it shares.

    Args:
        a: symmetric positive definite matrices, in its last two axes.
        method: "eigh", "pade" or "taylor".
        degree: m for "pade"; the polynomial's degree for "taylor".
        lyapunov_steps: iterations for the gradient of "pade" and "taylor".

    Returns:
        the inverse roots.

    Raises:
        RitzError: as `sqrtm`.

    >>> import jax.numpy as jnp
    >>> inv_sqrtm(jnp.diag(jnp.array([4.0, 16.0]))).diagonal().tolist()
    [0.5, 0.25]
    """
    checked = _checked("inv_sqrtm", a, method, degree, lyapunov_steps)
    return _inverse_root(checked, method, degree, lyapunov_steps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _root(a: Array, method: Method, degree: int, steps: int) -> Array:
    return _root_forward(a, method, degree, steps)[0]


def _root_forward(a: Array, method: Method, degree: int, steps: int) -> tuple[Array, Any]:
    if method == "eigh":
        values, vectors = jnp.linalg.eigh(a)
        roots = jnp.sqrt(values)
        return _assemble(vectors, roots), (vectors, roots)
    bound = _bound(a)
    if method == "pade":
        up, down = _pade(a / bound, degree)
        root = jnp.sqrt(bound) * jnp.linalg.solve(down, up)
    else:
        root = jnp.sqrt(bound) * _series(a / bound, _binomials(0.5, degree))
    return root, (root, jnp.sqrt(bound))


def _root_backward(method: Method, degree: int, steps: int, kept: Any, g: Array) -> tuple[Array]:
    g = _symmetric(g)
    if method == "eigh":
        vectors, roots = kept
        sums = roots[..., :, None] + roots[..., None, :]
        return (_between(vectors, _between(_t(vectors), g) / sums),)
    root, bound = kept
    return (_lyapunov(root, g, bound, steps),)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _inverse_root(a: Array, method: Method, degree: int, steps: int) -> Array:
    return _inverse_forward(a, method, degree, steps)[0]


def _inverse_forward(a: Array, method: Method, degree: int, steps: int) -> tuple[Array, Any]:
    if method == "eigh":
        values, vectors = jnp.linalg.eigh(a)
        roots = jnp.sqrt(values)
        return _assemble(vectors, 1.0 / roots), (vectors, roots)
    bound = _bound(a)
    if method == "pade":
        up, down = _pade(a / bound, degree)
        inverse = jnp.linalg.solve(up, down) / jnp.sqrt(bound)
    else:
        inverse = _series(a / bound, _binomials(-0.5, degree)) / jnp.sqrt(bound)
    return inverse, inverse


def _inverse_backward(method: Method, degree: int, steps: int, kept: Any, g: Array) -> tuple[Array]:
    g = _symmetric(g)
    if method == "eigh":
        vectors, roots = kept
        pairs = roots[..., :, None] * roots[..., None, :]
        sums = roots[..., :, None] + roots[..., None, :]
        return (_between(vectors, -_between(_t(vectors), g) / (pairs * sums)),)
    square = kept @ kept
    return (_lyapunov(kept, -_symmetric(square @ g @ square), _bound(kept), steps),)


_root.defvjp(_root_forward, _root_backward)
_inverse_root.defvjp(_inverse_forward, _inverse_backward)


def _pade(x: Array, degree: int) -> tuple[Array, Array]:
    r"""Numerator and denominator of the diagonal approximant of :math:`\sqrt x` about 1.

    They are the even and the odd part of :math:`(1 + \sqrt x)^{2m+1}`: positive coefficients, so
    that nothing cancels for positive definite x, whatever the degree.
    """
    n = 2 * degree + 1
    scale = math.comb(n, degree)  # keeps float32 within its range
    even = [math.comb(n, 2 * k) / scale for k in range(degree + 1)]
    odd = [math.comb(n, 2 * k + 1) / scale for k in range(degree + 1)]
    up, down = _polynomials(x, [even, odd])
    return up, down


def _binomials(power: float, degree: int) -> list[float]:
    """Coefficients of (1 - z)^power."""
    out = [1.0]
    for k in range(degree):
        out.append(out[-1] * (k - power) / (k + 1))
    return out


def _series(x: Array, coefficients: list[float]) -> Array:
    return _polynomials(jnp.eye(x.shape[-1], dtype=x.dtype) - x, [coefficients])[0]


def _polynomials(x: Array, coefficients: list[list[float]]) -> list[Array]:
    """Polynomials of one matrix from shared powers (Paterson and Stockmeyer 1973).

    With blocks of r coefficients this takes r - 1 products for the powers and about degree / r
    more for each polynomial.
    """
    degree = len(coefficients[0]) - 1
    blocks = lambda r: max(1, -(-degree // r))
    size = min(range(1, degree + 1), key=lambda r: r - 1 + len(coefficients) * (blocks(r) - 1))
    powers = [jnp.eye(x.shape[-1], dtype=x.dtype), x]
    for _ in range(size - 1):
        powers.append(powers[-1] @ x)
    out = []
    for row in coefficients:
        start = (blocks(size) - 1) * size
        total = _combine(row[start:], powers)
        for i in range(start - size, -1, -size):
            total = powers[size] @ total + _combine(row[i : i + size], powers)
        out.append(total)
    return out


def _combine(coefficients: list[float], powers: list[Array]) -> Array:
    total = coefficients[0] * powers[0]
    for c, power in zip(coefficients[1:], powers[1:], strict=False):
        total = total + c * power
    return total


def _lyapunov(b: Array, g: Array, bound: Array, steps: int) -> Array:
    r"""X with BX + XB = G, for symmetric G and positive definite B with eigenvalues up to `bound`.

    The sign of :math:`\begin{pmatrix} B & G \\ 0 & -B \end{pmatrix}` is
    :math:`\begin{pmatrix} I & 2X \\ 0 & -I \end{pmatrix}`. The iteration
    :math:`M \leftarrow \tfrac12 M(3I - M^2)` keeps that shape, and four products make a step.
    """
    # The iteration converges for eigenvalues below sqrt(3), and 3/2 is as good as 0.56: an
    # iteration less for the small ones.
    scale = 1.5 / bound
    b, c = scale * b, scale * g

    def corner(b: Array, c: Array) -> Array:
        right = b @ c
        part = b @ (right - 0.5 * _t(right))  # part + its transpose is BBC - BCB + CBB
        return 0.5 * (3.0 * c - part - _t(part))

    def step(_: Any, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        b, c = pair
        return 1.5 * b - 0.5 * (b @ b) @ b, corner(b, c)

    b, c = jax.lax.fori_loop(0, steps - 1, step, (b, c))
    return 0.5 * corner(b, c)


def _bound(a: Array) -> Array:
    """A number above the largest eigenvalue: the smaller of two norms."""
    frobenius = jnp.sqrt((a * a).sum((-1, -2), keepdims=True))
    return jnp.minimum(frobenius, jnp.abs(a).sum(-1, keepdims=True).max(-2, keepdims=True))


def _t(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2)


def _symmetric(a: Array) -> Array:
    return 0.5 * (a + _t(a))


def _assemble(vectors: Array, values: Array) -> Array:
    return (vectors * values[..., None, :]) @ _t(vectors)


def _between(outer: Array, inner: Array) -> Array:
    return outer @ inner @ _t(outer)


def _checked(name: str, a: Any, method: str, degree: int, steps: int) -> Array:
    if method not in get_args(Method):
        raise RitzError(f"{name}: method={method!r} arrived, expected 'eigh', 'pade' or 'taylor'")
    for what, number in (("degree", degree), ("lyapunov_steps", steps)):
        if number < 1:
            raise RitzError(f"{name}: {what}={number} arrived, expected at least 1")
    shape = np.shape(a)
    if len(shape) < 2 or shape[-1] != shape[-2] or shape[-1] == 0:
        raise RitzError(f"{name}: an array of shape {shape} arrived, expected square matrices")
    if not jnp.issubdtype(jnp.result_type(a), jnp.floating):
        raise RitzError(f"{name}: dtype {jnp.result_type(a)} arrived, expected floating numbers")
    if not isinstance(a, Tracer):
        _check_values(name, np.asarray(a))
    return jnp.asarray(a)


def _check_values(name: str, a: np.ndarray) -> None:
    if not np.isfinite(a).all():
        raise RitzError(f"{name}: a matrix holds {a[~np.isfinite(a)][0]}, expected finite numbers")
    size = np.abs(a).max(initial=0.0)
    off = np.abs(a - np.swapaxes(a, -1, -2)).max(initial=0.0)
    if off > 1e3 * np.finfo(a.dtype).eps * size:
        raise RitzError(
            f"{name}: a matrix differs from its transpose by {off:.3g}; pass (a + a.T) / 2"
        )
    least = np.linalg.eigvalsh(a).min(initial=np.inf)
    if least <= 0:
        raise RitzError(
            f"{name}: a matrix has the eigenvalue {least:.3g}, expected positive ones; add a small "
            "multiple of the identity"
        )
