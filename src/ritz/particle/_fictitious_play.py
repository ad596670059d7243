"""Entropic fictitious play: a law mixed with the proximal Gibbs measure of itself."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.particle._finite_sum import as_finite_sum
from ritz.particle._moves import Moves, as_moves, mala
from ritz.solver import AbstractSolver


class GridState(NamedTuple):
    """Where a run on nodes stands.

    Attributes:
        params: masses of the nodes.
        table: features of the nodes at the inputs.
    """

    params: Float[Array, " m"]
    table: Float[Array, "m n"]


class ParticleState(NamedTuple):
    """Where a run with particles stands. The mixture itself is in no list of particles.

    Attributes:
        params: particles of the last Gibbs measure.
        predictions: of the mixture, a number an example, from which the dual one follows.
        square: the mixture's mean of the squared parameter.
    """

    params: Float[Array, "m d"]
    predictions: Float[Array, " n"]
    square: Float[Array, ""]


class FictitiousPlay(AbstractSolver):
    """On nodes; see `fictitious_play`.

    Attributes:
        rate: gamma.
        nodes: of equal cells.
        volume: of a cell.
    """

    guarantees: ClassVar[str] = "the minimum on the nodes, at the rate 1 - gamma"
    rate: Float[Array, ""]
    nodes: Float[Array, "m d"]
    volume: Float[Array, ""]

    def init(self, problem: Any, key: Key[Array, ""]) -> GridState:
        problem = as_finite_sum(problem)
        if self.nodes.shape[1] != problem.dim:
            raise RitzError(
                f"fictitious_play: nodes of {self.nodes.shape[1]} coordinates arrived, but a "
                f"parameter of the problem has {problem.dim}; give an array for each"
            )
        table = jax.vmap(problem.features)(self.nodes)
        none = jnp.zeros(table.shape[1], table.dtype)
        return GridState(problem.gibbs(none, table, self.nodes, self.volume).masses, table)

    def step(
        self, problem: Any, state: GridState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[GridState, dict[str, Array]]:
        masses = state.params
        predictions = masses @ state.table
        duals = problem.duals(predictions)
        gibbs = problem.gibbs(duals, state.table, self.nodes, self.volume)
        tiny = jnp.finfo(masses.dtype).tiny
        log = lambda p: jnp.log(jnp.maximum(p, tiny))
        square = masses @ (self.nodes**2).sum(axis=1)
        entropy = masses @ (log(masses) - jnp.log(self.volume))
        risk = problem.risk(predictions, square)
        # As a divergence the gap loses no digits where primal and dual nearly agree.
        gap = problem.entropy * (
            masses @ (log(masses) - log(gibbs.masses)) + gibbs.masses.sum() - masses.sum()
        )
        info = {
            "loss": risk + problem.entropy * entropy,
            "risk": risk,
            "dual": problem.dual(predictions, gibbs.log_normaliser),
            "gap": gap,
        }
        mixed = masses + self.rate * (gibbs.masses - masses)
        return GridState(mixed, state.table), info


class ParticleFictitiousPlay(AbstractSolver):
    """With particles; see `fictitious_play`.

    Attributes:
        rate: gamma.
        moves: of the chains that sample a Gibbs measure.
        length: how many they make a step.
        particles: how many chains.
    """

    guarantees: ClassVar[str] = "the minimum, up to what the particles' noise hides"
    rate: Float[Array, ""]
    moves: Moves
    length: int = eqx.field(static=True)
    particles: int = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> ParticleState:
        problem = as_finite_sum(problem)
        sd = jnp.sqrt(0.5 * problem.entropy / problem.decay)
        theta = sd * jax.random.normal(key, (self.particles, problem.dim), sd.dtype)
        return ParticleState(theta, *_averages(problem, theta))

    def step(
        self, problem: Any, state: ParticleState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[ParticleState, dict[str, Array]]:
        duals = problem.duals(state.predictions)
        log_gibbs = lambda theta: problem.log_gibbs(theta, duals)
        one = lambda theta, key: self.moves(log_gibbs, theta, key, self.length)
        moved = jax.vmap(one)(state.params, jax.random.split(key, self.particles))
        found, square = _averages(problem, moved.x)
        info = {
            "loss": problem.risk(state.predictions, state.square),
            "gap": problem.bregman(found, state.predictions),
            "acceptance": moved.accepted.mean(),
        }
        mix = lambda old, new: old + self.rate * (new - old)
        mixed = mix(state.predictions, found), mix(state.square, square)
        return ParticleState(moved.x, *mixed), info


def _averages(problem: Any, theta: Array) -> tuple[Array, Array]:
    """Predictions and the mean squared parameter of particles."""
    return jax.vmap(problem.features)(theta).mean(axis=0), (theta**2).sum(axis=1).mean()


def fictitious_play(
    rate: Any = 0.1,
    *,
    nodes: Any = None,
    particles: Any = 1000,
    moves: Any = None,
    length: Any = 20,
) -> Any:
    r"""Minimises a `finite_sum` by mixing a law with the proximal Gibbs measure of itself.

    .. math:: \mu_{k+1} = (1 - \gamma)\,\mu_k + \gamma\,\hat\mu_k, \qquad
        \hat\mu_k(\theta) \propto \exp\Bigl(-\frac1\lambda\Bigl(\frac1n\sum_i
        g_i\,h_\theta(x_i) + \lambda'|\theta|^2\Bigr)\Bigr), \quad
        g_i = \ell_i'\Bigl(\int h_\theta(x_i)\,d\mu_k\Bigr).

    The dual numbers g are all of :math:`\mu_k` that a step needs, and mixing mixes predictions.

    * On nodes each measure is exact. The info has `loss`, :math:`\mathcal L(\mu_k)`, `dual`, a
      lower bound of its minimum, and `gap`, their difference
      :math:`\lambda\,\mathrm{KL}(\mu_k\|\hat\mu_k)`, an upper bound of what is left to gain.
    * With particles, chains at those of :math:`\hat\mu_{k-1}` go on to sample :math:`\hat\mu_k`.
      No particle of an earlier step is kept. The info has `loss`, the risk of the mixture without
      its entropy, and `gap`, an estimate of that of :math:`\hat\mu_k` and the same dual,
      :math:`\frac1n\sum_i \ell_i(z'_i) - \ell_i(z_i) - g_i(z'_i - z_i)` with the predictions z of
      the mixture and z' of the particles; their noise, of order 1/m, is in it.

    The gap falls like :math:`(1 - \gamma)^k` where :math:`\gamma` is small. Nitanda, Oko, Suzuki
    and Wu, "Primal and dual analysis of entropic fictitious play for finite-sum problems", 2023,
    arXiv:2303.02957, algorithm 1; Chen, Ren and Wang, "Entropic fictitious play for mean field
    optimization problem", 2023.

    Args:
        rate: gamma.
        nodes: centres of equal cells that cover what matters, a list of d equally spaced arrays
            whose product they are; None for particles.
        particles: how many.
        moves: of the chains; by default `mala(0.3)`.
        length: how many moves a step.

    Returns:
        a solver for `ritz.solver.run`; its state's `params` are masses of the nodes, or particles.

    Raises:
        RitzError: for a rate outside (0, 1], nodes that are not equally spaced, or sizes below one.

    >>> import jax, jax.numpy as jnp, ritz
    >>> x = jnp.linspace(-1.0, 1.0, 8)
    >>> problem = ritz.particle.finite_sum(
    ...     lambda theta, x: jnp.tanh(theta[0] * x), x, 0.5 * x, dim=1, entropy=0.1, decay=0.1
    ... )
    >>> solver = fictitious_play(0.2, nodes=[jnp.linspace(-6.0, 6.0, 100)])
    >>> done = ritz.solver.run(problem, solver, 60, jax.random.key(0), progress=False)
    >>> gap = done.history.columns["gap"]
    >>> bool(gap[-1] < 1e-3 * gap[0])
    True
    """
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not number or not 0.0 < rate <= 1.0:
        raise RitzError(f"fictitious_play: rate={rate!r} arrived, expected a number in (0, 1]")
    gamma = jnp.asarray(float(rate))
    if nodes is not None:
        return FictitiousPlay(gamma, *_cells(nodes))
    return ParticleFictitiousPlay(
        gamma,
        mala(0.3) if moves is None else as_moves("fictitious_play", moves),
        whole_number("length", length, 1),
        whole_number("particles", particles, 2),
    )


def _cells(nodes: Any) -> tuple[Array, Array]:
    """The product of equally spaced nodes, and the volume of a cell."""
    axes = [np.asarray(axis, float) for axis in nodes] if isinstance(nodes, list | tuple) else []
    if not axes or any(axis.ndim != 1 or len(axis) < 2 for axis in axes):
        raise RitzError(
            "fictitious_play: nodes expects a list of d arrays of two or more equally spaced nodes"
        )
    widths = [np.diff(axis) for axis in axes]
    if any(not (w > 0).all() or np.ptp(w) > 1e-2 * w.mean() for w in widths):
        raise RitzError("fictitious_play: nodes must rise in equal steps; use jnp.linspace")
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    as_float = lambda v: jnp.asarray(v, jnp.result_type(float))
    return as_float(grid), as_float(np.prod([w.mean() for w in widths]))
