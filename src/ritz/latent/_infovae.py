r"""Losses that compare the posteriors of all rows together with the prior."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.latent._bound import AbstractRowLoss, with_divergence


class LatentInfo(AbstractRowLoss):
    r"""See `infovae`.

    Attributes:
        alpha: what of the divergence is left out.
        weight: lambda.
    """

    alpha: Any
    weight: Any

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        posterior, prior = target.joined(q)

        def one(row: Any, key: Array) -> tuple[Array, Array, Array]:
            (z,), each = with_divergence(posterior(row), prior, key[None])
            return z, target.log_likelihood(z, row), each.sum()

        rows = len(jax.tree.leaves(batch)[0])
        first, second = jax.random.split(key)
        z, fits, kl = jax.vmap(one)(batch, jax.random.split(first, rows))
        drawn = jax.vmap(prior.sample)(jax.random.split(second, rows))
        far, fits, kl = mmd(z, drawn), fits.mean(), kl.mean()
        loss = (1.0 - self.alpha) * kl + (self.alpha + self.weight - 1.0) * far - fits
        return loss, {"elbo": fits - kl, "reconstruction": fits, "kl": kl, "mmd": far}


def mmd(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    r"""The squared maximum mean discrepancy of two laws, from draws of each.

    .. math:: \mathbb{E}\,k(x, x') - 2\,\mathbb{E}\,k(x, y) + \mathbb{E}\,k(y, y'), \qquad
        k(x, y) = e^{-\|x - y\|^2 / 2d},

    without bias, so that it may fall below zero. The kernel's width is for laws of unit scale in
    d dimensions. Gretton, Borgwardt, Rasch, Schölkopf and Smola 2012, lemma 6.

    Args:
        x: draws, two at least.
        y: draws of the other, two at least.

    Raises:
        RitzError: for other shapes.

    >>> import jax.numpy as jnp
    >>> round(float(mmd(jnp.zeros((5, 1)), jnp.full((4, 1), 20.0))), 3)
    2.0
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise RitzError(
            f"mmd: draws of shapes {x.shape} and {y.shape} arrived, expected (n, d) and (m, d), "
            "two of each at least"
        )

    def kernel(a: Array, b: Array) -> Array:
        return jnp.exp(-0.5 * ((a[:, None] - b[None]) ** 2).sum(axis=-1) / a.shape[1])

    def within(a: Array) -> Array:  # without each draw's own, which is 1
        return (kernel(a, a).sum() - len(a)) / (len(a) * (len(a) - 1))

    return within(x) - 2.0 * kernel(x, y).mean() + within(y)


def infovae(alpha: Any = 1.0, weight: Any = 1000.0) -> LatentInfo:
    r"""The bound with less of the divergence of each row, and more of all rows together.

    .. math:: -\mathbb{E}_{q(z \mid x)} \log p(x \mid z)
        + (1 - \alpha)\,\mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big)
        + (\alpha + \lambda - 1)\,D\big(q(z), p(z)\big),

    where q(z) is the mean of the posteriors of a batch and D is `mmd`. It is the bound for
    :math:`\alpha = 0, \lambda = 1`; :math:`\alpha = 1` is the MMD-VAE, which does not hold latents
    back from telling of the row. Zhao, Song and Ermon, "InfoVAE: balancing learning and inference
    in variational autoencoders", 2019, equation 6.

    Args:
        alpha: at most 1.
        weight: lambda, in nats; at least 1 - alpha.

    Raises:
        RitzError: for numbers that are out of range.

    >>> float(infovae(0.5, 10.0).weight)
    10.0
    """
    for name, value in (("alpha", alpha), ("weight", weight)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RitzError(f"infovae: {name}={value!r} arrived, expected a number")
    if not (alpha <= 1 and weight >= 1 - alpha):
        raise RitzError(
            f"infovae: alpha={alpha} and weight={weight} arrived, expected alpha of at most 1 and "
            "a weight of at least 1 - alpha"
        )
    return LatentInfo(jnp.asarray(float(alpha)), jnp.asarray(float(weight)))
