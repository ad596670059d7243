r"""What a network says of each step of a sequence, and priors that join it."""

import abc
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.family import AbstractFamily
from ritz.latent._encoder import AbstractPosterior, AbstractTied, bounded

_ALONE = (
    "potentials() are a law with a prior of sequences alone; use prior=linear_dynamics(width) or "
    "gaussian_process(width), or posterior=diagonal()"
)


class Potentials(AbstractFamily):
    r"""What a network says of each step of a chain, :math:`e^{h_t^\top z - z^\top J_t z / 2}`.

    Attributes:
        h: shape (T d,).
        precision: the diagonals J, shape (T d,).
    """

    h: Float[Array, " n"]
    precision: Float[Array, " n"]

    @property
    def dim(self) -> int:
        return self.h.shape[0]

    def kept(self, keep: Float[Array, " T"]) -> "Potentials":
        """With those of some steps alone: where `keep` is 0 nothing is said."""
        each = jnp.repeat(keep, self.dim // len(keep))
        return Potentials(self.h * each, self.precision * each)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        raise RitzError(_ALONE)

    def log_prob(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        raise RitzError(_ALONE)


class PotentialPosterior(AbstractPosterior):
    """See `potentials`."""

    def numbers(self, latent: int) -> int:
        return 2 * latent

    def __call__(self, numbers: Float[Array, " n"]) -> Potentials:
        mean, log_precision = jnp.split(numbers, 2)
        precision = jnp.exp(bounded(log_precision))
        return Potentials(precision * mean, precision)


class AbstractSequence(AbstractTied):
    """A Gaussian prior of the latents of T `steps`, which joins what is said of each."""

    @abc.abstractmethod
    def given(self, said: Potentials) -> AbstractFamily:
        r"""The law of the latents given potentials, :math:`\propto p(z) \prod_t e^{h_t^\top z_t
        - z_t^\top J_t z_t / 2}`."""

    def joined(self, q: Any) -> tuple[Callable[[Any], AbstractFamily], AbstractFamily]:
        def posterior(row: Any) -> AbstractFamily:
            found = q.condition(row)
            return self.given(found) if isinstance(found, Potentials) else found

        return posterior, self


def potentials() -> PotentialPosterior:
    r"""Posteriors of sequences: the encoder gives potentials, the prior's dynamics join them.

    .. math:: q(z \mid x) \propto p(z) \prod_t
        \exp\big(-\tfrac12 (z_t - m_t(x))^\top\,\mathrm{diag}(J_t(x))\,(z_t - m_t(x))\big),

    exactly, for `prior=linear_dynamics(width)` or `gaussian_process(width)`: the structured
    autoencoder of Johnson, Duvenaud, Wiltschko, Datta and Adams 2016, as in Zhao and Linderman,
    "Revisiting structured variational autoencoders", 2023. The network gives T d means, then as
    many log precisions.

    >>> potentials().numbers(20)
    40
    """
    return PotentialPosterior()
