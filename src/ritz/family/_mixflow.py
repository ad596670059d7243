"""Mixed variational flows: an average of pushforwards by Hamiltonian dynamics."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family._base import AbstractFamily
from ritz.family._full_rank import FullRank, full_rank
from ritz.family._mean_field import LOG_2PI, MeanField, mean_field
from ritz.family._own_density import OwnDensity


class State(NamedTuple):
    """A point of the augmented space, and what follows from it.

    Attributes:
        z: standardised position, shape (d,).
        momentum: shape (d,).
        time: pseudotimes in [0, 1), shape (d,).
        log_density: of the standardised target at `z`, and its gradient `score`.
        log_det: log Jacobian determinant of the map that led here from the start.
    """

    z: Array
    momentum: Array
    time: Array
    log_density: Array
    score: Array
    log_det: Array


class MixFlow(AbstractFamily):
    r"""The average of the first N pushforwards of a Gaussian by one fixed map; see `mixflow`.

    Attributes:
        reference: the Gaussian :math:`q_0`, whose mean and scale standardise the target.
        log_step: :math:`\log\epsilon` of the leapfrog steps, in units of the reference's scale.
        density: the target's log density.
        length: N.
        leapfrog: leapfrog steps in one application of the map.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "sample_and_log_prob"})
    registered_as: ClassVar[str | None] = "mixflow"
    solver: ClassVar[str | None] = "mixflow"
    reference: MeanField | FullRank
    log_step: Float[Array, ""]
    density: OwnDensity = eqx.field(static=True)
    length: int = eqx.field(static=True)
    leapfrog: int = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        own = {"reference": self.reference.registered_as}
        return own | {"length": self.length, "leapfrog": self.leapfrog}

    @property
    def dim(self) -> int:
        return self.reference.dim

    def for_target(self, target: Any) -> "MixFlow":
        return dataclasses.replace(self, density=OwnDensity("mixflow", target))

    # -- the map ------------------------------------------------------------------------------

    def state(self, z: Array, momentum: Array, time: Array) -> State:
        """A start."""
        value, score = jax.value_and_grad(self._log_density)(z)
        return State(z, momentum, time, value, score, jnp.zeros_like(value))

    def forward(self, at: State) -> State:
        """The map: leapfrog steps, refreshed momenta, shifted pseudotimes."""
        moved = self._leap(at, jnp.exp(self.log_step))
        momentum = _turned(moved.momentum, at.time)
        gained = _log_logistic(moved.momentum).sum() - _log_logistic(momentum).sum()
        time = jnp.mod(at.time + _shift(at.time), 1.0)
        return moved._replace(momentum=momentum, time=time, log_det=at.log_det + gained)

    def backward(self, at: State) -> State:
        """The inverse of `forward`."""
        time = jnp.mod(at.time - _shift(at.time), 1.0)
        momentum = _turned(at.momentum, -time)
        gained = _log_logistic(at.momentum).sum() - _log_logistic(momentum).sum()
        turned = at._replace(momentum=momentum, time=time, log_det=at.log_det + gained)
        return self._leap(turned, -jnp.exp(self.log_step))

    def _leap(self, at: State, step: Array) -> State:
        """Leapfrog steps of the Hamiltonian with logistic momentum: no Metropolis correction."""

        def one(at: State, _: None) -> tuple[State, None]:
            half = at.momentum + 0.5 * step * at.score
            z = at.z + step * jnp.tanh(0.5 * half)
            value, score = jax.value_and_grad(self._log_density)(z)
            momentum = half + 0.5 * step * score
            return at._replace(z=z, momentum=momentum, log_density=value, score=score), None

        return jax.lax.scan(one, at, None, self.leapfrog)[0]

    # -- the average over the orbit -----------------------------------------------------------

    def start(self, key: Key[Array, ""]) -> State:
        """A draw from the reference, logistic momenta and uniform pseudotimes."""
        keys = jax.random.split(key, 3)
        like = self.reference.loc
        z = jax.random.normal(keys[0], like.shape, like.dtype)
        momentum = jax.random.logistic(keys[1], like.shape, like.dtype)
        return self.state(z, momentum, jax.random.uniform(keys[2], like.shape, like.dtype))

    def trajectory(self, key: Key[Array, ""]) -> tuple[Float[Array, "N d"], Float[Array, " N"]]:
        """One draw from each of the N pushforwards and their log-weights, from one orbit.

        The mean of any function over the N points has the expectation under q of one draw, and the
        mean of the log-weights is an unbiased estimate of the ELBO, for 2N - 2 applications of the
        map in all (Xu, Chen and Campbell 2023, algorithm 2).

        Returns:
            points, and log-weights of the augmented space.
        """
        states, log_q = self._orbit(self.start(key))
        log_joint = states.log_density + _log_logistic(states.momentum).sum(-1)
        return jax.vmap(self._place)(states.z), log_joint - log_q

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        key, pick = jax.random.split(key)
        n = jax.random.randint(pick, (), 0, self.length)

        def one(carry: tuple[State, Array], k: Array) -> tuple[tuple[State, Array], None]:
            state, kept = carry
            state = self.forward(state)
            return (state, jnp.where(k == n, state.z, kept)), None

        state = self.start(key)
        (_, z), _ = jax.lax.scan(one, (state, state.z), jnp.arange(1, self.length))
        return self._place(z)

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        key, pick = jax.random.split(key)
        n = jax.random.randint(pick, (), 0, self.length)
        states, log_q = self._orbit(self.start(key))
        log_q = log_q - _log_logistic(states.momentum).sum(-1) - self.reference.log_scale.sum()
        return self._place(states.z[n]), log_q[n]

    def augmented_log_prob(self, z: Array, momentum: Array, time: Array) -> Float[Array, ""]:
        """Log density of the augmented space, by the inverse orbit.

        Args:
            z: standardised position, shape (d,).
            momentum: shape (d,).
            time: pseudotimes, shape (d,).
        """
        at = self.state(z, momentum, time)
        first, rest = self._mass(at), self._walk(self.backward, at)
        terms = jnp.concatenate([first[None], jax.vmap(self._mass)(rest)])
        return jax.nn.logsumexp(terms) - math.log(self.length)

    def _walk(self, step: Any, at: State) -> State:
        """N - 1 steps, stacked."""
        both = lambda at, _: (step(at),) * 2
        return jax.lax.scan(both, at, None, self.length - 1)[1]

    def _mass(self, at: State) -> Array:
        """Log density of the reference, carried along the orbit."""
        gaussian = -0.5 * (at.z @ at.z) - 0.5 * self.dim * LOG_2PI
        return gaussian + _log_logistic(at.momentum).sum() + at.log_det

    def _orbit(self, at: State) -> tuple[State, Array]:
        """The N points of a start's orbit, and their log densities under the average.

        The density at the n-th averages over the N points that end there, of which N - 1 - n lie
        before the start: cumulative sums from the start, both ways, give all of them.
        """
        after = self._walk(self.forward, at)
        states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), at, after)
        ahead = jax.lax.cumlogsumexp(jax.vmap(self._mass)(states))
        before = jax.vmap(self._mass)(self._walk(self.backward, at))
        behind = jnp.append(jax.lax.cumlogsumexp(before)[::-1], -jnp.inf)
        log_q = jnp.logaddexp(ahead, behind) - states.log_det - math.log(self.length)
        return states, log_q

    # -- standardisation ----------------------------------------------------------------------

    def _place(self, z: Array) -> Array:
        q = self.reference
        mixed = z + jnp.tril(q.lower, -1) @ z if isinstance(q, FullRank) else z
        return q.loc + jnp.exp(q.log_scale) * mixed

    def _log_density(self, z: Array) -> Array:
        return self.density(self._place(z)) + self.reference.log_scale.sum()


