"""Losses that train an energy model on samples."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.objective import AbstractDirect
from ritz.particle._energy import check_energy_model
from ritz.particle._moves import Moves, as_moves, mala
from ritz.target import samples_of

_ROWS = 256


class AbstractEnergyLoss(AbstractDirect):
    """A loss of an energy model at samples, in units of its reference.

    Attributes:
        rows: how many samples a step sees; None for all.
    """

    rows: eqx.AbstractVar[int | None]

    def seen(self, q: Any, target: Any, key: Key[Array, ""]) -> Float[Array, "n d"]:
        """The samples of a step."""
        name = type(self).__name__
        check_energy_model(q, name)
        known = samples_of(target, name)
        return q.standard(known.samples if self.rows is None else known.draw(key, self.rows))


class ContrastiveDivergence(AbstractEnergyLoss):
    """See `contrastive_divergence`.

    Attributes:
        moves: of the chains.
        length: how many they make.
    """

    rows: int | None = eqx.field(static=True)
    moves: Moves
    length: int = eqx.field(static=True)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        drawn, walk = jax.random.split(key)
        z = self.seen(q, target, drawn)
        arrays, rest = eqx.partition(q, eqx.is_array)
        fixed = eqx.combine(jax.lax.stop_gradient(arrays), rest)
        one = lambda z, key: self.moves(fixed.log_tilted, z, key, self.length)
        ends = jax.vmap(one)(z, jax.random.split(walk, len(z)))
        energy = jax.vmap(q.energy)
        loss = energy(z).mean() - energy(jax.lax.stop_gradient(ends.x)).mean()
        return loss, {"acceptance": ends.accepted.mean()}


class ScoreMatching(AbstractEnergyLoss):
    """See `score_matching`."""

    rows: int | None = eqx.field(static=True)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        z = self.seen(q, target, key)
        score = jax.grad(q.log_tilted)

        def one(z: Array) -> Array:
            value, slope = jax.linearize(score, z)
            return jnp.trace(jax.vmap(slope)(jnp.eye(len(z), dtype=z.dtype))) + 0.5 * value @ value

        return jax.vmap(one)(z).mean()


class DenoisingScoreMatching(AbstractEnergyLoss):
    """See `denoising_score_matching`.

    Attributes:
        noise: its sd.
    """

    rows: int | None = eqx.field(static=True)
    noise: Float[Array, ""]

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        drawn, noise = jax.random.split(key)
        z = self.seen(q, target, drawn)
        sd = self.noise.astype(z.dtype)
        e = jax.random.normal(noise, z.shape, z.dtype)
        scores = jax.vmap(jax.grad(q.log_tilted))(z + sd * e)
        return 0.5 * ((sd * scores + e) ** 2).sum(axis=1).mean()


class NoiseContrastive(AbstractEnergyLoss):
    """See `noise_contrastive`."""

    rows: int | None = eqx.field(static=True)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        drawn, noise = jax.random.split(key)
        z = self.seen(q, target, drawn)
        other = jax.random.normal(noise, z.shape, z.dtype)
        log_ratio = lambda z: -q.energy(z) - q.log_normaliser
        own, others = jax.vmap(log_ratio)(z), jax.vmap(log_ratio)(other)
        right = 0.5 * ((own > 0).mean() + (others <= 0).mean())
        loss = jax.nn.softplus(-own).mean() + jax.nn.softplus(others).mean()
        return loss, {"accuracy": right}


def contrastive_divergence(
    moves: Any = None, length: Any = 10, rows: Any = _ROWS
) -> ContrastiveDivergence:
    r"""Energies of samples less those where short chains from these samples end.

    .. math:: \mathbb{E}_{\mathrm{data}} f_\theta(x) - \mathbb{E}\, f_\theta(x^{(k)}),

    the second expectation held fixed in the chains' law. It is biased: a chain of k moves forgets
    how much mass its mode has no faster than it leaves it. Hinton, "Training products of experts
    by minimizing contrastive divergence", 2002.

    Args:
        moves: of the chains; by default `mala(0.3)`.
        length: k.
        rows: samples, and chains, a step; None for all.

    Raises:
        RitzError: for no moves, or sizes below one.

    >>> contrastive_divergence(length=5).length
    5
    """
    moves = mala(0.3) if moves is None else as_moves("contrastive_divergence", moves)
    return ContrastiveDivergence(_rows(rows), moves, whole_number("length", length, 1))


def score_matching(rows: Any = _ROWS) -> ScoreMatching:
    r"""Hyvärinen's loss, whose Hessian's trace takes d products with vectors.

    .. math:: \mathbb{E}_{\mathrm{data}}\bigl[\Delta\log\tilde q(x)
        + \tfrac12|\nabla\log\tilde q(x)|^2\bigr].

    Up to a constant half the Fisher divergence, so that it does not see how mass is shared between
    modes that no sample connects. Hyvärinen, "Estimation of non-normalized statistical models by
    score matching", 2005, theorem 1. Gradients are in the samples' sds.

    Args:
        rows: samples a step; None for all.

    Raises:
        RitzError: for fewer than one row.

    >>> score_matching(None).rows is None
    True
    """
    return ScoreMatching(_rows(rows))


def denoising_score_matching(noise: Any = 0.1, rows: Any = _ROWS) -> DenoisingScoreMatching:
    r"""The model's score at noisy samples, compared with the way back.

    .. math:: \tfrac12\,\mathbb{E}\bigl|\sigma\nabla\log\tilde q(x + \sigma\varepsilon)
        + \varepsilon\bigr|^2.

    Its minimum is the score of the samples' law blurred by :math:`\sigma`. Vincent, "A connection
    between score matching and denoising autoencoders", 2011, equation 11 (times
    :math:`\sigma^2`).

    Args:
        noise: sigma, in the samples' sds.
        rows: samples a step; None for all.

    Raises:
        RitzError: for noise that is not positive, or fewer than one row.

    >>> float(denoising_score_matching(0.5).noise)
    0.5
    """
    number = isinstance(noise, int | float) and not isinstance(noise, bool)
    if not number or not 0.0 < noise < math.inf:
        raise RitzError(
            f"denoising_score_matching: noise={noise!r} arrived, expected a positive sd, in the "
            "samples' sds, such as 0.1"
        )
    return DenoisingScoreMatching(_rows(rows), jnp.asarray(float(noise)))


def noise_contrastive(rows: Any = _ROWS) -> NoiseContrastive:
    r"""Telling samples from draws of the model's Gaussian reference, by logistic regression.

    .. math:: -\mathbb{E}_{\mathrm{data}}\log\sigma(g(x)) - \mathbb{E}_{p_0}\log\sigma(-g(x)),
        \qquad g(x) = \log\tilde q(x) - c - \log p_0(x),

    where c, trained along, becomes the log normaliser, `EnergyModel.log_normaliser`. Gutmann and
    Hyvärinen, "Noise-contrastive estimation of unnormalized statistical models", 2012, equation 8.

    Args:
        rows: samples, and draws of the reference, a step; None for all samples.

    Raises:
        RitzError: for fewer than one row.

    >>> noise_contrastive(64).rows
    64
    """
    return NoiseContrastive(_rows(rows))


def _rows(rows: Any) -> int | None:
    return None if rows is None else whole_number("rows", rows, 1)
