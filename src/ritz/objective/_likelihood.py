"""The likelihood of samples of a target."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ritz._errors import whole_number
from ritz.objective._base import AbstractDirect
from ritz.target import samples_of


class MaximumLikelihood(AbstractDirect):
    """See `maximum_likelihood`.

    Attributes:
        rows: how many samples a step sees; None for all.
    """

    rows: int | None = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"log_prob"})

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Float[Array, ""]:
        known = samples_of(target, "maximum_likelihood")
        x = known.samples if self.rows is None else known.draw(key, self.rows)
        return -jax.lax.map(q.log_prob, x, batch_size=4096).mean()


def maximum_likelihood(rows: Any = 256) -> MaximumLikelihood:
    r"""Minus the mean log density of samples: :math:`-\frac1N\sum_i \log q(x_i)`.

    Up to a constant :math:`\mathrm{KL}(p\,\|\,q)` of what they are samples of. The target is one of
    `ritz.target.from_samples`.

    Args:
        rows: how many samples a step sees, drawn with replacement; None for all of them.

    Raises:
        RitzError: for fewer than one.

    >>> import numpy as np, ritz
    >>> x = np.random.default_rng(0).normal(3.0, 2.0, (2000, 1))
    >>> target = ritz.target.from_samples(x)
    >>> fit = ritz.fit(target, family="full_rank", steps=2000, progress=False)
    >>> bool(abs(fit.mean()[0] - 3.0) < 0.2)
    True
    """
    if rows is not None:
        whole_number("rows", rows, 1)
    return MaximumLikelihood(rows)
