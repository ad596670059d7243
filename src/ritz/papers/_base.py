"""What a paper's file gives back: figures, and checks that can fail."""

import dataclasses
import math
from typing import Any, Literal, Protocol


@dataclasses.dataclass(frozen=True)
class Check:
    """One figure against its threshold.

    Attributes:
        name: what is measured, in a few words.
        value: the figure; one that is not finite fails.
        direction: "<=" or ">=": on which side of the threshold the claim holds.
        threshold: the bound.
        compared: what was compared with what, in one line.
    """

    name: str
    value: float
    direction: Literal["<=", ">="]
    threshold: float
    compared: str

    @property
    def holds(self) -> bool:
        """Whether the claim holds."""
        if not math.isfinite(self.value):
            return False
        return (
            self.value <= self.threshold if self.direction == "<=" else self.value >= self.threshold
        )

    def __str__(self) -> str:
        mark = "holds" if self.holds else "FAILS"
        return f"{mark}  {self.name}: {self.value:.4g} {self.direction} {self.threshold:g}"


@dataclasses.dataclass(frozen=True)
class Result:
    """What one run of a paper's experiment leaves.

    Attributes:
        checks: the claim; it holds where all of them do.
        seeds: the seeds that were run.
        figures: other named numbers worth recording.
        curves: whatever `plot` needs, kept in memory only.
    """

    checks: tuple[Check, ...]
    seeds: tuple[int, ...]
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    curves: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)


class Paper(Protocol):
    """The names that a paper's file defines; see `_skeleton.py`.

    Attributes:
        SEEDS: the seeds of the recorded run. `--seed N` replaces them by as many from N on.
    """

    SEEDS: tuple[int, ...]

    def run(self, seeds: tuple[int, ...], *, wrong: bool = False, quick: bool = False) -> Result:
        """The experiment with its baseline; `wrong` swaps in the deliberately broken variant.

        The same checks with the same thresholds come back in both cases. `quick` makes a smaller
        experiment of the same shape, for looking; its checks are not the claim.
        """
        ...

    def plot(self, result: Result) -> Any:
        """A Matplotlib figure of a result."""
        ...
