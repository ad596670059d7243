"""A general bridge: a learned drift forward, and another one backward."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import whole_number
from ritz.family._mean_field import MeanField, mean_field
from ritz.family._own_density import OwnDensity
from ritz.transport._control import Control, clipped, scale_of
from ritz.transport._diffusion import AbstractDiffusion


class Drifts(NamedTuple):
    """Means of the steps that leave a point, forward and backward."""

    forward: Float[Array, " d"]
    backward: Float[Array, " d"]


class Bridge(AbstractDiffusion):
    """Two learned drifts between a Gaussian and the target; see `bridge`.

    Attributes:
        reference: where paths begin.
        forward: u.
        backward: v.
        centre: c, not trained.
        scale: sigma, not trained.
        width: of the networks.
    """

    registered_as: ClassVar[str | None] = "bridge"
    reference: MeanField
    forward: Any
    backward: Any
    centre: Any
    scale: Any
    density: OwnDensity = eqx.field(static=True)
    count: int = eqx.field(static=True)
    width: int = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        return {"steps": self.count, "width": self.width}

    @property
    def steps(self) -> int:
        return self.count

    @property
    def dim(self) -> int:
        return self.reference.dim

    @property
    def controls(self) -> tuple[str, ...]:
        return ("forward", "backward")

    def schedule(self) -> Float[Array, " n"]:
        return jnp.linspace(0.0, 1.0, self.count + 1, dtype=self.reference.loc.dtype)

    def begin(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.reference.sample(key)

    def look(self, at: Float[Array, ""], x: Float[Array, " d"]) -> Drifts:
        z = (x - self.centre) / self.scale
        score = clipped(self.scale * jax.grad(self.density)(x)) + z
        step = self.scale / self.count
        drift = lambda control: x + step * control(at, z, score)
        return Drifts(drift(self.forward), drift(self.backward))

    def move(
        self, at: Float[Array, ""], x: Float[Array, " d"], seen: Drifts
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        return seen.forward, jnp.full_like(x, self._sd)

    def log_ratio(
        self,
        at: Float[Array, ""],
        x: Float[Array, " d"],
        seen: Drifts,
        new: Float[Array, " d"],
        then: Drifts,
    ) -> Float[Array, ""]:
        return two_kernels(x, seen.forward, new, then.backward, self._sd)

    def ends(self, first: Float[Array, " d"], last: Float[Array, " d"]) -> Float[Array, ""]:
        return self.reference.log_prob(first)

    @property
    def _sd(self) -> Float[Array, ""]:
        return self.scale / self.count**0.5


def two_kernels(
    x: Float[Array, " d"],
    forward: Float[Array, " d"],
    new: Float[Array, " d"],
    backward: Float[Array, " d"],
    sd: Any,
) -> Float[Array, ""]:
    """Log density of a Gaussian step forward less that of one backward, with the same noise."""
    there, back = (new - forward) / sd, (x - backward) / sd
    return 0.5 * (back @ back - there @ there)


def bridge(
    target: Any,
    start: Float[Array, " d"],
    steps: Any = 64,
    scale: Any = 1.0,
    width: Any = 64,
) -> Bridge:
    r"""A general bridge between a Gaussian and the target, with two learned drifts.

    .. math:: x_{k+1} \sim \mathcal{N}(x_k + \tfrac{\sigma}{K} u(t_k, x_k), \tfrac{\sigma^2}{K}),
        \qquad
        x_k \sim \mathcal{N}(x_{k+1} + \tfrac{\sigma}{K} v(t_{k+1}, x_{k+1}), \tfrac{\sigma^2}{K}).

    Many pairs of drifts are optimal: any path of densities between the two ends has one. Richter
    and Berner 2024, "Improved sampling via learned diffusions" (section 2, equation 8); Chen, Liu
    and Theodorou 2022. Its Gaussian is trained too. See `dis`, `pis` and `cmcd` for the samplers
    that tie the two.

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        steps: K.
        scale: sigma, and the initial standard deviation of the Gaussian.
        width: of the networks.

    Returns:
        a `Bridge`.

    Raises:
        RitzError: for a target without log density on all the data, or a wrong number.

    >>> import jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    >>> bridge(target, jnp.zeros(2), steps=8).steps
    8
    """
    whole_number("steps", steps, 2)
    whole_number("width", width, 1)
    number = scale_of("bridge", scale)
    there, back = jax.random.split(jax.random.key(0))
    network = lambda key: Control(start.shape[0], int(width), key)
    return Bridge(
        reference=mean_field(target, start, number),
        forward=network(there),
        backward=network(back),
        centre=paramax.NonTrainable(start),
        scale=paramax.NonTrainable(jnp.asarray(number, start.dtype)),
        density=OwnDensity("bridge", target),
        count=int(steps),
        width=int(width),
    )
