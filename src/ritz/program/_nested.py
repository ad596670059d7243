"""Families and targets whose densities are themselves estimated: `marginal` and `normalize`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax._src.core import get_opaque_trace_state  # in jax.extend.core only from JAX 0.10 on
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
    top = get_opaque_trace_state("")

    def handle(q: Any, estimator: Any, name: str | None) -> Choice:
        if get_opaque_trace_state("") != top:
            raise RitzError(
                "a program for marginal makes its choices at its top level, and "
                f"{name or type(q).__name__} is inside vmap, scan, cond or jit; write a batch "
                "inside the distribution, as in sample(dist.Normal(jnp.zeros(3), 1.0), name='z')"
            )
        if name is None:
            raise RitzError("a program for marginal must name its choices: sample(q, name='z')")
        if name in seen:
            raise RitzError(f"two choices are named {name!r}; each needs a name of its own")
        if isinstance(q, _site.Nested):
            if name in given:
                seen[name] = Choice(given[name], q.log_prob(given[name]))
            else:
                seen[name] = Choice(*q.sample_and_log_prob())
            return seen[name]
        if estimator.detaches:
            raise RitzError(
                f"{type(estimator).__name__} is biased in a program for marginal, which is not "
                "linear in log q; use pathwise()"
            )
        x = given[name] if name in given else _site.make(q, estimator, name)
        seen[name] = Choice(x, estimator.log_prob(q, x))
        return seen[name]

    with _handled(handle):
        program()
    return seen


@contextlib.contextmanager
def _handled(handle: Callable[..., Any] | None) -> Iterator[None]:
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


class Marginal(_site.Nested):
    """See `marginal`."""

    def __init__(self, program: Callable[[], Any], keep: str, via: Importance) -> None:
        self.program, self.keep, self.via = program, keep, via

    def draw(self) -> Any:
        """A draw of what is kept. Only inside a program."""
        return self._run({})[self.keep].value

    def sample_and_log_prob(self) -> tuple[Any, Array]:
        """A draw of what is kept, and an estimate of its log density that is too high on average.

        Only inside a program. The auxiliary choices that made the draw count among the K.
        """
        seen = self._run({})
        x = seen[self.keep].value
        own = self._weight(seen, self._proposed(x, {k: c.value for k, c in seen.items()}))
        others = self._weights(x, self.via.draws - 1)
        return x, _log_mean_exp(jnp.append(others, own))

    def log_prob(self, x: Any) -> Array:
        """The log of an unbiased estimate of the density at any point. Only inside a program."""
        return _log_mean_exp(self._weights(x, self.via.draws))

    def _run(self, given: dict[str, Any]) -> dict[str, Choice]:
        seen = trace(self.program, given)
        if self.keep not in seen:
            raise RitzError(f"keep={self.keep!r}: no such choice; the program has {listed(seen)}")
        return seen

    def _weights(self, x: Any, n: int) -> Array:
        def one(_: Any) -> Array:
            proposed = self._proposed(x, {})
            given = {name: choice.value for name, choice in proposed.items()}
            return self._weight(self._run({**given, self.keep: x}), proposed)

        return jax.vmap(one)(jnp.arange(n)) if n else jnp.zeros(0)

    def _weight(self, seen: dict[str, Choice], proposed: dict[str, Choice]) -> Any:
        """What no proposal names is drawn from the program itself: its densities cancel."""
        auxiliary = [name for name in seen if name != self.keep]
        for name in proposed:
            if name not in auxiliary:
                raise RitzError(
                    f"the proposal names {name!r}, which is no auxiliary choice of the program; "
                    f"it may name {listed(auxiliary) or 'none'}"
                )
        log_q = seen[self.keep].log_prob + sum(seen[name].log_prob for name in proposed)
        return log_q - sum(choice.log_prob for choice in proposed.values())

    def _proposed(self, x: Any, known: dict[str, Any]) -> dict[str, Choice]:
        """The proposal's choices, those of `known` where it has them."""
        known = {name: value for name, value in known.items() if name != self.keep}
        proposal = self.via.proposal
        return {} if proposal is None else trace(lambda: proposal(x), known)


