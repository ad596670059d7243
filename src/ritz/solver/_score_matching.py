"""Gaussian score matching: each draw moves the Gaussian until its score there is the target's."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import whole_number
from ritz._mesh import split_draws
from ritz.solver._base import AbstractSolver, check_moves
from ritz.solver._gaussian import full_rank_of


class ScoreMatchingState(NamedTuple):
    """The Gaussian so far."""

    params: PyTree


class ScoreMatching(AbstractSolver):
    """See `gaussian_score_matching`.

    Attributes:
        draws: B; None for as many as dimensions, and at least two.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at"})
    families: ClassVar[tuple[str, ...]] = ("full_rank",)
    guarantees: ClassVar[str] = (
        "exact on Gaussian targets; elsewhere near where scores match, with noise that stays; the "
        "same in any units"
    )
    steps: ClassVar[int] = 1_000
    draws: int | None = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> ScoreMatchingState:
        check_moves(self, problem)
        return ScoreMatchingState(problem.params)

    def step(
        self, problem: Any, state: ScoreMatchingState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[ScoreMatchingState, dict[str, Array]]:
        q = paramax.unwrap(problem.family_at(state.params))
        tril, n = q.scale_tril, self._draws(q)
        noise_key, data_key = jax.random.split(key)
        noise = jax.random.normal(noise_key, (n, q.dim), q.loc.dtype)
        at = lambda x: problem.score_at(x, data_key, batch)
        values, scores = jax.vmap(at)(split_draws(q.loc + noise @ tril.T))
        apart = jax.vmap(_matched)(noise, scores @ tril)
        # The average of the covariances I + zz' - (m - z)(m - z)'.
        identity = jnp.eye(q.dim, dtype=noise.dtype)
        covariance = identity + (noise.T @ noise - apart.T @ apart) / n
        sizes, vectors = jnp.linalg.eigh(covariance)
        sizes = jnp.maximum(sizes, jnp.finfo(sizes.dtype).eps * jnp.abs(sizes).max())
        loc = q.loc + tril @ (noise + apart).mean(axis=0)
        moved = full_rank_of(loc, tril @ (vectors * jnp.sqrt(sizes)))
        return ScoreMatchingState(moved), {"loss": -values.mean() - q.entropy()}

    def evaluations(self, problem: Any, state: ScoreMatchingState, steps: int) -> float | None:
        return float(steps * self._draws(problem.family))

    def _draws(self, q: Any) -> int:
        return max(q.dim, 2) if self.draws is None else self.draws


def _matched(z: Float[Array, " d"], g: Float[Array, " d"]) -> Float[Array, " d"]:
    """m - z, of the Gaussian that matches a score g at z, where the present one is standard."""
    inner = z @ g
    r = g @ g + inner**2
    rho = 2.0 * r / (1.0 + jnp.sqrt(1.0 + 4.0 * r))  # rho (1 + rho) = r
    return (g + inner * z) / (1.0 + rho)


def gaussian_score_matching(draws: int | None = None) -> ScoreMatching:
    r"""Fit a Gaussian by moving it, draw by draw, until its score there is the target's.

    For a draw :math:`z \sim q = \mathcal N(m_0, \Sigma_0)` with the target's score g at z the
    Gaussian nearest to q,

    .. math:: \arg\min_{m, \Sigma} \mathrm{KL}(q\,\|\,\mathcal N(m, \Sigma))
        \quad\text{such that}\quad \Sigma^{-1}(m - z) = g,

    has a closed form that changes the covariance by two rank-one terms:

    .. math:: \rho(1+\rho) &= g^\top\Sigma_0 g + ((m_0 - z)^\top g)^2, \\
        m &= z + \frac{\Sigma_0 g + (m_0 - z)\,(m_0 - z)^\top g}{1+\rho}, \\
        \Sigma &= \Sigma_0 + (m_0-z)(m_0-z)^\top - (m-z)(m-z)^\top.

    A step averages the answers of B draws, and costs B gradients. On a Gaussian target every draw
    agrees with the exact answer, which is reached; elsewhere the noise of the draws stays.
    `batch_and_match` minimises over the whole batch at once, and regularises less and less.

    Args:
        draws: B; by default as many as dimensions, and at least two. With fewer, correlations
            are learnt slowly.

    Returns:
        the solver, for the family "full_rank".

    Raises:
        RitzError: for fewer than one draw; when it runs, for another family.

    Modi, Gower, Margossian, Yao, Blei and Saul, "Variational inference with Gaussian score
    matching", 2023 (algorithm 1).

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(2))
    >>> fit = ritz.fit(target, solver="gaussian_score_matching")
    >>> bool(abs(jnp.exp(fit.q.log_scale) - 0.5).max() < 1e-3)
    True
    """
    if draws is not None:
        whole_number("draws", draws, 1)
    return ScoreMatching(draws)
