"""Bounds whose expected reconstruction is in closed form, so that their gradients have no noise."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family import MeanField
from ritz.latent._bound import AbstractRowLoss, divergences
from ritz.latent._gaussian import Gaussian
from ritz.latent._networks import Builder, Dense, Shape, built, mlp


class Guided(eqx.Module):
    """See `guided`.

    Attributes:
        network: the decoder.
        guide: an affine decoder beside it.
        log_sd: by value, of the guide's own Gaussian noise, in the units of the decoder's output.
    """

    network: Any
    guide: Dense
    log_sd: Any

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.network(z)


class AnalyticELBO(AbstractRowLoss):
    """See `analytic_elbo`."""

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        (posterior, prior), law = target.joined(q), paramax.unwrap(target.likelihood)

        def one(row: Any) -> tuple[Array, Array]:
            post = posterior(row)
            mean, variance = output_moments(target.decoder, post)
            return law.expected_log_prob(mean, variance, row["x"]), _divergence(post, prior)

        fits, kl = (v.mean() for v in jax.vmap(one)(batch))
        return kl - fits, {"elbo": fits - kl, "reconstruction": fits, "kl": kl}


class GuidedELBO(AbstractRowLoss):
    """See `guided_elbo`.

    Attributes:
        steps: over which the guide hands over.
        step: where the run is.
    """

    steps: int = eqx.field(static=True)
    step: Any = None

    @property
    def changes(self) -> bool:
        return True

    def at(self, step: Any) -> "GuidedELBO":
        return dataclasses.replace(self, step=step)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        (posterior, prior), law = target.joined(q), paramax.unwrap(target.likelihood)
        decoder = target.decoder
        if not (isinstance(decoder, Guided) and isinstance(law, Gaussian)):
            raise RitzError(
                f"guided_elbo: a {type(decoder).__name__} decoder with {type(law).__name__} "
                "arrived, expected VAE(decoder=guided(...), likelihood=gaussian())"
            )
        guiding = dataclasses.replace(law, log_sd=decoder.log_sd) if law.learned else law
        step = self.steps if self.step is None else self.step
        share = jnp.clip(1.0 - step / self.steps, 0.0, 1.0)

        def one(row: Any, key: Array) -> tuple[Array, Array, Array]:
            post = posterior(row)
            mean, variance = output_moments(decoder.guide, post)
            exact = guiding.expected_log_prob(mean, variance, row["x"])
            z, fixed = post.sample(key), jax.lax.stop_gradient
            # The decoder learns from every draw, the encoder from its share of the gradient.
            z = share * fixed(z) + (1.0 - share) * z
            return target.log_likelihood(z, row), exact, _divergence(post, prior)

        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        fits, exact, kl = (v.mean() for v in jax.vmap(one)(batch, keys))
        figures = {"elbo": fits - kl, "reconstruction": fits, "kl": kl}
        return kl - fits - share * exact, figures


def output_moments(decoder: Any, post: Any) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Mean and variances of an affine decoder's output over a row's posterior.

    .. math:: W m + b, \qquad \textstyle\sum_j W_{ij}^2\,\sigma_j^2.

    Raises:
        RitzError: for another decoder, or a posterior whose coordinates are not independent.
    """
    if not (isinstance(decoder, Dense) and len(decoder.layers) == 1):
        raise RitzError(
            f"analytic_elbo: the decoder, a {type(decoder).__name__}, is not affine; use "
            "decoder=mlp(), or guided_elbo(steps) with decoder=guided(...)"
        )
    if not isinstance(post, MeanField):
        raise RitzError(
            f"analytic_elbo: a {type(post).__name__} posterior arrived, expected independent "
            "Gaussians; use elbo()"
        )
    weight = decoder.layers[0].weight
    variance = jnp.square(weight) @ jnp.exp(2.0 * post.log_scale)
    return decoder(post.loc), variance.reshape(decoder.shape)


def guided(decoder: Builder | eqx.Module) -> Builder:
    """A decoder with an affine one beside it, for `guided_elbo`; only the former is the model's.

    Args:
        decoder: a builder such as `mlp(400)`, or an Equinox module.

    >>> import jax
    >>> guided(mlp(64))((3,), (8, 8), jax.random.key(0))(jax.numpy.zeros(3)).shape
    (8, 8)
    """

    def build(given: Shape, wanted: Shape, key: Key[Array, ""]) -> Guided:
        one, two = jax.random.split(key)
        guide = mlp()(given, wanted, two)
        assert isinstance(guide, Dense)
        return Guided(built("decoder", decoder, given, wanted, one), guide, jnp.zeros(()))

    return build


def analytic_elbo() -> AnalyticELBO:
    r"""The evidence lower bound without draws, for an affine decoder :math:`W z + b`.

    .. math:: -\log p(x \mid W m + b) + \sum_i \frac{\sum_j W_{ij}^2 \sigma_j^2}{2 s_i^2}
        + \mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big)

    for a Gaussian likelihood of sds s; of others those serve whose log density has a mean in closed
    form where its parameters are Gaussian, such as `poisson()`. Its gradient has no noise.

    Shao, Liu and Van den Broeck, "Zero-variance gradients for variational autoencoders", 2025,
    arXiv:2508.03587, the linear decoder.

    Raises:
        RitzError: from a fit, for a decoder that is not affine, a likelihood without a closed form,
            or a posterior or prior whose coordinates are not independent Gaussians.

    >>> import numpy as np
    >>> from ritz.latent import VAE
    >>> x = np.random.default_rng(0).normal(size=(300, 2)) @ np.ones((2, 5))
    >>> options = {"decoder": mlp(), "objective": analytic_elbo(), "epochs": 5, "progress": False}
    >>> VAE(2, **options).fit(x).encode(x).shape
    (300, 2)
    """
    return AnalyticELBO()


def guided_elbo(steps: Any) -> GuidedELBO:
    r"""The bound of a deep decoder, whose encoder first learns from an affine one without noise.

    .. math:: \nabla_\phi = \alpha_t\,\nabla_\phi \mathcal{L}_{\mathrm{affine}}
        + (1 - \alpha_t)\,\nabla_\phi \mathcal{L}_{\mathrm{deep}},
        \qquad \alpha_t = \max(1 - t / T, 0),

    with the exact gradient of `analytic_elbo` and the reparameterised one of `elbo`. Each decoder
    learns from its own likelihood throughout; that of the affine one has a noise of its own.

    Shao, Liu and Van den Broeck, "Zero-variance gradients for variational autoencoders", 2025,
    arXiv:2508.03587, figure 1. The decoder is `guided(...)`, the likelihood `gaussian()`.

    Args:
        steps: T; from there on the loss is `elbo()`.

    Raises:
        RitzError: for a number of steps below one; from a fit, for other parts.

    >>> guided_elbo(1000).changes
    True
    """
    return GuidedELBO(whole_number("steps", steps, 1))


def _divergence(post: Any, prior: Any) -> Float[Array, ""]:
    each = divergences(post, prior)
    if each is None:
        raise RitzError(
            f"analytic_elbo: the divergence of {type(post).__name__} from {type(prior).__name__} "
            "has no closed form; use elbo(), or independent Gaussians"
        )
    return each.sum()
