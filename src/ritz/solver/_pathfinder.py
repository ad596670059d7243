"""Pathfinder: the best Gaussian along the path of a quasi-Newton method."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz._mesh import split_draws
from ritz.family import FullRank, Mixture, name_of
from ritz.solver._base import AbstractSolver, check_moves
from ritz.solver._fixed_draws import matched_noise
from ritz.solver._gaussian import full_rank_of, needs_all_data
from ritz.solver._lbfgs import Memory, descend, empty, line_search, remember, root
from ritz.solver._trust_region import UNBOUNDED, rounding

# How far from the start a path may begin; where the density is not finite there, it is nearer.
_SPREADS = (2.0, 2.0, 1.0, 0.5, 0.1, 0.01)
# A path ends after as many steps in a row that gain nothing beyond rounding.
_IDLE = 3
# What a draw without a density costs the Gaussian that it is from.
_NO_DENSITY = 1e9


class Path(NamedTuple):
    """One path.

    Attributes:
        x: where it is.
        value: minus the log density there.
        grad: of that.
        memory: of the curvature.
        best: the best Gaussian so far.
        elbo: of that, estimated.
        idle: steps in a row that gained nothing beyond rounding.
        ended: whether it goes no further.
        cost: gradient evaluations so far.
    """

    x: Float[Array, " d"]
    value: Float[Array, ""]
    grad: Float[Array, " d"]
    memory: Memory
    best: FullRank
    elbo: Float[Array, ""]
    idle: Int[Array, ""]
    ended: Array
    cost: Float[Array, ""]


class PathfinderState(NamedTuple):
    """The paths, side by side, the noise of their draws, and the answer so far."""

    params: PyTree
    paths: Path
    noise: Float[Array, "k d"]


class Pathfinder(AbstractSolver):
    """See `pathfinder`.

    Attributes:
        paths: how many.
        pairs: J, of the memory; None for four times the dimension, from 10 to 100.
        draws: for the ELBO at each point.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"score_at"})
    families: ClassVar[tuple[str, ...]] = ("full_rank",)
    guarantees: ClassVar[str] = "the best of the Gaussians met on the way to a mode, by their ELBO"
    steps: ClassVar[int] = 300
    paths: int = eqx.field(static=True)
    pairs: int | None = eqx.field(static=True)
    draws: int = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> PathfinderState:
        whole = problem.family
        several = isinstance(whole, Mixture) and (whole.components, whole.of) == (
            self.paths,
            "full_rank",
        )
        if not several:
            check_moves(self, problem)
        q: Any = whole.part(0) if several else whole
        noise_key, start_key = jax.random.split(key)
        keys = jax.random.split(start_key, self.paths)
        first = jnp.arange(self.paths) == 0
        begin = lambda key, first: self._begin(problem, q.loc, key, first)
        noise = matched_noise(noise_key, self.draws, q.dim, q.loc.dtype)
        return PathfinderState(problem.params, jax.vmap(begin)(keys, first), noise)

    @property
    def correction(self) -> str | None:
        return None if self.paths == 1 else "importance"

    def prepare(self, family: Any) -> Any:
        """With several paths, a mixture of as many of the family."""
        if self.paths == 1 or name_of(family) != "full_rank" or not isinstance(family, FullRank):
            return family
        repeat = lambda v: jnp.repeat(v[None], self.paths, axis=0)
        weights = jnp.zeros(self.paths, family.loc.dtype)
        return Mixture(weights, jax.tree.map(repeat, family), "full_rank")

    def _pairs(self, x: Array) -> int:
        return min(max(4 * x.shape[0], 10), 100) if self.pairs is None else self.pairs

    def _begin(self, problem: Any, loc: Array, key: Array, first: Array) -> Path:
        """A path at the start itself, or at the farthest of some draws that has a density."""
        at = lambda x: (lambda v, g: (-v, -g))(*problem.score_at(x))
        keys = jax.random.split(key, len(_SPREADS))
        draw = lambda k: jax.random.uniform(k, loc.shape, loc.dtype, -1.0, 1.0)
        spreads = jnp.asarray(_SPREADS, loc.dtype)[:, None]
        tries = jnp.concatenate([loc + spreads * jax.vmap(draw)(keys), loc[None]])
        tries = jnp.where(first, loc, tries)
        values, grads = jax.vmap(at)(tries)
        fine = jnp.isfinite(values) & jnp.isfinite(grads).all(axis=1)
        i = jnp.argmax(fine)
        zero = lambda a: jnp.where(jnp.isfinite(a), a, 0.0)
        value, grad = zero(values[i]), zero(grads[i])
        best = full_rank_of(tries[i], jnp.eye(loc.shape[0], dtype=loc.dtype))
        lowest = jnp.asarray(-UNBOUNDED, loc.dtype)
        cost = jnp.where(first, 1.0, 1.0 + i).astype(loc.dtype)
        memory = empty(grad, self._pairs(loc))
        idle = jnp.zeros((), int)
        return Path(tries[i], value, grad, memory, best, lowest, idle, ~fine.any(), cost)

    def step(
        self, problem: Any, state: PathfinderState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[PathfinderState, dict[str, Array]]:
        needs_all_data(self, batch)

        def one(path: Path) -> Path:
            new = self._walk(problem, path, state.noise)
            return jax.tree.map(lambda a, b: jnp.where(path.ended, b, a), new, path)

        paths = jax.vmap(one)(split_draws(state.paths))
        top = jnp.argmax(paths.elbo)
        if self.paths == 1:
            params = jax.tree.map(lambda v: v[0], paths.best)
        else:
            # A path that found nothing has no share.
            lost = paths.elbo <= -0.5 * UNBOUNDED
            logits = jnp.where(lost, -UNBOUNDED, 0.0).astype(paths.elbo.dtype)
            params = Mixture(logits, paths.best, "full_rank")
        info = {
            "loss": -paths.elbo[top],
            "ended": paths.ended.sum(),
            "converged": paths.ended.all(),
        }
        return PathfinderState(params, paths, state.noise), info

    def _walk(self, problem: Any, path: Path, noise: Array) -> Path:
        """One step of the path, and the Gaussian at its end."""
        memory = path.memory
        step = descend(memory, path.grad)
        slope = step @ path.grad

        def evaluate(share: Array) -> tuple[Array, Array]:
            value, score = problem.score_at(path.x + share * step)
            return -value, -score

        found = line_search(evaluate, path.value, path.grad, step)
        moved = found.share > 0
        x = path.x + found.share * step
        seen = remember(memory, x - path.x, found.grad - path.grad)
        fresh = empty(path.grad, self._pairs(path.x))
        # Where no point along the step is lower, the memory is wrong: once more without it.
        memory = jax.tree.map(lambda a, b: jnp.where(moved, a, b), seen, fresh)
        first = (path.memory.rho == 0).all()
        q = full_rank_of(x + descend(memory, found.grad), root(memory))
        values = jax.vmap(lambda z: problem.score_at(q.loc + q.scale_tril @ z)[0])(noise)
        elbo = values.mean() + q.entropy()
        # Where some draws have no density any Gaussian without such draws is better.
        bad = (~jnp.isfinite(values)).sum()
        elbo = jnp.where((bad > 0) & (bad < len(noise)), -_NO_DENSITY * bad, elbo)
        better = moved & jnp.isfinite(elbo) & (elbo > path.elbo)
        better &= jnp.stack([jnp.isfinite(v).all() for v in jax.tree.leaves(q)]).all()
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), q, path.best)
        # Where the memory is still wrong it calls the rest of the way short; the fall does not.
        idle = jnp.where(path.value - found.value < rounding(path.value), path.idle + 1, 0)
        ended = jnp.where(moved, idle >= _IDLE, first | (-slope < rounding(path.value)))
        cost = path.cost + found.tried + len(noise) / 3.0
        elbo = jnp.where(better, elbo, path.elbo)
        return Path(x, found.value, found.grad, memory, best, elbo, idle, ended, cost)

    def evaluations(self, problem: Any, state: PathfinderState, steps: int) -> float | None:
        return float(state.paths.cost.sum())

    def caution(self, state: PathfinderState) -> str | None:
        lost = int((state.paths.elbo <= -0.5 * UNBOUNDED).sum())
        if lost == self.paths:
            return "no point of a path had a Gaussian with a finite ELBO; start elsewhere"
        return None


