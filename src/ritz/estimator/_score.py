"""The score-function estimator, and its baselines."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, detached, register


class Score(AbstractEstimator):
    """See `score`."""

    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})
    baseline: Any = None

    @property
    def ratio(self) -> bool:
        """Whether there is no baseline, nor another `combine`: the likelihood ratio is all."""
        return self.baseline is None and type(self).combine is Score.combine

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        x = jax.lax.stop_gradient(law.draw(q, key))
        notes = {"log_q": law.log_prob(q, x)}
        if self.baseline is not None:
            notes["baseline"] = jnp.broadcast_to(self.baseline(), notes["log_q"].shape)
        return Draw(x, notes)

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        credit = detached(notes["log_q"])
        if "baseline" not in notes:
            return f + f * credit
        baseline = notes["baseline"]
        held = jnp.broadcast_to(jax.lax.stop_gradient(baseline), f.shape)
        error = jax.lax.stop_gradient(f) - baseline
        return f + (f - held) * credit + _fitted(error)


class LeaveOneOut(AbstractEstimator):
    """See `score`."""

    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})
    stacked: ClassVar[bool] = True
    cost: ClassVar[str] = "K"
    draws: int = eqx.field(static=True)

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        keys = jax.random.split(key, self.draws)
        x = jax.lax.stop_gradient(jax.vmap(lambda k: law.draw(q, k))(keys))
        return Draw(x, {"log_q": jax.vmap(lambda x: law.log_prob(q, x))(x)})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        held = jax.lax.stop_gradient(f)
        others = (held.sum(0) - held) / (self.draws - 1)
        return (f + (f - others) * detached(notes["log_q"])).mean(0)


@jax.custom_vjp
def _fitted(error: Array) -> Array:
    """0, whose derivative in the baseline fits it, also where a program subtracts its term."""
    return jnp.zeros_like(error)


_fitted.defvjp(lambda error: (jnp.zeros_like(error), error), lambda error, g: (error * jnp.abs(g),))


class Mean(eqx.Module):
    """A baseline that is one number.

    Attributes:
        mean: the number.
    """

    mean: Float[Array, ""]

    def __call__(self) -> Float[Array, ""]:
        return self.mean


def running_mean(start: float = 0.0) -> Mean:
    r"""A baseline that tracks the mean of f, as part of the parameters that a solver moves.

    Where a program has a term c f, its derivative in the baseline is |c| (b - f), so that a
    gradient step of rate r is a running mean with decay 1 - |c| r; the gradient of q's parameters
    stays unbiased.

    Args:
        start: its first value.

    >>> float(running_mean(2.0)())
    2.0
    """
    return Mean(jnp.asarray(start, float))


def score(baseline: Any = None, draws: int | None = None) -> Score | LeaveOneOut:
    r"""The likelihood-ratio gradient, for any choice whose log density has a derivative.

    .. math:: \nabla_\lambda \mathbb{E}_{q_\lambda} f(x) = \mathbb{E}_{q_\lambda}\big[
        \nabla_\lambda f(x) + (f(x) - b)\, \nabla_\lambda \log q_\lambda(x)\big].

    Within a plate each element is credited with its own cost only, where the program keeps
    elements apart. Williams 1992; Ranganath, Gerrish and Blei 2014. With `draws=K` the baseline of
    each draw is the mean of the K - 1 others (Kool, van Hoof and Welling 2019).

    Args:
        baseline: b as a pytree that is called without arguments: `running_mean()`, or a network
            closed over features. Its arrays are fitted by the program's own derivative in them,
            that of (b - f)^2 / 2. A baseline must not depend on the draw.
        draws: K, at least 2, for leave-one-out; the rest of the program runs K times.

    Returns:
        the estimator.

    Raises:
        RitzError: for both a baseline and draws, a baseline that cannot be called, or fewer than
            two draws.

    >>> score(draws=8).draws
    8
    """
    if baseline is not None and not callable(baseline):
        count = isinstance(baseline, int) and not isinstance(baseline, bool)
        raise RitzError(
            f"score: baseline={baseline!r} arrived, expected something to call, such as "
            f"running_mean(){f'; for {baseline} draws write score(draws={baseline})' * count}"
        )
    if draws is None:
        return Score(baseline)
    whole_number("draws", draws, 2)
    if baseline is not None:
        raise RitzError(
            "score: a baseline and draws arrived; leave-one-out is a baseline: pass one"
        )
    return LeaveOneOut(draws=draws)


register("score", score, "anything with a log density")
register(
    "score(baseline)", lambda: score(running_mean(0.3)), "the same, with a baseline that learns"
)
register(
    "score(draws)", lambda: score(draws=3), "the same, each draw with the others as its baseline"
)
