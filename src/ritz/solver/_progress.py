"""A progress bar, in a terminal or notebook only."""

import sys
from types import TracebackType
from typing import Any

import numpy as np


class Progress:
    """A context that shows steps and loss; silent where nobody watches."""

    def __init__(self, show: bool | float | None, steps: int, start: int) -> None:
        self.show = _watched() if show is None else bool(show)
        self.interval = float(show) if isinstance(show, float) else 0.1
        self.steps, self.start = steps, start
        self.bar: Any = None

    def __enter__(self) -> "Progress":
        if self.show and self.steps:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.completed}/{task.total} steps"),
                BarColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TimeRemainingColumn(),
                refresh_per_second=max(0.01, 1.0 / self.interval),
                transient=True,
                console=None if _in_notebook() else Console(stderr=True, force_terminal=True),
            )
            self.bar.start()
            self.task = self.bar.add_task("", total=self.steps, loss="…")
        return self

    def update(self, done: int, columns: dict[str, np.ndarray]) -> None:
        """Show the number of steps made and the mean loss of the last ones."""
        if self.bar is not None:
            tail = columns["loss"][-100:]
            self.bar.update(self.task, completed=done - self.start, loss=f"{tail.mean():.6g}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()


def _watched() -> bool:
    return _in_notebook() or sys.stderr.isatty()


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules
