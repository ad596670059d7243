"""The bound with a rate that is held, and random codes in place of its posterior means."""

import copy
import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Key

from ritz._errors import RitzError, positive, whole_number
from ritz.family import MeanField
from ritz.latent._bound import AbstractRowLoss, divergences
from ritz.latent._codebook import Codebook
from ritz.latent._encoder import Diagonal

# By how much a divergence off its target by all of it weighs more or less, and at most.
_STEEP, _MOST = 20.0, 4.0


class TargetDivergence(AbstractRowLoss):
    """See `target_divergence`.

    Attributes:
        bits: of a group.
        width: latent dimensions of a group.
    """

    bits: float = eqx.field(static=True)
    width: int = eqx.field(static=True)

    def suits(self, target: Any) -> None:
        super().suits(target)
        if target.dim % self.width:
            raise RitzError(
                f"target_divergence: groups of {self.width} do not make up {target.dim} latent "
                "dimensions; use a multiple"
            )

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        (posterior, prior), wanted = target.joined(q), self.bits * math.log(2.0)

        def one(row: Any, key: Array) -> tuple[Array, Array]:
            post = posterior(row)
            each = divergences(post, prior)
            if each is None or len(each) != target.dim:
                raise RitzError(
                    "target_divergence needs posteriors and a prior of independent Gaussians"
                )
            return target.log_likelihood(post.sample(key), row), each

        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        fits, each = jax.vmap(one)(batch, keys)
        groups = each.reshape(len(each), -1, self.width).sum(axis=2)
        off = _STEEP * (jax.lax.stop_gradient(groups) / wanted - 1.0)
        weight = jnp.exp(jnp.clip(off, -_MOST, _MOST))
        fits, kl = fits.mean(), groups.sum(axis=1).mean()
        loss = (weight * groups).sum(axis=1).mean() - fits
        return loss, {"elbo": fits - kl, "reconstruction": fits, "kl": kl}


def target_divergence(bits: Any, width: Any = 1) -> TargetDivergence:
    r"""The bound, where each group of latents holds so many bits of each row.

    .. math:: -\mathbb{E}_q \log p(x \mid z) + \sum_g \lambda_g(x)\,\mathrm{KL}_g(x), \qquad
        \lambda_g = \exp\!\big(20\,(\mathrm{KL}_g / (R \log 2) - 1)\big),

    with :math:`\lambda_g` a constant to the gradient, between :math:`e^{-4}` and :math:`e^4`: a
    group that holds more than R bits pays more for them, one that holds less, less. Xu, Zheng, He,
    Hernández-Lobato, Wang, Zhang and Tang, "Vector quantization using Gaussian variational
    autoencoder", 2025, section 3.3, whose weights have three values in place of a curve.

    Args:
        bits: R.
        width: latent dimensions of a group.

    Raises:
        RitzError: for a number that is out of range; before training, for groups that do not make
            up the latent dimensions.

    >>> target_divergence(8, 2).bits
    8.0
    """
    held = positive("target_divergence: bits", bits)
    whole_number("width", width, 1)
    return TargetDivergence(held, int(width))


def gaussian_quantised(vae: Any, bits: Any, width: Any = 1, seed: Any = 0) -> Any:
    r"""A trained autoencoder whose latents are replaced by random codes, without more training.

    Each group of latents becomes the nearest to its posterior mean, in units of the posterior's
    sds, of :math:`2^R` draws from the standard normal, which work as codes where they are more than
    :math:`e^{\mathrm{KL}}`. Xu et al. 2025 (see `target_divergence`), section 3.1.

    Args:
        vae: a trained `VAE` with a standard normal prior.
        bits: R.
        width: latent dimensions of a group.
        seed: of the codes.

    Returns:
        a copy, whose `encode` gives vectors of codes and `codes` their numbers.

    Raises:
        RitzError: for a number below one, over 20 bits, groups that do not make up the latents, or
            another prior or posterior.
    """
    whole_number("bits", bits, 1)
    whole_number("width", width, 1)
    whole_number("seed", seed, 0)
    if bits > 20:
        raise RitzError(f"gaussian_quantised: bits={bits} arrived, expected 20 at most")
    fit = vae._fitted
    prior = paramax.unwrap(fit.target.prior)
    normal = isinstance(prior, MeanField) and not (prior.loc.any() or prior.log_scale.any())
    if not normal or not isinstance(fit.q.posterior, Diagonal):
        raise RitzError(
            "gaussian_quantised: its codes are draws from the standard normal, so that it needs a "
            "VAE with that prior and posterior=diagonal(), which this one has not"
        )
    if fit.target.dim % width:
        raise RitzError(
            f"gaussian_quantised: groups of {width} do not make up {fit.target.dim} latent "
            "dimensions; use a multiple"
        )
    codes = jax.random.normal(jax.random.key(seed), (2**bits, width))
    places = fit.target.dim // width
    book = Codebook(codes, jnp.ones(len(codes)), codes, None, places)
    target = eqx.tree_at(lambda t: t.prior, fit.target, book)
    new = copy.copy(vae)
    new.fit_ = dataclasses.replace(fit, target=target)
    return new
