"""Mixtures that learn from their own importance weights: for shapes that no Gaussian has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special

from ritz._draws import generator
from ritz._posterior import DRAWS, drawn, smooth
from ritz.family import Mixture

# Covariances of weighted draws need many of them.
MOST_DIMENSIONS = 50
# What k-hat may be afterwards: the mixture was chosen by weights, and where these have no variance
# it has followed what it happened to see.
KHAT = 0.5
ROUNDS = 4
# Good enough: k-hat, and the share of draws that weights leave.
_KHAT, _ESS = 0.4, 0.25
# Components of a round, each at its own scale and wider; what they share; what is left to all
# earlier ones, so that no weight exceeds twice its earlier value.
_COMPONENTS, _OWN, _WIDER, _EARLIER = 4, 0.35, 0.15, 0.5
_EM_STEPS = 30
# Weights are tempered until they leave as many draws for each dimension.
_DRAWS_A_DIMENSION = 20


def adapted(q: Mixture, target: Any, key: jax.Array) -> tuple[Mixture | None, int]:
    r"""A mixture of full-rank Gaussians refitted to its own weighted draws, round by round.

    In each round 4,000 draws :math:`x_i \sim q` with weights :math:`w_i = \tilde p(x_i)/q(x_i)`
    are fitted by a few Gaussians, by expectation maximisation of
    :math:`\sum_i w_i \log q'(x_i)`; these, at their own scale and wider, join the components that
    there are, which keep half the mass. It ends where k-hat and the effective sample size are
    good, or after four rounds.

    Args:
        q: where to start.
        target: what to approximate.
        key: the source of all randomness.

    Returns:
        one that is good enough, or that of the largest effective sample size; None where that is
        q; and how many densities were looked at.

    Cappé, Douc, Guillin, Marin and Robert, "Adaptive importance sampling in general mixture
    classes", 2008; Cornuet, Marin, Mira and Robert, "Adaptive multiple importance sampling", 2012.
    """
    rng = generator(key)
    # Of one size in all rounds, so that one program draws from each.
    size = q.components + 2 * _COMPONENTS * ROUNDS
    current = _padded(q, size)
    tried: list[tuple[float, Mixture]] = []
    for at in range(ROUNDS + 1):
        pool = drawn(current, target, DRAWS, jax.random.fold_in(key, at))
        smoothed = smooth(pool["log_weights"])
        tried.append((smoothed.ess, current))
        if smoothed.khat <= _KHAT and smoothed.ess >= _ESS * DRAWS:
            return current if at else None, (at + 1) * DRAWS
        if not np.isfinite(pool["x"]).all():  # nothing holds the draws back
            break
        if at < ROUNDS:
            weights = _tempered(smoothed.log_weights, float(_DRAWS_A_DIMENSION * target.dim))
            current = _joined(current, *_fitted(pool["x"].astype(np.float64), weights, rng))
    best = max(range(len(tried)), key=lambda at: tried[at][0])
    return tried[best][1] if best else None, len(tried) * DRAWS


def _padded(q: Mixture, size: int) -> Mixture:
    """The same mixture with components of no weight."""
    count = size - q.components
    parts = jax.tree.map(lambda v: jnp.concatenate([v, jnp.repeat(v[:1], count, 0)]), q.parts)
    none = jnp.full(count, -1e9, q.logits.dtype)
    return Mixture(jnp.concatenate([jax.nn.log_softmax(q.logits), none]), parts, q.of)


def _tempered(log_weights: np.ndarray, least: float) -> np.ndarray:
    """Normalised weights to a power, at most one, that leaves an effective `least` draws."""
    power = 1.0
    for _ in range(60):
        weights = scipy.special.softmax(power * log_weights)
        if 1.0 / (weights @ weights) >= least:
            break
        power *= 0.85
    return weights


def _fitted(
    x: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares, means and Cholesky factors of Gaussians, by expectation maximisation.

    Each covariance is shrunk towards that of all draws, as by d + 2 more of them.
    """
    n, d = x.shape
    middle = weights @ x
    sd = np.sqrt(weights @ (x - middle) ** 2)
    sd = np.where(sd > 0, sd, 1.0)
    z = (x - middle) / sd
    whole = (z * weights[:, None]).T @ z + 1e-6 * np.eye(d)
    effective = 1.0 / (weights @ weights)
    count = int(np.clip(effective / (8 * d), 1, _COMPONENTS))
    mean = z[rng.choice(n, count, p=weights)]
    factor = np.repeat(np.linalg.cholesky(whole)[None], count, axis=0)
    share, prior = np.full(count, 1.0 / count), d + 2.0
    for _ in range(_EM_STEPS):
        log_q = np.stack(
            [
                np.log(share[k]) - np.log(np.diag(factor[k])).sum() - 0.5 * (r**2).sum(axis=0)
                for k in range(count)
                for r in [scipy.linalg.solve_triangular(factor[k], (z - mean[k]).T, lower=True)]
            ],
            axis=1,
        )
        part = scipy.special.softmax(log_q, axis=1) * weights[:, None]
        mass = np.maximum(part.sum(axis=0), 1e-6)
        share = np.maximum(mass, 1e-3) / np.maximum(mass, 1e-3).sum()
        mean = part.T @ z / mass[:, None]
        for k in range(count):
            off = z - mean[k]
            spread = (off * part[:, k : k + 1]).T @ off * effective
            around = prior * whole * count ** (-2.0 / d)
            factor[k] = np.linalg.cholesky((spread + around) / (mass[k] * effective + prior))
    return share, mean * sd + middle, factor * sd[:, None]


def _joined(q: Mixture, share: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> Mixture:
    """q with new components in place of some that have no weight."""
    d, dtype = q.dim, q.logits.dtype
    logits = np.asarray(q.logits, float) + np.log(_EARLIER)
    old: Any = q.parts
    parts = [np.array(v, float) for v in (old.loc, old.log_scale, old.lower)]
    free = iter(np.flatnonzero(logits < -1e8))
    for mass, scale in ((_OWN, 1.0 + 0.1 * d**-0.5), (_WIDER, 1.0 + 2.0 * d**-0.5)):
        for k in range(len(share)):
            at = next(free)
            diagonal = scale * np.diag(factor[k])
            logits[at] = np.log(mass * share[k])
            new = mean[k], np.log(diagonal), np.tril(scale * factor[k] / diagonal[:, None], -1)
            for array, value in zip(parts, new, strict=True):
                array[at] = value
    # Of a family with a leading axis, which its constructor would refuse.
    stacked = jax.tree.unflatten(jax.tree.structure(old), [jnp.asarray(v, dtype) for v in parts])
    return Mixture(jnp.asarray(logits, dtype), stacked, q.of)
