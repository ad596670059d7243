r"""Sigma points of posteriors in place of draws, and their Wasserstein distance to the prior."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, not_negative
from ritz.family import AbstractFamily, MeanField
from ritz.latent._bound import AbstractRowLoss


class LatentUnscented(AbstractRowLoss):
    r"""See `unscented`.

    Attributes:
        weight: of the distance.
    """

    weight: Any

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        posterior, _ = target.joined(q)

        def one(row: Any) -> tuple[Array, Array]:
            post = posterior(row)
            fits = jax.vmap(lambda z: target.log_likelihood(z, row))(sigma_points(post))
            return fits.mean(), squared_wasserstein(post)

        fits, far = (v.mean() for v in jax.vmap(one)(batch))
        return self.weight * far - fits, {"reconstruction": fits, "wasserstein": far}


def sigma_points(q: AbstractFamily) -> Float[Array, "n d"]:
    r"""The 2d sigma points of a Gaussian, which share its mean and its covariance.

    .. math:: m + \sqrt d\,L_1, \dots, m + \sqrt d\,L_d,\; m - \sqrt d\,L_1, \dots,
        m - \sqrt d\,L_d, \qquad \Sigma = L L^\top,

    with the columns of the Cholesky factor. Their mean of a function is its expectation where that
    is a polynomial of degree 3 at most. Julier and Uhlmann 1997, where the mean has no weight.

    Args:
        q: a `MeanField` or a `FullRank`.

    Raises:
        RitzError: for another family.

    >>> import jax.numpy as jnp
    >>> from ritz.family import MeanField
    >>> sigma_points(MeanField(jnp.zeros(1), jnp.zeros(1))).tolist()
    [[1.0], [-1.0]]
    """
    loc, factor = _moments(q)
    off = np.sqrt(len(loc)) * factor.T
    return jnp.concatenate([loc + off, loc - off])


def squared_wasserstein(q: AbstractFamily) -> Float[Array, ""]:
    r"""The squared 2-Wasserstein distance of a Gaussian from the standard normal.

    .. math:: \|m\|^2 + \|\Sigma^{1/2} - I\|_F^2 .

    Janjoš, Rosenbaum, Dolgov and Zöllner 2023, equation 12; of any two Gaussians Dowson and Landau
    1982.

    Args:
        q: a `MeanField` or a `FullRank`.

    Raises:
        RitzError: for another family.

    >>> import jax.numpy as jnp
    >>> from ritz.family import MeanField
    >>> float(squared_wasserstein(MeanField(jnp.ones(2), jnp.zeros(2))))
    2.0
    """
    loc, factor = _moments(q)
    if isinstance(q, MeanField):
        roots = jnp.diagonal(factor)
    else:  # the eigenvalues of Σ^{1/2} are the singular values of its factor
        roots = jnp.linalg.svd(factor, compute_uv=False)
    return loc @ loc + ((roots - 1.0) ** 2).sum()


def _moments(q: Any) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    if isinstance(q, MeanField):
        return q.loc, jnp.diag(jnp.exp(q.log_scale))
    if hasattr(q, "loc") and hasattr(q, "scale_tril"):
        return q.loc, q.scale_tril
    raise RitzError(
        f"a posterior arrived as {type(q).__name__}, expected a Gaussian, which has sigma points"
    )


def unscented(weight: Any = 1.0) -> LatentUnscented:
    r"""The loss of the unscented autoencoder, which draws nothing.

    .. math:: -\frac1{2d}\sum_{k=1}^{2d} \log p(x \mid \chi_k(x))
        + w\,W_2^2\big(q(z \mid x),\ \mathcal{N}(0, I)\big),

    the mean over a batch, with `sigma_points` :math:`\chi_k` and `squared_wasserstein`. It bounds
    nothing, so that rows are drawn from a density fitted to encodings: see `ex_post`. A step
    decodes 2d times a row. Janjoš, Rosenbaum, Dolgov and Zöllner, "Unscented autoencoder", 2023,
    section 3.

    Args:
        weight: w; at one half the means cost what they cost in the Kullback-Leibler divergence.

    Raises:
        RitzError: for a weight that is below zero.

    >>> float(unscented(0.5).weight)
    0.5
    """
    return LatentUnscented(jnp.asarray(not_negative("unscented: weight", weight)))
