r"""The bound with the covariance of the latents of all rows led to the identity."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, not_negative
from ritz.family import MeanField
from ritz.latent._bound import AbstractIndependent, independent, with_divergence


class LatentDIP(AbstractIndependent):
    r"""See `dip`.

    Attributes:
        off_diagonal: weight of covariances.
        diagonal: weight of variances.
        draws: whether it is the covariance of latents, not of means.
    """

    off_diagonal: Any
    diagonal: Any
    draws: bool = eqx.field(static=True)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        posterior, prior = target.joined(q)

        def one(row: Any, key: Array) -> tuple[Any, Array, Array]:
            post = independent(posterior(row), "posterior", "posterior=diagonal()")
            (z,), each = with_divergence(post, prior, key[None])
            return post, target.log_likelihood(z, row), each.sum()

        rows = len(jax.tree.leaves(batch)[0])
        if rows < 2:
            raise RitzError("dip: batches of one row arrived, which have no covariance; use batch=")
        posts, fits, kl = jax.vmap(one)(batch, jax.random.split(key, rows))
        cov = covariance(posts, self.draws)
        apart = jnp.diag(jnp.diagonal(cov))
        together = ((cov - apart) ** 2).sum()
        scales = ((jnp.diagonal(cov) - jnp.exp(2.0 * prior.log_scale)) ** 2).sum()
        fits, kl = fits.mean(), kl.mean()
        loss = kl - fits + self.off_diagonal * together + self.diagonal * scales
        figures = {"elbo": fits - kl, "reconstruction": fits, "kl": kl}
        return loss, figures | {"off_diagonal": together, "diagonal": scales}


def covariance(posts: MeanField, draws: bool) -> Float[Array, "d d"]:
    r"""Of the means of a batch's posteriors, or of draws from them, in closed form.

    .. math:: \mathrm{Cov}_i(m_i), \qquad \mathrm{Cov}_i(m_i) + \frac1n\sum_i \mathrm{diag}\,s_i^2 .
    """
    off = posts.loc - posts.loc.mean(axis=0)
    cov = off.T @ off / len(off)
    return cov + jnp.diag(jnp.exp(2.0 * posts.log_scale).mean(axis=0)) if draws else cov


def dip(off_diagonal: Any = 10.0, diagonal: Any = 10.0, *, draws: Any = True) -> LatentDIP:
    r"""The bound with the moments of the latents of all rows matched to the prior's (DIP-VAE).

    .. math:: -\mathbb{E}_{q(z \mid x)} \log p(x \mid z)
        + \mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big)
        + \lambda_{o} \sum_{i \ne j} C_{ij}^2 + \lambda_{d} \sum_i (C_{ii} - 1)^2

    where C is the covariance over a batch of latents themselves (`draws`, DIP-VAE-II), or of the
    posteriors' means (DIP-VAE-I). A batch of n rows adds about 1/n to the square of a covariance;
    of another prior its variances take the place of 1. Kumar, Sattigeri and Balakrishnan,
    "Variational inference of disentangled latent concepts from unlabeled observations", 2018,
    equations 6 and 7.

    Args:
        off_diagonal: the first weight, at least 0.
        diagonal: the second weight, at least 0.
        draws: whether C is of latents; of means where not.

    Raises:
        RitzError: for numbers that are out of range; before training, for posteriors that are no
            independent Gaussians.

    >>> float(dip(5.0).off_diagonal)
    5.0
    """
    weights = {"off_diagonal": off_diagonal, "diagonal": diagonal}
    o, d = (jnp.asarray(not_negative(f"dip: {k}", v)) for k, v in weights.items())
    return LatentDIP(o, d, bool(draws))
