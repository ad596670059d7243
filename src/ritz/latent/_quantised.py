"""Vector quantisation: each piece of a row's encoding becomes the nearest code of a book."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, not_negative
from ritz.latent._bound import AbstractRowLoss
from ritz.latent._codebook import Codebook

# Added to counts, so that a code that is never the nearest keeps its place.
_SMOOTH = 1e-5


def straight_through(e: Float[Array, "n c"], q: Float[Array, "n c"]) -> Float[Array, "n c"]:
    """q, with the gradient of e.

    Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic
    neurons", 2013.

    >>> straight_through(jnp.zeros((1, 2)), jnp.ones((1, 2)))
    Array([[1., 1.]], dtype=float32)
    """
    return e + jax.lax.stop_gradient(q - e)


def rotated(e: Float[Array, "n c"], q: Float[Array, "n c"]) -> Float[Array, "n c"]:
    r"""q, as a rotation and scaling of e that are constants to the gradient.

    .. math:: q = \tfrac{|q|}{|e|} R\, e, \qquad
        R = I - 2 r r^\top + 2 \hat q \hat e^\top, \quad
        r = \tfrac{\hat e + \hat q}{|\hat e + \hat q|}.

    Fifty, Junkins, Duan, Iger, Liu, Amid, Thrun and Ré, "Restructuring vector quantization with
    the rotation trick", 2025, section 4.2.

    >>> rotated(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 2.0]])).round(5) + 0.0
    Array([[0., 2.]], dtype=float32)
    """
    tiny = jnp.finfo(e.dtype).tiny ** 0.5
    length = lambda v: jnp.maximum(jnp.linalg.norm(v, axis=1, keepdims=True), tiny)
    fixed, q = jax.lax.stop_gradient((e, q))
    one, two = fixed / length(fixed), q / length(q)
    r = (one + two) / length(one + two)
    dot = lambda a, b: (a * b).sum(axis=1, keepdims=True)
    turned = e - 2.0 * r * dot(r, e) + 2.0 * two * dot(one, e)
    return length(q) / length(fixed) * turned


class VectorQuantised(AbstractRowLoss):
    """See `vector_quantised`.

    Attributes:
        commitment: weight of the encodings' distance from their codes.
        decay: of the running means that codes are; None where codes follow gradients.
        restart: codes used less often than this share of an even use are moved.
        gradient: passes the choice of a code.
    """

    density: ClassVar[bool] = False
    commitment: float = eqx.field(static=True)
    decay: float | None = eqx.field(static=True)
    restart: float = eqx.field(static=True)
    gradient: Callable[[Array, Array], Array] = eqx.field(static=True)

    @property
    def revises(self) -> bool:
        return self.decay is not None

    def suits(self, target: Any) -> None:
        if not isinstance(target.prior, Codebook):
            raise RitzError(
                f"vector_quantised needs codes, but the prior is a {type(target.prior).__name__}; "
                "use prior=codebook(codes, width)"
            )

    def revise(
        self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None
    ) -> tuple[Any, Any]:
        """Codes as running means of what they are nearest to."""
        assert self.decay is not None
        book: Codebook = target.prior
        encoder = paramax.unwrap(q)
        z = jax.vmap(lambda row: encoder.condition(row).sample(key))(batch)
        pieces = z.reshape(-1, book.codes.shape[1])
        which = jax.vmap(book.nearest)(z).reshape(-1)
        found = jnp.zeros_like(book.counts).at[which].add(1.0)
        total = jnp.zeros_like(book.sums).at[which].add(pieces)
        decay = self.decay
        mix = lambda old, new: decay * old + (1.0 - decay) * new
        counts = mix(book.counts, found)
        sums = mix(book.sums, total)
        if self.restart:
            few = counts < self.restart * counts.mean()
            some = jax.random.choice(key, pieces, counts.shape)
            even = counts.mean()
            sums = jnp.where(few[:, None], even * some, sums)
            counts = jnp.where(few, even, counts)
        every = counts.sum()
        smooth = (counts + _SMOOTH) / (every + len(counts) * _SMOOTH) * every
        where = lambda t: (t.prior.codes, t.prior.counts, t.prior.sums)
        return q, eqx.tree_at(where, target, (sums / smooth[:, None], counts, sums))

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        book = target.prior
        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        z = jax.vmap(lambda row, key: q.condition(row).sample(key))(batch, keys)
        chosen = jax.vmap(book.nearest)(z)
        e = jax.vmap(book.parts)(z)
        codes = book.codes[chosen]
        if self.decay is not None:
            codes = jax.lax.stop_gradient(codes)

        def one(row: Any, e: Array, codes: Array) -> Array:
            return target.log_likelihood(self.gradient(e, codes).reshape(-1), row)

        fits = jax.vmap(one)(batch, e, codes).mean()
        away = lambda a, b: ((a - b) ** 2).sum(axis=(1, 2)).mean()
        loss = self.commitment * away(e, jax.lax.stop_gradient(codes)) - fits
        if self.decay is None:
            loss = loss + away(jax.lax.stop_gradient(e), codes)
        used = jnp.zeros_like(book.counts).at[chosen.reshape(-1)].add(1.0) / chosen.size
        return loss, {"reconstruction": fits, "perplexity": perplexity(used)}


def perplexity(shares: Float[Array, " K"]) -> Float[Array, ""]:
    r"""How many codes are in use, :math:`\exp(-\sum_k p_k \log p_k)`.

    >>> float(perplexity(jnp.array([0.5, 0.5, 0.0])))
    2.0
    """
    return jnp.exp(-jax.scipy.special.xlogy(shares, shares).sum())


def vector_quantised(
    commitment: Any = 0.25,
    *,
    decay: Any = 0.99,
    restart: Any = 0.0,
    gradient: Any = straight_through,
) -> VectorQuantised:
    r"""The loss of an autoencoder whose latents are codes of a book, in nats a row.

    .. math:: -\log p(x \mid z_q) + \beta\,|z_e - \mathrm{sg}[z_q]|^2, \qquad
        z_q = (e_{k_1}, \dots), \quad k_i = \arg\min_k |z_{e,i} - e_k|,

    where :math:`e_k` is the running mean of the encodings that are nearest to it, or, without a
    `decay`, follows the gradient of :math:`|\mathrm{sg}[z_e] - z_q|^2`. For a `VAE` with a
    `codebook` as its prior. Van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation
    learning", 2017, equation 3 and appendix A.1.

    Args:
        commitment: :math:`\beta`.
        decay: of the running means, from 0 to below 1; None for codes that follow gradients.
        restart: codes in use less often than this share of an even use are moved to encodings of
            the batch; 0 for never (Dhariwal et al. 2020, "Jukebox", section 3.1). Needs a decay.
        gradient: of the choice: `straight_through`, `rotated`, or another function of encodings
            and codes, (n, c) each, that gives the codes.

    Raises:
        RitzError: for a number that is out of range, or no function.

    >>> vector_quantised(gradient=rotated).revises
    True
    """
    number = lambda v: isinstance(v, int | float) and not isinstance(v, bool)
    for name, value in (("commitment", commitment), ("restart", restart)):
        not_negative(f"vector_quantised: {name}", value)
    if decay is not None and not (number(decay) and 0 <= decay < 1):
        raise RitzError(
            f"vector_quantised: decay={decay!r} arrived, expected a number from 0 to below 1, or "
            "None"
        )
    if decay is None and restart:
        raise RitzError("vector_quantised: restart needs a decay; codes that follow gradients stay")
    if not callable(gradient):
        raise RitzError(
            f"vector_quantised: gradient={gradient!r} arrived, expected a function such as "
            "ritz.latent.rotated"
        )
    decay = None if decay is None else float(decay)
    passes: Any = gradient
    return VectorQuantised(float(commitment), decay, float(restart), passes)
