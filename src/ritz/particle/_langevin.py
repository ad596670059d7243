"""Langevin dynamics of many particles at once: of a posterior, or of a functional of their law."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.particle._frame import Frame, as_metric, frame_of, scores_at
from ritz.solver import AbstractSolver, check_moves


class LangevinState(NamedTuple):
    """Where the particles stand.

    Attributes:
        params: the cloud.
        frame: the coordinates in which it moves.
        velocity: in these; None where there is none.
        kept: snapshots, the newest over the oldest.
        made: steps.
        cost: gradients so far.
    """

    params: PyTree
    frame: Frame
    velocity: Float[Array, "n d"] | None
    kept: Float[Array, "m n d"]
    made: Int[Array, ""]
    cost: Float[Array, ""]


class Langevin(AbstractSolver):
    """See `langevin` and `mean_field_langevin`.

    Attributes:
        step_size: h.
        temperature: what multiplies the entropy.
        friction: gamma; None for overdamped dynamics.
        metric: see `svgd`.
        keep: snapshots that make the answer.
        every: steps between these.
        of_law: whether the force is that of the objective, a functional of the cloud.
    """

    families: ClassVar[tuple[str, ...]] = ("particles",)
    guarantees: ClassVar[str] = "the stationary law of the discretised dynamics, near the target's"
    steps: ClassVar[int] = 2_000
    step_size: Float[Array, ""]
    temperature: Float[Array, ""]
    friction: Float[Array, ""] | None
    metric: Any
    keep: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    of_law: bool = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The gradient of the functional, or that of the log density."""
        return frozenset({"grad"}) if self.of_law else frozenset({"score_at"})

    def init(self, problem: Any, key: Key[Array, ""]) -> LangevinState:
        check_moves(self, problem)
        if self.of_law:
            d, dtype = problem.family.points.shape[1], problem.family.points.dtype
            cloud, cost = problem.family, jnp.zeros((), dtype)
            frame = Frame(jnp.zeros(d, dtype), None, None)
        else:
            cloud, frame, cost = frame_of(problem, self.metric, key)
        x = cloud.points
        velocity = None if self.friction is None else jnp.zeros_like(x)
        params = jax.tree.map(lambda _: x, problem.params)
        kept = jnp.broadcast_to(x, (self.keep, *x.shape)) + 0.0
        return LangevinState(params, frame, velocity, kept, jnp.zeros((), jnp.int32), cost)

    def step(
        self, problem: Any, state: LangevinState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[LangevinState, dict[str, Array]]:
        data, noise = jax.random.split(key)
        force, info = self.force(problem, state, data, batch)
        z = state.frame.whiten(state.params.points)
        h, heat = self.step_size.astype(z.dtype), self.temperature.astype(z.dtype)
        if self.friction is None:
            root = jnp.sqrt(2.0 * h * heat)
            z = z + h * force + root * jax.random.normal(noise, z.shape, z.dtype)
            velocity = None
        else:
            z, velocity = kinetic(
                z, state.velocity, force, h, self.friction.astype(z.dtype), heat, noise
            )
        x = state.frame.colour(z)
        made = state.made + 1
        place = (made // self.every) % self.keep
        kept = jnp.where(made % self.every == 0, state.kept.at[place].set(x), state.kept)
        params = jax.tree.map(lambda _: x, state.params)
        cost = state.cost + jnp.asarray(len(x), state.cost.dtype)
        return LangevinState(params, state.frame, velocity, kept, made, cost), info

    def force(
        self, problem: Any, state: LangevinState, key: Key[Array, ""], batch: Any
    ) -> tuple[Float[Array, "n d"], dict[str, Array]]:
        """What drives each particle, in the coordinates of the frame."""
        if self.of_law:
            slope, info = problem.grad(state.params, key, batch)
            return -len(slope.points) * slope.points, info
        values, scores = scores_at(problem, state.params.points, key, batch)
        return state.frame.pull(scores), {"loss": -values.mean()}

    def evaluations(self, problem: Any, state: LangevinState, steps: int) -> float | None:
        return float(state.cost)

    def answer(self, state: LangevinState) -> PyTree:
        made = int(state.made) // self.every
        if self.keep == 1 or made == 0:
            return state.params
        points = state.kept[: min(made + 1, self.keep)] if made < self.keep else state.kept
        if made < self.keep:
            points = points[1:]  # the first place still holds where they started
        return jax.tree.map(lambda _: points.reshape(-1, points.shape[-1]), state.params)


def kinetic(
    x: Float[Array, "n d"],
    v: Any,
    force: Float[Array, "n d"],
    h: Float[Array, ""],
    friction: Float[Array, ""],
    heat: Float[Array, ""],
    key: Key[Array, ""],
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    r"""Underdamped dynamics over a step h, exact for a force that stays as it is.

    .. math:: dx = v\,dt, \qquad dv = (f - \gamma v)\,dt + \sqrt{2\gamma\lambda}\,dW.

    Cheng, Chatterji, Bartlett and Jordan, "Underdamped Langevin MCMC", 2018, appendix A.
    """
    decay = jnp.exp(-friction * h)
    lost = -jnp.expm1(-friction * h)
    reach = lost / friction
    mean_v = decay * v + reach * force
    mean_x = x + reach * v + (h - reach) / friction * force
    var_v = heat * -jnp.expm1(-2.0 * friction * h)
    both = heat / friction * lost**2
    t = friction * h
    # The sum cancels for small t, where its series is exact.
    series = t**3 * (1.0 / 3.0 - t / 4.0 + 7.0 * t**2 / 60.0 - t**3 / 24.0)
    whole = t - 2.0 * lost - 0.5 * jnp.expm1(-2.0 * t)
    var_x = 2.0 * heat / friction**2 * jnp.where(t < 0.1, series, whole)
    one, two = jax.random.normal(key, (2, *x.shape), x.dtype)
    root_v = jnp.sqrt(var_v)
    # Where heat is zero there is nothing to divide by.
    share = jnp.where(var_v > 0, both / jnp.where(var_v > 0, root_v, 1.0), 0.0)
    rest = jnp.sqrt(jnp.maximum(var_x - share**2, 0.0))
    return mean_x + share * one + rest * two, mean_v + root_v * one


def positive(name: str, what: str, value: Any) -> Float[Array, ""]:
    """A positive number, as an array, so that another one compiles nothing.

    Raises:
        RitzError: for what is none.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0.0 < value < float("inf"):
        raise RitzError(f"{name}: {what}={value!r} arrived, expected a positive number")
    return jnp.asarray(float(value))


def langevin(
    step_size: Any = 0.05,
    *,
    friction: Any = None,
    metric: Any = "auto",
    keep: Any = 20,
    every: Any = 25,
) -> Langevin:
    r"""Unadjusted Langevin dynamics of each particle, in parallel.

    .. math:: z \leftarrow z + h\,\nabla\log\tilde p(z) + \sqrt{2h}\,\xi,

    in coordinates whitened as those of `svgd`; with batches of data, stochastic gradient Langevin
    dynamics (Welling and Teh 2011). With a friction, the kinetic dynamics of positions and
    velocities, exact over a step for a constant force (Cheng et al. 2018); with batches,
    stochastic gradient Hamiltonian Monte Carlo. Nothing corrects the step's error: on a standard
    normal target the overdamped variance is :math:`1/(1 - h/2)`.

    The answer is a cloud of `keep` snapshots, `every` so many steps, the last of them at the end.

    Args:
        step_size: h, in units of the whitened coordinates.
        friction: gamma; None for overdamped dynamics.
        metric: see `svgd`.
        keep: snapshots.
        every: steps between them.

    Raises:
        RitzError: for a number that is not positive.

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * ((x - 3.0) ** 2).sum(), jnp.zeros(2))
    >>> family = ritz.particle.particles(100)
    >>> fit = ritz.fit(target, family=family, solver=langevin(), progress=False)
    >>> fit.q.points.shape, bool(abs(fit.mean() - 3.0).max() < 0.2)
    ((2000, 2), True)
    """
    whole_number("keep", keep, 1)
    whole_number("every", every, 1)
    return Langevin(
        positive("langevin", "step_size", step_size),
        jnp.asarray(1.0),
        None if friction is None else positive("langevin", "friction", friction),
        as_metric("langevin", metric),
        int(keep),
        int(every),
        False,
    )


def mean_field_langevin(
    step_size: Any = 0.01, temperature: Any = 1e-3, *, friction: Any = None
) -> Langevin:
    r"""Noisy gradient descent of a functional of the particles' law.

    Minimises :math:`F(\mu) + \lambda \int \log\mu\,d\mu`, where F is the objective of the fit, a
    function of the cloud (`functional`, `stein_discrepancy`): each particle is driven by

    .. math:: -\nabla\frac{\delta F}{\delta\mu}(\mu, x_i) = -n\,\nabla_{x_i} F\Bigl(\tfrac1n
        \sum_j\delta_{x_j}\Bigr).

    With a friction, the kinetic dynamics, the force held over a step: Fu and Wilson, "Mean-field
    underdamped Langevin dynamics and its spacetime discretization", 2024 (equation 8), which
    reaches a loss in fewer gradients.

    Args:
        step_size: h.
        temperature: lambda; 0 for gradient descent.
        friction: gamma; None for overdamped dynamics.

    Raises:
        RitzError: for numbers that are not positive.

    >>> import jax.numpy as jnp, ritz
    >>> to_one = ritz.particle.functional(lambda x: ((x.mean(axis=0) - 1.0) ** 2).sum())
    >>> flat = ritz.target.from_log_density(lambda x: 0.0 * x.sum(), jnp.zeros(2))
    >>> fit = ritz.fit(flat, family=ritz.particle.particles(50, spread=1.0), objective=to_one,
    ...     solver=mean_field_langevin(0.05), steps=500, progress=False)
    >>> bool(abs(fit.q.points.mean(axis=0) - 1.0).max() < 0.1)
    True
    """
    name = "mean_field_langevin"
    heat = jnp.asarray(0.0) if temperature == 0 else positive(name, "temperature", temperature)
    slow = None if friction is None else positive(name, "friction", friction)
    return Langevin(positive(name, "step_size", step_size), heat, slow, None, 1, 1, True)
