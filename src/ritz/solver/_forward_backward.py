"""Gaussian variational inference by steps in the Bures–Wasserstein space."""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError
from ritz.family import FullRank
from ritz.solver._base import AbstractSolver, check_elbo, check_moves
from ritz.solver._gaussian import full_rank_of


class Expected(NamedTuple):
    r"""What a step must know of the target.

    Attributes:
        log_density: :math:`\mathbb{E}_q \log\tilde p(x)`.
        score: :math:`\mathbb{E}_q \nabla\log\tilde p(x)`.
        hessian: :math:`\mathbb{E}_q \nabla^2\log\tilde p(x)`.
        error: the standard error of the first; None where it is not known.
    """

    log_density: Float[Array, ""]
    score: Float[Array, " d"]
    hessian: Float[Array, "d d"]
    error: Float[Array, ""] | None = None


class GaussianState(NamedTuple):
    """The Gaussian so far (the arrays of a `FullRank`), and the largest curvature that was met."""

    params: PyTree
    curvature: Float[Array, ""]


class AbstractBuresWasserstein(AbstractSolver):
    """A step of the mean along the expected score, and one of the covariance.

    Attributes:
        step_size: h; None for `safe` over the largest curvature that was met.
        expectation: `(problem, q, key, batch) -> Expected`.
        safe: the step size in units of the inverse curvature that converges from any start.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at", "hvp_at"})
    families: ClassVar[tuple[str, ...]] = ("full_rank",)
    guarantees: ClassVar[str] = "the best Gaussian of a smooth log-concave target, at a known rate"
    steps: ClassVar[int] = 2_000
    step_size: Float[Array, ""] | None
    expectation: Callable[..., Expected]
    safe: ClassVar[float] = 1.0

    @abc.abstractmethod
    def factor(
        self, step_size: Float[Array, ""], curvature: Float[Array, "d d"], tril: Float[Array, "d d"]
    ) -> Float[Array, "d d"]:
        r"""Any F with :math:`FF^\top` the next covariance.

        Args:
            step_size: h.
            curvature: :math:`-\mathbb{E}\nabla^2\log\tilde p`.
            tril: the Cholesky factor of the covariance.
        """

    def init(self, problem: Any, key: Key[Array, ""]) -> GaussianState:
        check_moves(self, problem)
        check_elbo(self, problem)
        return GaussianState(problem.params, jnp.zeros((), problem.params.loc.dtype))

    def step(
        self, problem: Any, state: GaussianState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[GaussianState, dict[str, Array]]:
        q = paramax.unwrap(problem.family_at(state.params))
        expected = self.expectation(problem, q, key, batch)
        curvature = state.curvature
        if self.step_size is None:
            curvature = jnp.maximum(curvature, jnp.linalg.eigvalsh(-expected.hessian)[-1])
            h = self.safe / curvature
        else:
            h = self.step_size.astype(q.loc.dtype)
        factor = self.factor(h, -expected.hessian, q.scale_tril)
        moved = full_rank_of(q.loc + h * expected.score, factor)
        info = {"loss": -expected.log_density - q.entropy()}
        if expected.error is not None:
            info["loss_se"] = expected.error
        return GaussianState(moved, curvature), info

    def evaluations(self, problem: Any, state: GaussianState, steps: int) -> float | None:
        d = problem.family.dim
        known = {_Draws: lambda rule: rule.draws, _Cubature: lambda rule: 2 * d}
        count = known.get(type(self.expectation))  # pyright: ignore
        return None if count is None else float(steps * count(self.expectation) * (1 + d))


class ForwardBackward(AbstractBuresWasserstein):
    """A gradient step of the potential, then a proximal step of the entropy."""

    def factor(
        self, step_size: Float[Array, ""], curvature: Float[Array, "d d"], tril: Float[Array, "d d"]
    ) -> Float[Array, "d d"]:
        half = tril - step_size * (curvature @ tril)
        # The proximal step keeps the eigenvectors of half half'. On singular values it reads
        # sigma -> (sigma + sqrt(sigma^2 + 4h)) / 2, and nothing is squared: at h = 1/beta half is
        # singular, and an eigenvalue that rounding leaves at 1e-16 instead of 0 would come out of
        # a matrix square root as 1e-8.
        vectors, sigma, _ = jnp.linalg.svd(half)
        return vectors * (0.5 * (sigma + jnp.sqrt(sigma * sigma + 4.0 * step_size)))


class BuresWassersteinGradient(AbstractBuresWasserstein):
    """A gradient step of potential and entropy together."""

    # At 1 a variance s in units of h becomes 1/s, and comes back.
    safe: ClassVar[float] = 0.5

    def factor(
        self, step_size: Float[Array, ""], curvature: Float[Array, "d d"], tril: Float[Array, "d d"]
    ) -> Float[Array, "d d"]:
        identity = jnp.eye(tril.shape[0], dtype=tril.dtype)
        inverse = jax.scipy.linalg.solve_triangular(tril, identity, lower=True)
        return tril + step_size * (inverse.T - curvature @ tril)


class _Draws(eqx.Module):
    """Means over independent draws."""

    draws: int = eqx.field(static=True)

    def __call__(self, problem: Any, q: FullRank, key: Key[Array, ""], batch: Any) -> Expected:
        def one(key: Array) -> Expected:
            noise_key, data_key = jax.random.split(key)
            return _at(problem, q.sample(noise_key), data_key, batch)

        if self.draws == 1:
            return one(key)
        each = jax.vmap(one)(jax.random.split(key, self.draws))
        error = each.log_density.std(ddof=1) / self.draws**0.5
        return _mean(each)._replace(error=error)


class _Cubature(eqx.Module):
    """Means over the 2d points of the symmetric rule of degree three."""

    def __call__(self, problem: Any, q: FullRank, key: Key[Array, ""], batch: Any) -> Expected:
        steps = q.dim**0.5 * q.scale_tril.T
        points = jnp.concatenate([q.loc + steps, q.loc - steps])
        each = jax.vmap(lambda x: _at(problem, x, key, batch))(points)
        return _mean(each)


def _at(problem: Any, x: Array, key: Array, batch: Any) -> Expected:
    value, score = problem.score_at(x, key, batch)
    row = lambda v: problem.hvp_at(x, v, key, batch)
    return Expected(value, score, jax.vmap(row)(jnp.eye(x.shape[0], dtype=x.dtype)))


def _mean(each: Expected) -> Expected:
    return Expected(each.log_density.mean(), each.score.mean(0), each.hessian.mean(0))


def cubature() -> Callable[..., Expected]:
    r"""Expectations under a Gaussian by a fixed rule, for `forward_backward`.

    .. math:: \mathbb{E}_q f(x) \approx \frac{1}{2d} \sum_{i=1}^d
        \bigl(f(m + \sqrt d\, L e_i) + f(m - \sqrt d\, L e_i)\bigr),

    which is exact for polynomials of degree three, and so for everything that a Gaussian target
    asks. It costs 2d Hessians and has no noise; on other targets it has a bias instead.

    Returns:
        the rule.

    McNamee and Stenger, "Construction of fully symmetric numerical integration formulas", 1967.

    >>> solver = forward_backward(0.1, expectation=cubature())
    """
    return _Cubature()


def forward_backward(
    step_size: float | int | None = None,
    draws: int | None = None,
    *,
    expectation: Callable[..., Expected] | None = None,
) -> ForwardBackward:
    r"""Forward-backward Gaussian variational inference, for the full-rank family.

    With :math:`V = -\log\tilde p` and a step size h, the mean and covariance move as

    .. math::
        m &\leftarrow m - h\,\mathbb{E}\nabla V, \qquad M = I - h\,\mathbb{E}\nabla^2 V, \\
        \Sigma' &= M \Sigma M, \qquad \Sigma \leftarrow
        \tfrac12\bigl(\Sigma' + 2hI + (\Sigma'(\Sigma' + 4hI))^{1/2}\bigr):

    a gradient step of the potential, then the exact proximal (JKO) step of the negative entropy,
    both in the Wasserstein geometry of Gaussians. The second leaves :math:`\Sigma \succeq hI`, so
    that no start is too narrow. Where the curvature of V lies between alpha and beta and
    expectations are exact, the KL divergence falls at every step for h up to 1/beta, and the
    squared distance to the best Gaussian by a factor :math:`1 - \alpha h`; with draws it stays at
    a level that shrinks with h. A step costs K gradients and K Hessians, each as d products.

    Args:
        step_size: h, in the square of the target's unit: at most the inverse of the largest
            curvature of its log density. By default that of the largest expected curvature met.
        draws: K, the draws a step; by default 1 with a step size, and without one the fixed rule
            `cubature()`, as at the largest step the noise of draws would be as wide as q.
        expectation: a rule in place of draws, such as `cubature()`: a function
            `(problem, q, key, batch) -> Expected`.

    Returns:
        the solver.

    Raises:
        RitzError: for a step size that is not positive, or fewer than one draw; when it runs, for
            another family or objective.

    Diao, Balasubramanian, Chewi and Salim, "Forward-backward Gaussian variational inference via
    JKO in the Bures-Wasserstein space", 2023.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(2))
    >>> solver = ritz.solver.forward_backward(0.1, expectation=ritz.solver.cubature())
    >>> fit = ritz.fit(target, family="full_rank", solver=solver, steps=100)
    >>> bool(abs(jnp.exp(fit.q.log_scale) - 0.5).max() < 1e-4)
    True
    """
    return ForwardBackward(*_parts("forward_backward", step_size, draws, expectation))


def bures_wasserstein_gradient(
    step_size: float | int | None = None,
    draws: int | None = None,
    *,
    expectation: Callable[..., Expected] | None = None,
) -> BuresWassersteinGradient:
    r"""Gradient descent of the KL divergence in the Wasserstein geometry of Gaussians.

    .. math:: m \leftarrow m - h\,\mathbb{E}\nabla V, \qquad \Sigma \leftarrow M \Sigma M,
        \quad M = I - h\,(\mathbb{E}\nabla^2 V - \Sigma^{-1}).

    The gradient of the entropy is not bounded: from a covariance far below hI the first step
    overshoots. `forward_backward` has no such limit.

    Args:
        step_size: h; by default half the inverse of the largest expected curvature met.
        draws: K, the draws a step; by default 1 with a step size, and without one the fixed rule
            `cubature()`, as at the largest step the noise of draws would be as wide as q.
        expectation: a rule in place of draws, such as `cubature()`.

    Returns:
        the solver.

    Raises:
        RitzError: as `forward_backward`.

    Lambert, Chewi, Bach, Bonnabel and Rigollet, "Variational inference via Wasserstein gradient
    flows", 2022.

    >>> type(bures_wasserstein_gradient(0.01)).__name__
    'BuresWassersteinGradient'
    """
    parts = _parts("bures_wasserstein_gradient", step_size, draws, expectation)
    return BuresWassersteinGradient(*parts)


def _parts(
    name: str, step_size: float | int | None, draws: int | None, expectation: Any
) -> tuple[Float[Array, ""] | None, Callable[..., Expected]]:
    if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
        raise RitzError(
            f"{name}: step_size={step_size} arrived, expected a positive number, such as the "
            "inverse of the largest curvature of the log density"
        )
    if draws is None and step_size is None and expectation is None:
        expectation = _Cubature()
    draws = 1 if draws is None else draws
    if draws < 1:
        raise RitzError(f"{name}: draws={draws} arrived, expected at least 1")
    # As an array it is lifted out of the program, so that another value compiles nothing.
    size = None if step_size is None else jnp.asarray(float(step_size))
    return size, expectation or _Draws(draws)
