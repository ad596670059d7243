"""Stein variational methods in mirror coordinates, and by natural gradients."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ritz._errors import RitzError, takes
from ritz.particle._flow import AbstractFlow, FlowState, as_optimiser
from ritz.particle._frame import scores_at
from ritz.particle._interactions import squared
from ritz.particle._kernels import IMQ, RBF, AbstractKernel, imq
from ritz.particle._mirrors import AbstractMirror, from_primal, mirror_of, to_primal

# Of the largest eigenvalue of a kernel's matrix, what smaller ones are left out below.
_LEAST = 1e-5


class Mirrored(NamedTuple):
    """The dual coordinates of a target's domain: a frame whose map is not linear."""

    target: Any
    mirror: AbstractMirror

    def whiten(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Dual coordinates of unconstrained ones."""
        return jax.vmap(lambda x: self.mirror.dual(to_primal(self.target, x)))(x)

    def colour(self, z: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Unconstrained coordinates of dual ones."""
        return jax.vmap(lambda z: from_primal(self.target, self.mirror.primal(z)))(z)


class Local(NamedTuple):
    r"""A metric at each particle.

    Attributes:
        metric: G.
        inverse: of G.
        drift: :math:`G^{-1}\nabla\log p + \nabla\cdot G^{-1}`.
    """

    metric: Float[Array, "n d d"]
    inverse: Float[Array, "n d d"]
    drift: Float[Array, "n d"]


def plain_direction(
    theta: Float[Array, "n d"], local: Local, kernel: AbstractKernel
) -> Float[Array, "n d"]:
    r"""The mirrored Stein direction in the kernel :math:`k\,I`."""
    n = len(theta)
    k, slopes = _pairs(theta, kernel)
    # Σ_j G_j⁻¹ ∇_j k(θ_j, θ_i)
    turned = jnp.einsum("jab,jib->ia", local.inverse, slopes)
    return (k @ local.drift + turned) / n


def metric_direction(
    theta: Float[Array, "n d"], local: Local, kernel: AbstractKernel
) -> Float[Array, "n d"]:
    r"""That in the kernel :math:`\mathbb{E}_t\,k^{1/2}(\cdot, \theta_t)\,G(\theta_t)\,k^{1/2}`."""
    n = len(theta)
    k, slopes = _pairs(theta, kernel)
    values, vectors = jnp.linalg.eigh(k / n)
    keep = values > _LEAST * values[-1]
    roots = jnp.sqrt(jnp.where(keep, values, 1.0))
    of_roots = lambda scale: (vectors * jnp.where(keep, scale, 0.0)) @ vectors.T
    half, inverse_half = n * of_roots(roots), of_roots(1.0 / roots)
    turned = jnp.einsum("jab,jlb->la", local.inverse, slopes)
    inner = (half @ local.drift + inverse_half.T @ turned) / n
    return half @ jnp.einsum("tab,tb->ta", local.metric, inner) / n


def _pairs(theta: Float[Array, "n d"], kernel: AbstractKernel) -> tuple[Array, Array]:
    """k(θ_j, θ_i), and its slope in θ_j at [j, i]."""
    centred = theta - theta.mean(axis=0)
    h2 = kernel.squared_scale(centred)
    k, slope, _ = kernel.of(squared(centred, centred) / h2)
    away = centred[:, None] - centred[None]
    return k, (2.0 / h2) * slope[..., None] * away


class MirroredSVGD(AbstractFlow):
    """See `mirrored_svgd`.

    Attributes:
        kernel: k.
        adaptive: whether the kernel follows the metric.
    """

    guarantees: ClassVar[str] = "the mirrored Stein identity in the kernel's space"
    slopes: ClassVar[bool] = False
    steps: ClassVar[int] = 2_000
    kernel: AbstractKernel
    metric: Any
    optimiser: Any = eqx.field(static=True)
    adaptive: bool = eqx.field(static=True)

    def frame(self, problem: Any, key: Array) -> tuple[Any, Mirrored, Float[Array, ""]]:
        cloud, target = problem.family, problem.target
        none = jnp.zeros((), cloud.points.dtype)
        return cloud, Mirrored(target, mirror_of(target, "mirrored_svgd")), none

    def drive(
        self, problem: Any, state: FlowState, z: Float[Array, "n d"], key: Array, batch: Any
    ) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
        target, mirror = state.frame
        theta = jax.vmap(mirror.primal)(z)
        scores = _primal_scores(problem, target, theta, key, batch)
        inverse = jax.vmap(mirror.inverse_metric)(theta)
        drift = jnp.einsum("nab,nb->na", inverse, scores) + jax.vmap(mirror.divergence)(theta)
        local = Local(jax.vmap(mirror.metric)(theta), inverse, drift)
        move = metric_direction if self.adaptive else plain_direction
        phi = move(theta, local, self.kernel)
        return phi, (phi**2).sum(axis=1).mean()


def _primal_scores(problem: Any, target: Any, theta: Any, key: Array, batch: Any) -> Array:
    """Gradients of the log density in the domain, without the Jacobian of the transform."""
    from ritz.objective import subsample_key

    def log_density(theta: Array) -> Array:
        x = from_primal(target, theta)
        return target.log_density(x, subsample_key(key), batch) - target.log_det(x)

    return jax.vmap(jax.grad(log_density))(theta)


class NaturalSVGD(AbstractFlow):
    """See `natural_svgd`.

    Attributes:
        kernel: k.
        curvature: the metric at a point; None for minus the Hessian averaged over particles.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at", "hvp_at"})
    guarantees: ClassVar[str] = "Stein's identity in a kernel that follows the metric"
    slopes: ClassVar[bool] = False
    steps: ClassVar[int] = 2_000
    kernel: AbstractKernel
    metric: Any
    optimiser: Any = eqx.field(static=True)
    curvature: Callable[..., Any] | None = eqx.field(static=True)

    def drive(
        self, problem: Any, state: FlowState, z: Float[Array, "n d"], key: Array, batch: Any
    ) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
        x, root = state.params.points, state.frame.root
        scores = state.frame.pull(scores_at(problem, x, key, batch)[1])
        d = z.shape[1]
        if self.curvature is None:
            directions = jnp.eye(d, dtype=z.dtype) if root is None else root.T
            row = lambda x: jax.vmap(lambda v: problem.hvp_at(x, v, key, batch))(directions)
            seen = -jax.lax.map(row, x, batch_size=32).mean(axis=0) @ directions.T
            values, axes = jnp.linalg.eigh(0.5 * (seen + seen.T))
            values = jnp.maximum(jnp.abs(values), 1e-3 * jnp.abs(values).max())
            every = lambda m: jnp.broadcast_to(m, (len(z), d, d))
            metric, inverse = (every((axes * v) @ axes.T) for v in (values, 1.0 / values))
            divergence = jnp.zeros_like(z)
        else:
            metric = jax.vmap(self.curvature)(z)
            inverted = lambda x: jnp.linalg.inv(self.curvature(x))  # pyright: ignore
            inverse = jax.vmap(inverted)(z)
            divergence = jax.vmap(lambda x: jnp.einsum("aba->b", jax.jacfwd(inverted)(x)))(z)
        local = Local(metric, inverse, jnp.einsum("nab,nb->na", inverse, scores) + divergence)
        phi = jnp.einsum("nab,nb->na", inverse, metric_direction(z, local, self.kernel))
        return phi, (phi**2).sum(axis=1).mean()


def _kernel(name: str, kernel: Any) -> AbstractKernel:
    kernel = imq() if kernel is None else kernel
    if not isinstance(kernel, RBF | IMQ):
        raise RitzError(
            f"{name}: a kernel arrived as {type(kernel).__name__}, expected ritz.particle.rbf() "
            "or imq()"
        )
    return kernel


def mirrored_svgd(
    kernel: Any = None, *, adaptive: Any = True, optimiser: Any = None
) -> MirroredSVGD:
    r"""Stein variational gradient descent on a bounded domain, in the coordinates of a mirror map.

    Dual particles :math:`\eta = \nabla\psi(\theta)` move by

    .. math:: \phi(\theta) = \frac1n\sum_j K(\theta_j, \theta)\,G_j^{-1}\nabla\log p(\theta_j)
        + \nabla_{\theta_j}\cdot\bigl(G_j^{-1} K(\theta_j, \theta)\bigr), \qquad
        G = \nabla^2\psi,

    so that :math:`\theta = \nabla\psi^*(\eta)` never leaves the domain. With `adaptive` (SVMD) K is
    :math:`\mathbb{E}_t\,k^{1/2}(\theta_j, \theta_t)\,G(\theta_t)\,k^{1/2}(\theta_t, \theta)`, the
    root being that of k's operator on the particles; without (MSVGD) it is :math:`k\,I`. Domains
    are products of simplices (entropy), positive numbers, intervals and real coordinates; the
    density is that in :math:`\theta`. Its loss is the mean squared length of the direction.

    Shi, Liu and Mackey, "Sampling with mirrored Stein operators", 2022, algorithm 1 and section 4.

    Args:
        kernel: on the domain; `imq()` by default, or `rbf()`.
        adaptive: whether K follows the metric.
        optimiser: see `svgd`.

    Raises:
        RitzError: for another kernel or optimiser; in the fit, for a target without bounds, or
            with others.

    >>> import jax.numpy as jnp, ritz
    >>> from numpyro.distributions import constraints
    >>> density = lambda p: (jnp.array([1.0, 3.0, 5.0]) * jnp.log(p)).sum()  # Dirichlet(2, 4, 6)
    >>> start = jnp.ones(3) / 3
    >>> target = ritz.target.from_log_density(density, start, constraints.simplex)
    >>> fit = ritz.fit(target, family=ritz.particle.particles(50), solver=mirrored_svgd(),
    ...     progress=False)
    >>> bool(abs(fit.mean() - jnp.array([2.0, 4.0, 6.0]) / 12).max() < 0.05)
    True
    """
    name = "mirrored_svgd"
    return MirroredSVGD(
        kernel=_kernel(name, kernel),
        metric=None,
        optimiser=as_optimiser(name, optimiser),
        adaptive=bool(adaptive),
    )


def natural_svgd(kernel: Any = None, *, metric: Any = None, optimiser: Any = None) -> NaturalSVGD:
    r"""Stein variational natural gradient, for unconstrained targets.

    .. math:: \theta_i \leftarrow \theta_i + \eta\,G(\theta_i)^{-1}\phi(\theta_i),

    with the direction of `mirrored_svgd` in the kernel that follows G.

    Shi, Liu and Mackey, "Sampling with mirrored Stein operators", 2022, section 5.

    Args:
        kernel: `imq()` by default, or `rbf()`.
        metric: G, a function from a point to a positive definite matrix. None for minus the Hessian
            of the log density, averaged over the particles, with its eigenvalues made positive, in
            coordinates whitened as those of `svgd`.
        optimiser: an Optax transformation; by default steps of 0.5 along the direction, which has
            the units of the posterior already.

    Raises:
        RitzError: for another kernel, metric or optimiser.

    >>> import jax.numpy as jnp, ritz
    >>> density = lambda x: -0.5 * ((x / jnp.array([1.0, 100.0])) ** 2).sum()
    >>> target = ritz.target.from_log_density(density, jnp.ones(2))
    >>> fit = ritz.fit(target, family=ritz.particle.particles(50), solver=natural_svgd(),
    ...     progress=False)
    >>> bool(80.0 < fit.sd()[1] < 120.0)
    True
    """
    import optax

    if metric is not None:
        if not callable(metric):
            raise RitzError(
                f"natural_svgd: metric arrived as {type(metric).__name__}, expected a function of "
                "a point, or None"
            )
        takes("metric", metric, ["x"])
    moves = optax.sgd(0.5) if optimiser is None else as_optimiser("natural_svgd", optimiser)
    return NaturalSVGD(
        kernel=_kernel("natural_svgd", kernel),
        metric="auto" if metric is None else None,
        optimiser=moves,
        curvature=metric,
    )
