"""Batch and match: the Gaussian whose scores are those of the target at a batch of draws."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz._mesh import split_draws
from ritz.solver._base import AbstractSolver, check_moves
from ritz.solver._gaussian import full_rank_of


class BatchAndMatchState(NamedTuple):
    """The Gaussian so far, and the number of steps made."""

    params: PyTree
    steps: Int[Array, ""]


class BatchAndMatch(AbstractSolver):
    """See `batch_and_match`.

    Attributes:
        draws: B; None for twice as many as dimensions.
        rate: a constant learning rate, or None for one that falls.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at"})
    families: ClassVar[tuple[str, ...]] = ("full_rank",)
    guarantees: ClassVar[str] = (
        "exact on Gaussian targets; elsewhere matches scores, not the ELBO; the same in any units"
    )
    steps: ClassVar[int] = 100
    draws: int | None = eqx.field(static=True)
    rate: Float[Array, ""] | None

    def init(self, problem: Any, key: Key[Array, ""]) -> BatchAndMatchState:
        check_moves(self, problem)
        return BatchAndMatchState(problem.params, jnp.zeros((), int))

    def step(
        self, problem: Any, state: BatchAndMatchState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[BatchAndMatchState, dict[str, Array]]:
        q = paramax.unwrap(problem.family_at(state.params))
        d = q.dim
        b = max(2 * d, 8) if self.draws is None else self.draws
        noise_key, data_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (b, d), q.loc.dtype)
        tril = q.scale_tril
        at = lambda x: problem.score_at(x, data_key, batch)
        values, scores = jax.vmap(at)(split_draws(q.loc + noise @ tril.T))
        if self.rate is None:
            # Far away small steps get nowhere: the covariance shrinks along a large gradient.
            early = jnp.maximum(1e4 * 0.5**state.steps, 1.0)
            rate = early * b * d / (state.steps + 1.0)
        else:
            rate = self.rate
        factor, shift = _match(noise, scores @ tril, jnp.asarray(rate, q.loc.dtype))
        moved = full_rank_of(q.loc + tril @ shift, tril @ factor)
        info = {"loss": -values.mean() - q.entropy(), "loss_se": values.std(ddof=1) / b**0.5}
        return BatchAndMatchState(moved, state.steps + 1), info

    def evaluations(self, problem: Any, state: BatchAndMatchState, steps: int) -> float | None:
        return float(steps * (max(2 * problem.family.dim, 8) if self.draws is None else self.draws))


def _match(
    noise: Float[Array, "b d"], scores: Float[Array, "b d"], rate: Float[Array, ""]
) -> tuple[Float[Array, "d d"], Float[Array, " d"]]:
    r"""The update where the present Gaussian is standard: a factor of the covariance, the mean.

    With :math:`V = RR^\top` the equation :math:`\Sigma U \Sigma + \Sigma = V` reads
    :math:`XAX + X = I` for :math:`\Sigma = RXR^\top, A = R^\top U R`, solved by eigenvalues.
    """
    share = rate / (1.0 + rate)
    centre, slope = noise.mean(axis=0), scores.mean(axis=0)
    apart, slopes = noise - centre, scores - slope
    b, d = noise.shape
    identity = jnp.eye(d, dtype=noise.dtype)
    v = identity + rate * apart.T @ apart / b + share * jnp.outer(centre, centre)
    u = rate * slopes.T @ slopes / b + share * jnp.outer(slope, slope)
    root = jnp.linalg.cholesky(v)
    inner = root.T @ u @ root
    values, vectors = jnp.linalg.eigh(0.5 * (inner + inner.T))
    x = 2.0 / (1.0 + jnp.sqrt(1.0 + 4.0 * jnp.maximum(values, 0.0)))
    factor = root @ (vectors * jnp.sqrt(x))
    return factor, share * (factor @ (factor.T @ slope) + centre)


def batch_and_match(draws: int | None = None, rate: float | None = None) -> BatchAndMatch:
    r"""Fit a Gaussian to the target's scores in closed-form steps.

    Each step draws a batch :math:`z_b \sim q_t` and minimises, exactly, the score-based divergence

    .. math:: \frac1B\sum_b \|\nabla\log q(z_b) - \nabla\log\tilde p(z_b)\|^2_{\Sigma_q}
        + \frac{2}{\lambda_t}\,\mathrm{KL}(q_t \,\|\, q)

    over Gaussians q. With batch means and covariances :math:`\bar z, C` and :math:`\bar g, \Gamma`,

    .. math:: U &= \lambda\Gamma + \tfrac{\lambda}{1+\lambda}\bar g\bar g^\top, \quad
        V = \Sigma_t + \lambda C + \tfrac{\lambda}{1+\lambda}(m_t-\bar z)(m_t-\bar z)^\top, \\
        \Sigma &= 2V\,(I + (I + 4UV)^{1/2})^{-1}, \quad
        m = \tfrac{1}{1+\lambda} m_t + \tfrac{\lambda}{1+\lambda}(\Sigma\bar g + \bar z).

    On a Gaussian target with B > d it reaches the exact answer at a rate of :math:`1/(1+\lambda)`
    a step. Elsewhere its optimum is that of the divergence, not of the ELBO. It is computed in
    coordinates where :math:`q_t` is standard, so that it does not depend on units. A step costs B
    gradients.

    Args:
        draws: B; by default twice as many as dimensions, and at least 8.
        rate: a constant :math:`\lambda`; by default :math:`Bd/(t+1)`, after Cai et al., times
            :math:`\max(10^4\,2^{-t}, 1)`, so that the first steps cross any distance.

    Returns:
        the solver, for the family "full_rank".

    Raises:
        RitzError: for fewer than two draws, or a rate that is not positive; when it runs, for
            another family.

    Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei and Saul, "Batch and match: black-box
    variational inference with a score-based divergence", 2024 (algorithm 1).

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(2))
    >>> fit = ritz.fit(target, family="full_rank", solver=batch_and_match(), steps=20)
    >>> bool(abs(jnp.exp(fit.q.log_scale) - 0.5).max() < 1e-3)
    True
    """
    if draws is not None:
        whole_number("draws", draws, 2)
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise RitzError(f"batch_and_match: rate={rate} arrived, expected a positive number")
    return BatchAndMatch(draws, None if rate is None else jnp.asarray(float(rate)))
