"""What `ritz.fit` does where no part is asked for: Gaussians from several starts, then weights."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz import _adapt
from ritz._compile import compile
from ritz._draws import generator
from ritz._errors import RitzError
from ritz._mesh import agreed, mesh_of
from ritz._posterior import DRAWS, drawn, smooth
from ritz.estimator import pathwise
from ritz.family import FullRank, Mixture, full_rank
from ritz.objective import Problem, negative_elbo
from ritz.solver import natural_gradient, run
from ritz.solver._natural_gradient import SIDE_BY_SIDE
from ritz.solver._run import Result
from ritz.target._centring import centred, chosen, hierarchical, moved

# A full covariance is found by 2d gradients a step, side by side, and d^3 operations.
MOST_DIMENSIONS = 1000
# Above as many dimensions, where a run is thousands of gradients, it is one other start each.
_FEWER_STARTS = 100
# Numbers of data that the gradients of a step look at, at most: seconds a step. Where they are so
# many that they are not looked at side by side, it is one other start each, too.
_LOOKED_AT = 1 << 32
# Half the width of the box around the first start that each other one is drawn from.
_BOXES = (1.0, 2.0)
# As many more are this many standard deviations from where the first one led, for modes far away.
_FAR = (3.0, 30.0)
# Points that such starts are chosen from.
_POINTS = 32
# Draws by which a proposal is looked at, and how often a part that it misses is searched for.
_LOOK, _ROUNDS = 4000, 4
# No part is searched for where k-hat is below this, and weights leave this share of the draws.
_GOOD, _LEAST = 0.5, 0.2
# Far more than are needed: a run ends by itself. Those from other starts may end early.
_STEPS, _OTHER_STEPS = 1000, 150
# It is still moving where its last ten steps gained more nats than this.
_MOVING = 0.1
# Runs at most to find how far to centre, what change of it is none, and what is as good as an end.
_CENTRINGS, _MOVED, _ENDS = 3, 0.2, 0.05
# Why no other run is made.
ENDED = ("interrupted", "callback", "callback failed", "budget")
# A mode whose evidence is below the best one's by a factor of e^10 has no share.
_NEGLIGIBLE = 10.0
# Each mode's part of the proposal: at its own scale, and wider for the tails.
_SHARES = (0.7, 0.2, 0.1)
# To look for what is missed, more of them are far out.
_LOOKING = (0.4, 0.2, 0.4)
# Of the proposal's draws; what the loss says of a mode's mass is an estimate.
_LEAST_SHARE = 0.1


class Found(NamedTuple):
    """What was found.

    Attributes:
        target: in the coordinates that q is of.
        q: the proposal, to be corrected by importance weights.
        result: of the run that led to the largest mode; its steps and seconds are those of all.
        evaluations: gradients of all runs; a log density that was looked at counts a third.
        decisions: what was done and why, a line each.
        refitted: whether the proposal has learned from its weights.
    """

    target: Any
    q: Any
    result: Result
    evaluations: float
    decisions: list[str]
    refitted: bool


def serves(target: Any) -> bool:
    """Whether the strategy is for this target: continuous, of moderate size, with all its data."""
    d = target.continuous_dim
    if not 0 < d == target.dim <= MOST_DIMENSIONS or target.params is not None:
        return False
    if not (target.has_density and target.has_full_density):
        return False
    return _looked_at(target) <= _LOOKED_AT


def _looked_at(target: Any) -> int:
    held = sum(np.size(v) for v in jax.tree.leaves(target) if hasattr(v, "shape"))
    return 2 * target.dim * held


def search(
    target: Any,
    first: Any,
    how: str,
    key: Any,
    *,
    callbacks: Any,
    progress: Any,
    strict: bool,
    kept: Any = None,
    budget: Any = None,
) -> Found:
    """Gaussians by natural gradient from several starts; a proposal of all modes that count.

    Args:
        target: one that `serves`.
        first: the first start, unconstrained.
        how: what it is, in words.
        key: the source of all randomness.
        callbacks: as those of `ritz.fit`, for every run.
        progress: also.
        strict: also.
        kept: where each run keeps its state, and goes on from (`Checkpoints`).
        budget: what all of it may cost at most.

    Returns:
        a `Found`.
    """
    runs = _Runs(target, key, callbacks, progress, kept, budget)
    try:
        _explore(runs, first, how)
    except KeyboardInterrupt:  # between runs; within one, `run` has kept what there is
        if strict or not runs.ends:
            raise
        runs.ended, runs.stop = True, ("interrupted", "interrupted; the fit so far is kept")
    best = _modes(runs.fine)[0][1]
    if runs.stop is not None:
        reason, message = runs.stop
        best = dataclasses.replace(best, stop_reason=reason, message=message)
        if strict and reason not in ("callback", "budget"):
            raise RitzError(message)
    if best.stop_reason == "not finite":
        warnings.warn(best.message, RuntimeWarning, stacklevel=4)
        if strict:
            raise RitzError(best.message)
    loss = best.history.loss
    if best.stop_reason == "steps" and loss[-min(len(loss), 10)] - loss[-1] > _MOVING:
        moving = f"the search was still moving after {best.steps:,} steps"
        best = dataclasses.replace(best, message=moving)
    result = dataclasses.replace(
        best, steps=runs.steps, run_seconds=runs.seconds, compiled=runs.compiled
    )
    q = _proposal(_modes(runs.fine)) if runs.refitted is None else runs.refitted
    return Found(
        runs.target,
        q,
        result,
        runs.cost + 2 * _POINTS + runs.seen / 3,
        [*runs.lines, "draws resampled by Pareto-smoothed importance weights"],
        runs.refitted is not None,
    )


def _explore(runs: "_Runs", first: Any, how: str) -> None:
    """All runs, the looks for what they have missed, and the mixture that learns from weights."""
    runs.lines += _centred(runs, first)
    target, first = runs.target, runs.first
    large = _looked_at(target) > SIDE_BY_SIDE
    several = 1 if large or target.dim > _FEWER_STARTS else len(_BOXES)
    near = [full_rank(target, x) for x in _around(target, first, runs.rng)[:several]]
    far = [] if runs.ended else _far_from(runs.ends[0][0], target, runs.rng)[:several]
    for start in (*near, *far):
        if runs.ended or not runs.afford(0.0) or not runs.go(start):
            break
    modes = _modes(runs.fine)
    runs.lines.append(_of_starts(how, runs, modes))
    if large:
        runs.lines.append("fewer starts than for small data, and gradients one after another")
    looks, rough = 0, False
    while looks < _ROUNDS and not runs.ended and runs.afford(_LOOK / 3):
        at = _missed(_proposal(modes, _LOOKING), target, runs.key, looks)
        rough, looks, runs.seen = at is not None, looks + 1, runs.seen + _LOOK
        if at is None or not runs.go(_near(modes[0][0], at)):
            break
        modes = _modes(runs.fine)
        if not any(end is runs.ends[-1] for end in modes):
            runs.lines.append("a search from the draw of the largest weight led to nothing new")
            break
        runs.lines.append("a mode or a part of one was found from the draw of the largest weight")
    runs.lines += [
        f"a full-rank Gaussian for each by natural gradient, which ends by itself: "
        f"{', '.join(f'{n}' for n in runs.made)} steps",
        "a proposal with parts "
        + " and ".join(f"{s:.2g}" for s in _scales(target.dim)[1:])
        + " times as wide beside each, for its tails",
    ]
    if not rough or runs.ended or target.dim > _adapt.MOST_DIMENSIONS:
        return
    if runs.afford(_adapt.ROUNDS * DRAWS / 3):
        key = jax.random.fold_in(runs.key, 4000)
        q, more = _adapt.adapted(_proposal(modes), target, key)
        runs.seen, refits = runs.seen + more, more // DRAWS - 1
        if refits:
            runs.refitted = q
            runs.lines.append(
                f"refitted {refits} times to its own weighted draws, as weights said that it was "
                "far from the posterior"
            )


class _Runs:
    """Runs of natural gradient, and what all of them cost."""

    def __init__(
        self, target: Any, key: Any, callbacks: Any, progress: Any, kept: Any, budget: Any
    ) -> None:
        self.target, self.key, self.callbacks, self.progress = target, key, callbacks, progress
        self.rng, self.kept, self.budget = generator(key), kept, budget
        if budget is not None:
            budget.spend(2.0 * _POINTS)
        self.ends: list[tuple[FullRank, Result]] = []
        self.first: Any = None
        self.made: list[int] = []
        # Why no other run is made, where it is not that all have been.
        self.stop: tuple[str, str] | None = None
        self.lines: list[str] = []
        self.seen = 0
        self.refitted: Mixture | None = None
        self.cost, self.seconds, self.steps = 0.0, 0.0, 0
        self.compiled = self.ended = False

    def afford(self, evaluations: float) -> bool:
        """Whether so many more evaluations are within the budget, of which they are then part."""
        if self.budget is None:
            return True
        fine = bool(agreed(self.budget.allows(evaluations), mesh_of(self.target)))
        self.budget.spend(evaluations if fine else 0.0)
        if not fine and self.stop is None:
            self.stop = "budget", f"the budget of {self.budget} ended before all was looked at"
        return fine

    def go(self, start: FullRank) -> bool:
        """One more; whether to go on after it."""
        solver = natural_gradient()
        problem = Problem(self.target, start, negative_elbo(), pathwise())
        with warnings.catch_warnings():
            # A start that leads nowhere is no failure where another one does not.
            warnings.filterwarnings("ignore", "step .* is not finite", RuntimeWarning)
            result = run(
                problem,
                solver,
                _OTHER_STEPS if self.ends else _STEPS,
                jax.random.fold_in(self.key, len(self.made)),
                callbacks=self.callbacks,
                progress=self.progress,
                checkpoint=None if self.kept is None else self.kept.run(len(self.made)),
                budget=self.budget,
            )
        self.cost += solver.evaluations(problem, result.state, result.steps) or 0.0
        self.seconds, self.steps = self.seconds + result.run_seconds, self.steps + result.steps
        self.compiled |= result.compiled
        self.made.append(result.steps)
        q: Any = paramax.unwrap(problem.family_at(result.state.params))
        self.ends.append((q, result))
        self.ended = result.stop_reason in ENDED
        if self.ended:
            self.stop = result.stop_reason, result.message
        return not self.ended

    def recentre(self, share: dict[str, Any], at: Any) -> None:
        """Go on with other coordinates of a hierarchy, from a point in the present ones."""
        new = centred(self.target, share)
        self.target, self.first, self.ends = new, moved(self.target, new, at), []

    @property
    def fine(self) -> list[tuple[FullRank, Result]]:
        """Those that ended somewhere; the first where none did."""
        fine = [
            e for e in self.ends if e[1].stop_reason != "not finite" and np.isfinite(_loss(e[1]))
        ]
        return fine or self.ends[:1]


def _centred(runs: _Runs, first: Any) -> list[str]:
    """The first run, in the coordinates that suit a hierarchy where it ended; a line a site.

    How far to centre is chosen at the start, and anew where a run has ended, as long as it changes
    and the loss falls.
    """
    names, told = hierarchical(runs.target), []
    if names:
        runs.recentre(chosen(runs.target, names, first), first)
        first = runs.first
    runs.first = first
    runs.go(full_rank(runs.target, first))
    for _ in range(_CENTRINGS if names else 0):
        old, loss = runs.target, _loss(runs.ends[0][1])
        if runs.ended or not np.isfinite(loss):
            break
        share = chosen(old, names, runs.ends[0][0].loc)
        if max(float(jnp.abs(v - old.centring[n]).max()) for n, v in share.items()) < _MOVED:
            break
        before = runs.ends, runs.first
        runs.recentre(share, runs.ends[0][0].loc)
        runs.go(full_rank(runs.target, runs.first))
        if _loss(runs.ends[0][1]) > loss:
            runs.target, (runs.ends, runs.first) = old, before
            break
    for name in names:
        low, high = (float(f(runs.target.centring[name])) for f in (jnp.min, jnp.max))
        how = "non-centred" if high < _ENDS else f"{low:.2f} to {high:.2f} centred"
        how = "centred, as written" if low > 1.0 - _ENDS else how
        told.append(f"{name} in coordinates of its own, as far as data say: {how}")
    return told


def _missed(q: Mixture, target: Any, key: Any, asked: int) -> Any:
    """The draw of the largest weight, where weights say that q misses a part; else None."""
    pool = drawn(q, target, _LOOK, jax.random.fold_in(key, 2000 + asked))
    weights = pool["log_weights"]
    if not np.isfinite(weights).any():
        return None
    smoothed = smooth(weights)
    if smoothed.khat <= _GOOD and smoothed.ess >= _LEAST * _LOOK:
        return None
    return jnp.asarray(pool["x"][int(np.nanargmax(weights))])


def _near(q: FullRank, at: Any) -> FullRank:
    """A start at a point, a fifth as wide as a Gaussian."""
    return dataclasses.replace(q, loc=at, log_scale=q.log_scale - float(np.log(5.0)))


def _scores(target: Any, points: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gradients at `_POINTS` points, and where they and the density are finite."""

    def at(target: Any, points: Any) -> Any:
        value, score = jax.lax.map(jax.value_and_grad(target.log_density), points)
        return score, jnp.isfinite(value) & jnp.isfinite(score).all(axis=1)

    score, fine = compile(at, target, points, quick=True)(target, points)
    return np.asarray(score, float), np.asarray(fine)


