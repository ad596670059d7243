r"""What data with normal noise say of hyperparameters, exactly or by inducing inputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.family._mean_field import LOG_2PI
from ritz.gp._factor import factor, solve


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


def exact(parts: Any, data: Any) -> Conditioned:
    r"""All rows: :math:`\log \mathcal{N}(y \mid m, K + \sigma^2 I)`, in time of order n³.

    Args:
        parts: `kernel`, `noise` (:math:`\sigma`) and `mean`, by name.
        data: `x` and `y`, by name.
    """
    x, off = data["x"], data["y"] - parts["mean"]
    cov = parts["kernel"].matrix(x, x) + parts["noise"] ** 2 * jnp.eye(len(x), dtype=x.dtype)
    lower, jitter = factor(cov)
    white = solve(lower, off)
    log_det = jnp.log(jnp.diagonal(lower)).sum()
    value = -0.5 * (white @ white) - log_det - 0.5 * len(x) * LOG_2PI
    return Conditioned(x, lower, None, white, jitter, value)


def collapsed(parts: Any, data: Any) -> Conditioned:
    r"""A lower bound of the log evidence by m inducing inputs z, in time of order nm².

    .. math:: \log \mathcal{N}(y \mid m, Q + \sigma^2 I) - \frac{1}{2\sigma^2}\mathrm{tr}(K - Q),
        \qquad Q = K_{xz} K_{zz}^{-1} K_{zx},

    which is the exact one where the rows are the inducing inputs. Titsias, "Variational learning
    of inducing variables in sparse Gaussian processes", 2009, equation 9.

    Args:
        parts: `kernel`, `noise` (:math:`\sigma`) and `mean`, by name.
        data: `x`, `y` and `z`, by name.
    """
    kernel, sd = parts["kernel"], parts["noise"]
    x, z, off = data["x"], data["z"], (data["y"] - parts["mean"]) / sd
    lower, jitter = factor(kernel.matrix(z, z))
    a = solve(lower, kernel.matrix(z, x)) / sd
    inner = jnp.linalg.cholesky(jnp.eye(len(z), dtype=z.dtype) + a @ a.T)
    white = solve(inner, a @ off)
    log_det = jnp.log(jnp.diagonal(inner)).sum() + len(x) * jnp.log(sd)
    lost = kernel.diagonal(x).sum() / sd**2 - (a**2).sum()
    fit = -0.5 * (off @ off - white @ white)
    value = fit - log_det - 0.5 * len(x) * LOG_2PI - 0.5 * lost
    return Conditioned(z, lower, inner, white, jitter, value)


def predicted(
    parts: Any, seen: Conditioned, x: Float[Array, "k d"], *, joint: bool = False
) -> tuple[Float[Array, " k"], Float[Array, "..."]]:
    """Means of the function, and its variances or its covariance.

    Args:
        parts: `kernel`, `noise` and `mean`, by name.
        seen: what the data say.
        x: where.
        joint: whether the covariance is asked for.
    """
    kernel = parts["kernel"]
    v = solve(seen.lower, kernel.matrix(seen.points, x))
    w = v if seen.inner is None else solve(seen.inner, v)
    mean = parts["mean"] + w.T @ seen.white
    if joint:
        cov = kernel.matrix(x, x) - v.T @ v
        return mean, cov if seen.inner is None else cov + w.T @ w
    var = kernel.diagonal(x) - (v**2).sum(axis=0)
    return mean, var if seen.inner is None else var + (w**2).sum(axis=0)


def exact_density(parts: Any, data: Any) -> Float[Array, ""]:
    """The log evidence and the log prior of hyperparameters."""
    return exact(parts, data).log_evidence + _log_prior(parts, data)


def collapsed_density(parts: Any, data: Any) -> Float[Array, ""]:
    """The bound of the log evidence and the log prior of hyperparameters."""
    return collapsed(parts, data).log_evidence + _log_prior(parts, data)


def _log_prior(parts: Any, data: Any) -> Float[Array, ""]:
    """Log-normal about the first values, with a log sd; improper and flat for the mean."""
    total = jnp.zeros(())
    now = jax.tree.leaves((parts["kernel"], parts["noise"]))
    for value, start in zip(now, data["first"], strict=True):
        logs = jnp.log(value)
        total = total - (0.5 * ((logs - start) / data["log_sd"]) ** 2 + logs).sum()
    return total
