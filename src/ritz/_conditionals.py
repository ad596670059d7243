"""Gaussians of all other coordinates, given those that the curvature changes with."""

import heapq
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ritz._compile import compile
from ritz._lattice import Lattice, Part, conditional, moments, root_of
from ritz.estimator import pathwise
from ritz.family import FullRank, Mixture
from ritz.objective import Problem, negative_elbo
from ritz.solver import natural_gradient
from ritz.solver._gaussian import full_rank_of
from ritz.solver._side_by_side import side_by_side

# Pairs of points by which coordinates are judged.
_PAIRS = 64
# By how much the curvature must change, in its own units, with a step of one sd.
_LEAST_CHANGE = 0.7
# Between neighbours of a lattice in as many coordinates, in sds of the Gaussian.
_SPACING = {1: 0.5, 2: 1.0}
# The lattice ends where the density has fallen by as many nats.
_FALLEN = 5.0
# Where it is full before, with more to come above as many nats below the best, it is made coarser,
# so often at most.
_CUT, _DOUBLINGS = 4.0, 3
# Components at most, though as many as the latter, and entries of all their covariances.
_COMPONENTS, _ENTRIES, _FEWEST = 150, 1 << 25, 16
# Of a run at a lattice point, which starts from where its neighbour ended.
_STEPS, _GAIN = 12, 0.05
# What is left to the proposal that there was.
_EARLIER = 0.1


class Conditionals(NamedTuple):
    """What was found.

    Attributes:
        q: the mixture; None where there is none.
        evaluations: gradients it took, also where there is none.
        coordinates: those that are given, of the largest mode.
    """

    q: Mixture | None
    evaluations: float
    coordinates: list[int]


