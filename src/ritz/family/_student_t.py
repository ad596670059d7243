"""The mean-field family with Student t margins."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.family._base import AbstractFamily

# Where the degrees of freedom are trained they start here: tails that a fit can feel.
_DF = 10.0
# From here on the series of `_log_ratio` is exact to the last digit of float64.
_LARGE = 25.0


class StudentT(AbstractFamily):
    r"""Independent Student t variables on the unconstrained vector.

    .. math:: x_i = m_i + e^{s_i} t_i, \quad t_i \sim t_{\nu_i}, \quad
        \mathbb{H}(q) = \sum_i s_i + \tfrac{\nu_i + 1}{2}
        \Bigl[\psi\bigl(\tfrac{\nu_i + 1}{2}\bigr) - \psi\bigl(\tfrac{\nu_i}{2}\bigr)\Bigr]
        + \log\Bigl[\sqrt{\nu_i}\,B\bigl(\tfrac{\nu_i}{2}, \tfrac12\bigr)\Bigr].

    A draw is a smooth function of :math:`\nu` (Bailey's polar method, Box and Muller's in the
    limit), so that its derivative needs no implicit differentiation of a gamma variable:

    .. math:: t = \sqrt{\nu\,(e^{2E/\nu} - 1)}\,\cos(2\pi U),
        \qquad E \sim \mathrm{Exp}(1), \; U \sim \mathrm{U}(0, 1).

    A few degrees of freedom make heavy tails; many make a Gaussian. A log density that falls like
    a square has no finite ELBO unless :math:`\nu > 2`.

    Attributes:
        loc: m.
        log_scale: s.
        log_df: :math:`\log\nu`; frozen where the degrees of freedom were given.

    Bailey, "Polar generation of random variates with the t-distribution", 1994.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "log_prob", "entropy", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "student_t"
    loc: Float[Array, " d"]
    log_scale: Float[Array, " d"]
    log_df: Float[Array, " d"] | paramax.AbstractUnwrappable

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    @property
    def df(self) -> Float[Array, " d"]:
        r""":math:`\nu`."""
        return jnp.exp(paramax.unwrap(self.log_df))

    @property
    def options(self) -> dict[str, Any]:
        frozen = isinstance(self.log_df, paramax.AbstractUnwrappable)
        return {"df": float(self.df[0])} if frozen else {}

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        radial, angular = jax.random.split(key)
        shape, dtype, df = self.loc.shape, self.loc.dtype, self.df
        # At 0 the root has no derivative.
        e = jnp.maximum(jax.random.exponential(radial, shape, dtype), jnp.finfo(dtype).tiny)
        angle = 2.0 * math.pi * jax.random.uniform(angular, shape, dtype)
        noise = jnp.sqrt(df * jnp.expm1(2.0 * e / df)) * jnp.cos(angle)
        return self.loc + jnp.exp(self.log_scale) * noise

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = (x - self.loc) * jnp.exp(-self.log_scale)
        df = self.df
        peak = _log_ratio(0.5 * df) - 0.5 * jnp.log(math.pi * df)
        return (peak - self.log_scale - 0.5 * (df + 1.0) * jnp.log1p(z**2 / df)).sum()

    def entropy(self) -> Float[Array, ""]:
        half = 0.5 * self.df
        ratio, slope = jax.jvp(_log_ratio, (half,), (jnp.ones_like(half),))
        beta = 0.5 * math.log(math.pi) - ratio
        return (self.log_scale + (half + 0.5) * slope + 0.5 * jnp.log(2.0 * half) + beta).sum()


def _log_ratio(z: Array) -> Array:
    r""":math:`\log\Gamma(z + \frac12) - \log\Gamma(z)`.

    Where z is large both terms agree in most of their digits, so that a series is used.
    """
    small = jnp.minimum(z, _LARGE)
    direct = jax.scipy.special.gammaln(small + 0.5) - jax.scipy.special.gammaln(small)
    u = 1.0 / jnp.maximum(z, _LARGE)
    tail = u * (-1 / 8 + u**2 * (1 / 192 + u**2 * (-1 / 640 + u**2 * 17 / 14336)))
    return jnp.where(z < _LARGE, direct, tail - 0.5 * jnp.log(u))


def student_t(
    target: Any, start: Float[Array, " d"], df: Any = None, scale: float = 0.1
) -> StudentT:
    r"""Independent Student t variables around a point.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial median.
        df: degrees of freedom, held fixed; by default they are trained, one for each coordinate,
            from 10.
        scale: initial scale in unconstrained space.

    Returns:
        a `StudentT`.

    Raises:
        RitzError: for degrees of freedom that are not a positive number.

    >>> import jax.numpy as jnp
    >>> student_t(None, jnp.zeros(2), df=3.0).options
    {'df': 3.0}
    """
    fine = isinstance(df, int | float) and not isinstance(df, bool) and 0.0 < df < math.inf
    if df is not None and not fine:
        raise RitzError(
            f"student_t: df={df!r} arrived, expected a positive number, or None to train it"
        )
    log_df = jnp.full_like(start, math.log(_DF if df is None else df))
    return StudentT(
        loc=start,
        log_scale=jnp.full_like(start, math.log(scale)),
        log_df=log_df if df is None else paramax.NonTrainable(log_df),
    )
