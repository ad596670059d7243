"""What interpolants are made of: networks of a point and a time, and where paths begin."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, described
from ritz.family import AbstractFamily
from ritz.transport._paths import Path

_FREQUENCIES = (1.0, 2.0)


class Field(eqx.Module):
    """A network of a point and a time, in coordinates of unit variance.

    Attributes:
        network: of the point and functions of the time.
        centre: of the points.
        scale: of the points.
        unit: of the values.
    """

    network: eqx.nn.MLP
    centre: Any
    scale: Any
    unit: Any

    def __call__(self, x: Float[Array, " d"], times: Float[Array, " k"]) -> Float[Array, " d"]:
        z = (x - self.centre) / self.scale
        return self.unit * self.network(jnp.concatenate([z, times]))


class StandardNormal(AbstractFamily):
    """The usual base; nothing of it is trained."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob"})
    size: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.size

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jax.random.normal(key, (self.size,))

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return jax.scipy.stats.norm.logpdf(x).sum()


class Drawn(AbstractFamily):
    """A base that is known by samples."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample"})
    samples: Any

    @property
    def dim(self) -> int:
        return paramax.unwrap(self.samples).shape[1]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        x = paramax.unwrap(self.samples)
        return x[jax.random.randint(key, (), 0, len(x))]


def times_of(path: Path, t: Array) -> Float[Array, " k"]:
    """What the networks see of a time: it, the path's coefficients, and waves."""
    angle = jnp.pi * t * jnp.asarray(_FREQUENCIES, t.dtype)
    return jnp.concatenate([jnp.stack([t, *path.at(t)]), jnp.cos(angle), jnp.sin(angle)])


def samples_base(base: Any) -> Drawn:
    values = np.asarray(base) if hasattr(base, "__len__") else np.zeros(())
    if values.ndim != 2 or len(values) < 2 or values.dtype.kind not in "fiu":
        raise RitzError(
            f"interpolant: base: {described(base)} arrived, expected samples of shape (N, d), a "
            "family, or None for the standard normal"
        )
    if not np.isfinite(values).all():
        raise RitzError("interpolant: the base's samples hold values that are not finite numbers")
    return Drawn(paramax.NonTrainable(jnp.asarray(values, jnp.result_type(float))))


def check_diffusion(diffusion: Any) -> None:
    """Refuse what is neither a number from 0 up nor a function of time."""
    if callable(diffusion) or isinstance(diffusion, jax.Array):
        return
    if isinstance(diffusion, bool) or not isinstance(diffusion, int | float) or not diffusion >= 0:
        raise RitzError(
            f"diffusion: {described(diffusion)} arrived, expected a number from 0 up, or a "
            "function of time"
        )
