"""Controlled Monte Carlo diffusions."""

from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, suggest, whole_number
from ritz.family._mean_field import MeanField, mean_field
from ritz.family._own_density import OwnDensity
from ritz.transport._control import Control, clipped, scale_of
from ritz.transport._diffusion import AbstractDiffusion

CONTROLS = ("both", "backward", "none")
# The log of a step at first, whose noise is a fifth of the scale; half the longest stable one where
# the target at the start is so narrow that it would not be stable.
_FIRST, _STABLE, _POWERS = -3.2, 4.0, 20


class Point(NamedTuple):
    """What differs from point to point of a path.

    Attributes:
        t: the time, from 0 to 1.
        beta: the inverse temperature.
        step: of the step from there.
        before: of the step to there.
    """

    t: Float[Array, "..."]
    beta: Float[Array, "..."]
    step: Float[Array, "..."]
    before: Float[Array, "..."]


class Means(NamedTuple):
    """Means of the steps that leave a point, forward and backward."""

    forward: Float[Array, " d"]
    backward: Float[Array, " d"]


class CMCD(AbstractDiffusion):
    r"""Annealed Langevin steps with a learned control; see `cmcd`.

    Attributes:
        reference: :math:`q_0`.
        control: u; None for none.
        bridges: logits of the increments of the inverse temperatures, a step each.
        log_step: log of the step sizes.
        log_sd: log of the coordinates' scales, in units of the first.
        centre: of the network's standardised positions, not trained.
        scale: of these, not trained.
        kind: which steps the control is in: "both", "backward" or "none".
        width: of the network.
    """

    registered_as: ClassVar[str | None] = "cmcd"
    noise: ClassVar[tuple[str, ...]] = ("log_step", "log_sd")
    reference: MeanField
    control: Any
    bridges: Float[Array, " K"]
    log_step: Float[Array, " K"]
    log_sd: Float[Array, " d"]
    centre: Any
    scale: Any
    density: OwnDensity = eqx.field(static=True)
    kind: Literal["both", "backward", "none"] = eqx.field(static=True)
    width: int = eqx.field(static=True)

    @property
    def options(self) -> dict[str, Any]:
        return {"steps": self.steps, "control": self.kind, "width": self.width}

    @property
    def steps(self) -> int:
        return len(self.bridges)

    @property
    def dim(self) -> int:
        return self.reference.dim

    @property
    def controls(self) -> tuple[str, ...]:
        return ("control",)

    @property
    def betas(self) -> Float[Array, " n"]:
        """The inverse temperatures along a path, from 0 to 1."""
        rising = jnp.cumsum(jax.nn.softmax(self.bridges))
        return jnp.concatenate([jnp.zeros(1, rising.dtype), rising])

    def schedule(self) -> Point:
        step = jnp.exp(self.log_step)
        t = jnp.linspace(0.0, 1.0, self.steps + 1, dtype=step.dtype)
        # The first and last entries stand for steps that no path makes.
        return Point(t, self.betas, jnp.append(step, step[-1]), jnp.concatenate([step[:1], step]))

    def begin(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.reference.sample(key)

    def look(self, at: Point, x: Float[Array, " d"]) -> Means:
        """The means of both steps from a point, of one evaluation of the target's score."""
        sd = self._sd
        target = clipped(sd * jax.grad(self.density)(x))
        own = clipped(sd * jax.grad(self.reference.log_prob)(x))
        drift = 0.5 * ((1.0 - at.beta) * own + at.beta * target)
        push = jnp.zeros_like(x)
        if self.control is not None:
            push = self.control(at.t, (x - self.centre) / self.scale, target - own)
        there = drift + push if self.kind == "both" else drift
        return Means(x + at.step * sd * there, x + at.before * sd * (drift - push))

    def move(
        self, at: Point, x: Float[Array, " d"], seen: Means
    ) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        return seen.forward, jnp.sqrt(at.step) * self._sd

    def log_ratio(
        self,
        at: Point,
        x: Float[Array, " d"],
        seen: Means,
        new: Float[Array, " d"],
        then: Means,
    ) -> Float[Array, ""]:
        sd = jnp.sqrt(at.step) * self._sd
        there, back = (new - seen.forward) / sd, (x - then.backward) / sd
        return 0.5 * (back @ back - there @ there)

    def ends(self, first: Float[Array, " d"], last: Float[Array, " d"]) -> Float[Array, ""]:
        return self.reference.log_prob(first)

    @property
    def _sd(self) -> Float[Array, " d"]:
        return self.scale * jnp.exp(self.log_sd)


def cmcd(
    target: Any,
    start: Float[Array, " d"],
    steps: Any = 64,
    scale: Any = 1.0,
    control: Any = "both",
    width: Any = 64,
) -> CMCD:
    r"""Controlled Monte Carlo diffusion: annealed Langevin steps, and a control that they share.

    Along :math:`\pi_k \propto q_0^{1-\beta_k}\tilde p^{\beta_k}`, with steps :math:`h_k` and a
    scale :math:`\sigma_i` of each coordinate,

    .. math:: x_{k+1} \sim \mathcal{N}\big(x_k
        + h_k\sigma\,(\tfrac12\sigma\nabla\log\pi_k + u_k)(x_k),\ h_k\sigma^2\big), \qquad
        x_k \sim \mathcal{N}\big(x_{k+1}
        + h_k\sigma\,(\tfrac12\sigma\nabla\log\pi_{k+1} - u_{k+1})(x_{k+1}),\ h_k\sigma^2\big).

    The optimal control makes the density at every time :math:`\pi_t` itself. The reference, the
    path :math:`\beta`, steps and scales are trained together with u; `log_variance` trains all but
    steps and scales. At first :math:`h_k` is 0.04, or half the longest stable step of
    :math:`\pi_k` at the start where 0.04 is not stable: where scales differ much, train by the
    bound first, and give `log_variance` the family that came out of it.

    Vargas, Padhy, Blessing and Nüsken 2024, "Transport meets variational inference: controlled
    Monte Carlo diffusions" (section 3, algorithm 1). With `control="none"` it is unadjusted
    annealed Langevin (Thin et al. 2021, "Monte Carlo variational auto-encoders"), with "backward"
    the control is in the backward steps only (Doucet, Grathwohl, Matthews and Strathmann 2022,
    "Score-based diffusion meets annealed importance sampling").

    Args:
        target: the target that it is for.
        start: unconstrained point, the reference's initial mean.
        steps: K.
        scale: initial standard deviation of the reference, and the unit of steps.
        control: "both", "backward" or "none".
        width: of the control's network.

    Returns:
        a `CMCD`.

    Raises:
        RitzError: for a target without log density on all the data, a wrong number, or another
            word.

    >>> import jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    >>> cmcd(target, jnp.zeros(2), steps=8).betas.shape
    (9,)
    """
    whole_number("steps", steps, 2)
    whole_number("width", width, 1)
    number = scale_of("cmcd", scale)
    if control not in CONTROLS:
        raise RitzError(f"cmcd: no control {control!r}; {suggest(str(control), CONTROLS)}")
    density, d = OwnDensity("cmcd", target), start.shape[0]
    betas = jnp.arange(1, int(steps) + 1, dtype=start.dtype) / steps
    stiff = (1.0 - betas) + betas * number**2 * _stiffness(density, start)
    longest = jnp.log(_STABLE / jnp.maximum(stiff, 1e-6))
    first = jnp.where(longest < _FIRST, longest - jnp.log(2.0), _FIRST)
    return CMCD(
        reference=mean_field(target, start, number),
        control=None if control == "none" else Control(d, int(width), jax.random.key(0)),
        bridges=jnp.zeros(int(steps), start.dtype),
        log_step=first.astype(start.dtype),
        log_sd=jnp.zeros(d, start.dtype),
        centre=paramax.NonTrainable(start),
        scale=paramax.NonTrainable(jnp.asarray(number, start.dtype)),
        density=density,
        kind=control,
        width=int(width),
    )


def _stiffness(density: OwnDensity, start: Float[Array, " d"]) -> Float[Array, ""]:
    """The largest curvature of a log density at a point, by powers; zero where it is not finite."""
    slope = jax.grad(density)

    def times(_: Any, v: Float[Array, " d"]) -> Float[Array, " d"]:
        turned = jax.jvp(slope, (start,), (v,))[1]
        return turned / jnp.maximum(jnp.linalg.norm(turned), jnp.finfo(v.dtype).tiny)

    v = jax.random.normal(jax.random.key(0), start.shape, start.dtype)
    v = jax.lax.fori_loop(0, _POWERS, times, v)
    found = jnp.linalg.norm(jax.jvp(slope, (start,), (v,))[1])
    return jnp.where(jnp.isfinite(found), found, 0.0)
