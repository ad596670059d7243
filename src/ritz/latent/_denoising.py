r"""The bound with posteriors that see a part of each row."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Key

from ritz._errors import share as a_share
from ritz.family import AbstractAmortised, AbstractFamily
from ritz.latent._bound import LatentELBO, elbo


class _Dropped(AbstractAmortised):
    """An encoder of rows of which a part is zero, where they say so."""

    encoder: Any

    @property
    def dim(self) -> int:
        return self.encoder.dim

    def condition(self, data: Any) -> AbstractFamily:
        # Pseudo-inputs of a prior are no rows, and nothing of them is dropped.
        kept = data.get("kept", 1.0)
        return self.encoder.condition({**data, "x": data["x"] * kept})


class DenoisingELBO(LatentELBO):
    """See `denoising_elbo`.

    Attributes:
        share: of the entries that are dropped.
    """

    share: float = eqx.field(static=True, default=0.0)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        first, second = jax.random.split(key)
        x = batch["x"]
        kept = jax.random.bernoulli(first, 1.0 - self.share, x.shape) / (1.0 - self.share)
        return super().loss(_Dropped(q), target, second, {**batch, "kept": kept.astype(x.dtype)})


def denoising_elbo(
    share: Any = 0.5, draws: Any = 1, *, beta: Any = 1.0, warmup: Any = 0
) -> DenoisingELBO:
    r"""The bound with posteriors of a row of which entries are dropped at random.

    .. math:: \mathbb{E}_{q(z \mid \tilde x)} \log p(x \mid z)
        - \beta\,\mathrm{KL}\big(q(z \mid \tilde x)\,\|\,p(z)\big), \qquad
        \tilde x_j = x_j b_j / (1 - s), \quad b_j \sim \mathrm{Bernoulli}(1 - s),

    so that latents must tell of entries that were not seen: for recommendations and gaps in a
    table. For :math:`\beta = 1` it is a bound of the log likelihood, as any other posterior gives.
    Im, Ahn, Memisevic and Bengio, "Denoising criterion for variational auto-encoding framework",
    2017; Liang, Krishnan, Hoffman and Jebara, "Variational autoencoders for collaborative
    filtering", 2018, section 2.2.

    Args:
        share: s, of the entries, from 0 to below 1.
        draws: of z, a row.
        beta: as for `elbo`.
        warmup: as for `elbo`.

    Raises:
        RitzError: for numbers that are out of range.

    >>> denoising_elbo(0.5, beta=0.2, warmup=1000).changes
    True
    """
    part = a_share("denoising_elbo: share", share)
    base = elbo(draws, beta=beta, warmup=warmup)
    return DenoisingELBO(base.draws, base.analytic, base.beta, base.warmup, base.free, None, part)
