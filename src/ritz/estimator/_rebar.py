"""REBAR and RELAX: the score function with a control variate from a relaxation."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.estimator import _element as element
from ritz.estimator import law
from ritz.estimator._base import Draw, detached, register
from ritz.estimator._relaxed import AbstractRelaxation, hard, noisy, positive, relaxed


class Rebar(AbstractRelaxation):
    """See `rebar`."""

    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    stacked: ClassVar[bool] = True
    cost: ClassVar[str] = "3"
    temperature: Float[Array, ""]
    scale: Float[Array, ""]

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        binary, logits, _ = element.discrete_logits(q)
        b, z, again = coupled(binary, logits, key)
        soft = [relaxed(binary, x, self.temperature) for x in (z, again)]
        log_q = element.hard_log_prob(q, b)[None]
        scale = jnp.broadcast_to(self.scale, log_q.shape)
        return Draw(jnp.stack([b, *soft]), {"log_q": log_q, "scale": scale})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        f, z, again = f
        credit = detached(notes["log_q"][0])
        # The means of f(z) and of f(z~) agree; only the latter depends on b, and so has a score.
        control = z - again * (1 + credit)
        control = control - jax.lax.stop_gradient(control)
        return f + f * credit + notes["scale"][0] * control


class Relax(AbstractRelaxation):
    """See `relax`."""

    network: Callable[..., Any]

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        binary, logits, _ = element.discrete_logits(q)
        b, z, again = coupled(binary, logits, key)
        log_q = element.hard_log_prob(q, b)
        network = self.network
        for _ in law.batch_shape(q):
            network = jax.vmap(network)
        at_z, at_again = network(z), network(again)
        if jnp.shape(at_z) != jnp.shape(log_q):
            one = jnp.shape(at_z)[jnp.ndim(log_q) :]
            raise RitzError(
                f"relax: the network returned shape {one} for one choice, expected one number"
            )
        control = at_z - at_again * (1 + detached(log_q))
        return Draw(b, {"log_q": log_q, "control": control - jax.lax.stop_gradient(control)})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        return f + f * detached(notes["log_q"]) + notes["control"]


def coupled(binary: bool, logits: Array, key: Key[Array, ""]) -> tuple[Array, Array, Array]:
    r"""A hard choice b, the noisy logits z that made it, and others from :math:`q(z \mid b)`.

    Both z are differentiable in the logits, the latter with b held fixed.
    """
    one, two = jax.random.split(key)
    z = noisy(binary, logits, one)
    b = jax.lax.stop_gradient(hard(binary, z))
    if binary:  # u ~ U(0, 1) between the threshold and the end, on the scale of logits
        sign = 2 * b - 1
        spread = jax.random.logistic(two, logits.shape, logits.dtype)
        return b, z, sign * jax.nn.softplus(spread + jax.nn.softplus(sign * logits))
    top, rest = jax.random.exponential(two, (2, *logits.shape), logits.dtype)
    top = jnp.where(b > 0, top, 0.0).sum(-1, keepdims=True)  # -log v of the largest
    return b, z, jnp.where(b > 0, -jnp.log(top), -jnp.log(rest * jnp.exp(-logits) + top))


def rebar(temperature: float | Array = 0.5, scale: float | Array = 1.0) -> Rebar:
    r"""The score function of a discrete choice, less that of its relaxation.

    .. math:: \big(f(b) - \eta f(\sigma_\tau(\tilde z))\big)\,\nabla\log q(b)
        + \eta\,\nabla f(\sigma_\tau(z)) - \eta\,\nabla f(\sigma_\tau(\tilde z)),

    with :math:`b = H(z)` and :math:`\tilde z \sim q(z \mid b)`. It is unbiased for any
    temperature and scale, as long as f accepts relaxed values: a number in [0, 1] for a Bernoulli
    choice, a vector of K on the simplex for a Categorical one. The hard value has the same form:
    0.0 or 1.0, or one-hot. To tune the two, follow the gradient of the squared gradient in them.

    Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein 2017 (equation 6).

    Args:
        temperature: :math:`\tau`.
        scale: :math:`\eta`.

    Returns:
        the estimator.

    Raises:
        RitzError: for a temperature that is not positive.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(logits):
    ...     return (sample(dist.Bernoulli(logits=logits), rebar(0.3)) - 0.4) ** 2
    >>> expectation(program).grad(jax.random.key(0), 0.5).shape
    ()
    """
    return Rebar(positive(temperature), jnp.asarray(scale, float))


def relax(network: Callable[..., Any]) -> Relax:
    r"""The score function of a discrete choice, less that of a network of its noisy logits.

    .. math:: \big(f(b) - c_\phi(\tilde z)\big)\,\nabla\log q(b)
        + \nabla c_\phi(z) - \nabla c_\phi(\tilde z).

    f is evaluated at the hard value only: 0.0 or 1.0 for a Bernoulli choice, one-hot for a
    Categorical one. It is unbiased for any network: its arrays are fitted by following the
    gradient of the squared gradient, as the gradient itself has mean zero in them. Choices that
    are one event (`to_event`) share a network of them all; in a plate it sees one element, and
    where the program mixes elements their controls are averaged.

    Grathwohl, Choi, Wu, Roeder and Duvenaud 2018 (equation 7).

    Args:
        network: :math:`c_\phi`, from the noisy logits z of one choice (a number, or a vector of K)
            to one number; a pytree, such as an Equinox module.

    Returns:
        the estimator.

    Raises:
        RitzError: where something else arrives, or, in a program, if it returns no number.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(logits):
    ...     return (sample(dist.Bernoulli(logits=logits), relax(jax.numpy.tanh)) - 0.4) ** 2
    >>> expectation(program).grad(jax.random.key(0), 0.5).shape
    ()
    """
    if not callable(network):
        raise RitzError(f"relax: {type(network).__name__} arrived, expected a network")
    return Relax(network)


register("rebar", lambda: rebar(0.5, 0.7), "Bernoulli, Categorical")
register("relax", lambda: relax(lambda z: 0.8 * jnp.tanh(z).sum() + 0.3), "Bernoulli, Categorical")