def _shift(time: Array) -> Array:
    r"""Steps of the pseudotimes: :math:`e^{1 + i/(d+1)}` modulo 1.

    With 1 these are linearly independent over the rationals (Lindemann and Weierstrass), so that
    the pseudotimes' own motion is ergodic, jointly.
    """
    d = len(time)
    return jnp.mod(jnp.exp(1.0 + jnp.arange(1, d + 1, dtype=time.dtype) / (d + 1)), 1.0)


def _turned(momentum: Array, angle: Array) -> Array:
    """Momenta whose distribution function is shifted by an angle, modulo 1.

    Centred at 1/2, so that both tails keep as many digits as there are.
    """
    share = 0.5 * jnp.tanh(0.5 * momentum) + angle
    share = share - jnp.round(share)
    edge = 0.5 - jnp.finfo(share.dtype).epsneg
    return 2.0 * jnp.arctanh(2.0 * jnp.clip(share, -edge, edge))


def _log_logistic(momentum: Array) -> Array:
    """Log density of the logistic distribution."""
    size = jnp.abs(momentum)
    return -size - 2.0 * jnp.log1p(jnp.exp(-size))


def mixflow(
    target: Any,
    start: Float[Array, " d"],
    length: Any = 100,
    leapfrog: Any = 10,
    reference: Any = "mean_field",
    step: float = 0.1,
) -> MixFlow:
    r"""A mixed variational flow: the average of N pushforwards by one ergodic map.

    .. math:: q_N = \frac1N \sum_{n=0}^{N-1} T^n q_0, \qquad
        q_N(s) = \frac1N \sum_{n=0}^{N-1} \frac{q_0(T^{-n}s)}{\prod_{j=1}^n J(T^{-j}s)},

    on states :math:`s = (z, \rho, u)` of standardised position, momentum and pseudotime. T is
    leapfrog steps without Metropolis correction; then the momenta's distribution functions are
    turned by the pseudotimes, :math:`R(\rho_i) \leftarrow R(\rho_i) + u_i \bmod 1`, and the
    pseudotimes move on by irrational amounts. Where steps are exact T preserves p and q_N tends to
    p as N grows, whatever q_0 is. Xu, Chen and Campbell 2023, "MixFlows: principled variational
    inference via mixed flows" (sections 3 and 5).

    Momenta are logistic: their distribution function is closed and their kinetic energy smooth,
    where the paper has Laplace. A refreshment depends on a pseudotime for each coordinate, not on
    the position: with the paper's sine of it nothing of a start was left after a hundred
    applications. The inverse needs float64; weights do not, as each is made of one orbit from its
    start both ways, without a round trip.

    Draws come with the log density of the augmented space, so that importance weights are proper;
    x alone has no density. A draw costs 2 · (N - 1) · leapfrog gradients, for which
    `MixFlow.trajectory` gives N. Nothing differentiates through a chaotic orbit:
    `ritz.solver.mixflow` trains the reference alone, then searches the step.

    Args:
        target: the target that it is for.
        start: unconstrained point, the reference's initial mean.
        length: N.
        leapfrog: leapfrog steps in one application of the map.
        reference: "mean_field", "full_rank", or a fitted Gaussian of these.
        step: initial leapfrog step, in units of the reference's scale.

    Returns:
        a `MixFlow`.

    Raises:
        RitzError: for a target without log density on all the data, or a wrong number or
            reference.

    >>> import jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    >>> x, log_weights = mixflow(target, jnp.zeros(2), length=10).trajectory(jax.random.key(0))
    >>> x.shape, log_weights.shape
    ((10, 2), (10,))
    """
    whole_number("length", length, 1)
    whole_number("leapfrog", leapfrog, 1)
    if not isinstance(step, int | float) or not 0.0 < step < math.inf:
        raise RitzError(f"mixflow: step={step!r} arrived, expected a positive number such as 0.1")
    made = {"mean_field": mean_field, "full_rank": full_rank}
    if isinstance(reference, str) and reference in made:
        reference = made[reference](target, start)
    if not isinstance(reference, MeanField | FullRank):
        what = repr(reference) if isinstance(reference, str) else type(reference).__name__
        raise RitzError(
            f"mixflow: the reference arrived as {what}; expected 'mean_field', 'full_rank', or a "
            "fitted Gaussian such as ritz.fit(target, family='mean_field').q"
        )
    return MixFlow(
        reference=reference,
        log_step=jnp.asarray(math.log(step), start.dtype),
        density=OwnDensity("mixflow", target),
        length=int(length),
        leapfrog=int(leapfrog),
    )
