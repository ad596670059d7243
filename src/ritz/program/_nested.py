"""Families and targets whose densities are themselves estimated: `marginal` and `normalize`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from ritz._errors import RitzError, listed, whole_number
from ritz.estimator import AbstractEstimator
from ritz.program import _site


class Choice(NamedTuple):
    """A named choice of a program that has been run."""

    value: Any
    log_prob: Array


def trace(program: Callable[[], Any], given: dict[str, Any]) -> dict[str, Choice]:
    """Run a program with some named choices given; each with its log density, by name."""
    seen: dict[str, Choice] = {}

    def handle(q: Any, estimator: Any, name: str | None) -> Any:
        if name is None:
            raise RitzError("a program for marginal must name its choices: sample(q, name='z')")
        if name in seen:
            raise RitzError(f"two choices are named {name!r}; each needs a name of its own")
        x = given[name] if name in given else _site.make(q, estimator, name)
        seen[name] = Choice(x, estimator.log_prob(q, x))
        return x

    with _handled(handle):
        program()
    return seen


@contextlib.contextmanager
def _handled(handle: Callable[..., Any]) -> Iterator[None]:
    token = _site.HANDLER.set(handle)
    try:
        yield
    finally:
        _site.HANDLER.reset(token)


class Importance(NamedTuple):
    """See `importance`."""

    draws: int
    proposal: Callable[..., Any] | None


class SIR(NamedTuple):
    """See `sir`."""

    draws: int
    proposal: Any
    estimator: AbstractEstimator | None


class Marginal:
    """See `marginal`."""

    def __init__(self, program: Callable[[], Any], keep: str, via: Importance) -> None:
        self.program, self.keep, self.via = program, keep, via

    def sample_and_log_prob(self) -> tuple[Any, Array]:
        """A draw of what is kept, and an estimate of its log density that is too high on average.

        Only inside a program. The auxiliary choices that made the draw count among the K.
        """
        seen = trace(self.program, {})
        if self.keep not in seen:
            raise RitzError(f"keep={self.keep!r}: no such choice; the program has {listed(seen)}")
        x = seen[self.keep].value
        own = sum(c.log_prob for c in seen.values()) - self._proposed(x, seen)[1]
        others = self._weights(x, self.via.draws - 1)
        return x, _log_mean_exp(jnp.append(others, own))

    def log_prob(self, x: Any) -> Array:
        """The log of an unbiased estimate of the density at any point. Only inside a program."""
        return _log_mean_exp(self._weights(x, self.via.draws))

    def _weights(self, x: Any, n: int) -> Array:
        def one(_: Any) -> Array:
            given, log_tau = self._proposed(x, None)
            seen = trace(self.program, {**given, self.keep: x})
            return sum(c.log_prob for c in seen.values()) - log_tau  # pyright: ignore

        return jax.vmap(one)(jnp.arange(n)) if n else jnp.zeros(0)

    def _proposed(self, x: Any, seen: dict[str, Choice] | None) -> tuple[dict[str, Any], Any]:
        """Auxiliary choices from the proposal, or those of a run, and their log density there."""
        known = {} if seen is None else {k: c.value for k, c in seen.items() if k != self.keep}
        if self.via.proposal is None:  # the program itself
            found = trace(self.program, known if seen is not None else {self.keep: x})
            found.pop(self.keep)
        else:
            found = trace(lambda: self.via.proposal(x), known)  # pyright: ignore
        values = {name: choice.value for name, choice in found.items()}
        return values, sum(choice.log_prob for choice in found.values())


class Normalized:
    """See `normalize`."""

    def __init__(self, target: Any, via: SIR) -> None:
        self.target, self.via = target, via

    def sample_and_log_prob(self) -> tuple[Any, Array]:
        """One of K proposals, and an estimate of its log density. Only inside a program."""
        xs, log_w = self._proposals(self.via.draws)
        choice = _site.sample(dist.Categorical(logits=log_w), self.via.estimator)
        x = jax.tree.map(lambda v: v[choice], xs)
        return x, self.target.log_density(x) - _log_mean_exp(log_w)

    def log_prob(self, x: Any) -> Array:
        """An estimate of the log density at any point. Only inside a program."""
        own = self.target.log_density(x) - _site.log_prob(self.via.proposal, x)
        others = self._proposals(self.via.draws - 1)[1] if self.via.draws > 1 else jnp.zeros(0)
        return self.target.log_density(x) - _log_mean_exp(jnp.append(others, own))

    def _proposals(self, n: int) -> tuple[Any, Float[Array, " K"]]:
        def one(_: Any) -> tuple[Any, Array]:
            x, log_q = _site.sample_and_log_prob(self.via.proposal)
            return x, self.target.log_density(x) - log_q

        return jax.vmap(one)(jnp.arange(n))


def _log_mean_exp(x: Array) -> Array:
    return jax.nn.logsumexp(x) - jnp.log(len(x))


def importance(draws: Any, proposal: Callable[..., Any] | None = None) -> Importance:
    r"""Importance sampling of auxiliary choices, for `marginal`.

    Args:
        draws: K, at least 1.
        proposal: a program of what is kept, which makes the auxiliary choices under the same
            names; by default the program's own.

    >>> importance(8).draws
    8
    """
    whole_number("draws", draws, 1)
    return Importance(int(draws), proposal)


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
    return SIR(int(draws), proposal, estimator)


def marginal(program: Callable[[], Any], keep: str, via: Any) -> Marginal:
    r"""A family for one choice of a program, the others integrated out by importance sampling.

    For :math:`q(x) = \int q(x, r)\,dr` and a proposal :math:`\tau(r \mid x)`, a draw
    :math:`(x, r_0) \sim q` comes with

    .. math:: \log \hat q(x) = \log \frac1K \sum_{k=0}^{K-1} \frac{q(x, r_k)}{\tau(r_k \mid x)},
        \quad r_1, \dots \sim \tau(\cdot \mid x), \qquad
        \mathbb{E}[\log\hat q(x)] \ge \mathbb{E}[\log q(x)],

    since :math:`1 / \hat q` is unbiased for :math:`1 / q(x)`: an ELBO stays a lower bound, and
    tightens as K grows. At a given point, `log_prob` is the log of an unbiased estimate of the
    density. Ranganath, Tran and Blei 2016 (K = 1); Sobolev and Vetrov 2019; Becker et al. 2024.

    Args:
        program: a function without arguments that makes named choices, at its top level.
        keep: the name of the choice that is kept.
        via: `importance(K, proposal)`.

    Returns:
        what `sample_and_log_prob` and `log_prob` of `ritz.objective` take, in a program.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, importance, marginal, sample, sample_and_log_prob
    >>> def family():
    ...     r = sample(dist.Normal(0.0, 1.0), name="r")
    ...     sample(dist.Normal(r, 1.0), name="x")
    >>> def program():
    ...     x, log_q = sample_and_log_prob(marginal(family, "x", importance(64)))
    ...     return log_q - dist.Normal(0.0, 2.0**0.5).log_prob(x)  # the exact marginal
    >>> bool(abs(expectation(program).value(jax.random.key(0))) < 0.2)
    True
    """
    if not isinstance(via, Importance):
        raise RitzError(f"marginal: via={type(via).__name__} arrived, expected importance(K)")
    return Marginal(program, keep, via)


def normalize(target: Any, via: Any) -> Normalized:
    r"""A distribution near an unnormalised target, by sampling importance resampling.

    A draw is one of K proposals, chosen with probability proportional to its weight, and comes
    with :math:`\log\tilde p(x) - \log\frac1K\sum_k w_k`; its expected value is such that an ELBO
    with it is the importance-weighted bound. Becker et al. 2024; Cremer, Morris and Duvenaud
    2017.

    Args:
        target: anything with `log_density`.
        via: `sir(K, proposal)`.

    Returns:
        what `sample_and_log_prob` and `log_prob` of `ritz.objective` take, in a program.

    >>> import ritz, jax.numpy as jnp, numpyro.distributions as dist
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * x**2, jnp.zeros(()))
    >>> type(normalize(target, sir(4, dist.Normal(0.0, 2.0)))).__name__
    'Normalized'
    """
    if not isinstance(via, SIR):
        raise RitzError(f"normalize: via={type(via).__name__} arrived, expected sir(K, proposal)")
    if not hasattr(target, "log_density"):
        raise RitzError(f"normalize: {type(target).__name__} has no log_density")
    return Normalized(target, via)