class Normalized(_site.Nested):
    """See `normalize`."""

    def __init__(self, target: Any, via: SIR) -> None:
        self.target, self.via = target, via

    def draw(self) -> Any:
        """One of K proposals. Only inside a program."""
        return self._chosen()[0]

    def sample_and_log_prob(self) -> tuple[Any, Array]:
        """One of K proposals, and an estimate of its log density. Only inside a program."""
        x, log_w = self._chosen()
        return x, self.target.log_density(x) - _log_mean_exp(log_w)

    def log_prob(self, x: Any) -> Array:
        """An estimate of the log density at any point. Only inside a program."""
        own = self.target.log_density(x) - _site.log_prob(self.via.proposal, x)
        others = self._proposals(self.via.draws - 1)[1] if self.via.draws > 1 else jnp.zeros(0)
        return self.target.log_density(x) - _log_mean_exp(jnp.append(others, own))

    def _chosen(self) -> tuple[Any, Float[Array, " K"]]:
        xs, log_w = self._proposals(self.via.draws)
        with _handled(None):
            choice = _site.sample(dist.Categorical(logits=log_w), self.via.estimator)
        return jax.tree.map(lambda v: v[choice], xs), log_w

    def _proposals(self, n: int) -> tuple[Any, Float[Array, " K"]]:
        def one(_: Any) -> tuple[Any, Array]:
            x, log_q = _site.sample_and_log_prob(self.via.proposal)
            return x, self.target.log_density(x) - log_q

        with _handled(None):  # in a program for marginal too: all of this is one named choice
            return jax.vmap(one)(jnp.arange(n))


def _log_mean_exp(x: Array) -> Array:
    return jax.nn.logsumexp(x) - jnp.log(len(x))


def importance(draws: Any, proposal: Any = None) -> Importance:
    r"""Importance sampling of auxiliary choices, for `marginal`.

    Args:
        draws: K, at least 1.
        proposal: a program of what is kept, which makes auxiliary choices under the same names.
            Those that it does not name, by default all, are drawn from the program itself.

    >>> importance(8).draws
    8
    """
    whole_number("draws", draws, 1)
    if proposal is not None and not callable(proposal):
        raise RitzError(
            f"importance: proposal={type(proposal).__name__} arrived, expected a function of what "
            "is kept"
        )
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


def marginal(program: Any, keep: str, via: Any) -> Marginal:
    r"""A family for one choice of a program, the others integrated out by importance sampling.

    For :math:`q(x) = \int q(x, r)\,dr` and a proposal :math:`\tau(r \mid x)`, a draw
    :math:`(x, r_0) \sim q` comes with

    .. math:: \log \hat q(x) = \log \frac1K \sum_{k=0}^{K-1} \frac{q(x, r_k)}{\tau(r_k \mid x)},
        \quad r_1, \dots \sim \tau(\cdot \mid x), \qquad
        \mathbb{E}[\log\hat q(x)] \ge \mathbb{E}[\log q(x)],

    since :math:`1 / \hat q` is unbiased for :math:`1 / q(x)`: an ELBO stays a lower bound, and
    tightens as K grows. At a given point, `log_prob` is the log of an unbiased estimate of the
    density. Choices that the proposal does not name are drawn from the program itself, so that
    their densities cancel.

    Sources: Ranganath, Tran and Blei 2016 (K = 1); Sobolev and Vetrov 2019; Becker et al. 2024.

    Args:
        program: a function without arguments that makes named choices, at its top level. What
            `marginal` and `normalize` return may be among them: `sample(normalize(…), name='z')`.
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
    if not callable(program):
        raise RitzError(f"marginal: {type(program).__name__} arrived, expected a function")
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
    return Normalized(target, via)
