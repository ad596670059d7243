r"""What data with normal noise say of hyperparameters, exactly or by inducing inputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.family._mean_field import LOG_2PI
from ritz.gp._factor import CLOSE, factor, solve


class Conditioned(NamedTuple):
    """What there is to know of data, for the evidence and for predictions.

    Attributes:
        points: where the process was seen: the rows, or inducing inputs.
        lower: the Cholesky factor of the covariance there, of noisy values or of the process.
        inner: that of what the data leave of it; None where all rows were seen.
        white: the values, whitened.
        jitter: what was added to variances.
        log_evidence: of the data, or its bound.
    """

    points: Float[Array, "m d"]
    lower: Float[Array, "m m"]
    inner: Float[Array, "m m"] | None
    white: Float[Array, " m"]
    jitter: Float[Array, ""]
    log_evidence: Float[Array, ""]


def exact(kernel: Any, noise: Any, x: Float[Array, "n d"], off: Float[Array, " n"]) -> Conditioned:
    r"""All rows: :math:`\log \mathcal{N}(y \mid m, K + \sigma^2 I)`, in time of order n³.

    The factor is of :math:`I + K/\sigma^2`, which rows that are alike do not spoil.

    Args:
        kernel: of the process.
        noise: :math:`\sigma`.
        x: rows.
        off: outputs less the mean.
    """
    cov = kernel.matrix(x, x)
    jitter = 10.0 * jnp.finfo(x.dtype).eps * jnp.diagonal(cov).mean()
    scaled = (cov + jitter * jnp.eye(len(x), dtype=x.dtype)) / noise**2
    value = log_normal(scaled, off / noise) - len(x) * jnp.log(noise)
    lower = noise * jax.lax.stop_gradient(_lower(scaled))
    return Conditioned(x, lower, None, solve(lower, off), jitter, value)


@jax.custom_jvp
def log_normal(k: Float[Array, "n n"], off: Float[Array, " n"]) -> Float[Array, ""]:
    r""":math:`\log \mathcal{N}(r \mid 0, I + K)`, with a derivative by one inverse.

    .. math:: d = \tfrac12 \alpha^\top dK\,\alpha - \tfrac12 \mathrm{tr}((I + K)^{-1} dK)
        - \alpha^\top dr, \qquad \alpha = (I + K)^{-1} r.
    """
    return _value(_lower(k), off)


@log_normal.defjvp
def _log_normal_jvp(given: Any, along: Any) -> Any:
    (k, off), (dk, doff) = given, along
    lower = _lower(k)
    half = solve(lower, jnp.eye(len(off), dtype=k.dtype))
    inverse = half.T @ half
    alpha = inverse @ off
    slope = 0.5 * (jnp.outer(alpha, alpha) - inverse)
    return _value(lower, off), (slope * dk).sum() - alpha @ doff


def _value(lower: Float[Array, "n n"], off: Float[Array, " n"]) -> Float[Array, ""]:
    white = solve(lower, off)
    return -0.5 * (white @ white) - jnp.log(jnp.diagonal(lower)).sum() - 0.5 * len(off) * LOG_2PI


def _lower(k: Float[Array, "n n"]) -> Float[Array, "n n"]:
    return jnp.linalg.cholesky(jnp.eye(len(k), dtype=k.dtype) + k)


def collapsed(
    kernel: Any,
    noise: Any,
    x: Float[Array, "n d"],
    off: Float[Array, " n"],
    z: Float[Array, "m d"],
) -> Conditioned:
    r"""A lower bound of the log evidence by m inducing inputs z, in time of order nm².

    .. math:: \log \mathcal{N}(y \mid m, Q + \sigma^2 I) - \frac{1}{2\sigma^2}\mathrm{tr}(K - Q),
        \qquad Q = K_{xz} K_{zz}^{-1} K_{zx},

    which is the exact one where the rows are the inducing inputs. Titsias, "Variational learning
    of inducing variables in sparse Gaussian processes", 2009, equation 9.

    Args:
        kernel: of the process.
        noise: :math:`\sigma`.
        x: rows.
        off: outputs less the mean.
        z: inducing inputs.
    """
    off, inside = off / noise, kernel.matrix(z, z)
    jitter = factor(jax.lax.stop_gradient(inside), CLOSE)[1]
    inside = inside + jitter * jnp.eye(len(z), dtype=z.dtype)
    across = kernel.matrix(z, x) / noise
    level = jnp.log(noise) + 0.5 * LOG_2PI + 0.5 * kernel.diagonal(x).mean() / noise**2
    value = _reduced(inside, across, off) - len(x) * level
    lower, a, inner = jax.lax.stop_gradient(_factors(inside, across))
    return Conditioned(z, lower, inner, solve(inner, a @ off), jitter, value)


@jax.custom_jvp
def _reduced(
    k: Float[Array, "m m"], b: Float[Array, "m n"], off: Float[Array, " n"]
) -> Float[Array, ""]:
    r""":math:`\log\mathcal{N}(r \mid 0, I + Q) + \tfrac12\mathrm{tr}\,Q + \tfrac n2\log 2\pi`.

    Here :math:`Q = B^\top K^{-1} B`. With :math:`S = K + BB^\top`, :math:`u = S^{-1}Br` and
    :math:`e = r - B^\top u` its slopes are :math:`(K^{-1} - S^{-1})B + ue^\top` in B,
    :math:`\tfrac12 (K^{-1} - S^{-1} - K^{-1}BB^\top K^{-1} - uu^\top)` in K and :math:`-e` in r:
    two products of the data's size, where differentiating the solve with K's factor takes four.
    """
    _, a, inner = _factors(k, b)
    v = solve(inner, solve(inner, a @ off), transposed=True)
    return _reduced_value(a, inner, v, off - v @ a)


@_reduced.defjvp
def _reduced_jvp(given: Any, along: Any) -> Any:
    (k, b, off), (dk, db, doff) = given, along
    lower, a, inner = _factors(k, b)
    eye = jnp.eye(len(k), dtype=k.dtype)
    half, whole = solve(lower, eye), solve(inner, eye)
    told = eye - whole.T @ whole
    v = whole.T @ (whole @ (a @ off))
    u, e = half.T @ v, off - v @ a
    by_b = (half.T @ told @ half) @ b + jnp.outer(u, e)
    by_k = 0.5 * (half.T @ (told + eye - inner @ inner.T) @ half - jnp.outer(u, u))
    slope = (by_b * db).sum() + (by_k * dk).sum() - e @ doff
    return _reduced_value(a, inner, v, e), slope


def _reduced_value(a: Any, inner: Any, v: Any, e: Any) -> Float[Array, ""]:
    # Squares of the residual and of v are at their minimum over v, whose rounding is nothing then.
    log_det = jnp.log(jnp.diagonal(inner)).sum()
    return 0.5 * ((a**2).sum() - e @ e - v @ v) - log_det


def _factors(k: Any, b: Any) -> tuple[Any, Any, Any]:
    """The factor of K, B whitened by it, and the factor of I plus the product of that."""
    lower = jnp.linalg.cholesky(k)
    a = solve(lower, b)
    return lower, a, jnp.linalg.cholesky(jnp.eye(len(k), dtype=k.dtype) + a @ a.T)


def predicted(
    kernel: Any, level: Any, seen: Conditioned, x: Float[Array, "k d"], *, joint: bool = False
) -> tuple[Float[Array, " k"], Float[Array, "..."]]:
    """Means of the function, and its variances or its covariance.

    Args:
        kernel: of the process.
        level: its mean.
        seen: what the data say.
        x: where.
        joint: whether the covariance is asked for.
    """
    v = solve(seen.lower, kernel.matrix(seen.points, x))
    w = v if seen.inner is None else solve(seen.inner, v)
    mean = level + w.T @ seen.white
    if joint:
        cov = kernel.matrix(x, x) - v.T @ v
        return mean, cov if seen.inner is None else cov + w.T @ w
    var = kernel.diagonal(x) - (v**2).sum(axis=0)
    return mean, var if seen.inner is None else var + (w**2).sum(axis=0)
