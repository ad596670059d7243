"""Runs of natural gradient, one after another, and the first one's coordinates."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz._draws import generator
from ritz._mesh import agreed, mesh_of
from ritz._starts import POINTS
from ritz.estimator import pathwise
from ritz.family import FullRank, Mixture, full_rank
from ritz.objective import Problem, negative_elbo
from ritz.solver import natural_gradient, run
from ritz.solver._run import Result
from ritz.target._centring import centred, chosen, hierarchical, moved

# Far more than are needed: a run ends by itself. Those from other starts may end early.
_STEPS, _OTHER_STEPS = 1000, 150
# Runs at most to find how far to centre, what change of it is none, and what is as good as an end.
_CENTRINGS, _MOVED, _ENDS = 3, 0.2, 0.05
# Why no other run is made.
ENDED = ("interrupted", "callback", "callback failed", "budget")


class Runs:
    """Runs of natural gradient, and what all of them cost."""

    def __init__(
        self, target: Any, key: Any, callbacks: Any, progress: Any, kept: Any, budget: Any
    ) -> None:
        self.target, self.key, self.callbacks, self.progress = target, key, callbacks, progress
        self.rng, self.kept, self.budget = generator(key), kept, budget
        if budget is not None:
            budget.spend(2.0 * POINTS)
        self.ends: list[tuple[FullRank, Result]] = []
        self.first: Any = None
        self.made: list[int] = []
        # Why no other run is made, where it is not that all have been.
        self.stop: tuple[str, str] | None = None
        self.lines: list[str] = []
        self.seen = 0
        # The proposal in the end, where it is more than the modes; and whether it has learned from
        # its weights.
        self.proposal: Mixture | None = None
        self.refitted = False
        # What float32 does to the density, where it is too much.
        self.rounding: str | None = None
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
            e for e in self.ends if e[1].stop_reason != "not finite" and np.isfinite(loss_of(e[1]))
        ]
        return fine or self.ends[:1]


def first_run(runs: Runs, first: Any) -> list[str]:
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
        old, loss = runs.target, loss_of(runs.ends[0][1])
        if runs.ended or not np.isfinite(loss):
            break
        share = chosen(old, names, runs.ends[0][0].loc)
        if max(float(jnp.abs(v - old.centring[n]).max()) for n, v in share.items()) < _MOVED:
            break
        before = runs.ends, runs.first
        runs.recentre(share, runs.ends[0][0].loc)
        runs.go(full_rank(runs.target, runs.first))
        if loss_of(runs.ends[0][1]) > loss:
            runs.target, (runs.ends, runs.first) = old, before
            break
    for name in names:
        low, high = (float(f(runs.target.centring[name])) for f in (jnp.min, jnp.max))
        how = "non-centred" if high < _ENDS else f"{low:.2f} to {high:.2f} centred"
        how = "centred, as written" if low > 1.0 - _ENDS else how
        told.append(f"{name} in coordinates of its own, as far as data say: {how}")
    return told


def loss_of(result: Result) -> float:
    loss = result.history.loss[-1] if len(result.history) else np.inf
    return float(loss) if np.isfinite(loss) else np.inf