class Given(Problem):
    """The problem of all coordinates but a few, which are held at their values.

    Attributes:
        point: the whole vector.
        free: which of its entries the family is of.
    """

    point: Float[Array, " D"]
    free: Int[Array, " d"]

    def score_at(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> tuple[Float[Array, ""], Float[Array, " d"]]:
        value, score = super().score_at(self.point.at[self.free].set(x), key, batch)
        return value, score[self.free]


def conditionals(
    proposal: Mixture, modes: list[FullRank], target: Any, rng: Any, afford: Callable[..., bool]
) -> Conditionals:
    r"""A mixture of Gaussians that follow how a posterior's shape changes along a few coordinates.

    Where x splits into :math:`\theta` of one or two coordinates and the rest z, and z given
    :math:`\theta` is near to Gaussian, as in latent Gaussian models, no single Gaussian is near to
    the whole, but

    .. math:: q(\theta, z) = \sum_j w_j\, \mathcal{N}(\theta; \theta_j, S)\,
        \mathcal{N}(z; m_j + B_j(\theta - \theta_j), \Sigma_j), \qquad
        \log w_j = \mathbb{E}_{q_j}[\log\tilde p(\theta_j, z)] + \mathbb{H}[q_j]

    is: :math:`q_j = \mathcal{N}(m_j, \Sigma_j)` is the best Gaussian for z given
    :math:`\theta_j`, by natural gradient, and
    :math:`B_j = \Sigma_j\,\mathbb{E}_{q_j}\partial_z\partial_\theta\log\tilde p` how its mean
    moves. The :math:`\theta_j` are a lattice in the units of the mode's Gaussian, filled from its
    mean outwards until w has fallen by five nats; a coarser one where that takes too many.

    :math:`\theta` are the coordinates along whose regression line the Hessian of
    :math:`\log\tilde p` changes most: for v of the Gaussian's covariance, the rms of
    :math:`\partial_\theta (v^\top \nabla^2\log\tilde p\,v)`, from gradients at the mean and at it
    plus and minus v. The second is judged given the first.

    Args:
        proposal: what there is, which keeps a tenth of the draws.
        modes: a Gaussian each, the largest first.
        target: what to approximate, of continuous coordinates only.
        rng: of NumPy.
        afford: whether as many more gradients may be taken.

    Returns:
        the mixture; there is none where the curvature hardly changes, where no lattice holds the
        mass, and where the gradients cannot be afforded.

    Rue, Martino and Chopin, "Approximate Bayesian inference for latent Gaussian models by using
    integrated nested Laplace approximations", 2009 (sections 3.1 and 3.2), with the Gaussian of
    variational inference instead of Laplace's, as van Niekerk and Rue, "Low-rank variational Bayes
    correction to the Laplace method", 2024, correct the latter.
    """
    lattices: list[Lattice] = []
    cost, room = 0.0, min(_COMPONENTS, max(_FEWEST, _ENTRIES // target.dim**2))
    for mode in modes:
        if any(lattice.covers(mode) for lattice in lattices):
            continue
        given, looked = _coordinates(target, mode, rng, afford)
        lattice, spent = _filled(target, mode, given, room, afford) if given else (None, 0.0)
        cost, room = cost + looked + spent, room - (0 if lattice is None else len(lattice.done))
        if lattice is None:
            return Conditionals(None, cost, given)
        lattices.append(lattice)
    parts = [part for lattice in lattices for part in lattice.components(proposal.logits.dtype)]
    mass = np.array([value for value, _ in parts])
    logits = np.concatenate(
        [
            np.log(_EARLIER) + np.asarray(jax.nn.log_softmax(proposal.logits), float),
            np.log1p(-_EARLIER) + mass - np.logaddexp.reduce(mass),
        ]
    )
    gaussians = [gaussian for _, gaussian in parts]
    stacked = jax.tree.map(
        lambda old, *new: jnp.concatenate([old, jnp.stack(new)]), proposal.parts, *gaussians
    )
    q = Mixture(jnp.asarray(logits, proposal.logits.dtype), stacked, proposal.of)
    return Conditionals(q, cost, [int(k) for k in lattices[0].at])


def _coordinates(
    target: Any, q: FullRank, rng: Any, afford: Callable[..., bool]
) -> tuple[list[int], float]:
    """Up to two coordinates that the curvature changes with, and gradients it took to see."""
    mean, cov = moments(q)
    given: list[int] = []
    looked = 0.0
    while len(given) < min(2, len(mean) - 1) and afford(2.0 * _PAIRS):
        free = np.setdiff1d(np.arange(len(mean)), given)
        inner = conditional(cov, free, np.array(given, int))
        z = rng.normal(size=(_PAIRS, len(free))) @ root_of(inner).T
        v = np.zeros((_PAIRS, len(mean)))
        v[:, free] = z
        points = np.concatenate([mean + v, mean - v, mean[None]])
        scores = _gradients(target, points)[:, free]
        looked += len(points)
        with np.errstate(invalid="ignore"):
            change = scores[:_PAIRS] + scores[_PAIRS:-1] - 2.0 * scores[-1]
        change = change[np.isfinite(change).all(axis=1)]
        if len(change) < _PAIRS // 2:
            break
        along = change @ inner / np.sqrt(np.diag(inner))
        size = np.sqrt((along**2).mean(axis=0))
        if not size.max() >= _LEAST_CHANGE:
            break
        given.append(int(free[np.argmax(size)]))
    return given, looked


def _gradients(target: Any, points: np.ndarray) -> np.ndarray:
    at = lambda target, points: _each(jax.grad(target.log_density), points, target)
    with np.errstate(over="ignore"):  # where nothing holds a Gaussian back
        args = (target, jnp.asarray(points))
    return np.asarray(compile(at, *args, quick=True)(*args), float)


def _each(of: Callable[..., Any], points: Any, target: Any) -> Any:
    """Of many points, side by side where the target's data are few enough."""
    return jax.lax.map(of, points, batch_size=side_by_side(of, points, target))


def _filled(
    target: Any, q: FullRank, given: list[int], most: int, afford: Callable[..., bool]
) -> tuple[Lattice | None, float]:
    """A lattice around the mean, and gradients it took; None where it does not hold the mass."""
    at, free = np.array(given), np.setdiff1d(np.arange(q.dim), given)
    loc, cov = moments(q)
    block = cov[np.ix_(at, at)]
    slope = np.linalg.solve(block, cov[np.ix_(at, free)]).T
    start = Part(0.0, loc[free], root_of(conditional(cov, free, at)), slope)
    cost, program = 0.0, None
    for spacing in _SPACING[len(at)] * 2.0 ** np.arange(_DOUBLINGS + 1):
        lattice = Lattice(at, free, loc[at], spacing * root_of(block), {})
        # The next is beside the one of largest value, so that what is left out is the least.
        waiting: list[tuple[float, tuple[int, ...], Part]] = [(0.0, (0,) * len(at), start)]
        met, best = {waiting[0][1]}, -np.inf
        while waiting and len(lattice.done) < most and -waiting[0][0] > best - _FALLEN:
            # Most take four steps or so.
            if not afford(8.0 * len(free)):
                return None, cost
            _, node, part = heapq.heappop(waiting)
            args = _arguments(target, lattice.theta(node), at, free, part)
            program = compile(_run, *args) if program is None else program
            lattice.done[node], spent = here, spent = _solved(program(*args), len(free))
            cost, best = cost + spent, max(best, here.value)
            for move in (*np.eye(len(at), dtype=int), *-np.eye(len(at), dtype=int)):
                there = tuple(int(i) for i in np.add(node, move))
                if there not in met and np.isfinite(here.value):
                    met.add(there)
                    moved = here.mean + here.slope @ (lattice.step @ move)
                    heapq.heappush(waiting, (-here.value, there, here._replace(mean=moved)))
        if not np.isfinite(best):
            break
        if not waiting or -waiting[0][0] <= best - _CUT:
            return lattice, cost
    return None, cost


def _arguments(
    target: Any, theta: np.ndarray, at: np.ndarray, free: np.ndarray, start: Part
) -> tuple[Given, Any]:
    dtype = jnp.asarray(0.0).dtype
    point = np.zeros(len(at) + len(free))
    point[at] = theta
    q = full_rank_of(jnp.asarray(start.mean, dtype), jnp.asarray(start.root, dtype))
    known = jnp.asarray(point, dtype), jnp.asarray(free)
    return Given(target, q, negative_elbo(), pathwise(), *known), jnp.asarray(at)


def _solved(found: Any, dim: int) -> tuple[Part, float]:
    """What a run led to, of value -inf where to nothing; and gradients it took."""
    *found, steps = (np.asarray(v, float) for v in found)
    mean, root, loss, slope = found
    value = -float(loss) if all(np.isfinite(v).all() for v in found) else -np.inf
    return Part(value, mean, root, slope), 2.0 * dim * (float(steps) + 1.0)


def _run(given: Given, at: Any) -> Any:
    solver, key = natural_gradient(), jax.random.key(0)
    state = solver.init(given, key)

    def more(carry: Any) -> Any:
        _, step, done = carry
        return (step < _STEPS) & ~done

    def once(carry: Any) -> Any:
        state, step, _ = carry
        new, info = solver.step(given, state, key)
        gained = state.found.loss - new.found.loss
        return new, step + 1, info["converged"] | ((gained > 0) & (gained < _GAIN))

    state, steps, _ = jax.lax.while_loop(more, once, (state, 0, jnp.zeros((), bool)))
    mean, root = state.params.loc, state.root
    noise = len(given.free) ** 0.5 * state.axes
    out = noise @ root.T

    def score(z: Any) -> Any:
        return jax.grad(given.target.log_density)(given.point.at[given.free].set(z))[at]

    scores = _each(score, jnp.concatenate([mean + out, mean - out]), given.target)
    half = 0.5 * (scores[: len(noise)] - scores[len(noise) :])
    slope = root @ (noise.T @ half) / len(noise)
    return mean, root, state.found.loss, slope, steps
