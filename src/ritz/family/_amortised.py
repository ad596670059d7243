"""A family conditional on data: an encoder, and the posterior that it gives for each data set."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz.family._base import AbstractFamily
from ritz.family._full_rank import FullRank
from ritz.family._mixture import Mixture
from ritz.target._simulated import PRESENT


class AbstractAmortised(AbstractFamily):
    r"""A posterior for every data set at once, :math:`q_\lambda(x \mid y)`.

    What it can do is `condition`: at given data it is an ordinary family.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"condition"})

    @abc.abstractmethod
    def condition(self, data: Any) -> AbstractFamily:
        r""":math:`q_\lambda(\cdot \mid y)` for a pytree of data y."""


class Amortised(AbstractAmortised):
    """A mixture of Gaussians whose weights, means and covariances a network reads off the data.

    Attributes:
        encoder: from data, a pytree of arrays, to features.
        network: from features to the mixture's numbers.
        shift: of the standardised x.
        scale: of the standardised x.
        components: how many.
    """

    encoder: Callable[..., Array]
    network: eqx.nn.MLP
    shift: Any
    scale: Any
    components: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return paramax.unwrap(self.shift).shape[0]

    def condition(self, data: Any) -> Mixture:
        k, d = self.components, self.dim
        numbers = self.network(self.encoder(data))
        logits, loc, log_scale, below = jnp.split(numbers, [k, k + k * d, k + 2 * k * d])
        shift, scale = paramax.unwrap(self.shift), paramax.unwrap(self.scale)
        loc = shift + scale * loc.reshape(k, d)
        # Bounded, so that exp never overflows.
        log_scale = jnp.log(scale) + 8.0 * jnp.tanh(log_scale.reshape(k, d) / 8.0)
        rows, columns = jnp.tril_indices(d, -1)
        lower = jnp.zeros((k, d, d), loc.dtype).at[:, rows, columns].set(below.reshape(k, -1))
        return gaussians(logits, loc, log_scale, lower)


def gaussians(
    logits: Float[Array, " k"],
    loc: Float[Array, "k d"],
    log_scale: Float[Array, "k d"],
    lower: Float[Array, "k d d"],
) -> Mixture:
    """A mixture of Gaussians from what a network gives: the fields of `Mixture` and `FullRank`.

    >>> zeros = jnp.zeros((2, 3))
    >>> gaussians(jnp.zeros(2), zeros, zeros, jnp.zeros((2, 3, 3))).dim
    3
    """
    return Mixture(logits, eqx.filter_vmap(FullRank)(loc, log_scale, lower), "full_rank")


def by_name(data: Any) -> dict[str, Any]:
    """The arrays of a pytree by their place in it; a flat dict stays as it is.

    >>> by_name({"y": 1.0, "more": (2.0, 3.0)})
    {'more.0': 2.0, 'more.1': 3.0, 'y': 1.0}
    """
    leaves = jax.tree.leaves_with_path(data)
    return {jax.tree_util.keystr(path, simple=True, separator="."): v for path, v in leaves}


class Standard(eqx.Module):
    r"""Numbers of about one size, :math:`\operatorname{arsinh}((v - c) / s)`: all data are kept.

    Attributes:
        centre: c, by name.
        spread: s, by name.
    """

    centre: dict[str, Any]
    spread: dict[str, Any]

    def __call__(self, data: Any) -> dict[str, Array]:
        data = by_name(data)
        centre, spread = paramax.unwrap(self.centre), paramax.unwrap(self.spread)
        return {n: jnp.arcsinh((data[n] - centre[n]) / spread[n]) for n in centre}


def standard(examples: dict[str, Any], shared: bool) -> Standard:
    """How to standardise data, from examples of them with a leading axis over data sets.

    Args:
        examples: arrays by name.
        shared: whether the rows of an array (its first axis in one data set) are alike.
    """
    axes = (0, 1) if shared else 0
    centre, spread = {}, {}
    for name, value in examples.items():
        if name == PRESENT:
            continue
        value = jnp.asarray(value, float)
        low, middle, high = jnp.quantile(value, jnp.array([0.16, 0.5, 0.84]), axes)
        # Where most are equal (counts that are mostly zero) the sd is what tells them apart.
        wide = jnp.maximum(0.5 * (high - low), 1e-3 * value.std(axes))
        centre[name] = paramax.NonTrainable(middle)
        spread[name] = paramax.NonTrainable(jnp.where(wide > 0.0, wide, 1.0))
    return Standard(centre, spread)


