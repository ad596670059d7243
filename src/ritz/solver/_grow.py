"""Boosting: a mixture grown by one component after another."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.solver._base import AbstractSolver, check_elbo, check_moves

# A logit that no softmax sees.
_OFF = -1e4
# Points from which modes are climbed to, and the steps that each climb may take.
_CLIMBERS, _CLIMB = 128, 60
# How far from the mixture they start at most, in its standard deviations, about.
_WIDEST = 30.0
# The weight that a new component starts with.
_FIRST_WEIGHT = 0.25


class GrowState(NamedTuple):
    """The mixture so far and at the end of the last stage that helped, Adam's averages, the losses
    by which stages are compared."""

    params: PyTree
    kept: PyTree
    opt: PyTree
    count: Int[Array, ""]
    seen: Float[Array, ""]
    best: Float[Array, ""]


class Grow(AbstractSolver):
    """See `grow`.

    Attributes:
        steps_each: steps a component.
        lr: initial learning rate of each stage.
        tolerance: the least gain in the ELBO that is worth a component.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"grad", "score_at"})
    families: ClassVar[tuple[str, ...]] = ("mixture",)
    guarantees: ClassVar[str] = "no component more than the ELBO asks for"
    steps_each: int = eqx.field(static=True)
    lr: Float[Array, ""]
    tolerance: Float[Array, ""]

    def init(self, problem: Any, key: Key[Array, ""]) -> GrowState:
        check_moves(self, problem)
        check_elbo(self, problem)
        q = problem.family
        if not hasattr(q.parts, "loc"):
            raise RitzError(
                f"grow puts components at a place, which a {type(q.parts).__name__} does not have; "
                "use mixture(of='full_rank') or ritz.solver.adam()"
            )
        logits = jnp.where(jnp.arange(q.components) == 0, 0.0, _OFF).astype(q.logits.dtype)
        params = _with_logits(problem.params, logits)
        nothing = jnp.zeros((), logits.dtype)
        return GrowState(params, params, self._adam.init(params), jnp.array(0), nothing, nothing)

    @property
    def _adam(self) -> Any:
        import optax

        return optax.scale_by_adam()

    def step(
        self, problem: Any, state: GrowState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[GrowState, dict[str, Array]]:
        each, total = self.steps_each, problem.family.components
        stage, within = state.count // each, state.count % each
        place, draw = jax.random.split(key)
        begins = (within == 0) & (stage > 0)
        params = jax.lax.cond(
            begins,
            lambda p: _enlarged(problem, p, stage, -state.best, place, batch),
            lambda p: p,
            state.params,
        )
        fresh = self._adam.init(params)
        opt = jax.tree.map(lambda new, old: jnp.where(begins, new, old), fresh, state.opt)
        grad, info = problem.grad(params, draw, batch)
        moved = _mask(grad, stage, (stage > 0) & (2 * within < each))
        update, opt = self._adam.update(moved, opt, params)
        rate = 0.5 * self.lr * (1.0 + jnp.cos(jnp.pi * within / each))
        update = _mask(update, stage, (stage > 0) & (2 * within < each))
        params = jax.tree.map(lambda p, u: p - (rate * u).astype(p.dtype), params, update)
        # Stages are compared by the mean loss of their last quarters.
        last = each - each // 4 if each >= 4 else 0
        seen = jnp.where(within >= last, state.seen + info["loss"] / (each - last), 0.0)
        ends = within == each - 1
        gain = jnp.where(stage == 0, jnp.inf, state.best - seen)
        helped = gain >= self.tolerance
        pick = lambda which, a, b: jax.tree.map(lambda a, b: jnp.where(which, a, b), a, b)
        kept = pick(ends & helped, params, state.kept)
        params = pick(ends & ~helped, kept, params)
        best = jnp.where(ends & helped, seen, state.best).astype(state.best.dtype)
        new = GrowState(params, kept, opt, state.count + 1, seen.astype(state.seen.dtype), best)
        done = ends & (~helped | (stage + 1 >= total))
        return new, {**info, "components": stage + 1, "converged": done}

    def evaluations(self, problem: Any, state: GrowState, steps: int) -> float | None:
        if problem.points is None:
            return None
        placed = max(0, -(-steps // self.steps_each) - 1)
        return float(problem.points * steps + placed * _CLIMBERS * (_CLIMB + 1))


def _with_logits(params: PyTree, logits: Array) -> PyTree:
    return eqx.tree_at(lambda q: q.logits, params, logits)


def _mask(tree: PyTree, stage: Array, alone: Array) -> PyTree:
    """Only the components up to a stage, or the last of them alone; the weights in any case."""

    def own(v: Array) -> Array:
        k = jnp.arange(v.shape[0])
        which = jnp.where(alone, k == stage, k <= stage)
        return v * which.reshape(-1, *(1,) * (v.ndim - 1)).astype(v.dtype)

    logits = tree.logits * (jnp.arange(len(tree.logits)) <= stage)
    return _with_logits(jax.tree.map(own, tree), logits)


def _enlarged(
    problem: Any, params: PyTree, stage: Array, log_z: Array, key: Key[Array, ""], batch: Any
) -> PyTree:
    """With a component where the target is above the mixture by most."""
    q = paramax.unwrap(problem.family_at(params))
    place = _gap(problem, q, log_z, key, batch)
    params = eqx.tree_at(lambda q: q.parts.loc, params, params.parts.loc.at[stage].set(place))
    odds = math.log(_FIRST_WEIGHT / (1.0 - _FIRST_WEIGHT))
    own = jax.nn.logsumexp(params.logits) + odds
    return _with_logits(params, params.logits.at[stage].set(own))


def _gap(problem: Any, q: Any, log_z: Array, key: Key[Array, ""], batch: Any) -> Array:
    r"""The point with the largest :math:`\tilde p(x)/Z - q(x)` among modes and points near them.

    Climbs of the log density start at points scattered about the mixture, up to thirty times as
    wide as it is.
    """
    some, out, far, data = jax.random.split(key, 4)
    x = jax.vmap(q.sample)(jax.random.split(some, 2 * _CLIMBERS))
    centre, sd = x.mean(axis=0), x.std(axis=0) + 1e-6
    wide = jnp.exp(jax.random.uniform(far, (_CLIMBERS, 1), x.dtype, 0.0, math.log(_WIDEST)))
    starts = centre + sd * wide * jax.random.normal(out, (_CLIMBERS, q.dim), x.dtype)
    value = lambda x: problem.score_at(x, data, batch)

    def climb(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, mean, square = carry
        slope = sd * jax.vmap(value)(x)[1]
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        mean, square = 0.9 * mean + 0.1 * slope, 0.95 * square + 0.05 * slope**2
        rate = 0.5 * sd * wide * (1.0 - i / _CLIMB)
        return x + rate * mean / (jnp.sqrt(square) + 1e-12), mean, square

    top = jax.lax.fori_loop(0, _CLIMB, climb, (starts, *[jnp.zeros_like(starts)] * 2))[0]
    points = jnp.concatenate([top, x])
    above = jax.vmap(value)(points)[0] - log_z
    below = jax.vmap(q.log_prob)(points)
    gap = above + jnp.log1p(-jnp.exp(jnp.minimum(below - above, -1e-6)))
    found = jnp.where((above > below) & jnp.isfinite(above), gap, -jnp.inf)
    # Where the mixture is above the target everywhere, where it is by least.
    nearest = jnp.where(jnp.isfinite(above), above - below, -jnp.inf)
    return points[jnp.where(jnp.isfinite(found).any(), jnp.argmax(found), jnp.argmax(nearest))]


def grow(steps_each: Any = 1000, lr: Any = 0.02, tolerance: Any = 0.01) -> Grow:
    r"""Grow a mixture by one component after another, up to as many as it has.

    A stage adds a component where :math:`\tilde p/Z - q` is largest, with Z at the ELBO so far,
    among points that climbs of the log density from around the mixture have found; fits that
    component and all weights; and then all components with all weights (fully corrective). The
    run ends where a stage has raised the ELBO by less than the tolerance, and takes that stage
    back. Components that were not needed keep the weight 0. A mode is found where one of the 128
    climbs starts in its basin, within about thirty standard deviations of the mixture.

    Args:
        steps_each: steps of Adam a component.
        lr: its rate at the start of a stage, which falls to zero along a half cosine.
        tolerance: the least gain in the ELBO that is worth a further component.

    Returns:
        the solver, for the family "mixture".

    Raises:
        RitzError: for numbers that are not positive; when it runs, for another family or objective.

    Guo et al., "Boosting variational inference", 2016; Miller, Foti and Adams, "Variational
    boosting: iteratively refining posterior approximations", 2017; Locatello et al., "Boosting
    variational inference: an optimization perspective", 2018 (fully corrective).

    >>> grow(500).steps_each
    500
    """
    each = whole_number("grow: steps_each", steps_each, 1)
    for name, value, least in (("lr", lr, "above 0"), ("tolerance", tolerance, "from 0 up")):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0 or (name == "lr" and value == 0):
            raise RitzError(f"grow: {name}={value!r} arrived, expected a number {least}")
    return Grow(each, jnp.asarray(float(lr)), jnp.asarray(float(tolerance)))
