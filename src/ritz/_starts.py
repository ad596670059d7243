"""Points to start from, and densities at them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._compile import compile
from ritz.family import FullRank

# As many are looked at together.
POINTS = 32
# Half the width of the box around the first start that each other one is drawn from.
BOXES = (1.0, 2.0)
# As many more are this many standard deviations from where the first one led, for modes far away.
_FAR = (3.0, 30.0)


def near(q: FullRank, at: Any) -> FullRank:
    """A start at a point, a fifth as wide as a Gaussian."""
    return dataclasses.replace(q, loc=at, log_scale=q.log_scale - float(np.log(5.0)))


def scores(target: Any, points: Any) -> tuple[np.ndarray, np.ndarray]:
    """Log densities and gradients at `POINTS` points."""

    def at(target: Any, points: Any) -> Any:
        return jax.lax.map(jax.value_and_grad(target.log_density), points)

    value, score = compile(at, target, points, quick=True)(target, points)
    return np.asarray(value, float), np.asarray(score, float)


def fine_at(value: np.ndarray, score: np.ndarray) -> np.ndarray:
    return np.isfinite(value) & np.isfinite(score).all(axis=1)


def around(target: Any, first: Any, rng: Any) -> list[Any]:
    """Other starts: drawn around the first, nearer where the density is not finite there."""
    unit = rng.uniform(-1.0, 1.0, (len(BOXES), 1, target.dim))
    halvings = 0.5 ** np.arange(POINTS // len(BOXES))
    steps = np.asarray(BOXES)[:, None, None] * halvings[:, None]
    points = (np.asarray(first) + steps * unit).reshape(POINTS, -1)
    points = jnp.asarray(points, first.dtype)
    fine = fine_at(*scores(target, points)).reshape(len(BOXES), -1)
    at = [k * fine.shape[1] + int(np.argmax(row)) for k, row in enumerate(fine) if row.any()]
    return [points[k] for k in at]


def far_from(q: FullRank, target: Any, rng: Any) -> list[FullRank]:
    """Narrow starts far out in the scale of a Gaussian, where scores point elsewhere.

    Those of the Gaussian point back to its mean; another mode pulls aside.
    """
    tril, loc = (np.asarray(v, float) for v in (q.scale_tril, q.loc))
    z = rng.normal(size=(POINTS, q.dim))
    far = np.geomspace(*_FAR, POINTS)[:, None]
    z *= far / np.linalg.norm(z, axis=1, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):  # where nothing holds a Gaussian back
        points = jnp.asarray((loc + z @ tril.T).astype(q.loc.dtype))
        value, score = scores(target, points)
        pull, fine = score @ tril, fine_at(value, score)
        back = -(pull * z).sum(axis=1) / np.linalg.norm(pull, axis=1) / far[:, 0]
    order = np.argsort(np.where(fine & np.isfinite(back), back, np.inf), kind="stable")
    return [near(q, points[k]) for k in order[: len(BOXES)] if fine[k]]
