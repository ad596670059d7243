"""What a run may cost at most."""

import bisect
import math
import numbers
import time
from collections.abc import Mapping
from typing import Any

from ritz._errors import RitzError, described

KINDS = ("seconds", "evaluations")
_MOST = 1 << 20  # steps that are looked ahead


class Budget:
    """A limit of seconds or of gradient evaluations, for one run after another.

    Seconds count from when it is made, compilation included. Gradient evaluations are those that
    solvers count: one is the gradient of the log density at one point, a density a third.

    Args:
        given: `{"seconds": s}` or `{"evaluations": n}`.

    Attributes:
        used: gradient evaluations of what has ended.

    Raises:
        RitzError: for anything else, or a limit that is not positive.

    >>> Budget({"evaluations": 1000}).left
    1000.0
    """

    def __init__(self, given: Any) -> None:
        one = isinstance(given, Mapping) and len(given) == 1
        kind, limit = next(iter(given.items())) if one else ("", 0.0)
        number = isinstance(limit, numbers.Real) and not isinstance(limit, bool)
        try:
            limit = float(limit) if number else 0.0
        except OverflowError:
            limit = math.inf
        if kind not in KINDS or not 0 < limit < math.inf:
            what = repr(given) if isinstance(given, Mapping | int | float) else described(given)
            raise RitzError(
                f"budget={what} arrived, expected a positive number of seconds or of gradient "
                'evaluations: {"seconds": 30} or {"evaluations": 100_000}'
            )
        self.kind, self.limit = kind, limit
        self.used = 0.0
        self.began = time.perf_counter()

    @property
    def left(self) -> float:
        """What is left, in its kind."""
        used = self.used if self.kind == "evaluations" else time.perf_counter() - self.began
        return self.limit - used

    def allows(self, evaluations: float) -> bool:
        """Whether so many more gradient evaluations are within it, as far as that is known."""
        return self.left >= (evaluations if self.kind == "evaluations" else 0.0)

    def steps(
        self, solver: Any, problem: Any, state: Any, paid: Any, done: int, per_step: float | None
    ) -> int | None:
        """How many more steps of a run are within it; None where nothing tells yet.

        Args:
            solver: what runs.
            problem: what on.
            state: where it is.
            paid: the gradient evaluations before it, of a run that goes on.
            done: the steps made, those included.
            per_step: the seconds that one took last.

        Raises:
            RitzError: for a limit of evaluations, where the solver does not count them.
        """
        if self.kind == "seconds":
            if self.left <= 0:
                return 0
            return None if per_step is None else max(1, int(self.left / max(per_step, 1e-9)))
        cost = lambda steps: solver.evaluations(problem, state, steps)
        used = cost(done)
        if used is None:
            raise RitzError(
                f"{type(solver).__name__} does not count gradient evaluations of this problem; "
                'give budget={"seconds": ...}'
            )
        left = self.left - (used - paid)
        if not cost(done + 1) > used:  # known only once a step is made: one at a time
            return int(left > 0)
        within = lambda more: cost(done + more) - used <= left
        # Not every step costs the same: some solvers prepare themselves first.
        most = 1
        while most < _MOST and within(most):
            most *= 2
        return bisect.bisect_left(range(1, most + 1), True, key=lambda more: not within(more))

    def spend(self, evaluations: float | None) -> None:
        """Count what has ended."""
        self.used += evaluations or 0.0

    def __str__(self) -> str:
        unit = self.kind if self.kind == "seconds" else "gradient evaluations"
        return f"{self.limit:,g} {unit}" if self.limit < 1e6 else f"{self.limit:,.0f} {unit}"