def pathfinder(paths: int = 1, pairs: int | None = None, draws: int = 10) -> Pathfinder:
    r"""Pathfinder: the best of the Gaussians on the way to a mode.

    L-BFGS climbs from the start to a mode. At each of its points :math:`x_l` its memory gives an
    inverse Hessian :math:`H_l`, and with it a Gaussian

    .. math:: q_l = \mathcal{N}\bigl(x_l + H_l\nabla\log\tilde p(x_l),\; H_l\bigr).

    The one with the largest ELBO, estimated with the same few draws everywhere, is the answer. It
    needs gradients alone, tens of them, and is as good as a Gaussian of J directions beside a
    diagonal can be: `laplace` has the whole curvature at the mode, at the price of Hessians.

    With several paths the answer is the mixture of their Gaussians, and the fit's draws are
    resampled from it by Pareto-smoothed importance weights (`fit.correction` is "importance",
    `fit.distinct` tells how many differ). A path that meets no finite density, or ends where no
    Gaussian has a finite ELBO, has no share; one is enough.

    Args:
        paths: how many, the first from the start and the others from points drawn around it.
        pairs: J, how many steps the memory of L-BFGS holds; by default four times the dimension,
            at least 10 and at most 100. The fewer, the less of the correlations is seen.
        draws: for each ELBO, an even number.

    Returns:
        the solver, for the family "full_rank".

    Raises:
        RitzError: for numbers out of range; when it runs, for another family, and for data in
            batches.

    Zhang, Carpenter, Gelman and Vehtari, "Pathfinder: parallel quasi-Newton variational
    inference", 2022 (algorithms 1 and 2).

    >>> import jax.numpy as jnp, ritz
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x**2).sum(), jnp.ones(2))
    >>> fit = ritz.fit(target, solver="pathfinder")
    >>> bool(abs(jnp.exp(fit.q.log_scale) - 0.5).max() < 1e-2)
    True
    """
    whole_number("paths", paths, 1)
    if pairs is not None:
        whole_number("pairs", pairs, 1)
    if whole_number("draws", draws, 2) % 2:
        raise RitzError(f"pathfinder: draws={draws} arrived, expected an even number: pairs")
    return Pathfinder(paths, pairs, draws)
