"""What a run records of its steps, in memory that does not grow with their number."""

import numpy as np

_MOST = 1 << 17


class History:
    """Scalars by step: `history.loss`, `history["loss_se"]`, `history.step`.

    Every step is kept up to 131,072 records; beyond that neighbours are averaged, so that a
    record stands for `every` steps. What is kept does not depend on how many steps at a time were
    added.

    Args:
        columns: records to go on from, by name.
        every: the steps that each stands for.
        pending: the last steps, which make no whole record yet.
    """

    def __init__(
        self,
        columns: dict[str, np.ndarray] | None = None,
        every: int = 1,
        pending: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.every = every
        self._parts = [columns] if columns else []
        self._pending = pending or {}

    def append(self, columns: dict[str, np.ndarray]) -> None:
        """Add the scalars of consecutive steps, one array a name."""
        columns = {k: np.concatenate([self._pending.get(k, v[:0]), v]) for k, v in columns.items()}
        size = len(next(iter(columns.values())))
        whole = size - size % self.every
        self._pending = {k: v[whole:] for k, v in columns.items()}
        self._parts.append(_thin({k: v[:whole] for k, v in columns.items()}, self.every))
        if sum(len(next(iter(p.values()))) for p in self._parts) > _MOST:
            merged = self._merged()
            size = len(next(iter(merged.values())))
            odd = {k: np.repeat(v[size - size % 2 :], self.every) for k, v in merged.items()}
            self._pending = {k: np.concatenate([odd[k], v]) for k, v in self._pending.items()}
            self._parts = [_thin({k: v[: size - size % 2] for k, v in merged.items()}, 2)]
            self.every *= 2

    def _merged(self) -> dict[str, np.ndarray]:
        if len(self._parts) > 1:
            names = self._parts[0]
            self._parts = [{k: np.concatenate([p[k] for p in self._parts]) for k in names}]
        return self._parts[0] if self._parts else {}

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """All records, one array a name."""
        return dict(self._merged())

    @property
    def pending(self) -> dict[str, np.ndarray]:
        """Steps at the end that make no whole record yet."""
        return dict(self._pending)

    @property
    def steps(self) -> int:
        """How many steps were added in all."""
        left = len(next(iter(self._pending.values()))) if self._pending else 0
        return self.every * len(self) + left

    def __getitem__(self, name: str) -> np.ndarray:
        return self._merged()[name]

    def __len__(self) -> int:
        merged = self._merged()
        return len(next(iter(merged.values()))) if merged else 0

    @property
    def loss(self) -> np.ndarray:
        """The loss, by record."""
        return self._merged().get("loss", np.zeros(0))

    @property
    def step(self) -> np.ndarray:
        """The number of steps made when each record was complete."""
        return self.every * np.arange(1, len(self) + 1)

    def windows(self, size: int = 100) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Means of the loss over windows of consecutive records.

        Args:
            size: records a window.

        Returns:
            the last step, the mean, and the standard error of the mean (from the spread within
            the window), for each whole window.
        """
        n = len(self) // size
        blocks = self.loss[len(self) - n * size :].reshape(n, size).astype(float)
        step = self.step[len(self) - n * size :].reshape(n, size)[:, -1]
        error = blocks.std(axis=1, ddof=1) / np.sqrt(size) if size > 1 else np.full(n, np.nan)
        return step, blocks.mean(axis=1), error


def _thin(columns: dict[str, np.ndarray], every: int) -> dict[str, np.ndarray]:
    """Means over `every` steps, a power of two: by halves, as when neighbours are averaged later.

    Rounding is then the same whenever it is done.
    """
    while every > 1:
        columns = {k: v.reshape(-1, 2).mean(axis=1).astype(v.dtype) for k, v in columns.items()}
        every //= 2
    return columns
