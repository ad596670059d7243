"""Targets that are known by samples of them."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.target._log_density import from_log_density
from ritz.target._without_density import AbstractWithoutDensity

# Of the samples a share, and at most so many, are kept to judge the fit by; none of very few.
_HELD, _MOST, _FEW = 0.1, 1000, 50


class SampleTarget(AbstractWithoutDensity):
    """A distribution known by samples; made by `from_samples`.

    Attributes:
        samples: unconstrained, those that a fit sees.
        held: those that judge it.
    """

    instead: ClassVar[str] = (
        "samples have no log density; use an objective of samples, such as "
        "ritz.objective.maximum_likelihood()"
    )
    samples: Float[Array, "N d"]
    held: Float[Array, "M d"]

    def draw(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """n of the samples, with replacement."""
        return self.samples[jax.random.randint(key, (n,), 0, len(self.samples))]

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        return self.samples.mean(axis=0), "the samples' mean"


def samples_of(target: Any, what: str) -> SampleTarget:
    """The target, if it is one known by samples.

    Raises:
        RitzError: where it is another one.
    """
    if not isinstance(target, SampleTarget):
        raise RitzError(
            f"{what} compares samples, but the target is a {type(target).__name__}; make it with "
            "ritz.target.from_samples(x)"
        )
    return target


def from_samples(values: Any, constraints: Any = None) -> SampleTarget:
    r"""The distribution that samples come from.

    A tenth of them, 1,000 at most, are kept to judge a fit by: its verdict is a two-sample test
    with these (`ritz.diagnose.energy_test`). Samples in an order that matters are shuffled first.

    Args:
        values: an array of shape (N, ...), or a pytree of such arrays.
        constraints: of one sample, as for `from_log_density`.

    Returns:
        the target.

    Raises:
        RitzError: for fewer than two samples, lengths that differ, or values that are not finite.

    >>> import numpy as np
    >>> target = from_samples(np.random.default_rng(0).normal(size=(500, 3)))
    >>> target.samples.shape, target.held.shape
    ((450, 3), (50, 3))
    """
    leaves = [np.asarray(v) for v in jax.tree.leaves(values)]
    lengths = {v.shape[0] if v.ndim else None for v in leaves}
    if len(lengths) != 1 or None in lengths:
        told = ", ".join(str(v.shape) for v in leaves) or "nothing"
        raise RitzError(f"samples of shapes {told} arrived, expected (N, ...) with one N")
    (n,) = lengths
    if n is None or n < 2:
        raise RitzError(f"{n} sample arrived, expected two or more along the first axis")
    if not all(v.dtype.kind in "fiu" and np.isfinite(v).all() for v in leaves):
        raise RitzError("samples hold values that are not finite numbers; leave those rows out")
    first = jax.tree.map(lambda v: np.asarray(v)[0], values)
    base = from_log_density(lambda value: jnp.zeros(()), first, constraints)
    x = jax.vmap(lambda value: base.unconstrain(base.unpack(value)))(
        jax.tree.map(jnp.asarray, values)
    )
    if not np.isfinite(np.asarray(x)).all():
        raise RitzError("samples lie outside their constraints, or on the edge")
    x = np.asarray(x)[np.random.default_rng(0).permutation(n)]
    kept = min(_MOST, int(_HELD * n)) if n >= _FEW else 0
    held, seen = (x[:kept], x[kept:]) if kept else (x, x)
    return SampleTarget(
        base.sites, (), base.deterministic, base, jnp.asarray(seen), jnp.asarray(held)
    )
