"""Reparameterisation through an acceptance-rejection sampler, for Gamma, Beta and Dirichlet."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Key

from ritz._errors import whole_number
from ritz.estimator import _element as element
from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, detached, register


class Rejection(AbstractEstimator):
    """See `rejection`."""

    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    shape_augmentation: int = eqx.field(static=True)

    def check(self, q: Any) -> None:
        if not isinstance(element.bare(q)[0], dist.Gamma | dist.Beta | dist.Dirichlet):
            lacks = "it knows samplers of Gamma, Beta and Dirichlet only"
            raise law.refuse(self, q, lacks, element.elsewhere(q))

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        one, shape, events = element.bare(q)
        if isinstance(one, dist.Gamma):
            log_x, log_pi = self._log_gamma(element.parameter(one, "concentration", shape), key)
            rate = element.parameter(one, "rate", shape)
            return Draw(jnp.exp(log_x) / rate, {"log_pi": element.last(log_pi, events)})
        if isinstance(one, dist.Beta):
            names = ("concentration1", "concentration0")
            both = jnp.stack([element.parameter(one, name, shape) for name in names], -1)
            log_x, log_pi = self._log_gamma(both, key)
            x = jax.nn.softmax(log_x)[..., 0]
        else:
            both = element.parameter(one, "concentration", shape, own=1)
            log_x, log_pi = self._log_gamma(both, key)
            x = jax.nn.softmax(log_x)
        return Draw(x, {"log_pi": element.last(log_pi, events + 1)})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        return f + f * detached(notes["log_pi"])

    def _log_gamma(self, a: Array, key: Key[Array, ""]) -> tuple[Array, Array]:
        """Logarithms of draws from Gamma(a, 1), and log densities of the accepted noise."""
        one, two = jax.random.split(key)
        raised = a + self.shape_augmentation
        noise = accepted(jax.lax.stop_gradient(raised), one)
        log_h, log_pi = transformed(noise, raised)
        u = jax.random.exponential(two, (self.shape_augmentation, *a.shape), a.dtype)  # -log
        steps = jnp.arange(self.shape_augmentation).reshape(-1, *(1,) * a.ndim)
        return log_h - (u / (a + steps)).sum(0), log_pi


def accepted(a: Array, key: Key[Array, ""]) -> Array:
    """Noise that Marsaglia and Tsang's sampler of Gamma(a, 1) accepts, for a of 1 and more."""
    d = a - 1 / 3
    c = 1 / jnp.sqrt(9 * d)

    def step(state: Any) -> Any:
        noise, waiting, key = state
        key, one, two = jax.random.split(key, 3)
        new = jax.random.normal(one, a.shape, a.dtype)
        v = jnp.maximum(1 + c * new, 0) ** 3
        log_v = jnp.log(jnp.where(v > 0, v, 1))
        bound = 0.5 * new**2 + d * (1 - v + log_v)
        good = (v > 0) & (-jax.random.exponential(two, a.shape, a.dtype) < bound)
        return jnp.where(waiting & good, new, noise), waiting & ~good, key

    start = (jnp.zeros_like(a), jnp.ones(a.shape, bool), key)
    return jax.lax.while_loop(lambda state: state[1].any(), step, start)[0]


def transformed(noise: Array, a: Array) -> tuple[Array, Array]:
    r"""log h(noise, a), and log π(noise; a) up to a constant.

    .. math:: h(\varepsilon, a) = \big(a - \tfrac13\big)
        \Big(1 + \frac{\varepsilon}{\sqrt{9a - 3}}\Big)^3, \quad
        \pi(\varepsilon; a) = q(h(\varepsilon, a); a)\,
        \Big|\frac{\mathrm{d}h}{\mathrm{d}\varepsilon}(\varepsilon, a)\Big|.
    """
    d = a - 1 / 3
    c = 1 / jnp.sqrt(9 * d)
    log_root = jnp.log1p(c * noise)
    log_h = jnp.log(d) + 3 * log_root
    log_q = (a - 1) * log_h - jnp.exp(log_h) - jax.scipy.special.gammaln(a)
    return log_h, log_q + jnp.log(3 * d * c) + 2 * log_root


def rejection(shape_augmentation: int = 5) -> Rejection:
    r"""Pathwise through the noise that a rejection sampler accepts, and its score for the rest.

    .. math:: \nabla_\theta \mathbb{E} f(x) = \mathbb{E}_{\pi(\varepsilon; \theta)}\big[
        \nabla_\theta f(h(\varepsilon, \theta))
        + f(h(\varepsilon, \theta))\,\nabla_\theta \log \pi(\varepsilon; \theta)\big],

    with :math:`\pi(\varepsilon; \theta) = q(h(\varepsilon, \theta); \theta)\,|\partial_\varepsilon
    h|`, for Gamma, and for Beta and Dirichlet as ratios of gammas. A draw of shape a is made from
    one of shape a + B and B uniforms, so that almost nothing is rejected: the second term shrinks
    as B grows. Naesseth, Ruiz, Linderman and Blei 2017 (equations 6 to 8 and section 5).

    Args:
        shape_augmentation: B; 0 is right for shapes of 1 and more only.

    Returns:
        the estimator.

    Raises:
        RitzError: for B below 0.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(rate):
    ...     return 1.0 / sample(dist.Gamma(3.0, rate), rejection())
    >>> value, grad = expectation(program).value_and_grad(jax.random.key(0), 2.0)
    >>> round(float(value / grad), 4)
    2.0
    """
    return Rejection(whole_number("shape_augmentation", shape_augmentation, 0))


register("rejection", lambda: rejection(2), "Gamma, Beta, Dirichlet")
