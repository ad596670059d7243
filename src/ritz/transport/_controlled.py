"""A Gaussian reference process with a learned drift: what PIS and DIS have in common."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import whole_number
from ritz.family._mean_field import LOG_2PI
from ritz.family._own_density import OwnDensity
from ritz.transport._control import Control, clipped, scale_of
from ritz.transport._diffusion import AbstractDiffusion


class Step(NamedTuple):
    """A step of the reference process, on standardised positions.

    Attributes:
        t: the time at its start, from 0 to 1.
        keep: what the position is multiplied by.
        sd: of the noise.
    """

    t: Float[Array, "..."]
    keep: Float[Array, "..."]
    sd: Float[Array, "..."]


class AbstractControlled(AbstractDiffusion):
    r"""Steps of a reference process whose end is standard normal, shifted by a control.

    On :math:`z = (x - c)/\sigma`,

    .. math:: z_{k+1} = a_k z_k + s_k^2 u(t_k, z_k) + s_k \varepsilon_k, \qquad
        \log\hat q = \log\mathcal{N}(x_K \mid c, \sigma^2)
        + \sum_k s_k u_k^\top\varepsilon_k + \tfrac12 s_k^2 \|u_k\|^2.

    With u = 0 it is the reference, reversed: the backward steps are the reference's own.

    Attributes:
        control: u.
        centre: c, which is not trained: paths from another point would be other paths.
        scale: sigma, a number, not trained either.
        grid: the steps of the reference, not trained.
        width: of the networks.
    """

    control: eqx.AbstractVar[Any]
    centre: eqx.AbstractVar[Any]
    scale: eqx.AbstractVar[Any]
    grid: eqx.AbstractVar[Any]
    width: eqx.AbstractVar[int]

    @property
    def options(self) -> dict[str, Any]:
        return {"steps": self.steps, "width": self.width}

    @property
    def steps(self) -> int:
        return len(paramax.unwrap(self.grid).t) - 1

    @property
    def dim(self) -> int:
        return paramax.unwrap(self.centre).shape[0]

    @property
    def controls(self) -> tuple[str, ...]:
        return ("control",)

    def schedule(self) -> Step:
        return self.grid

    def look(self, at: Step, x: Float[Array, " d"]) -> Any:
        """The control at a point."""
        return self.control(at.t, *self.standard(x))

    def standard(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """A position and the score there, in units of the scale.

        The score is that against the reference's end, which the best control is at t = 1.
        """
        z = (x - self.centre) / self.scale
        return z, clipped(self.scale * jax.grad(self.density)(x)) + z

    def move(
        self, at: Step, x: Float[Array, " d"], seen: Any
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        shift = self.scale * at.sd**2 * seen
        return self._alone(at, x) + shift, jnp.full_like(x, self.scale * at.sd)

    def log_ratio(
        self, at: Step, x: Float[Array, " d"], seen: Any, new: Float[Array, " d"], then: Any
    ) -> Float[Array, ""]:
        return self.against_reference(at, x, seen, new)

    def against_reference(
        self, at: Step, x: Float[Array, " d"], control: Float[Array, " d"], new: Float[Array, " d"]
    ) -> Float[Array, ""]:
        """Log density of a controlled step less that of the reference's."""
        moved = (new - self._alone(at, x)) / (self.scale * at.sd)
        push = at.sd * control
        return push @ moved - 0.5 * (push @ push)

    def ends(self, first: Float[Array, " d"], last: Float[Array, " d"]) -> Float[Array, ""]:
        z = (last - self.centre) / self.scale
        return -0.5 * (z @ z) - len(z) * (jnp.log(self.scale) + 0.5 * LOG_2PI)

    def _alone(self, at: Step, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The mean of the reference's step."""
        return self.centre + at.keep * (x - self.centre)


def parts(
    name: str, target: Any, start: Float[Array, " d"], steps: Any, scale: Any, width: Any
) -> dict[str, Any]:
    """The fields that a builder fills alike, but for the grid."""
    whole_number("steps", steps, 2)
    whole_number("width", width, 1)
    number = scale_of(name, scale)
    return {
        "control": Control(start.shape[0], int(width), jax.random.key(0)),
        "centre": paramax.NonTrainable(start),
        "scale": paramax.NonTrainable(jnp.asarray(number, start.dtype)),
        "density": OwnDensity(name, target),
        "width": int(width),
    }


def grid_of(t: np.ndarray, keep: np.ndarray, sd: np.ndarray, dtype: Any) -> Any:
    """A grid of K steps, with a last row for the end of the path, from which none goes."""
    end = lambda v, last: jnp.asarray(np.append(v, last), dtype)
    return paramax.NonTrainable(Step(jnp.asarray(t, dtype), end(keep, 1.0), end(sd, 1.0)))


def begin_normal(
    centre: Float[Array, " d"], scale: Float[Array, ""], key: Key[Array, ""]
) -> Float[Array, " d"]:
    """A draw of the reference where it is stationary."""
    return centre + scale * jax.random.normal(key, centre.shape, centre.dtype)
