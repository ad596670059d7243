"""What speaks against trusting a fit."""

import numpy as np

from ritz import _probabilities
from ritz.diagnose import PSIS, moment_shift
from ritz.report import labels
from ritz.solver import History
from ritz.target import AbstractTarget

# Below this sd of the log-weights (a KL divergence of 0.02) a large k-hat is about tails that hold
# next to nothing: the moments are right, and are checked by themselves.
NEARLY_EQUAL = 0.2
# A posterior is right when no mean is off by more than a tenth of its sd, and no sd by a fifth.
MEAN_OFF, LOG_SD_OFF = 0.1, 0.2
# Where weights leave less than this share of the draws, q is too far from the target for k-hat.
LEAST_ESS = 0.1


def doubts(
    history: History,
    target: AbstractTarget,
    x: np.ndarray,
    log_weights: np.ndarray | None,
    smoothed: PSIS | None,
    richer: str,
    *,
    corrected: bool = False,
) -> list[str]:
    """The reasons, a line each; none where nothing speaks against the fit.

    Args:
        history: the loss by step.
        target: names the coordinates.
        x: draws from q in unconstrained space, shape (S, d).
        log_weights: of the draws; None where they cannot be had.
        smoothed: `psis` of them.
        richer: what to suggest instead of the family used; empty where there is nothing.
        corrected: whether x are draws that importance weights have corrected already.

    Returns:
        the lines.
    """
    out = _still_falling(history)
    if log_weights is None or smoothed is None:
        return [*out, "k-hat cannot be computed here, so the fit's accuracy is unchecked"]
    instead = f"family={richer!r}, or " if richer else ""
    sampler = ", or fit.refine('nuts')" * (target.continuous_dim == target.dim)
    with np.errstate(invalid="ignore"):  # where a draw has no density
        spread = log_weights.std()
    if smoothed.khat > smoothed.threshold and not spread <= NEARLY_EQUAL:
        return [
            *out,
            f"k-hat {smoothed.khat:.2f} is above {smoothed.threshold:.2f}: q misses part of the "
            "posterior, often its tails or correlations; try more steps, "
            f"{instead}reparameterise the model{sampler}",
        ]
    if corrected and smoothed.ess < LEAST_ESS * len(log_weights):
        return [
            *out,
            f"importance weights leave {smoothed.ess:,.0f} of {len(log_weights):,} draws: q is far "
            f"from the posterior; try family='spline', or reparameterise the model{sampler}",
        ]
    out += _probabilities.doubts(target, x)
    if target.continuous_dim == 0 or corrected:
        return out
    shift = moment_shift(x[:, : target.continuous_dim], smoothed)
    mean, log_sd = np.abs(shift.mean), np.abs(shift.log_sd)
    allowed = 2 * shift.noise
    if mean.max() > MEAN_OFF + allowed or log_sd.max() > LOG_SD_OFF + allowed:
        worst = int(np.argmax(np.maximum(mean / MEAN_OFF, log_sd / LOG_SD_OFF)))
        out.append(
            f"importance weighting moves {_coordinate(target, worst)} by "
            f"{shift.mean[worst]:+.2f} sd and its sd by a factor "
            f"{np.exp(shift.log_sd[worst]):.2f}: q has not converged, or its shape does not fit; "
            f"try more steps, another learning rate, {instead}reparameterise the model{sampler}"
        )
    return out


def _still_falling(history: History) -> list[str]:
    """Whether the loss of the last tenth is below that of the tenth before by more than noise."""
    tenth = len(history) // 10
    if tenth < 20:
        return []
    before, last = history.loss[-2 * tenth : -tenth], history.loss[-tenth:]
    drop = float(np.mean(before) - np.mean(last))
    noise = float(np.hypot(np.std(before), np.std(last)) / tenth**0.5)
    if drop <= max(4 * noise, 0.1):
        return []
    return [f"the loss was still falling ({drop:.2g} over the last tenth); use more steps"]


def _coordinate(target: AbstractTarget, index: int) -> str:
    """A name for one entry of the unconstrained vector."""
    site = next(s for s in target.sites if s.start <= index < s.stop)
    return labels(site.name, site.unconstrained_shape)[index - site.start]
