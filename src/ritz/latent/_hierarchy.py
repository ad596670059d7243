"""Hierarchies: latents of latents, each level a Gaussian whose moments the one above gives."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.family import AbstractFamily, MeanField
from ritz.latent._encoder import AbstractPosterior, bounded
from ritz.latent._networks import built, mlp


class Levels(AbstractFamily):
    r"""A hierarchy's latents, all levels in a row, from the one next to the data up.

    Attributes:
        first: the law of the level that is drawn first.
        networks: from a level that was drawn to the numbers of the next.
        widths: of the levels, in this order.
        sd: of the levels that networks give, where it is fixed.
        downward: whether the last level is drawn first.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "reparameterised"})
    first: Any
    networks: tuple[Any, ...]
    widths: tuple[int, ...] = eqx.field(static=True)
    sd: float | None = eqx.field(static=True)
    downward: bool = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return sum(self.widths)

    @property
    def loc(self) -> Float[Array, " d"]:
        """The mean of each level given that of the one drawn before."""
        found = [self.first.loc]
        for i in range(len(self.networks)):
            found.append(self.given(i, found[-1]).loc)
        return jnp.concatenate(found[::-1] if self.downward else found)

    def parts(self, z: Float[Array, " d"]) -> list[Array]:
        """The levels, from the one next to the data up."""
        return jnp.split(z, np.cumsum(self.widths)[:-1].tolist())

    def given(self, i: int, z: Float[Array, "..."]) -> MeanField:
        """The law of the level that follows the i-th to be drawn."""
        return gaussian_of(self.networks[i](z), self.sd)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        keys = jax.random.split(key, len(self.widths))
        found = [self.first.sample(keys[0])]
        for i, one in enumerate(keys[1:]):
            found.append(self.given(i, found[-1]).sample(one))
        return jnp.concatenate(found[::-1] if self.downward else found)

    def by_level(self, z: Float[Array, " d"]) -> Float[Array, " L"]:
        """The log density of each level given the one drawn before, from the data up."""
        parts = self.parts(z)
        drawn = parts[::-1] if self.downward else parts
        found = [self.first.log_prob(drawn[0])]
        for i in range(len(drawn) - 1):
            found.append(self.given(i, drawn[i]).log_prob(drawn[i + 1]))
        return jnp.stack(found[::-1] if self.downward else found)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.by_level(x).sum()


class Upward(AbstractPosterior):
    """See `hierarchical`.

    Attributes:
        networks: from each level to the numbers of the one above.
        widths: of the levels.
        sd: of the first level, where it is fixed.
    """

    networks: tuple[Any, ...]
    widths: tuple[int, ...] = eqx.field(static=True)
    sd: float | None = eqx.field(static=True)

    def numbers(self, latent: int) -> int:
        return self.widths[0] * (1 if self.sd else 2)

    def __call__(self, numbers: Float[Array, " n"]) -> Levels:
        first = gaussian_of(numbers, self.sd)
        return Levels(first, self.networks, self.widths, None, downward=False)


def gaussian_of(numbers: Float[Array, " n"], sd: float | None) -> MeanField:
    """A Gaussian from its means and log sds, or from its means."""
    if sd is not None:
        return MeanField(numbers, jnp.full_like(numbers, math.log(sd)))
    loc, log_scale = jnp.split(numbers, 2)
    return MeanField(loc, bounded(log_scale))


def hierarchical(network: Any = None, *, sd: Any = None) -> Any:
    r"""The posterior of a hierarchy, from the data up.

    .. math:: q(z_1 \mid x)\,\prod_{l > 1} q(z_l \mid z_{l-1}),

    each a Gaussian with independent coordinates. For a `VAE` with several `latent` widths, such as
    (16, 4). Rezende, Mohamed and Wierstra, "Stochastic backpropagation and approximate inference in
    deep generative models", 2014.

    Args:
        network: a builder, of what leads from a level to the next; `mlp(64)` by default.
        sd: of the first level, fixed; None for one that the encoder gives.

    Returns:
        a builder, from widths and a key.

    Raises:
        RitzError: for an sd that is not positive; from the builder, for a single width.

    >>> hierarchical(mlp())((5, 2), jax.random.key(0)).numbers(7)
    10
    """
    _check("hierarchical", sd)

    def build(widths: Any, key: Key[Array, ""]) -> Upward:
        widths = _several("hierarchical", widths)
        return Upward(_networks("hierarchical", network, widths, None, key), widths, sd)

    return build


def levels(network: Any = None, *, sd: Any = None) -> Any:
    r"""The prior of a hierarchy, from the top down.

    .. math:: p(z_L) \prod_{l < L} p(z_l \mid z_{l+1}), \qquad p(z_L) = \mathcal{N}(0, I),

    each a Gaussian with independent coordinates. The decoder sees :math:`z_1` alone.

    Args:
        network: a builder, of what leads from a level to the next; `mlp(64)` by default.
        sd: of the levels below the top, fixed; None for ones that networks give.

    Returns:
        a builder, from widths and a key.

    Raises:
        RitzError: for an sd that is not positive; from the builder, for a single width.

    >>> levels(mlp(), sd=1.0)((5, 2), jax.random.key(0)).dim
    7
    """
    _check("levels", sd)

    def build(widths: Any, key: Key[Array, ""]) -> Levels:
        widths = _several("levels", widths)
        networks = _networks("levels", network, widths[::-1], sd, key)
        top = paramax.non_trainable(MeanField(jnp.zeros(widths[-1]), jnp.zeros(widths[-1])))
        return Levels(top, networks, widths, sd, downward=True)

    return build


def _networks(name: str, network: Any, widths: Any, sd: float | None, key: Any) -> tuple[Any, ...]:
    keys = jax.random.split(key, len(widths) - 1)
    times = 1 if sd else 2
    build = mlp(64) if network is None else network
    pairs = zip(widths[:-1], widths[1:], keys, strict=True)
    return tuple(built(name, build, (a,), (times * b,), k) for a, b, k in pairs)


def _several(name: str, widths: Any) -> tuple[int, ...]:
    if not isinstance(widths, tuple) or len(widths) < 2:
        raise RitzError(f"{name}: one level arrived; use several widths, such as latent=(16, 4)")
    return widths


def _check(name: str, sd: Any) -> None:
    if sd is not None and not (isinstance(sd, int | float) and not isinstance(sd, bool) and sd > 0):
        raise RitzError(f"{name}: sd={sd!r} arrived, expected a positive number or None")
