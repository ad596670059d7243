"""Implicit reparameterisation: derivatives of a draw from those of its distribution function."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Key

from ritz.estimator import _element as element
from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, register

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)


class Implicit(AbstractEstimator):
    """See `implicit`."""

    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    combines: ClassVar[bool] = False

    def check(self, q: Any) -> None:
        if law.is_reparameterised(q):
            return
        if not law.is_numpyro(q) or law.is_discrete(q):
            raise law.refuse(
                self, q, "it is no continuous distribution of NumPyro", element.elsewhere(q)
            )
        one, shape, _ = element.bare(q)
        if isinstance(one, dist.VonMises):
            return
        if one.event_shape:
            raise law.refuse(self, q, "an element is not one number", "score()")
        try:
            jax.eval_shape(one.cdf, jax.ShapeDtypeStruct(shape, law.value(q).dtype))
        except (NotImplementedError, AttributeError, TypeError):
            raise law.refuse(self, q, "it has no cdf", "score()") from None

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        if law.is_reparameterised(q):
            return Draw(law.draw(q, key), {})
        x = jax.lax.stop_gradient(law.draw(q, key))
        one, shape, _ = element.bare(q)
        if isinstance(one, dist.VonMises):
            return Draw(_von_mises(one, shape, x), {})
        return Draw(moved(x, one.cdf, lambda x: jnp.exp(one.log_prob(x))), {})


def moved(x: Array, cdf: Callable[[Array], Array], density: Callable[[Array], Array]) -> Array:
    r"""x, whose derivative is that of the quantile at which it stands.

    A step of Newton's method for :math:`F_\lambda(x) = u`, from the solution: the number stays,
    and the first derivative becomes :math:`-\partial_\lambda F / q`; a second step makes the
    second and third right.
    """
    u = jax.lax.stop_gradient(cdf(x))
    for _ in range(2):
        slope = density(x)
        possible = slope > 0  # not in the far tail, where the density underflows
        x = jnp.where(possible, x - (cdf(x) - u) / jnp.where(possible, slope, 1.0), x)
    return x


def _von_mises(q: Any, shape: tuple[int, ...], x: Array) -> Array:
    loc = element.parameter(q, "loc", shape)
    concentration = element.parameter(q, "concentration", shape)

    def density(angle: Array, concentration: Array) -> Array:
        scaled = jnp.exp(concentration * (jnp.cos(angle) - 1))
        return scaled / (2 * jnp.pi * jax.scipy.special.i0e(concentration))

    def cdf(angle: Array) -> Array:  # less its value at 0, which is 1/2
        nodes = angle[..., None] * jnp.asarray((NODES + 1) / 2, angle.dtype)
        heights = density(nodes, concentration[..., None])
        return angle / 2 * (heights @ jnp.asarray(WEIGHTS, angle.dtype))

    wrap = lambda a: (a + jnp.pi) % (2 * jnp.pi) - jnp.pi
    angle = jax.lax.stop_gradient(wrap(x - loc))
    return wrap(loc + moved(angle, cdf, lambda a: density(a, concentration)))


def implicit() -> Implicit:
    r"""Differentiate a draw through its distribution function, however it was drawn.

    .. math:: \nabla_\lambda x = -\frac{\nabla_\lambda F_\lambda(x)}{q_\lambda(x)}.

    For distributions of one number with a differentiable `cdf`, such as mixtures of normals
    (`MixtureSameFamily`, `MixtureGeneral`), and VonMises, whose distribution function is taken by
    quadrature; there f must be periodic. Gamma, Beta, Dirichlet, Student t and whatever else
    NumPyro differentiates are left to it. Figurnov, Mohamed and Mnih 2018 (equation 5).

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(loc):
    ...     parts = dist.Normal(loc, 0.1)
    ...     q = dist.MixtureSameFamily(dist.Categorical(logits=jnp.zeros(2)), parts)
    ...     return sample(q, implicit())
    >>> grad = expectation(program).grad(jax.random.key(0), jnp.array([-1.0, 1.0]))
    >>> round(float(grad.sum()), 4)
    1.0
    """
    return Implicit()


register("implicit", implicit, "one dimension with a cdf: mixtures, von Mises")