class FlatEncoder(eqx.Module):
    """Features of all numbers in a row, by a perceptron: for data of one shape.

    Attributes:
        standard: makes numbers of one size.
        network: a perceptron.
    """

    standard: Standard
    network: eqx.nn.MLP

    def __call__(self, data: Any) -> Float[Array, " f"]:
        return self.network(jnp.concatenate([v.reshape(-1) for v in self.standard(data).values()]))


class RowEncoder(eqx.Module):
    r"""Features of a set of rows, in any order and of any number: deep sets with context.

    .. math:: h_i = \phi(y_i), \quad h_i' = \psi(h_i, \bar h), \quad
        f = (\bar h', \log n), \qquad \bar h = \tfrac1n \textstyle\sum_i h_i .

    Zaheer et al. 2017, "Deep sets" (theorem 2 and section 3.1).

    Attributes:
        standard: makes numbers of one size.
        first: phi.
        second: psi.
    """

    standard: Standard
    first: eqx.nn.MLP
    second: eqx.nn.MLP

    def __call__(self, data: dict[str, Any]) -> Float[Array, " f"]:
        values = self.standard(data).values()
        rows = jnp.concatenate([v.reshape(v.shape[0], -1) for v in values], 1)
        present = data.get(PRESENT, jnp.ones(rows.shape[0], rows.dtype))
        n = present.sum()
        mean = lambda h: present @ h / n
        h = jax.vmap(self.first)(rows)
        context = mean(h)
        h = jax.vmap(lambda h: self.second(jnp.concatenate([h, context])))(h)
        return jnp.append(mean(h), jnp.log(n / rows.shape[0]))


def amortised(
    examples: Any,
    shift: Float[Array, " d"],
    scale: Float[Array, " d"],
    rows: bool,
    key: Key[Array, ""],
    *,
    encoder: Any = None,
    components: int = 4,
    width: int = 64,
) -> Amortised:
    """A new amortised posterior.

    Args:
        examples: data, with a leading axis over data sets.
        shift: the middle of the parameters.
        scale: their spread.
        rows: whether data are a set of rows.
        key: of the networks.
        encoder: from data to features, in place of a perceptron or deep sets.
        components: of the mixture.
        width: of all layers.
    """
    one, two, three = jax.random.split(key, 3)
    d, dtype = shift.shape[0], shift.dtype
    if encoder is None:
        named = by_name(examples)
        alike = standard(named, rows)
        sizes = [int(jnp.size(named[n][0])) for n in alike.centre]
        kind: dict[str, Any] = {"activation": jax.nn.gelu, "dtype": dtype}
        if rows:
            size = sum(sizes) // named[next(iter(alike.centre))].shape[1]
            encoder = RowEncoder(
                alike,
                eqx.nn.MLP(size, width, width, 2, key=one, **kind),
                eqx.nn.MLP(2 * width, width, width, 1, key=two, **kind),
            )
        else:
            network = eqx.nn.MLP(sum(sizes), width, width, 2, key=one, **kind)
            encoder = FlatEncoder(alike, network)
    features = eqx.filter_eval_shape(encoder, jax.tree.map(lambda v: v[0], examples)).shape[0]
    out = components * (1 + 2 * d + d * (d - 1) // 2)
    network = eqx.nn.MLP(features, out, width, 2, jax.nn.gelu, dtype=dtype, key=three)
    last = lambda network: (network.layers[-1].weight, network.layers[-1].bias)
    network = eqx.tree_at(last, network, replace_fn=lambda v: 0.1 * v)
    # Components begin apart, or they would stay alike.
    spread = jax.random.normal(jax.random.fold_in(key, 1), (components * d,), dtype)
    bias = network.layers[-1].bias.at[components : components * (1 + d)].add(0.5 * spread)
    network = eqx.tree_at(lambda network: network.layers[-1].bias, network, bias)
    frozen = paramax.NonTrainable
    return Amortised(encoder, network, frozen(shift), frozen(scale), components)
