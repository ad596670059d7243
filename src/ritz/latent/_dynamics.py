r"""A linear Gaussian Markov chain of latents, and exact posteriors given potentials."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family._mean_field import LOG_2PI
from ritz.latent._encoder import AbstractLaw
from ritz.latent._potentials import AbstractSequence, Potentials
from ritz.latent._small import along, inverse, prefixes, product, transposed


class Chain(AbstractLaw):
    r"""A Gaussian Markov chain by its steps backward.

    .. math:: z_T \sim \mathcal{N}(g_T, L_T), \qquad
        z_t \mid z_{t+1} \sim \mathcal{N}(E_t z_{t+1} + g_t,\ L_t).

    Attributes:
        gain: E, that of the last step zero.
        shift: g.
        factor: Cholesky factors of L.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "reparameterised"})
    gain: Float[Array, "T d d"]
    shift: Float[Array, "T d"]
    factor: Float[Array, "T d d"]

    @property
    def dim(self) -> int:
        return self.shift.size

    @property
    def loc(self) -> Float[Array, " n"]:
        return self._along(self.shift).reshape(-1)

    def moments(self) -> tuple[Float[Array, "T d"], Float[Array, "T d d"]]:
        """Means and covariances by step."""
        own = product(self.factor, transposed(self.factor))

        def join(late: Any, early: Any) -> Any:
            moved = product(product(early[0], late[1]), transposed(early[0]))
            return product(early[0], late[0]), moved + early[1]

        cov = prefixes(join, (self.gain, own), reverse=True)[1]
        return self._along(self.shift), cov

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        noise = jax.random.normal(key, self.shift.shape, self.shift.dtype)
        return self._along(self.shift + along(self.factor, noise)).reshape(-1)

    def log_prob(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        z = x.reshape(self.shift.shape)
        after = jnp.concatenate([z[1:], jnp.zeros_like(z[:1])])
        off = z - along(self.gain, after) - self.shift
        white = jax.scipy.linalg.solve_triangular(self.factor, off[..., None], lower=True)
        return -0.5 * (white**2).sum() - self._log_det() - 0.5 * z.size * LOG_2PI

    def divergences(self, prior: Any) -> Float[Array, " 1"] | None:
        if not isinstance(prior, LinearDynamics):
            return None
        mean, cov = self.moments()
        entropy = self._log_det() + 0.5 * mean.size * (1.0 + LOG_2PI)
        # Of each step given the one before: Cov(z_t, z_{t+1}) is E_t Cov(z_{t+1}).
        A, cross = prior.matrix, product(self.gain[:-1], cov[1:])
        off = mean[1:] - mean[:-1] @ A.T - prior.push
        led = product(A, cross)
        spread = cov[1:] - led - transposed(led) + product(product(A, cov[:-1]), A.T)
        squares = off**2 + jnp.diagonal(spread, axis1=1, axis2=2)
        first = (mean[0] - prior.first) ** 2 + jnp.diagonal(cov[0])
        expected = _expected(first, prior.first_log_sd) + _expected(squares, prior.log_sd)
        return (-entropy - expected)[None]

    def _along(self, shift: Any) -> Any:
        """The chain that the gains and these shifts make, from its end."""

        def join(late: Any, early: Any) -> Any:
            return product(early[0], late[0]), along(early[0], late[1]) + early[1]

        return prefixes(join, (self.gain, shift), reverse=True)[1]

    def _log_det(self) -> Array:
        return jnp.log(jnp.diagonal(self.factor, axis1=1, axis2=2)).sum()


class LinearDynamics(AbstractSequence):
    """See `linear_dynamics`.

    Attributes:
        first: the mean of the first state.
        first_log_sd: its log sds.
        matrix: A.
        push: b.
        log_sd: of the noise of a step.
        steps: T.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "reparameterised"})
    first: Float[Array, " d"]
    first_log_sd: Float[Array, " d"]
    matrix: Float[Array, "d d"]
    push: Float[Array, " d"]
    log_sd: Float[Array, " d"]
    steps: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.steps * self.first.size

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        noise = jax.random.normal(key, (self.steps, self.first.size), self.first.dtype)
        start = self.first + jnp.exp(self.first_log_sd) * noise[0]

        def step(z: Array, e: Array) -> tuple[Array, Array]:
            new = self.matrix @ z + self.push + jnp.exp(self.log_sd) * e
            return new, new

        rest = jax.lax.scan(step, start, noise[1:])[1]
        return jnp.concatenate([start[None], rest]).reshape(-1)

    def log_prob(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        z = x.reshape(self.steps, -1)
        off = z[1:] - z[:-1] @ self.matrix.T - self.push
        start = _expected((z[0] - self.first) ** 2, self.first_log_sd)
        return start + _expected(off**2, self.log_sd)

    def given(self, said: Potentials) -> Chain:
        r"""The law of the states given potentials, :math:`\propto p(z) \prod_t e^{h_t^\top z_t
        - z_t^\top J_t z_t / 2}`.

        By a filter and a smoother, each an associative scan, so that the depth grows with the
        logarithm of T. Särkkä and García-Fernández, "Temporal parallelization of Bayesian
        smoothers", 2021, lemmas 7 to 10; here with the observation's information, which may be
        zero, in place of its covariance.
        """
        T, d = self.steps, self.first.size
        h, J = said.h.reshape(T, d), said.precision.reshape(T, d)
        A, Q, eye = self.matrix, jnp.exp(2.0 * self.log_sd), jnp.eye(d)

        def element(h: Array, J: Array) -> Any:  # of a step given the one before
            # (I + J Q)^-1, of two diagonal matrices.
            M = 1.0 / (1.0 + J * Q)
            left = 1.0 - Q * M * J
            told = A.T @ (M * (h - J * self.push))
            seen = product(A.T * (M * J), A)
            return left[:, None] * A, left * self.push + Q * M * h, jnp.diag(left * Q), told, seen

        rest = jax.vmap(element)(h[1:], J[1:])
        P = jnp.exp(2.0 * self.first_log_sd)
        cov = P / (1.0 + J[0] * P)
        zero, none = jnp.zeros((d, d)), jnp.zeros(d)
        begin = (zero, cov * (h[0] + self.first / P), jnp.diag(cov), none, zero)
        elements = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), begin, rest)
        _, mean, cov, _, _ = prefixes(jax.vmap(_filtered), elements)

        def back(mean: Array, cov: Array) -> Any:
            led = product(A, cov)
            gain = product(led.T, inverse(product(led, A.T) + jnp.diag(Q)))
            left = eye - product(gain, A)
            # In this form it stays positive when rounded.
            own = product(product(left, cov), left.T) + product(gain * Q, gain.T)
            return gain, mean - along(gain, along(A, mean) + self.push), own

        gain, shift, own = jax.vmap(back)(mean[:-1], cov[:-1])
        gain = jnp.concatenate([gain, zero[None]])
        shift = jnp.concatenate([shift, mean[-1:]])
        own = jnp.concatenate([own, cov[-1:]])
        small = jnp.finfo(own.dtype).eps * jnp.trace(own, axis1=1, axis2=2)[:, None, None] * eye
        return Chain(gain, shift, jnp.linalg.cholesky(0.5 * (own + transposed(own)) + small))


def _filtered(one: Any, two: Any) -> Any:
    (A1, b1, C1, e1, J1), (A2, b2, C2, e2, J2) = one, two
    mix = inverse(jnp.eye(len(b1)) + product(C1, J2))
    forth, back = product(A2, mix), product(A1.T, mix.T)
    return (
        product(forth, A1),
        along(forth, b1 + along(C1, e2)) + b2,
        product(product(forth, C1), A2.T) + C2,
        along(back, e2 - along(J2, b1)) + e1,
        product(product(back, J2), A1) + J1,
    )


def _expected(squares: Array, log_sd: Array) -> Array:
    """Of a Gaussian log density, given the mean squares of what it is of."""
    return (-0.5 * squares * jnp.exp(-2.0 * log_sd) - log_sd - 0.5 * LOG_2PI).sum()


def linear_dynamics(width: Any) -> Any:
    r"""A Markov chain of Gaussian states as the prior of a sequence's latents.

    .. math:: z_1 \sim \mathcal{N}(m, \mathrm{diag}\,s^2), \qquad
        z_{t+1} = A z_t + b + \epsilon_t, \quad \epsilon_t \sim \mathcal{N}(0, \mathrm{diag}\,r^2).

    The latents of a `VAE` are those of all steps in a row, `latent = T * width`. All is trained; it
    starts near a stationary chain of variance 1.

    Args:
        width: d.

    Returns:
        a builder, from latent dimensions and a key to a family.

    Raises:
        RitzError: for a width below one; from the builder, where the latent dimensions are not two
            or more times the width.

    >>> linear_dynamics(2)(20, jax.random.key(0)).steps
    10
    """
    d = whole_number("width", width, 1)

    def build(latent: Any, key: Key[Array, ""]) -> LinearDynamics:
        if not isinstance(latent, int) or latent % d or latent < 2 * d:
            raise RitzError(
                f"linear_dynamics: latent={latent} arrived, expected {d} times the number of steps"
            )
        turn = 0.1 * jax.random.normal(key, (d, d)) / d**0.5
        matrix = 0.95 * jax.scipy.linalg.expm(turn - turn.T)
        log_sd = jnp.full(d, 0.5 * jnp.log(1.0 - 0.95**2))
        return LinearDynamics(jnp.zeros(d), jnp.zeros(d), matrix, jnp.zeros(d), log_sd, latent // d)

    return build
