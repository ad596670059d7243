"""What `ritz.fit` does where no part is asked for: Gaussians from several starts, then weights."""

import dataclasses
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ritz import _adapt
from ritz._compile import spent
from ritz._conditionals import conditionals
from ritz._errors import RitzError
from ritz._posterior import DRAWS, drawn, smooth
from ritz._precision import rounded, rounding
from ritz._proposal import NEGLIGIBLE, modes_of, proposal, scales
from ritz._runs import Runs, first_run, loss_of
from ritz._starts import BOXES, POINTS, around, far_from, near
from ritz._verdict import NO_NUMBER, coordinate
from ritz.diagnose import PSIS
from ritz.family import Mixture, full_rank
from ritz.solver._run import Result
from ritz.solver._side_by_side import SIDE_BY_SIDE, held

# A full covariance is found by 2d gradients a step, side by side, and d^3 operations.
MOST_DIMENSIONS = 1000
# Above as many dimensions, where a run is thousands of gradients, it is one other start each.
_FEWER_STARTS = 100
# Numbers of data that the gradients of a step look at, at most: seconds a step. Where they are so
# many that they are not looked at side by side, it is one other start each, too.
_LOOKED_AT = 1 << 32
# Draws by which a proposal is looked at, and how often a part that it misses is searched for.
_LOOK, _ROUNDS = 4000, 4
# Of these as many show what float32 does to the density.
_SOME = 200
# No part is searched for where k-hat is below this, and weights leave this share of the draws.
_GOOD, _LEAST = 0.5, 0.2
# It is still moving where its last ten steps gained more nats than this.
_MOVING = 0.1
# To look for what is missed, more of them are far out.
_LOOKING = (0.4, 0.2, 0.4)


class Found(NamedTuple):
    """What was found.

    Attributes:
        target: in the coordinates that q is of.
        q: the proposal, to be corrected by importance weights.
        result: of the run that led to the largest mode; its steps and seconds are those of all.
        evaluations: gradients of all runs; a log density that was looked at counts a third.
        decisions: what was done and why, a line each.
        refitted: whether the proposal has learned from its weights.
        rounding: why all of it should be done in float64; None where it need not.
    """

    target: Any
    q: Any
    result: Result
    evaluations: float
    decisions: list[str]
    refitted: bool
    rounding: str | None


def serves(target: Any) -> bool:
    """Whether the strategy is for this target: continuous, of moderate size, with all its data."""
    d = target.continuous_dim
    if not 0 < d == target.dim <= MOST_DIMENSIONS or target.params is not None:
        return False
    if not (target.has_density and target.has_full_density):
        return False
    return _looked_at(target) <= _LOOKED_AT


def _looked_at(target: Any) -> int:
    return 2 * target.dim * held(target)


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
    runs = Runs(target, key, callbacks, progress, kept, budget)
    try:
        _explore(runs, first, how)
    except KeyboardInterrupt:  # between runs; within one, `run` has kept what there is
        if strict or not runs.ends:
            raise
        runs.ended, runs.stop = True, ("interrupted", "interrupted; the fit so far is kept")
    best = modes_of(runs.fine)[0][1]
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
    if runs.rounding is not None and not best.message:
        told = f"{runs.rounding}: use jax.config.update('jax_enable_x64', True), or no budget"
        best = dataclasses.replace(best, message=told)
    result = dataclasses.replace(
        best, steps=runs.steps, run_seconds=runs.seconds, compiled=runs.compiled
    )
    q = proposal(modes_of(runs.fine)) if runs.proposal is None else runs.proposal
    return Found(
        runs.target,
        q,
        result,
        runs.cost + 2 * POINTS + runs.seen / 3,
        [*runs.lines, "draws resampled by Pareto-smoothed importance weights"],
        runs.refitted,
        runs.rounding,
    )


