r"""Real values given their means."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.latent._likelihood import AbstractLikelihood

_LOG_2PI = math.log(2.0 * math.pi)


class Gaussian(AbstractLikelihood):
    """See `gaussian`.

    Attributes:
        log_sd: of each value, in units of `scale`; a number where `each` is False.
        shift: what a decoder's zero stands for.
        scale: its unit.
        each: whether every value has its own sd.
        learned: whether sds are trained.
    """

    log_sd: Any
    shift: Any
    scale: Any
    each: bool = eqx.field(static=True)
    learned: bool = eqx.field(static=True)

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        z = ((x - self.shift) / self.scale - out) * jnp.exp(-self.log_sd)
        log_sd = jnp.broadcast_to(self.log_sd + jnp.log(self.scale), x.shape)
        return (-0.5 * z**2 - log_sd - 0.5 * _LOG_2PI).sum()

    def expected_log_prob(
        self, mean: Float[Array, "..."], variance: Float[Array, "..."], x: Float[Array, "..."]
    ) -> Float[Array, ""]:
        spread = variance * jnp.exp(-2.0 * self.log_sd)
        return self.log_prob(mean, x) - 0.5 * spread.sum()

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.shift + self.scale * out

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        noise = jax.random.normal(key, out.shape, out.dtype)
        return self.mean(out + jnp.exp(self.log_sd) * noise)

    def for_data(self, x: np.ndarray) -> "Gaussian":
        shift, scale = self.standard(x)
        fixed = lambda v: paramax.NonTrainable(jnp.asarray(v, float))
        if not self.learned:  # in the data's own units
            log_sd = fixed(
                np.broadcast_to(np.asarray(self.log_sd.tree) - np.log(scale), x[0].shape)
            )
        else:
            log_sd = jnp.zeros(x[0].shape if self.each else ())
        return Gaussian(log_sd, fixed(shift), fixed(scale), self.each, self.learned)

    def standard(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = x.astype(np.float64)
        if not self.each:  # one unit for all: values are alike
            return np.asarray(x.mean()), np.asarray(x.std())
        return x.mean(axis=0), x.std(axis=0)

    def check(self, x: np.ndarray) -> None:
        if not self.each:
            if x.std() == 0:
                raise RitzError("gaussian: all values are equal; there is nothing to learn")
            return
        same = np.flatnonzero((x.reshape(len(x), -1) == x.reshape(len(x), -1)[0]).all(axis=0))
        if same.size:
            raise RitzError(
                f"gaussian: {same.size} column{'s' * (same.size > 1)} of the data have one value "
                f"only (the first is column {same[0]}); leave them out, or use gaussian(each=False)"
            )


def gaussian(sd: Any = None, *, each: Any = True) -> Gaussian:
    r"""Real values, :math:`x \sim \mathcal{N}(c + s\,\eta,\ s^2\sigma^2)`.

    c and s are the means and sds of the training data, so that columns of any units are alike to
    networks, and densities are in the data's own units.

    Args:
        sd: in the data's units, fixed; None for :math:`\sigma` that is learned.
        each: whether every value has its own c, s and :math:`\sigma` (columns of a table), or all
            have one (pixels).

    Raises:
        RitzError: for an sd that is not positive.

    >>> gaussian(0.1).learned
    False
    """
    if sd is not None and not (isinstance(sd, int | float) and not isinstance(sd, bool) and sd > 0):
        raise RitzError(f"gaussian: sd={sd!r} arrived, expected a positive number or None")
    if not isinstance(each, bool):
        raise RitzError(f"gaussian: each={each!r} arrived, expected True or False")
    log_sd = jnp.zeros(()) if sd is None else paramax.NonTrainable(jnp.log(jnp.asarray(float(sd))))
    one = lambda v: paramax.NonTrainable(jnp.asarray(v))
    return Gaussian(log_sd, one(0.0), one(1.0), each, sd is None)
