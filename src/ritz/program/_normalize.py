"""Families near an unnormalised target: one of several proposals, by `normalize`."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ritz._errors import RitzError, whole_number
from ritz.estimator import AbstractEstimator
from ritz.program import _site
from ritz.program._nested import handled, log_mean_exp


class SIR(eqx.Module):
    """See `sir`."""

    draws: int = eqx.field(static=True)
    proposal: Any
    estimator: AbstractEstimator | None


class Normalized(_site.Nested):
    """See `normalize`.

    Attributes:
        target: which a solver leaves as it is.
        via: how it is resampled; its proposal is what a solver moves.
    """

    target: Any
    via: SIR

    def draw(self) -> Any:
        """One of K proposals. Only inside a program."""
        return self._chosen()[0]

    def draw_and_log_prob(self) -> tuple[Any, Array]:
        """One of K proposals, and an estimate of its log density. Only inside a program."""
        x, log_w = self._chosen()
        return x, self.target.log_density(x) - log_mean_exp(log_w)

    def estimate(self, x: Any) -> Array:
        """An estimate of the log density at any point. Only inside a program."""
        own = self.target.log_density(x) - _site.log_prob(self.via.proposal, x)
        others = self._proposals(self.via.draws - 1)[1] if self.via.draws > 1 else jnp.zeros(0)
        return self.target.log_density(x) - log_mean_exp(jnp.append(others, own))

    def _chosen(self) -> tuple[Any, Float[Array, " K"]]:
        xs, log_w = self._proposals(self.via.draws)
        with handled(None):
            choice = _site.sample(dist.Categorical(logits=log_w), self.via.estimator)
        return jax.tree.map(lambda v: v[choice], xs), log_w

    def _proposals(self, n: int) -> tuple[Any, Float[Array, " K"]]:
        def one(_: Any) -> tuple[Any, Array]:
            x, log_q = _site.sample_and_log_prob(self.via.proposal)
            return x, self.target.log_density(x) - log_q

        with handled(None):  # in a program for marginal too: all of this is one named choice
            return jax.vmap(one)(jnp.arange(n))


def sir(draws: Any, proposal: Any, estimator: AbstractEstimator | None = None) -> SIR:
    """Sampling importance resampling, for `normalize`.

    Args:
        draws: K, at least 1.
        proposal: what is drawn K times.
        estimator: of the choice among the K; by default their sum.

    >>> import numpyro.distributions as dist
    >>> sir(4, dist.Normal(0.0, 1.0)).draws
    4
    """
    whole_number("draws", draws, 1)
    drawn = isinstance(proposal, _site.Nested) or hasattr(proposal, "sample")
    if not (drawn and hasattr(proposal, "log_prob")):
        raise RitzError(
            f"sir: proposal={type(proposal).__name__} arrived, expected a family, a distribution, "
            "or anything with sample(key) and log_prob(x)"
        )
    if estimator is not None:
        among = dist.Categorical(logits=jnp.zeros(draws))
        estimator.check(among)
        if estimator.value(among).dtype.kind != "i":
            raise RitzError(
                f"sir: {type(estimator).__name__} relaxes the choice among the K, which must be "
                "one of them; use enumerate_support() or score()"
            )
    return SIR(int(draws), proposal, estimator)


def normalize(target: Any, via: Any) -> Normalized:
    r"""A distribution near an unnormalised target, by sampling importance resampling.

    A draw is one of K proposals, chosen with probability proportional to its weight, and comes
    with :math:`\log\tilde p(x) - \log\frac1K\sum_k w_k`; its expected value is such that an ELBO
    with it is the importance-weighted bound. Becker et al. 2024; Cremer, Morris and Duvenaud
    2017.

    It is also a family for `ritz.fit`, which then moves the proposal, and whose draws are the
    resampled ones: `family=lambda target, start: normalize(target, sir(K, mean_field(target,
    start)))`.

    Args:
        target: anything with `log_density`.
        via: `sir(K, proposal)`.

    Returns:
        what `sample_and_log_prob` and `log_prob` of `ritz.objective` take, in a program; and a
        family.

    Raises:
        RitzError: for something else, and for a target that does not see all of its data.

    Where the proposal is the normalised target, the estimate is exact:

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist, ritz
    >>> from ritz.objective import expectation, sample_and_log_prob
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(1))
    >>> proposal = dist.Normal(jnp.zeros(1), 1.0).to_event(1)
    >>> def program():
    ...     x, log_q = sample_and_log_prob(normalize(target, sir(4, proposal)))
    ...     return target.log_density(x) - log_q  # log Z
    >>> round(float(expectation(program).value(jax.random.key(0))), 4)  # log(2 pi) / 2
    0.9189
    """
    if not isinstance(via, SIR):
        raise RitzError(f"normalize: via={type(via).__name__} arrived, expected sir(K, proposal)")
    if not hasattr(target, "log_density"):
        raise RitzError(f"normalize: {type(target).__name__} has no log_density")
    if not getattr(target, "has_full_density", True):
        raise RitzError(
            "normalize: the target sees its data in batches only, and weights need all of them; "
            "use the proposal as the family, with iwae(K)"
        )
    return Normalized(target, via)
