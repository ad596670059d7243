"""The law of the codes of a quantised autoencoder, learned after it."""

import copy
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily
from ritz.fit import fit
from ritz.latent._autoregressive import Autoregressive, autoregressive
from ritz.latent._codebook import Codebook
from ritz.latent._levels import categorical
from ritz.objective import maximum_likelihood
from ritz.target import from_samples


class CodeLaw(AbstractFamily):
    """Numbers of codes, each given those before it; see `fit_codes`.

    Attributes:
        law: of all of them.
        places: how many.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob"})
    law: Autoregressive
    places: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.places

    @property
    def _nothing(self) -> Float[Array, " w"]:
        return jnp.zeros(self.law.widths[0], self.law.layers[0].dtype)

    def log_prob(self, x: Float[Array, " d"] | Int[Array, " d"]) -> Float[Array, ""]:
        return self.law.log_prob(self._nothing, x)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.law.sample(self._nothing, key)


def fit_codes(
    vae: Any, x: Any, *widths: Any, steps: Any = 2000, lr: Any = 5e-3, seed: Any = 0
) -> Any:
    r"""A trained quantised autoencoder whose draws have codes that go together.

    .. math:: p(k) = \prod_i p(k_i \mid k_{<i}),

    by a masked network, of maximum likelihood given the codes of rows. Van den Oord, Vinyals and
    Kavukcuoglu, "Neural discrete representation learning", 2017, section 3.3.

    Args:
        vae: trained, with a `codebook` as its prior.
        x: rows.
        widths: hidden units of each layer; one layer of 128 by default.
        steps: of Adam.
        lr: its rate.
        seed: of batches and draws.

    Returns:
        a copy, whose `sample` draws codes from that law. What `ritz.fit` gave is its `fit_codes_`,
        with a verdict: whether drawn codes are told from those of rows.

    Raises:
        RitzError: where there are no codes, and for numbers that are out of range.
    """
    whole_number("steps", steps, 1)
    book = vae._fitted.target.prior
    numbers = vae.codes(x).astype(float)
    if len(numbers) < 2:
        raise RitzError("fit_codes: one row arrived, expected two at least")
    law = autoregressive(categorical(len(book.codes)), *(widths or (128,)))
    start = CodeLaw(law.for_data(numbers), numbers.shape[1])
    found = fit(
        from_samples(numbers),
        family=start,
        objective=maximum_likelihood(),
        steps=steps,
        lr=lr,
        seed=seed,
        progress=False,
    )
    new = copy.copy(vae)
    new.fit_codes_ = found
    own = dataclasses.replace(book, law=found.q)
    target = eqx.tree_at(lambda t: t.prior, vae.fit_.target, own, is_leaf=_is_book)
    new.fit_ = dataclasses.replace(vae.fit_, target=target)
    return new


def _is_book(leaf: Any) -> bool:
    return isinstance(leaf, Codebook)
