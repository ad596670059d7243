"""Losses that are functions of the law of a cloud's particles."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.objective import AbstractDirect
from ritz.particle._interactions import squared
from ritz.particle._kernels import IMQ, RBF, AbstractKernel, rbf
from ritz.target import samples_of


class Functional(AbstractDirect):
    """See `functional`.

    Attributes:
        function: of the points.
        arguments: arrays that it takes after these.
    """

    function: Callable[..., Any] = eqx.field(static=True)
    arguments: Any

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"points"})

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        more = () if batch is None else (batch,)
        return self.function(q.points, *self.arguments, *more)


class Discrepancy(AbstractDirect):
    """See `mean_discrepancy`.

    Attributes:
        kernel: k.
        rows: samples a step.
    """

    kernel: AbstractKernel
    rows: int | None = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"points"})

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Float[Array, ""]:
        known, x = samples_of(target, "mean_discrepancy"), q.points
        y = known.samples if self.rows is None else known.draw(key, self.rows)
        middle = jax.lax.stop_gradient(x.mean(axis=0))
        x, y = x - middle, y - middle
        h2 = jax.lax.stop_gradient(self.kernel.squared_scale(y))
        mean = lambda a, b: self.kernel.of(squared(a, b) / h2)[0].mean()
        return mean(x, x) - 2.0 * mean(x, y) + mean(y, y)


def functional(function: Any, *arguments: Any) -> Functional:
    r"""A functional of a law, as a function of the n points that stand for it.

    Args:
        function: from an array of shape (n, d), the arguments and, where data come in batches, a
            batch, to one number: :math:`F(\frac1n\sum_i\delta_{x_i})`.
        arguments: arrays.

    Raises:
        RitzError: for what cannot be called.

    >>> import jax.numpy as jnp
    >>> spread = functional(lambda x: -x.var(axis=0).sum())
    >>> spread.needs
    frozenset({'points'})
    """
    if not callable(function):
        raise RitzError(f"functional: a {type(function).__name__} arrived, expected a function")
    return Functional(function, tuple(jnp.asarray(a) for a in arguments))


def mean_discrepancy(kernel: Any = None, rows: Any = None) -> Discrepancy:
    r"""The squared maximum mean discrepancy between a cloud and samples of the target.

    .. math:: \frac1{n^2}\sum_{ij} k(x_i, x_j) - \frac2{nN}\sum_{ij} k(x_i, y_j)
        + \frac1{N^2}\sum_{ij} k(y_i, y_j).

    Its target is one of `ritz.target.from_samples`. Arbel, Korba, Salim and Gretton, "Maximum mean
    discrepancy gradient flow", 2019.

    Args:
        kernel: `rbf()` by default, or `imq()`; its rule looks at the samples.
        rows: how many samples a step sees; None for all.

    Raises:
        RitzError: for another kernel, or fewer than two rows.

    >>> mean_discrepancy(rows=100).rows
    100
    """
    kernel = rbf() if kernel is None else kernel
    if not isinstance(kernel, RBF | IMQ):
        raise RitzError(
            f"mean_discrepancy: a kernel arrived as {type(kernel).__name__}, expected "
            "ritz.particle.rbf() or imq()"
        )
    if rows is not None and (isinstance(rows, bool) or not isinstance(rows, int) or rows < 2):
        raise RitzError(f"mean_discrepancy: rows={rows!r} arrived, expected 2 or more, or None")
    return Discrepancy(kernel, rows)
