"""Deterministic ADVI: the ELBO on fixed draws, minimised by Newton's method."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.family import FullRank
from ritz.solver._base import AbstractSolver, check_elbo, check_moves
from ritz.solver._fixed_draws import loss, matched_noise, moved, product, size_of
from ritz.solver._gaussian import needs_all_data
from ritz.solver._trust_region import UNBOUNDED, is_done, search, truncated_step

_DRAWS = 30
# Products of a step: near the optimum a few dozen serve.
_PRODUCTS = 500
_FIRST_RADIUS = 100.0


class DADVIState(NamedTuple):
    """The Gaussian so far, the draws, and what is known of the loss on them.

    Attributes:
        params: the Gaussian's.
        noise: the draws, as standard normals.
        value: the loss.
        grad: its gradient in the coordinates of the Gaussian itself.
        radius: of the next step, in the same.
        decrement: the squared distance to the optimum.
        cost: gradient evaluations so far.
    """

    params: PyTree
    noise: Float[Array, "n d"]
    value: Float[Array, ""]
    grad: Float[Array, " k"]
    radius: Float[Array, ""]
    decrement: Float[Array, ""]
    cost: Float[Array, ""]


class DADVI(AbstractSolver):
    """See `dadvi`.

    Attributes:
        draws: N; None for 30, or twice the dimension where the family is full-rank.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at", "hvp_at"})
    families: ClassVar[tuple[str, ...]] = ("mean_field", "full_rank")
    guarantees: ClassVar[str] = (
        "the optimum on its draws; on Gaussian targets the exact mean, the exact covariance by "
        "full_rank or ritz.diagnose.linear_response; the same in any units"
    )
    steps: ClassVar[int] = 100
    draws: int | None = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> DADVIState:
        check_moves(self, problem)
        check_elbo(self, problem)
        q = problem.family
        n, dtype = self._draws(q), q.loc.dtype
        number = lambda x: jnp.asarray(x, dtype)
        # The first step sees where it stands; until then nothing is known.
        return DADVIState(
            problem.params,
            matched_noise(key, n, q.dim, dtype),
            number(jnp.finfo(dtype).max / 4),
            jnp.zeros(size_of(q), dtype),
            number(_FIRST_RADIUS),
            number(UNBOUNDED),
            number(0.0),
        )

    def _draws(self, q: Any) -> int:
        least = 2 * q.dim if isinstance(q, FullRank) else 2
        n = max(least, _DRAWS) if self.draws is None else self.draws
        if n < least:
            raise RitzError(
                f"dadvi: draws={n} arrived for a full-rank family in {q.dim} dimensions, expected "
                f"at least {least}: with fewer the loss has no minimum; use family='mean_field'"
            )
        return n

    def step(
        self, problem: Any, state: DADVIState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[DADVIState, dict[str, Array]]:
        needs_all_data(self, batch)
        q = paramax.unwrap(problem.family_at(state.params))
        target, noise = problem.target, state.noise
        image = lambda v: product(target, q, noise, v)
        proposed = truncated_step(image, state.grad, state.radius, _PRODUCTS)

        def evaluate(share: Array) -> tuple[Array, Array]:
            there = moved(q, share * proposed.step)
            # In the coordinates of the new Gaussian.
            at = jax.value_and_grad(lambda v: loss(target, moved(there, v), noise))
            return at(jnp.zeros_like(state.grad))

        trial = search(evaluate, (state.value, state.grad), proposed, state.radius)
        value, grad = trial.found
        inside = proposed.length < 0.99 * state.radius
        decrement = jnp.where(inside, -proposed.slope, 0.5 * UNBOUNDED)
        done = (state.cost > 0) & is_done(decrement, state.decrement, state.value)
        decrement = jnp.where(state.cost > 0, decrement, 0.5 * UNBOUNDED)
        cost = state.cost + len(noise) * (trial.tried + proposed.products)
        there = moved(q, trial.share * proposed.step)
        new = DADVIState(there, noise, value, grad, trial.radius, decrement, cost)
        return new, {"loss": value, "decrement": jnp.sqrt(decrement), "converged": done}

    def evaluations(self, problem: Any, state: DADVIState, steps: int) -> float | None:
        return float(state.cost)

    def caution(self, state: DADVIState) -> str | None:
        far = float(state.decrement) ** 0.5
        if far > 0.1:
            return "the optimum on the fixed draws was not reached; try more steps"
        return None


def dadvi(draws: int | None = None) -> DADVI:
    r"""Deterministic ADVI: the ELBO with its expectation over draws that never change.

    .. math:: \hat{\mathcal L}(m, L) = -\frac1N\sum_{n=1}^N \log\tilde p(m + Lz_n) - \log|L|,

    a plain function, whose optimum can be found to any accuracy and recognised. It is minimised
    by Newton's method with conjugate gradients within a trust region, in coordinates where the
    present q is standard, so that units do not matter. The run ends where the Newton decrement is
    1e-7 (3e-5 in float32), or as small as rounding lets it be.

    The draws come in antithetic pairs with the variances of the standard normal (its covariance,
    where there are as many pairs as dimensions). On a Gaussian target the mean is then exact, and
    so is the covariance of the full-rank family. That of the mean-field family is too small
    wherever there is correlation; `ritz.diagnose.linear_response` corrects it. Another seed gives
    other draws: how much an answer moves with it tells the error of N.

    A step costs N gradients for each point that it looks at and each Hessian-vector product.

    Args:
        draws: N, an even number; by default 30, and for the full-rank family at least twice the
            dimension, which it needs.

    Returns:
        the solver, for the families "mean_field" and "full_rank".

    Raises:
        RitzError: for an odd number of draws; when it runs, for too few of them, another family
            or objective, data in batches, and a log density without second derivatives.

    Giordano, Ingram and Broderick, "Black box variational inference with a deterministic
    objective: faster, more accurate, and even more black box", 2024.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(2))
    >>> fit = ritz.fit(target, family="mean_field", solver="dadvi")
    >>> bool(abs(jnp.exp(fit.q.log_scale) - 0.5).max() < 1e-5)
    True
    """
    if draws is not None and whole_number("draws", draws, 2) % 2:
        raise RitzError(f"dadvi: draws={draws} arrived, expected an even number: they are pairs")
    return DADVI(draws)
