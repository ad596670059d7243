"""Families whose densities are themselves estimated: choices integrated out, by `marginal`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax._src.core import get_opaque_trace_state  # in jax.extend.core only from JAX 0.10 on
from jaxtyping import Array

from ritz._errors import RitzError, listed, whole_number
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
                seen[name] = Choice(given[name], q.estimate(given[name]))
            else:
                seen[name] = Choice(*q.draw_and_log_prob())
            return seen[name]
        if estimator.detaches:
            raise RitzError(
                f"{type(estimator).__name__} is biased in a program for marginal, which is not "
                "linear in log q; use pathwise()"
            )
        x = given[name] if name in given else _site.make(q, estimator, name)
        seen[name] = Choice(x, estimator.log_prob(q, x))
        return seen[name]

    with handled(handle):
        program()
    return seen


@contextlib.contextmanager
def handled(handle: Callable[..., Any] | None) -> Iterator[None]:
    token = _site.HANDLER.set(handle)
    try:
        yield
    finally:
        _site.HANDLER.reset(token)


class Importance(eqx.Module):
    """See `importance`."""

    draws: int = eqx.field(static=True)
    proposal: Callable[..., Any] | None


class Marginal(_site.Nested):
    """See `marginal`.

    Attributes:
        program: which makes named choices.
        keep: the name of the one that is kept.
        via: how the others are integrated out.
    """

    program: Callable[[], Any]
    keep: str = eqx.field(static=True)
    via: Importance

    def draw(self) -> Any:
        """A draw of what is kept. Only inside a program."""
        return self._run({})[self.keep].value

    def draw_and_log_prob(self) -> tuple[Any, Array]:
        """A draw of what is kept, and an estimate of its log density that is too high on average.

        Only inside a program. The auxiliary choices that made the draw count among the K.
        """
        seen = self._run({})
        x = seen[self.keep].value
        own = self._weight(seen, self._proposed(x, {k: c.value for k, c in seen.items()}))
        others = self._weights(x, self.via.draws - 1)
        return x, log_mean_exp(jnp.append(others, own))

    def estimate(self, x: Any) -> Array:
        """The log of an unbiased estimate of the density at any point. Only inside a program."""
        return log_mean_exp(self._weights(x, self.via.draws))

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


def log_mean_exp(x: Array) -> Array:
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

    Where what is kept is a vector, it is also a family for `ritz.fit`. Its parameters are the
    floating arrays of the program and of the proposal: write these as Equinox modules that are
    called, for what a plain function closes over stays as it is. Importance weights with
    :math:`\hat q` are proper, so that a fit's ELBO, k-hat and correction are right for every K.

    Args:
        program: a function without arguments that makes named choices, at its top level. What
            `marginal` and `normalize` return may be among them: `sample(normalize(…), name='z')`.
        keep: the name of the choice that is kept.
        via: `importance(K, proposal)`.

    Returns:
        what `sample_and_log_prob` and `log_prob` of `ritz.objective` take, in a program; and a
        family.

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
