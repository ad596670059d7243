"""A prior that finds out which latent dimensions are needed."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._draws import at_rows
from ritz._errors import RitzError, not_negative, positive, whole_number
from ritz.family import AbstractFamily
from ritz.latent._bound import LatentELBO

# Rows' Jacobians that the sensitivity of a decoder is the mean of.
_LOOKED = 200


class ARD(AbstractFamily):
    r"""See `ard`.

    Attributes:
        shape: a, of each precision's Gamma law given what was encoded.
        rate: b.
        first: a and b of that law at first.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob"})
    shape: Float[Array, " d"]
    rate: Float[Array, " d"]
    first: tuple[float, float] = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return len(self.shape)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        scale = jnp.sqrt(self.rate / self.shape)
        return jax.scipy.stats.t.logpdf(x, 2.0 * self.shape, 0.0, scale).sum()

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        one, two = jax.random.split(key)
        precision = jax.random.gamma(one, self.shape) / self.rate
        return jax.random.normal(two, self.shape.shape) / jnp.sqrt(precision)

    @property
    def variance(self) -> Float[Array, " d"]:
        """The mean of each dimension's variance, b / (a - 1)."""
        return self.rate / (self.shape - 1.0)


class ArdELBO(LatentELBO):
    """See `ard_elbo`.

    Attributes:
        memory: rows that the precisions remember.
    """

    memory: int = eqx.field(static=True, default=0)

    def suits(self, target: Any) -> None:
        if not isinstance(target.prior, ARD):
            raise RitzError(
                f"ard_elbo sets precisions, but the prior is a {type(target.prior).__name__}; use "
                "prior=ard()"
            )

    def revise(
        self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None
    ) -> tuple[Any, Any]:
        """The precisions' law given the last rows' latents."""
        encoder, prior = paramax.unwrap(q), target.prior

        def squares(row: Any, key: Array) -> Array:
            z = self.drawn(encoder.condition(row), key)
            return (z**2).mean(axis=0)

        n = len(jax.tree.leaves(batch)[0])
        found = jax.vmap(squares)(batch, jax.random.split(key, n)).mean(axis=0)
        a, b = prior.first
        share = min(1.0, n / self.memory)
        mean = (prior.rate - b) / (0.5 * self.memory)
        mean = (1.0 - share) * mean + share * found
        rate = b + 0.5 * self.memory * mean
        shape = jnp.full_like(rate, a + 0.5 * self.memory)
        return q, eqx.tree_at(lambda t: (t.prior.shape, t.prior.rate), target, (shape, rate))

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        where = lambda t: (t.prior.shape, t.prior.rate)
        still = eqx.tree_at(where, target, replace_fn=jax.lax.stop_gradient)
        return super().loss(q, still, key, batch)


def ard(shape: Any = 1.0, rate: Any = 1.0) -> Any:
    r"""A prior with a precision for each latent dimension, which follows what is encoded.

    .. math:: z_i \mid \alpha_i \sim \mathcal{N}(0, \alpha_i^{-1}), \qquad
        \alpha_i \sim \mathrm{Gamma}(a, b),

    so that, with :math:`\alpha_i` integrated out, :math:`z_i` is Student's t with 2a degrees of
    freedom and scale :math:`\sqrt{b / a}`. For `ard_elbo`; the dimensions that are needed are told
    by `relevance`. Saha, Joshi and Whitaker, "ARD-VAE: a statistical formulation to find the
    relevant latent dimensions of variational autoencoders", 2025, section 3.

    Args:
        shape: a, at first.
        rate: b, at first.

    Returns:
        a builder, from latent dimensions and a key to an `ARD`.

    Raises:
        RitzError: for a number that is not positive.

    >>> ard()(3, jax.random.key(0)).dim
    3
    """
    for name, value in (("shape", shape), ("rate", rate)):
        positive(f"ard: {name}", value)
    first = (float(shape), float(rate))

    def build(latent: int, key: Key[Array, ""]) -> ARD:
        return ARD(jnp.full(latent, first[0]), jnp.full(latent, first[1]), first)

    return build


def ard_elbo(draws: Any = 1, *, beta: Any = 1.0, memory: Any = 5000) -> ArdELBO:
    r"""The bound for an `ard` prior, whose precisions are set by the rows seen last.

    .. math:: a = a_0 + \tfrac n2, \qquad b_i = b_0 + \tfrac n2\,\overline{z_i^2},

    with :math:`\overline{z_i^2}` a running mean over n rows: the conjugate update.

    Args:
        draws: of z, a row.
        beta: the weight of the divergence.
        memory: n.

    Raises:
        RitzError: for a number that is out of range; before training, for another prior.

    >>> ard_elbo().revises
    True
    """
    whole_number("draws", draws, 1)
    whole_number("memory", memory, 1)
    not_negative("ard_elbo: beta", beta)
    return ArdELBO(int(draws), False, jnp.asarray(float(beta)), 0, 0.0, None, memory=int(memory))


def relevance(vae: Any, x: Any) -> np.ndarray:
    r"""What share of the decoder's output each latent dimension accounts for.

    .. math:: w_i \propto \sigma_i^2\ \mathbb{E}\,\big|\partial \hat x / \partial z_i\big|^2,

    with :math:`\sigma_i^2` the variance of the posterior means over rows, and the decoder's slope
    at these of 200 rows. Saha et al. 2025 (see `ard`), section 3.3, weigh by the prior's variance.

    Args:
        vae: a trained `VAE`.
        x: rows.

    Returns:
        shares, which sum to one, shape (latent,).
    """
    z = vae.encode(x)

    def slope(target: Any, z: Any, _: Any) -> Any:
        found = jax.jacfwd(lambda z: paramax.unwrap(target.likelihood).mean(target.decode(z)))(z)
        return (found.reshape(-1, len(z)) ** 2).sum(axis=0)

    slopes = at_rows(slope, vae.fit_.target, z[:: max(1, len(z) // _LOOKED)], ()).mean(axis=0)
    weight = z.var(axis=0, dtype=np.float64) * slopes
    return weight / weight.sum()
