r"""A density of encodings, fitted after training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._errors import RitzError, whole_number
from ritz.family import FullRank, Mixture


def ex_post(z: Any, components: Any = 10, seed: Any = 0) -> Mixture:
    r"""A mixture of Gaussians fitted to encodings, from which new latents are drawn.

    .. math:: p(z) = \sum_{k=1}^K \pi_k\,\mathcal{N}(z;\ m_k, C_k),

    by maximum likelihood (scikit-learn's EM). For autoencoders whose encodings are not spread as
    their prior is: decode its draws. Ghosh, Sajjadi, Vergari, Black and Schölkopf, "From
    variational to deterministic autoencoders", 2020, section 4.

    Args:
        z: encodings, (n, d).
        components: K.
        seed: of EM's start.

    Raises:
        RitzError: for no array of finite numbers, or fewer rows than components.

    >>> import jax, numpy as np
    >>> q = ex_post(np.random.default_rng(0).normal(size=(200, 2)), components=3)
    >>> q.sample(jax.random.key(0)).shape
    (2,)
    """
    from sklearn.mixture import GaussianMixture

    many = whole_number("components", components, 1)
    z = np.asarray(z)
    if z.ndim != 2 or z.dtype.kind not in "biuf" or not np.isfinite(z).all():
        raise RitzError(
            f"ex_post: encodings of shape {z.shape} and dtype {z.dtype} arrived, expected (n, d) "
            "finite numbers"
        )
    if len(z) < max(many, 2):
        raise RitzError(
            f"ex_post: {len(z)} encodings arrived, expected at least {max(many, 2)}, or fewer "
            "components"
        )
    whole_number("seed", seed, 0)
    fitted: Any = GaussianMixture(many, random_state=int(seed)).fit(z.astype(np.float64))
    factors = np.linalg.cholesky(fitted.covariances_)
    weights = np.log(np.maximum(fitted.weights_, np.finfo(np.float64).tiny))
    scales = np.diagonal(factors, axis1=1, axis2=2)
    lower = factors / scales[:, :, None]
    parts = [jnp.asarray(v, float) for v in (fitted.means_, np.log(scales), lower)]
    return Mixture(jnp.asarray(weights, float), jax.vmap(FullRank)(*parts), "full_rank")
