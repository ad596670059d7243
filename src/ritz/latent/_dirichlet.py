r"""Shares that add up to one as latents."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, positive
from ritz.family import AbstractFamily
from ritz.latent._encoder import AbstractLaw, AbstractPosterior, AbstractTied, bounded

_BOTH = "shares have a density among shares alone; use prior=dirichlet() with posterior=shares()"


class Dirichlet(AbstractLaw, AbstractTied):
    r"""Shares, :math:`p(z) \propto \prod_i z_i^{a_i - 1}`.

    Attributes:
        concentration: a, shape (d,).
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "reparameterised"})
    concentration: Float[Array, " d"]

    @property
    def dim(self) -> int:
        return self.concentration.shape[0]

    @property
    def loc(self) -> Float[Array, " d"]:
        """The mean."""
        return self.concentration / self.concentration.sum()

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jax.random.dirichlet(key, self.concentration)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        # Shares of tiny concentrations are rounded to zero.
        logs = jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))
        return ((self.concentration - 1.0) * logs).sum() - self._log_mass()

    def joined(self, q: Any) -> tuple[Callable[[Any], AbstractFamily], AbstractFamily]:
        def posterior(row: Any) -> AbstractFamily:
            found = q.condition(row)
            if not isinstance(found, Dirichlet):
                raise RitzError(_BOTH)
            return found

        return posterior, self

    def divergences(self, prior: Any) -> Float[Array, " 1"]:
        if not isinstance(prior, Dirichlet):
            raise RitzError(_BOTH)
        a, b = self.concentration, prior.concentration
        logs = jax.scipy.special.digamma(a) - jax.scipy.special.digamma(a.sum())
        return (((a - b) * logs).sum() + prior._log_mass() - self._log_mass())[None]

    def _log_mass(self) -> Array:
        gammaln = jax.scipy.special.gammaln
        return gammaln(self.concentration).sum() - gammaln(self.concentration.sum())


class DirichletPosterior(AbstractPosterior):
    """See `shares`."""

    def numbers(self, latent: int) -> int:
        return latent

    def __call__(self, numbers: Float[Array, " n"]) -> Dirichlet:
        return Dirichlet(jnp.exp(bounded(numbers)))


def shares() -> DirichletPosterior:
    r"""Posteriors of shares, :math:`q(z \mid x) = \mathrm{Dirichlet}(e^{s(x)})`.

    With `prior=dirichlet()`; the divergence is exact, and gradients pass through the gammas that
    make a draw. Figurnov, Mohamed and Mnih, "Implicit reparameterization gradients", 2018; Joo,
    Lee, Park and Moon, "Dirichlet variational autoencoder", 2020.

    >>> shares()(jnp.zeros(4)).loc.tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return DirichletPosterior()


def dirichlet(concentration: Any = 1.0) -> Any:
    r"""Shares of topics or parts as the prior, :math:`z \sim \mathrm{Dirichlet}(a, \dots, a)`.

    Below one few parts have most of it. With `posterior=shares()`.

    Args:
        concentration: a, the same for all and not trained.

    Returns:
        a builder, from latent dimensions and a key to a family.

    Raises:
        RitzError: for one that is not positive; from the builder, for fewer than two dimensions.

    >>> paramax.unwrap(dirichlet(0.5)(3, jax.random.key(0))).concentration.tolist()
    [0.5, 0.5, 0.5]
    """
    a = positive("dirichlet: concentration", concentration)

    def build(latent: Any, key: Key[Array, ""]) -> Dirichlet:
        if not isinstance(latent, int) or latent < 2:
            raise RitzError(f"dirichlet: latent={latent} arrived, expected two dimensions at least")
        return paramax.non_trainable(Dirichlet(jnp.full(latent, a)))

    return build
