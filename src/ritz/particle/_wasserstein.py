"""Gradient flows of the Kullback-Leibler divergence in Wasserstein space, on kernel densities."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError, suggest
from ritz.particle._flow import AbstractScoreFlow, as_optimiser
from ritz.particle._frame import as_metric
from ritz.particle._interactions import by_rows, squared
from ritz.particle._kernels import IMQ, RBF, AbstractKernel, rbf

Smoothing = Literal["blob", "density", "function"]
_KNOWN = ("blob", "density", "function")
# Added to the diagonal of a kernel's matrix that is inverted.
_JITTER = 1e-2


class WassersteinFlow(AbstractScoreFlow):
    """See `wasserstein_flow`.

    Attributes:
        kernel: k.
        smoothing: what is smoothed.
    """

    guarantees: ClassVar[str] = "the gradient of a smoothed KL divergence vanishes"
    kernel: AbstractKernel
    metric: Any
    optimiser: Any = eqx.field(static=True)
    smoothing: Smoothing = eqx.field(static=True)

    def direction(
        self, z: Float[Array, "n d"], scores: Float[Array, "n d"]
    ) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
        phi = scores - log_density_slope(z, self.kernel, self.smoothing)
        return phi, (phi**2).sum(axis=1).mean()


def log_density_slope(
    x: Float[Array, "n d"], kernel: AbstractKernel, smoothing: Smoothing
) -> Float[Array, "n d"]:
    r"""What stands for :math:`\nabla\log q` at each particle."""
    x = x - x.mean(axis=0)
    n = len(x)
    h2 = kernel.squared_scale(x)
    if smoothing == "function":
        u = squared(x, x) / h2
        k, slope, _ = kernel.of(u)
        away = (2.0 / h2) * (slope @ x - x * slope.sum(axis=1)[:, None])  # Σ_j ∇_j k(x_j, x_i)
        return -jnp.linalg.solve(k + _JITTER * jnp.eye(n, dtype=x.dtype), away)

    def sums(z: Array) -> Array:
        return kernel.of(squared(z, x) / h2)[0].sum(axis=1)

    mass = by_rows(n, sums, x)

    def some(rows: tuple[Array, Array]) -> Array:
        z, own = rows
        slope = kernel.of(squared(z, x) / h2)[1]
        weights = slope / own[:, None]
        if smoothing == "blob":
            weights = weights + slope / mass
        return (2.0 / h2) * (z * weights.sum(axis=1)[:, None] - weights @ x)

    return by_rows(n, some, (x, mass))


def wasserstein_flow(
    smoothing: Any = "blob", kernel: Any = None, *, metric: Any = "auto", optimiser: Any = None
) -> WassersteinFlow:
    r"""Particles along :math:`\nabla\log\tilde p - \nabla\log q`, with q smoothed by a kernel.

    The Wasserstein gradient of :math:`\mathrm{KL}(q\|p)` needs the slope of q's log density, which
    a cloud lacks. In its place, with :math:`m_i = \sum_l k(x_i, x_l)`,

    * "density": :math:`\sum_j \nabla_{x_i} k(x_i, x_j) / m_i`, of a kernel density estimate;
    * "blob": that and :math:`\sum_j \nabla_{x_i} k(x_i, x_j) / m_j`: the gradient of the entropy of
      the estimate itself, so that a smoothed divergence falls (Carrillo, Craig and Patacchini
      2019). Both smooth away what they should resolve: variances are too small beyond
      few dimensions;
    * "function": :math:`-K^{-1}\sum_j\nabla_{x_j} k(x_j, x_i)`, for which test functions are
      smoothed instead; it takes n³ operations. SVGD's direction is :math:`K/n` times this one's.

    Liu, Zhuo, Cheng, Zhang and Zhu, "Understanding and accelerating particle-based variational
    inference", 2019 (GFSD, blob and GFSF).

    Args:
        smoothing: "blob", "density" or "function".
        kernel: `rbf()` by default for "function", `rbf("median/log n")` for densities; or `imq()`.
        metric: see `svgd`.
        optimiser: see `svgd`.

    Raises:
        RitzError: for another word, kernel, metric or optimiser.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.ones(2))
    >>> family = ritz.particle.particles(50)
    >>> fit = ritz.fit(target, family=family, solver=wasserstein_flow(), progress=False)
    >>> bool(abs(fit.mean()).max() < 0.1)
    True
    """
    if smoothing not in _KNOWN:
        told = suggest(str(smoothing), _KNOWN)
        raise RitzError(f"wasserstein_flow: no smoothing {smoothing!r}; {told}")
    if kernel is None:
        kernel = rbf("median" if smoothing == "function" else "median/log n")
    if not isinstance(kernel, RBF | IMQ):
        raise RitzError(
            f"wasserstein_flow: a kernel arrived as {type(kernel).__name__}, expected "
            "ritz.particle.rbf() or imq()"
        )
    how = as_metric("wasserstein_flow", metric), as_optimiser("wasserstein_flow", optimiser)
    return WassersteinFlow(kernel, *how, smoothing)
