"""A general bridge: a learned drift forward, and another one backward."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ritz.family._own_density import OwnDensity
from ritz.transport._control import Control
from ritz.transport._controlled import AbstractControlled, Step, begin_normal, parts
from ritz.transport._dis import noising


class Drifts(NamedTuple):
    """Controls of the steps that leave a point, forward and backward."""

    forward: Float[Array, " d"]
    backward: Float[Array, " d"]


class Bridge(AbstractControlled):
    """Two learned drifts between a Gaussian and the target; see `bridge`.

    Attributes:
        backward: v.
    """

    registered_as: ClassVar[str | None] = "bridge"
    control: Any
    backward: Any
    centre: Any
    scale: Any
    grid: Any
    density: OwnDensity = eqx.field(static=True)
    width: int = eqx.field(static=True)

    @property
    def controls(self) -> tuple[str, ...]:
        return ("control", "backward")

    def begin(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return begin_normal(self.centre, self.scale, key)

    def look(self, at: Step, x: Float[Array, " d"]) -> Drifts:
        seen = self.standard(x)
        return Drifts(self.control(at.t, *seen), self.backward(at.t, *seen))

    def move(
        self, at: Step, x: Float[Array, " d"], seen: Drifts
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        return super().move(at, x, seen.forward)

    def log_ratio(
        self, at: Step, x: Float[Array, " d"], seen: Drifts, new: Float[Array, " d"], then: Drifts
    ) -> Float[Array, ""]:
        """The reference is reversible: its steps backward are those forward."""
        there = self.against_reference(at, x, seen.forward, new)
        return there - self.against_reference(at, new, then.backward, x)


def bridge(
    target: Any,
    start: Float[Array, " d"],
    steps: Any = 64,
    scale: Any = 1.0,
    width: Any = 64,
) -> Bridge:
    r"""A general bridge between a Gaussian and the target, with two learned drifts.

    On :math:`z = (x - c)/\sigma`, with the steps of `dis`,

    .. math:: z_{k+1} \sim \mathcal{N}(\sqrt{1-\alpha_k}\,z_k + \alpha_k u(t_k, z_k), \alpha_k),
        \qquad
        z_k \sim \mathcal{N}(\sqrt{1-\alpha_k}\,z_{k+1} + \alpha_k v(t_{k+1}, z_{k+1}), \alpha_k).

    With v = 0 it is `dis`. Many pairs of drifts are optimal: any path of densities between the two
    ends has one. Richter and Berner 2024, "Improved sampling via learned diffusions" (section 2,
    equation 8); Chen, Liu and Theodorou 2022, "Likelihood training of Schrödinger bridge". See
    `dis`, `pis` and `cmcd` for the samplers that tie the two.

    Args:
        target: the target that it is for.
        start: unconstrained point, c.
        steps: K.
        scale: sigma; the reference is to reach wherever the target has mass.
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
    own = parts("bridge", target, start, steps, scale, width)
    back = Control(start.shape[0], int(width), jax.random.key(1))
    return Bridge(backward=back, grid=noising(int(steps), start.dtype), **own)
