r"""What a process is at the rows before outputs are seen, and with Gaussian sites.

A posterior is told by a number and a precision a row, :math:`q(f) = \mathcal{N}(K\alpha,
(K^{-1} + W)^{-1})`, relative to the mean function (Opper and Archambeau, "The variational Gaussian
approximation revisited", 2009, equation 14). No inverse of W or K is needed: all factors are of
:math:`I` plus something that is not negative, so that rounding and weightless rows do no harm.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz.gp._evidence import Conditioned
from ritz.gp._factor import CLOSE, factor, solve

_LEAST = 1e-10  # the weight of a row that says nothing


class Weighed(NamedTuple):
    """What precisions alone tell.

    Attributes:
        lower: a Cholesky factor.
        var: of the function at each row.
        told: the part of it that sites change; not what inducing inputs leave open.
        half_log_det: half the log determinant by which precisions shrink the prior.
        lost: the trace that goes with it.
    """

    lower: Float[Array, "m m"]
    var: Float[Array, " n"]
    told: Float[Array, " n"]
    half_log_det: Float[Array, ""]
    lost: Float[Array, ""]


class Dense(eqx.Module):
    """All rows.

    Attributes:
        rows: where.
        cov: their covariance.
        jitter: in it.
    """

    rows: Float[Array, "n d"]
    cov: Float[Array, "n n"]
    jitter: Float[Array, ""]

    def weighed(self, w: Float[Array, " n"]) -> Weighed:
        s = jnp.sqrt(w)
        eye = jnp.eye(len(s), dtype=s.dtype)
        lower = jnp.linalg.cholesky(eye + s[:, None] * self.cov * s)
        told = (solve(lower, s[:, None] * self.cov) ** 2).sum(axis=0)
        var = jnp.diagonal(self.cov) - told
        return Weighed(lower, var, var, jnp.log(jnp.diagonal(lower)).sum(), w @ var)

    def alpha(self, of: Weighed, b: Float[Array, " n"], w: Float[Array, " n"]) -> Any:
        """That of the posterior with sites :math:`e^{bf - wf^2/2}`."""
        s = jnp.sqrt(w)
        return b - s * solve(of.lower, solve(of.lower, s * (self.cov @ b)), transposed=True)

    def mean(self, alpha: Float[Array, " n"]) -> Float[Array, " n"]:
        return self.cov @ alpha

    def norm(self, alpha: Float[Array, " n"]) -> Float[Array, ""]:
        return alpha @ self.cov @ alpha

    def conditioned(self, b: Any, w: Any, value: Any) -> Conditioned:
        """For predictions."""
        root = jnp.sqrt(jnp.maximum(w, _LEAST))
        lower = self.weighed(root**2).lower / root[:, None]
        return Conditioned(self.rows, lower, None, solve(lower, b / root**2), self.jitter, value)


class Sparse(eqx.Module):
    """Through inducing inputs.

    Attributes:
        rows: where.
        z: the inducing inputs.
        chol: the factor of their covariance.
        a: the whitened covariance with the rows.
        left: the variance of each row that they do not tell.
        jitter: in their covariance.
    """

    rows: Float[Array, "n d"]
    z: Float[Array, "m d"]
    chol: Float[Array, "m m"]
    a: Float[Array, "m n"]
    left: Float[Array, " n"]
    jitter: Float[Array, ""]

    def weighed(self, w: Float[Array, " n"]) -> Weighed:
        eye = jnp.eye(len(self.a), dtype=w.dtype)
        lower = jnp.linalg.cholesky(eye + (self.a * w) @ self.a.T)
        told = (solve(lower, self.a) ** 2).sum(axis=0)
        half_log_det = jnp.log(jnp.diagonal(lower)).sum()
        return Weighed(lower, self.left + told, told, half_log_det, w @ told)

    def alpha(self, of: Weighed, b: Float[Array, " n"], w: Float[Array, " n"]) -> Any:
        u = solve(of.lower, solve(of.lower, self.a @ b), transposed=True)
        return b - w * (u @ self.a)

    def mean(self, alpha: Float[Array, " n"]) -> Float[Array, " n"]:
        return (self.a @ alpha) @ self.a

    def norm(self, alpha: Float[Array, " n"]) -> Float[Array, ""]:
        u = self.a @ alpha
        return u @ u

    def conditioned(self, b: Any, w: Any, value: Any) -> Conditioned:
        inner = self.weighed(w).lower
        return Conditioned(self.z, self.chol, inner, solve(inner, self.a @ b), self.jitter, value)


def prior(kernel: Any, x: Float[Array, "n d"], z: Float[Array, "m d"] | None) -> Dense | Sparse:
    """The process at rows, through inducing inputs where there are some."""
    if z is None:
        cov = kernel.matrix(x, x)
        jitter = 10.0 * jnp.finfo(x.dtype).eps * jnp.diagonal(cov).mean()
        return Dense(x, cov + jitter * jnp.eye(len(x), dtype=x.dtype), jitter)
    chol, jitter = factor(kernel.matrix(z, z), CLOSE)
    a = solve(chol, kernel.matrix(z, x))
    left = jnp.maximum(kernel.diagonal(x) - (a**2).sum(axis=0), 0.0)
    return Sparse(x, z, chol, a, left, jitter)
