"""Deterministic quadrature of Gaussian choices."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from ritz._errors import RitzError, whole_number
from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, register
from ritz.estimator._gaussian import needs_gaussian, pushed


class Quadrature(AbstractEstimator):
    """Weighted values, of which elements that f mixes take every combination."""

    biased: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    stacked: ClassVar[bool] = True
    factorised: ClassVar[bool] = True

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        return (notes["weight"] * f).sum(0)


class GaussHermite(Quadrature):
    """See `gauss_hermite`."""

    cost: ClassVar[str] = "nodes"
    nodes: int = eqx.field(static=True)

    def check(self, q: Any) -> None:
        needs_gaussian(self, q)
        if law.event_shape(q):
            raise law.refuse(self, q, "an element is not one number", "unscented() or pathwise()")

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        shape, push = pushed(q)
        points, weights = np.polynomial.hermite_e.hermegauss(self.nodes)
        noise = np.broadcast_to(points.reshape(-1, *(1,) * len(shape)), (self.nodes, *shape))
        weight = np.broadcast_to(
            (weights / weights.sum()).reshape(noise.shape[:1] + (1,) * len(shape)), noise.shape
        )
        dtype = law.value(q).dtype
        return Draw(
            jax.vmap(push)(jnp.asarray(noise, dtype)), {"weight": jnp.asarray(weight, dtype)}
        )


class Unscented(Quadrature):
    """See `unscented`."""

    cost: ClassVar[str] = "2d, or d + 1"
    degree: int = eqx.field(static=True, default=3)

    def check(self, q: Any) -> None:
        needs_gaussian(self, q)

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        shape, push = pushed(q)
        batch, event = law.batch_shape(q), law.event_shape(q)
        noise = _sigma_points(math.prod(event), self.degree)
        n, dtype = len(noise), law.value(q).dtype
        noise = jnp.asarray(noise.reshape(n, *(1,) * len(batch), *event), dtype)
        values = jax.vmap(push)(jnp.broadcast_to(noise, (n, *shape)))
        return Draw(values, {"weight": jnp.full((n, *batch), 1 / n, dtype)})


def _sigma_points(d: int, degree: int) -> np.ndarray:
    """Equally weighted points with the moments of a standard normal up to a degree: (n, d)."""
    if degree == 3:
        return np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])
    # A regular simplex: the columns of Helmert's matrix, whose rows are orthonormal and sum to 0.
    k = np.arange(1, d + 1)[:, None]
    i = np.arange(d + 1)
    rows = np.where(i < k, 1.0, np.where(i == k, -k, 0.0)) / np.sqrt(k * (k + 1))
    return np.sqrt(d + 1) * rows.T


def gauss_hermite(nodes: int = 8) -> GaussHermite:
    r"""Gauss-Hermite quadrature of Normal and LogNormal choices, without randomness.

    .. math:: \mathbb{E} f(x) \approx \sum_{k=1}^n w_k f(\mu + \sigma z_k),

    exact for polynomials in the noise of degree up to 2n - 1, and converging geometrically where
    f is analytic; otherwise biased. Elements of a plate are integrated in parallel; those that a
    program mixes, on the tensor product. Golub and Welsch 1969; in variational inference,
    Hensman, Matthews and Ghahramani 2015 (section 4).

    Args:
        nodes: n.

    Returns:
        the estimator.

    Raises:
        RitzError: for less than one node.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(loc):
    ...     return sample(dist.Normal(loc, 1.0), gauss_hermite(3)) ** 4
    >>> value, grad = expectation(program).value_and_grad(jax.random.key(0), 2.0)
    >>> print(round(float(value), 3), round(float(grad), 3))
    43.0 56.0
    """
    return GaussHermite(whole_number("nodes", nodes, 1))


def unscented(degree: int = 3) -> Unscented:
    r"""Two sigma points along each axis of a Gaussian choice, without randomness.

    .. math:: \mathbb{E} f(x) \approx \frac{1}{2d} \sum_{i=1}^d
        f(m + \sqrt d\,L e_i) + f(m - \sqrt d\,L e_i),

    exact for polynomials of degree up to 3, and biased beyond, in value and gradient. For Normal,
    LogNormal (in the noise), MultivariateNormal, `mean_field` and `full_rank`. Elements of a
    plate that a program mixes take every combination. Julier and Uhlmann 1997 (equation 12, with
    :math:`\kappa = 0`); Arasaratnam and Haykin 2009.

    Where f is quadratic, the gradient is exact and has no variance. So is the squared error of a
    decoder that is affine in its latent,

    .. math:: \mathbb{E}\,\|y - W x - b\|^2
        = \|y - W m - b\|^2 + \textstyle\sum_j \sigma_j^2\,\|W_{\cdot j}\|^2,

    the zero-variance path for such decoders of Shao, Liu and Van den Broeck 2025. With `degree=2`
    the points are the d + 1 corners of a simplex, with which polynomials of degree up to 2 are
    exact (Julier 2003). `ritz.diagnose.check_unbiased` tells whether an f is of this kind: it
    compares with the score function.

    Args:
        degree: 3, or 2 for about half as many points.

    Returns:
        the estimator.

    Raises:
        RitzError: for another degree.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(loc):
    ...     return sample(dist.MultivariateNormal(loc, 2.0 * jnp.eye(2)), unscented()).prod()
    >>> value, grad = expectation(program).value_and_grad(jax.random.key(0), jnp.array([2.0, 3.0]))
    >>> print(round(float(value), 3), [round(float(g), 3) for g in grad])
    6.0 [3.0, 2.0]
    """
    if degree not in (2, 3):
        raise RitzError(f"unscented: degree={degree!r} arrived, expected 2 or 3")
    return Unscented(degree)


register(
    "gauss_hermite",
    gauss_hermite,
    "Gaussian numbers; exact for polynomials of degree 2n - 1",
)
register("unscented", unscented, "Gaussians; exact for polynomials of degree 3, or 2")
