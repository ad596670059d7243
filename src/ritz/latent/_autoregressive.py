r"""Values of a row one after the other, each given those before it and a decoder's output."""

import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.latent._binary import Bernoulli
from ritz.latent._levels import Categorical
from ritz.latent._likelihood import AbstractLikelihood


class Autoregressive(AbstractLikelihood):
    """See `autoregressive`.

    Attributes:
        of: the law of each value.
        widths: hidden units of each layer; a decoder gives as many numbers as the first has.
        layers: from values to the first hidden units, on to the next, and to logits; masked.
        shifts: of hidden units from the second layer on, and of logits.
        direct: from values to logits, past the hidden units; masked. None for classes.
    """

    of: AbstractLikelihood
    widths: tuple[int, ...] = eqx.field(static=True)
    layers: tuple[Any, ...] = ()
    shifts: tuple[Any, ...] = ()
    direct: Any = None

    @property
    def each(self) -> int:
        """Numbers by which a value is seen, and logits that it has."""
        return self.of.classes if isinstance(self.of, Categorical) else 1

    def outputs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.widths[0],)

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        return self.of.log_prob(self.logits(out, x), x)

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        """Means, each given the means before it; of classes, each given the likeliest before it."""
        if not isinstance(self.of, Categorical):
            return self._in_turn(out, lambda found, _: self.of.mean(found), jax.random.key(0))
        likeliest = lambda found, _: found.argmax(axis=0).astype(found.dtype)
        return self.of.mean(self.logits(out, self._in_turn(out, likeliest, jax.random.key(0))))

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        return self._in_turn(out, self.of.sample, key)

    def check(self, x: np.ndarray) -> None:
        self.of.check(x)

    def for_data(self, x: np.ndarray) -> "Autoregressive":
        shape, many, k = x.shape[1:], math.prod(x.shape[1:]), self.each
        sizes = (many * k, *self.widths, k * many)
        keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
        # A class is one number of k, which is 1: of such inputs as many as there are values count.
        count = (many, *self.widths)
        layers = tuple(
            jax.random.normal(key, (b, a)) / n**0.5
            for a, b, n, key in zip(sizes[:-1], sizes[1:], count, keys, strict=True)
        )
        zero = [jnp.zeros(w) for w in self.widths[1:]]
        shifts = (*zero, jnp.zeros(shape if k == 1 else (k, *shape)))
        direct = jnp.zeros((many, many)) if k == 1 else None
        return Autoregressive(self.of, self.widths, layers, shifts, direct)

    def logits(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
        """What the law of each value needs, given those before it."""
        k = self.each
        seen = x.reshape(-1) if k == 1 else jax.nn.one_hot(x.reshape(-1).astype(int), k).reshape(-1)
        first, *between, last = masks(x.size, self.widths)
        h = jnp.tanh((np.repeat(first, k, axis=1) * self.layers[0]) @ seen + out)
        for mask, layer, shift in zip(between, self.layers[1:-1], self.shifts, strict=False):
            h = jnp.tanh((mask * layer) @ h + shift)
        found = (np.tile(last, (k, 1)) * self.layers[-1]) @ h
        if self.direct is not None:
            found = found + jnp.tril(self.direct, -1) @ seen
        return found.reshape(self.shifts[-1].shape) + self.shifts[-1]

    def _in_turn(self, out: Array, one: Any, key: Any) -> Array:
        shape = self.shifts[-1].shape[self.each > 1 :]
        many = math.prod(shape)

        def step(i: Any, x: Array) -> Array:
            new = one(self.logits(out, x), jax.random.fold_in(key, i))
            return jnp.where(jnp.arange(many).reshape(shape) == i, new, x)

        return jax.lax.fori_loop(0, many, step, jnp.zeros(shape, out.dtype))


def masks(values: int, widths: tuple[int, ...]) -> list[np.ndarray]:
    r"""Which values the first hidden units see, which of these the next, and which values the last.

    A unit of degree m sees values 1 to m and units of degree m at most, and value i sees units of
    lower degrees, so that it depends on the values before it alone (Germain et al. 2015, equations
    12 and 13).
    """
    order = np.arange(1, values + 1)
    degrees = [np.arange(w) * values // w for w in widths]  # 0: the decoder's output alone
    between = [b[:, None] >= a for a, b in itertools.pairwise(degrees)]
    return [degrees[0][:, None] >= order, *between, order[:, None] > degrees[-1]]


def autoregressive(of: Any, *widths: Any) -> Autoregressive:
    r"""Values that depend on those before them: a strong decoder.

    .. math:: \log p(x \mid z) = \sum_i \log p\big(x_i \mid \eta_i(x_{<i}, h(z))\big),

    by one masked network with tanh units, to the first of which the decoder's output h(z) is added.
    Bits also have connections past them. The density takes one pass; a draw takes as many as there
    are values. Germain, Gregor, Murray and Larochelle, "MADE: masked autoencoder for distribution
    estimation", 2015, equations 8 to 13.

    Args:
        of: the law of each value: `bernoulli()`, `continuous_bernoulli()` or `categorical(k)`.
        widths: hidden units of each layer; the decoder gives as many numbers as the first has.

    Raises:
        RitzError: for no such law, no width, or one below one.

    >>> from ritz.latent import bernoulli
    >>> autoregressive(bernoulli(), 32, 32).outputs((8, 8))
    (32,)
    """
    if not isinstance(of, Bernoulli | Categorical):
        raise RitzError(
            f"autoregressive: of arrived as {type(of).__name__}, expected bernoulli(), "
            "continuous_bernoulli() or categorical(k)"
        )
    if not widths:
        raise RitzError("autoregressive: no width arrived, expected one for each hidden layer")
    return Autoregressive(of, tuple(whole_number("width", w, 1) for w in widths))
