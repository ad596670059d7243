"""Correlated draws: randomised quasi-Monte Carlo and antithetic pairs."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Key

from ritz._errors import RitzError, whole_number
from ritz.estimator import _element as element
from ritz.estimator import law
from ritz.estimator._base import AbstractEstimator, Draw, register
from ritz.estimator._gaussian import needs_gaussian, pushed
from ritz.family import FullRank, MeanField

DIMENSIONS = 21201  # for which there are direction numbers (Joe and Kuo 2008)
SYMMETRIC = (
    dist.Normal,
    dist.StudentT,
    dist.Cauchy,
    dist.Laplace,
    dist.Logistic,
    dist.MultivariateNormal,
    dist.MultivariateStudentT,
)


class _Mean(AbstractEstimator):
    """The mean over joint draws, of which each alone has the right distribution."""

    needs: ClassVar[frozenset[str]] = frozenset({"slope"})
    stacked: ClassVar[bool] = True
    cost: ClassVar[str] = "K"
    draws: int = eqx.field(static=True)

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        return f.mean(0)


class QuasiMonteCarlo(_Mean):
    """See `quasi_monte_carlo`."""

    def check(self, q: Any) -> None:
        needs_gaussian(self, q)
        n = math.prod(pushed(q)[0])
        if n > DIMENSIONS:
            raise law.refuse(self, q, f"it has more than {DIMENSIONS} numbers", "pathwise()")

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        shape, push = pushed(q)
        u = shifted(self.draws, math.prod(shape), key, law.value(q).dtype)
        noise = jax.scipy.special.ndtri(u).reshape(self.draws, *shape)
        return Draw(jax.vmap(push)(noise), {})


class Antithetic(_Mean):
    """See `antithetic`."""

    def check(self, q: Any) -> None:
        if isinstance(q, MeanField | FullRank):
            return
        if not isinstance(element.bare(q)[0], SYMMETRIC):
            lacks = "it is not known to be symmetric about a loc"
            raise law.refuse(self, q, lacks, element.elsewhere(q))

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        keys = jax.random.split(key, self.draws // 2)
        x = jax.vmap(lambda k: law.draw(q, k))(keys)
        loc = q.loc if isinstance(q, MeanField | FullRank) else element.bare(q)[0].loc
        return Draw(jnp.concatenate([x, 2 * loc - x]), {})


def shifted(draws: int, dim: int, key: Key[Array, ""], dtype: Any) -> Array:
    """Sobol points in the open unit cube, with a random digital shift: (draws, dim)."""
    from scipy.stats import qmc  # slow to import

    bits = 23 if jnp.finfo(dtype).bits == 32 else 32  # so that 1 is never reached by rounding
    net = qmc.Sobol(max(dim, 1), scramble=False, bits=32).random(draws)[:, :dim]
    digits = jnp.asarray((net * 2.0**32).astype(np.uint32))
    shift = jax.random.bits(key, (dim,), jnp.uint32)
    return (((digits ^ shift) >> (32 - bits)).astype(dtype) + 0.5) / 2.0**bits


def quasi_monte_carlo(draws: int = 16) -> QuasiMonteCarlo:
    r"""The pathwise gradient on a randomised Sobol net of K points instead of K draws.

    .. math:: x_k = g_\lambda\big(\Phi^{-1}(u_k \oplus \Delta)\big), \qquad
        \Delta \sim U[0, 1]^d.

    A random digital shift makes each point a draw, so that value and gradient are unbiased, and
    together they fill the space: the variance of a smooth f falls faster than 1/K. For Normal,
    LogNormal, MultivariateNormal, `mean_field` and `full_rank`. Elements of a batch share one net;
    those of a vmap have nets of their own. Buchholz, Wenzel and Mandt 2018 (section 3); Owen 1995;
    direction numbers of Joe and Kuo 2008.

    Args:
        draws: K, a power of 2.

    Returns:
        the estimator.

    Raises:
        RitzError: for another number.

    >>> quasi_monte_carlo(16).draws
    16
    """
    whole_number("draws", draws, 2)
    if draws & (draws - 1):
        raise RitzError(f"draws={draws} arrived, expected a power of 2: a Sobol net has no other")
    return QuasiMonteCarlo(draws)


def antithetic(draws: int = 2) -> Antithetic:
    r"""The pathwise gradient on K/2 draws and their reflections.

    .. math:: x_{k + K/2} = 2\,\mathrm{loc} - x_k.

    For symmetric choices: Normal, Student t, Cauchy, Laplace, Logistic, MultivariateNormal,
    `mean_field` and `full_rank`. Of f, what is odd about loc has no variance left.
    Hammersley and Morton 1956; Ren, Zhao and Ermon 2019.

    Args:
        draws: K, an even number.

    Returns:
        the estimator.

    Raises:
        RitzError: for an odd number.

    >>> import jax, numpyro.distributions as dist
    >>> from ritz.objective import expectation, sample
    >>> def program(loc):
    ...     return 3.0 * sample(dist.Normal(loc, 1.0), antithetic())
    >>> round(float(expectation(program).value(jax.random.key(0), 2.0)), 4)
    6.0
    """
    whole_number("draws", draws, 2)
    if draws % 2:
        raise RitzError(f"draws={draws} arrived, expected an even number: draws come in pairs")
    return Antithetic(draws)


register("quasi_monte_carlo", lambda: quasi_monte_carlo(4), "Gaussians")
register("antithetic", lambda: antithetic(4), "symmetric choices: Gaussian, Student t, Laplace")
