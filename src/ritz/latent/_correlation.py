r"""The divergence of all rows' posteriors in three parts, each with a weight of its own."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import not_negative
from ritz.family import MeanField
from ritz.latent._bound import AbstractIndependent, independent


class LatentParts(AbstractIndependent):
    r"""See `total_correlation` and `density_gap`.

    Attributes:
        information: weight of I(x; z).
        correlation: of the total correlation.
        marginals: of the divergences of marginals.
    """

    information: Any
    correlation: Any
    marginals: Any

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        posterior, prior = target.joined(q)

        def one(row: Any, key: Array) -> tuple[Any, Array, Array]:
            post = independent(posterior(row), "posterior", "posterior=diagonal()")
            z = post.sample(key)
            return post, z, target.log_likelihood(z, row)

        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        posts, z, fits = jax.vmap(one)(batch, keys)
        told, together, apart = parts_of_divergence(posts, z, prior)
        paid = self.information * told + self.correlation * together + self.marginals * apart
        fits = fits.mean()
        info = {"elbo": fits - told - together - apart, "reconstruction": fits}
        return paid - fits, info | {
            "information": told,
            "total_correlation": together,
            "marginals": apart,
        }


def parts_of_divergence(posts: MeanField, z: Float[Array, "n d"], prior: MeanField) -> Any:
    r"""Of a batch, by one draw of each row: information, total correlation, and of marginals.

    .. math:: \frac1n\sum_i \log\frac{q(z_i \mid x_i)}{q(z_i)}, \qquad
        \frac1n\sum_i \log\frac{q(z_i)}{\prod_j q_j(z_{ij})}, \qquad
        \frac1n\sum_i \sum_j \log\frac{q_j(z_{ij})}{p_j(z_{ij})},

    where q(z) is the mixture of the batch's posteriors. They add up to the mean of
    :math:`\log q(z_i \mid x_i) - \log p(z_i)`. Chen, Li, Grosse and Duvenaud, "Isolating sources of
    disentanglement in variational autoencoders", 2018, equation 2.
    """
    normal = jax.scipy.stats.norm.logpdf
    # By draw, posterior and coordinate.
    each = normal(z[:, None], posts.loc, jnp.exp(posts.log_scale))
    many = jnp.log(len(z))
    own = jnp.diagonal(each.sum(axis=2))
    joint = jax.nn.logsumexp(each.sum(axis=2), axis=1) - many
    alone = (jax.nn.logsumexp(each, axis=1) - many).sum(axis=1)
    wanted = normal(z, prior.loc, jnp.exp(prior.log_scale)).sum(axis=1)
    return (own - joint).mean(), (joint - alone).mean(), (alone - wanted).mean()


def total_correlation(beta: Any = 6.0) -> LatentParts:
    r"""The bound with more of the total correlation of the latents of all rows (β-TCVAE).

    .. math:: -\mathbb{E} \log p(x \mid z) + \mathrm{I}(x; z)
        + \beta\,\mathrm{KL}\Big(q(z)\,\Big\|\,\prod_j q_j(z_j)\Big)
        + \sum_j \mathrm{KL}\big(q_j(z_j)\,\|\,p_j(z_j)\big),

    by the mixture of a batch's posteriors in place of a second network. Gradients are those of
    minibatch-weighted sampling, whose constants differ. Chen, Li, Grosse and Duvenaud, "Isolating
    sources of disentanglement in variational autoencoders", 2018, equations 2 and 4.

    Args:
        beta: at least 0; the bound for 1.

    Raises:
        RitzError: for a number that is out of range.

    >>> float(total_correlation(4.0).correlation)
    4.0
    """
    weight = jnp.asarray(not_negative("total_correlation: beta", beta))
    return LatentParts(jnp.asarray(1.0), weight, jnp.asarray(1.0))


def density_gap(weight: Any = 1.0) -> LatentParts:
    r"""The bound with the divergence of all rows' posteriors together in place of each row's.

    .. math:: -\mathbb{E} \log p(x \mid z) + \lambda\,\mathbb{E}_{q(z)} \log\frac{q(z)}{p(z)},

    where q(z) is the mixture of a batch's posteriors: what latents tell of a row, up to the
    logarithm of the batch, costs nothing, so that they fill the prior and do not collapse. Zhang,
    Bai, Lin, Wang and Rong, "Improving variational autoencoders with density gap-based
    regularization", 2022.

    Args:
        weight: lambda, at least 0.

    Raises:
        RitzError: for a number that is out of range.

    >>> float(density_gap().information)
    0.0
    """
    value = jnp.asarray(not_negative("density_gap: weight", weight))
    return LatentParts(jnp.asarray(0.0), value, value)
