"""Targets that are known by samples of them."""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.target._base import AbstractTarget, Quantity, Site
from ritz.target._log_density import from_log_density

# Of the samples a share, and at most so many, are kept to judge the fit by; none of very few.
_HELD, _MOST, _FEW = 0.1, 1000, 50


class SampleTarget(AbstractTarget):
    """A distribution known by samples; made by `from_samples`.

    Attributes:
        base: a target with the same parameters and transforms, and no density.
        samples: unconstrained, those that a fit sees.
        held: those that judge it.
    """

    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    base: AbstractTarget
    samples: Float[Array, "N d"]
    held: Float[Array, "M d"]

    @property
    def has_density(self) -> bool:
        return False

    @property
    def has_full_density(self) -> bool:
        return False

    def draw(self, key: Key[Array, ""], n: int) -> Float[Array, "n d"]:
        """n of the samples, with replacement."""
        return self.samples[jax.random.randint(key, (n,), 0, len(self.samples))]

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        return self.base.constrain(x)

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        return self.base.unconstrain(values)

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.base.log_det(x)

    def pack(self, values: dict[str, Any]) -> Any:
        return self.base.pack(values)

    def unpack(self, values: Any) -> Any:
        return self.base.unpack(values)

    def log_density(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> Float[Array, ""]:
        _no_density()

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        _no_density()

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        return self.samples.mean(axis=0), "the samples' mean"


def _no_density() -> NoReturn:
    raise RitzError(
        "samples have no log density; use an objective of samples, such as "
        "ritz.objective.maximum_likelihood()"
    )


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
    return SampleTarget(base.sites, (), (), base, jnp.asarray(seen), jnp.asarray(held))
