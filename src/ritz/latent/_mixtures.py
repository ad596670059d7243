r"""Mixtures as priors: with components of their own, or made of posteriors."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily, MeanField, Mixture
from ritz.latent._encoder import AbstractTied


def gaussian_mixture(components: Any = 10) -> Any:
    r"""A trained mixture of Gaussians with independent coordinates as the prior.

    .. math:: p(z) = \sum_{k=1}^K \pi_k\,\mathcal{N}(z;\ m_k, \mathrm{diag}\,s_k^2).

    It starts with equal weights, means drawn from the standard normal, and sds of 1; all three are
    trained with the decoder. Dilokthanakul, Mediano, Garnelo, Lee, Salimbeni, Arulkumaran and
    Shanahan, "Deep unsupervised clustering with Gaussian mixture variational autoencoders", 2016.

    Args:
        components: K.

    Returns:
        a builder, from latent dimensions and a key to a family.

    Raises:
        RitzError: for no component; from the builder, for the levels of a hierarchy.

    >>> import jax
    >>> gaussian_mixture(3)(2, jax.random.key(0)).components
    3
    """
    many = whole_number("components", components, 1)

    def build(latent: Any, key: Key[Array, ""]) -> Mixture:
        if not isinstance(latent, int):
            raise RitzError(
                f"gaussian_mixture: latent={latent} arrived, but a hierarchy's prior is levels()"
            )
        means = jax.random.normal(key, (many, latent))
        parts = jax.vmap(MeanField)(means, jnp.zeros((many, latent)))
        return Mixture(jnp.zeros(many), parts, "mean_field")

    return build


class VampPrior(AbstractTied):
    """See `vamp`.

    Attributes:
        inputs: pseudo-inputs, in units of `scale`.
        scale: of each value of a row.
        latent: d.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob"})
    inputs: Float[Array, "K ..."]
    scale: Any
    latent: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.latent

    def joined(self, q: Any) -> tuple[Callable[[Any], AbstractFamily], AbstractFamily]:
        if getattr(q, "given", None) is not None:
            raise RitzError(
                "vamp: a conditional model's posteriors are of rows with what they are given, "
                "which pseudo-inputs have not; use another prior"
            )
        parts = jax.vmap(lambda u: q.condition({"x": u}))(self.inputs * self.scale)
        return q.condition, Mixture(jnp.zeros(len(self.inputs)), parts, "posterior")


def vamp(inputs: Any) -> Any:
    r"""The mixture of the posteriors of some trained pseudo-inputs as the prior.

    .. math:: p(z) = \frac1K \sum_{k=1}^K q_\phi(z \mid u_k).

    Its divergence from a row's posterior is over draws. Tomczak and Welling, "VAE with a
    VampPrior", 2018, equation 9.

    Args:
        inputs: where the pseudo-inputs start, such as some of the rows, shape (K, ...).

    Returns:
        a builder, from latent dimensions and a key to a family.

    Raises:
        RitzError: for what is no array of finite numbers with rows.

    >>> import numpy as np
    >>> from ritz.latent import VAE
    >>> x = np.random.default_rng(0).normal(size=(300, 2)) @ np.ones((2, 5))
    >>> vae = VAE(2, prior=vamp(x[:20]), epochs=2, progress=False).fit(x)
    >>> vae.sample(3).shape
    (3, 5)
    """
    values = np.asarray(inputs)
    if values.ndim < 2 or not len(values) or values.dtype.kind not in "biuf":
        raise RitzError(
            f"vamp: inputs of shape {values.shape} and dtype {values.dtype} arrived, expected "
            "rows of numbers, (K, ...)"
        )
    if not np.isfinite(values).all():
        raise RitzError("vamp: some values of the inputs are not finite")
    spread = values.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)

    def build(latent: int, key: Key[Array, ""]) -> VampPrior:
        fixed = paramax.NonTrainable(jnp.asarray(scale, float))
        return VampPrior(jnp.asarray(values / scale, float), fixed, latent)

    return build
