"""A prior of vectors that are put together from the codes of a book."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily, MeanField
from ritz.latent._encoder import centre

# Of codes at first: about the size of what an encoder gives at first, so that many are near.
_FIRST = 0.1
# Codes of so few numbers can be so near to each other that a difference of squares cannot tell.
_NARROW = 4


class Codebook(AbstractFamily):
    """See `codebook`.

    Attributes:
        codes: a vector each.
        counts: how often each was the nearest of late; see `vector_quantised`.
        sums: of what they were nearest to.
        law: of the places' codes, with `log_prob` and `sample`; None where all are alike.
        places: how many codes make a vector.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob"})
    codes: Float[Array, "K c"]
    counts: Float[Array, " K"]
    sums: Float[Array, "K c"]
    law: Any
    places: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.places * self.codes.shape[1]

    def parts(self, z: Float[Array, " d"]) -> Float[Array, "n c"]:
        """A vector's pieces."""
        return z.reshape(self.places, -1)

    def nearest(self, z: Float[Array, " d"], sd: Any = None) -> Int[Array, " n"]:
        """The numbers of the codes that are nearest to a vector's pieces, in units of its sds."""
        parts = self.parts(z)
        if sd is not None:
            away = (((parts[:, None] - self.codes) / self.parts(sd)[:, None]) ** 2).sum(axis=2)
        elif parts.shape[1] <= _NARROW:
            away = ((parts[:, None] - self.codes) ** 2).sum(axis=2)
        else:
            away = (self.codes**2).sum(axis=1) - 2.0 * parts @ self.codes.T
        return away.argmin(axis=1)

    def quantised(self, post: Any, keys: Key[Array, " k"]) -> Float[Array, " d"]:
        """The vector of the codes nearest to a posterior's mean, in units of its sds."""
        sd = jnp.exp(post.log_scale) if isinstance(post, MeanField) else None
        return self.vector(self.nearest(centre(post, keys), sd))

    def vector(self, numbers: Int[Array, " n"]) -> Float[Array, " d"]:
        """The vector of these codes."""
        return self.codes[numbers].reshape(-1)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """The log probability of the codes that are nearest."""
        if self.law is None:
            return jnp.asarray(-self.places * jnp.log(self.codes.shape[0]), x.dtype)
        return self.law.log_prob(self.nearest(x))

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        if self.law is None:
            numbers = jax.random.randint(key, (self.places,), 0, len(self.codes))
        else:
            numbers = self.law.sample(key).astype(int)
        return self.vector(numbers)


def codebook(codes: Any, width: Any) -> Any:
    r"""A latent vector of pieces, each of which is one of K codes, alike at first.

    .. math:: z = (e_{k_1}, \dots, e_{k_n}), \qquad p(k) = K^{-n}.

    To be given to `VAE` as the prior, with `vector_quantised` as the objective; `fit_codes` learns
    p(k) afterwards. Van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation
    learning", 2017, section 3.

    Args:
        codes: K.
        width: numbers of a code; the latent dimensions are a multiple of it.

    Returns:
        a builder, from latent dimensions and a key to a `Codebook`.

    Raises:
        RitzError: for a number below one; from the builder, for latent dimensions that are no
            multiple.

    >>> book = codebook(8, 2)(6, jax.random.key(0))
    >>> book.places, book.codes.shape
    (3, (8, 2))
    """
    whole_number("codes", codes, 2)
    whole_number("width", width, 1)

    def build(latent: int, key: Key[Array, ""]) -> Codebook:
        if latent % width:
            raise RitzError(
                f"codebook: codes of {width} numbers do not make up {latent} latent dimensions; "
                "use a multiple"
            )
        start = _FIRST * jax.random.normal(key, (codes, width))
        return Codebook(start, jnp.ones(codes), start, None, latent // width)

    return build