def _around(target: Any, first: Any, rng: Any) -> list[Any]:
    """Other starts: drawn around the first, nearer where the density is not finite there."""
    unit = rng.uniform(-1.0, 1.0, (len(_BOXES), 1, target.dim))
    halvings = 0.5 ** np.arange(_POINTS // len(_BOXES))
    steps = np.asarray(_BOXES)[:, None, None] * halvings[:, None]
    points = (np.asarray(first) + steps * unit).reshape(_POINTS, -1)
    points = jnp.asarray(points, first.dtype)
    fine = _scores(target, points)[1].reshape(len(_BOXES), -1)
    at = [k * fine.shape[1] + int(np.argmax(row)) for k, row in enumerate(fine) if row.any()]
    return [points[k] for k in at]


def _far_from(q: FullRank, target: Any, rng: Any) -> list[FullRank]:
    """Narrow starts far out in the scale of a Gaussian, where scores point elsewhere.

    Those of the Gaussian point back to its mean; another mode pulls aside.
    """
    tril, loc = (np.asarray(v, float) for v in (q.scale_tril, q.loc))
    z = rng.normal(size=(_POINTS, q.dim))
    far = np.geomspace(*_FAR, _POINTS)[:, None]
    z *= far / np.linalg.norm(z, axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):  # where nothing holds a Gaussian back
        points = jnp.asarray((loc + z @ tril.T).astype(q.loc.dtype))
        score, fine = _scores(target, points)
        pull = score @ tril
        back = -(pull * z).sum(axis=1) / np.linalg.norm(pull, axis=1) / far[:, 0]
    order = np.argsort(np.where(fine & np.isfinite(back), back, np.inf), kind="stable")
    return [_near(q, points[k]) for k in order[: len(_BOXES)] if fine[k]]


def _modes(ends: list[tuple[FullRank, Result]]) -> list[tuple[FullRank, Result]]:
    """Those ends that differ and count, the largest first."""
    kept: list[tuple[FullRank, Result]] = []
    for q, result in sorted(ends, key=lambda e: _loss(e[1])):
        if kept and _loss(result) > _loss(kept[0][1]) + _NEGLIGIBLE:
            break
        if all(_apart(q, other) for other, _ in kept):
            kept.append((q, result))
    return kept


def _loss(result: Result) -> float:
    loss = result.history.loss[-1] if len(result.history) else np.inf
    return float(loss) if np.isfinite(loss) else np.inf


def _apart(a: FullRank, b: FullRank) -> bool:
    """Whether some mean is further off than a standard deviation."""
    variance = lambda q: (np.asarray(q.scale_tril, float) ** 2).sum(1)
    sd = np.sqrt(0.5 * (variance(a) + variance(b)))
    return bool((np.abs(np.asarray(a.loc, float) - np.asarray(b.loc, float)) / sd).max() > 1.0)


def _scales(d: int) -> tuple[float, ...]:
    """Of the parts, relative to the Gaussian: a factor reaches further the more dimensions."""
    return 1.0, 1.0 + d**-0.5, 1.0 + 4.0 * d**-0.5


def _proposal(modes: list[tuple[FullRank, Result]], shares: tuple[float, ...] = _SHARES) -> Mixture:
    loss = np.array([_loss(result) for _, result in modes])
    mass = np.exp(loss.min() - loss) if np.isfinite(loss).all() else np.ones(len(loss))
    mass = np.maximum(mass / mass.sum(), _LEAST_SHARE)
    scales = _scales(modes[0][0].dim)
    parts = [
        dataclasses.replace(q, log_scale=q.log_scale + float(np.log(scale)))
        for q, _ in modes
        for scale in scales
    ]
    logits = np.log(np.outer(mass / mass.sum(), shares).ravel())
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *parts)
    return Mixture(jnp.asarray(logits, parts[0].loc.dtype), stacked, "full_rank")


def _of_starts(how: str, runs: "_Runs", modes: list[Any]) -> str:
    ends, fine = runs.ends, runs.fine
    others = f" and {len(ends) - 1} other points" if len(ends) > 1 else ""
    lost = len(ends) - len(fine)
    line = f"started from {how}{others}: "
    if len(modes) == 1:
        line += "one mode" if len(fine) > 1 else "one run"
    else:
        gap = _loss(modes[1][1]) - _loss(modes[0][1])
        line += f"{len(modes)} modes, the second {gap:.1f} nats below the first"
    worse = sum(_loss(r) > _loss(modes[0][1]) + _NEGLIGIBLE for _, r in fine)
    line += f"; {worse} ended where there is next to no mass" if worse else ""
    return line + (f"; {lost} met no finite density" if lost else "")