def _explore(runs: Runs, first: Any, how: str) -> None:
    """All runs, the looks for what they have missed, and the mixture that learns from weights."""
    runs.lines += first_run(runs, first)
    target, first = runs.target, runs.first
    large = _looked_at(target) > SIDE_BY_SIDE
    several = 1 if large or target.dim > _FEWER_STARTS else len(BOXES)
    close = [full_rank(target, x) for x in around(target, first, runs.rng)[:several]]
    far = [] if runs.ended else far_from(runs.ends[0][0], target, runs.rng)[:several]
    for start in (*close, *far):
        if runs.ended or not runs.afford(0.0) or not runs.go(start):
            break
    modes = modes_of(runs.fine)
    if not runs.ended:
        runs.rounding = rounded(modes[0][0], target, runs.key)
        if runs.rounding is not None and runs.budget is None:
            return
    runs.lines.append(_of_starts(how, runs, modes))
    if large:
        runs.lines.append("fewer starts than for small data, and gradients one after another")
    looks, rough = 0, False
    while looks < _ROUNDS and not runs.ended and runs.afford(_LOOK / 3):
        key = jax.random.fold_in(runs.key, 2000 + looks)
        pool = drawn(proposal(modes, _LOOKING), target, _LOOK, key)
        if np.isnan(pool["log_weights"]).mean() > NO_NUMBER and runs.rounding is None:
            runs.rounding = rounding(target, pool["x"][:_SOME])
            if runs.rounding is not None and runs.budget is None:
                return
        at = _missed(pool)
        rough, looks, runs.seen = at is not None, looks + 1, runs.seen + _LOOK
        if at is None or not runs.go(near(modes[0][0], at)):
            break
        modes = modes_of(runs.fine)
        if not any(end is runs.ends[-1] for end in modes):
            runs.lines.append("a search from the draw of the largest weight led to nothing new")
            break
        runs.lines.append("a mode or a part of one was found from the draw of the largest weight")
    runs.lines += [
        f"a full-rank Gaussian for each by natural gradient, which ends by itself: "
        f"{', '.join(f'{n}' for n in runs.made)} steps",
        "a proposal with parts "
        + " and ".join(f"{s:.2g}" for s in scales(target.dim)[1:])
        + " times as wide beside each, for its tails",
    ]
    if rough and not runs.ended:
        began, compiling = time.perf_counter(), spent()
        _richer(runs, modes, large)
        runs.seconds += time.perf_counter() - began - (spent() - compiling)


def _richer(runs: Runs, modes: list[Any], large: bool) -> None:
    """Where Gaussians are far from the posterior: others, along what changes them, or many."""
    target, q = runs.target, proposal(modes)

    def look(some: Mixture) -> PSIS:
        runs.seen += _LOOK
        pool = drawn(some, target, _LOOK, jax.random.fold_in(runs.key, 3000))
        return smooth(pool["log_weights"])

    before = look(q)
    if not large and not _fine(before):
        found = conditionals(q, [mode for mode, _ in modes], target, runs.rng, runs.afford)
        runs.cost += found.evaluations
        if found.q is not None:
            after = look(found.q)
            names = ", ".join(coordinate(target, k) for k in found.coordinates)
            runs.lines.append(
                f"a Gaussian of the rest for each of {found.q.components - q.components} values of "
                f"{names}, which the curvature changes with: weights leave {after.ess:,.0f} of "
                f"{_LOOK:,} draws, {before.ess:,.0f} before"
            )
            if after.ess > before.ess:
                runs.proposal = q = found.q
            if _fine(after):
                return
    if target.dim > _adapt.MOST_DIMENSIONS or not runs.afford(_adapt.ROUNDS * DRAWS / 3):
        return
    better, more = _adapt.adapted(q, target, jax.random.fold_in(runs.key, 4000))
    runs.seen += more
    if better is not None:
        runs.proposal, runs.refitted = better, True
        runs.lines.append(
            f"refitted {more // DRAWS - 1} times to its own weighted draws, as weights said that "
            "it was far from the posterior"
        )


def _fine(smoothed: PSIS) -> bool:
    return smoothed.khat <= _GOOD and smoothed.ess >= _LEAST * _LOOK


def _missed(pool: dict[str, Any]) -> Any:
    """The draw of the largest weight, where weights say that a part is missed; else None."""
    weights = pool["log_weights"]
    if not np.isfinite(weights).any():
        return None
    if _fine(smooth(weights)):
        return None
    return jnp.asarray(pool["x"][int(np.nanargmax(weights))])


def _of_starts(how: str, runs: Runs, modes: list[Any]) -> str:
    ends, fine = runs.ends, runs.fine
    others = f" and {len(ends) - 1} other points" if len(ends) > 1 else ""
    lost = len(ends) - len(fine)
    line = f"started from {how}{others}: "
    if len(modes) == 1:
        line += "one mode" if len(fine) > 1 else "one run"
    else:
        gap = loss_of(modes[1][1]) - loss_of(modes[0][1])
        line += f"{len(modes)} modes, the second {gap:.1f} nats below the first"
    worse = sum(loss_of(r) > loss_of(modes[0][1]) + NEGLIGIBLE for _, r in fine)
    line += f"; {worse} ended where there is next to no mass" if worse else ""
    return line + (f"; {lost} met no finite density" if lost else "")
