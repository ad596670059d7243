"""Modes that count, and the mixture that importance weights start from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ritz._runs import loss_of
from ritz.family import FullRank, Mixture
from ritz.solver._run import Result

# A mode whose evidence is below the best one's by a factor of e^10 has no share.
NEGLIGIBLE = 10.0
# Each mode's part of the proposal: at its own scale, and wider for the tails.
_SHARES = (0.7, 0.2, 0.1)
# Of the proposal's draws; what the loss says of a mode's mass is an estimate.
_LEAST_SHARE = 0.1


def modes_of(ends: list[tuple[FullRank, Result]]) -> list[tuple[FullRank, Result]]:
    """Those ends that differ and count, the largest first."""
    kept: list[tuple[FullRank, Result]] = []
    for q, result in sorted(ends, key=lambda e: loss_of(e[1])):
        if kept and loss_of(result) > loss_of(kept[0][1]) + NEGLIGIBLE:
            break
        if all(_apart(q, other) for other, _ in kept):
            kept.append((q, result))
    return kept


def _apart(a: FullRank, b: FullRank) -> bool:
    """Whether some mean is further off than a standard deviation."""
    variance = lambda q: (np.asarray(q.scale_tril, float) ** 2).sum(1)
    with np.errstate(over="ignore", invalid="ignore"):  # where nothing holds a Gaussian back
        sd = np.sqrt(0.5 * (variance(a) + variance(b)))
        return bool((np.abs(np.asarray(a.loc, float) - np.asarray(b.loc, float)) / sd).max() > 1.0)


def scales(d: int) -> tuple[float, ...]:
    """Of the parts, relative to the Gaussian: a factor reaches further the more dimensions."""
    return 1.0, 1.0 + d**-0.5, 1.0 + 4.0 * d**-0.5


def proposal(modes: list[tuple[FullRank, Result]], shares: tuple[float, ...] = _SHARES) -> Mixture:
    loss = np.array([loss_of(result) for _, result in modes])
    mass = np.exp(loss.min() - loss) if np.isfinite(loss).all() else np.ones(len(loss))
    mass = np.maximum(mass / mass.sum(), _LEAST_SHARE)
    parts = [
        dataclasses.replace(q, log_scale=q.log_scale + float(np.log(scale)))
        for q, _ in modes
        for scale in scales(modes[0][0].dim)
    ]
    logits = np.log(np.outer(mass / mass.sum(), shares).ravel())
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *parts)
    return Mixture(jnp.asarray(logits, parts[0].loc.dtype), stacked, "full_rank")
