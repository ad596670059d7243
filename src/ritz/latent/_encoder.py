"""Amortised posteriors: what a network says of a row's latent vector."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz.family import AbstractAmortised, AbstractFamily, MeanField

# Log sds stay within these of zero, so that nothing overflows.
_WIDEST = 8.0


def bounded(log_scale: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log sds that cannot overflow."""
    return _WIDEST * jnp.tanh(log_scale / _WIDEST)


class Given(eqx.Module):
    """What a conditional model's rows are given, in units of their own.

    Attributes:
        shift: of the training rows.
        scale: of these.
    """

    shift: Any
    scale: Any

    def __call__(self, value: Float[Array, "..."]) -> Float[Array, " g"]:
        return ((value - self.shift) / self.scale).reshape(-1)


class AbstractLaw(AbstractFamily):
    """A law of latents that knows its divergence from some priors without drawing."""

    @abc.abstractmethod
    def divergences(self, prior: Any) -> Float[Array, " k"] | None:
        r""":math:`\mathrm{KL}(q\,\|\,p)` in parts that add up to it; None from other priors."""


class AbstractTied(AbstractFamily):
    """A prior that posteriors are made with, or that is made of them."""

    @abc.abstractmethod
    def joined(self, q: Any) -> tuple[Callable[[Any], AbstractFamily], AbstractFamily]:
        """The posterior of a row, as a function of it, and the prior, given an encoder."""


class AbstractPosterior(eqx.Module):
    """From the numbers that a network gives for a row to the law of its latents.

    Attributes:
        density: whether that law has a density; a bound of the log likelihood needs one.
    """

    density: ClassVar[bool] = True

    @abc.abstractmethod
    def numbers(self, latent: int) -> int:
        """How many numbers it takes for so many latent dimensions."""

    @abc.abstractmethod
    def __call__(self, numbers: Float[Array, " n"]) -> AbstractFamily:
        """The law."""


class Diagonal(AbstractPosterior):
    """See `diagonal`."""

    def numbers(self, latent: int) -> int:
        return 2 * latent

    def __call__(self, numbers: Float[Array, " n"]) -> MeanField:
        loc, log_scale = jnp.split(numbers, 2)
        return MeanField(loc, bounded(log_scale))


class Point(AbstractFamily):
    """One vector.

    Attributes:
        loc: the vector.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "reparameterised"})
    loc: Float[Array, " d"]

    @property
    def dim(self) -> int:
        return self.loc.shape[0]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.loc


class Points(AbstractPosterior):
    """See `point`."""

    density: ClassVar[bool] = False

    def numbers(self, latent: int) -> int:
        return latent

    def __call__(self, numbers: Float[Array, " n"]) -> Point:
        return Point(numbers)


class Encoder(AbstractAmortised):
    r"""A posterior that a network reads off a row, such as

    .. math:: q(z \mid x) = \mathcal{N}\big(m(x),\ \mathrm{diag}\,e^{2 s(x)}\big).

    Attributes:
        network: from a standardised row to numbers.
        posterior: from these to a law of z.
        shift: of rows.
        scale: of rows.
        latent: d.
        given: makes what a row is given an input of the network; None where nothing is.
    """

    network: Any
    posterior: AbstractPosterior
    shift: Any
    scale: Any
    latent: int = eqx.field(static=True)
    given: Given | None = None

    @property
    def dim(self) -> int:
        return self.latent

    def standard(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """A row in the network's units."""
        return (x - self.shift) / self.scale

    def condition(self, data: Any) -> AbstractFamily:
        x = self.standard(data["x"])
        if self.given is not None:
            x = jnp.concatenate([x.reshape(-1), self.given(data["given"])])
        return self.posterior(self.network(x))


def diagonal() -> Diagonal:
    r"""Independent Gaussians, :math:`q(z \mid x) = \prod_i \mathcal{N}(z_i \mid m_i, e^{2 s_i})`.

    The network gives the means, then as many log sds.

    >>> diagonal().numbers(3)
    6
    """
    return Diagonal()


def point() -> Points:
    """One vector for a row: a deterministic encoder, for objectives that need no density.

    >>> point()(jnp.zeros(3)).dim
    3
    """
    return Points()


def centre(post: Any, keys: Key[Array, " k"]) -> Float[Array, " d"]:
    """The mean of a posterior; of one that does not state it, over draws."""
    loc = getattr(post, "loc", None)
    return jax.vmap(post.sample)(keys).mean(axis=0) if loc is None else loc
