"""What log-weights say of a fit, in numbers."""

from typing import Any, NamedTuple

import numpy as np

from ritz._posterior import DRAWS


class Estimate(NamedTuple):
    """A Monte Carlo estimate and its standard error."""

    value: float
    se: float


def elbo(log_weights: np.ndarray) -> Estimate:
    """Their mean."""
    weights = log_weights.astype(np.float64)
    return Estimate(float(weights.mean()), sd(weights) / len(weights) ** 0.5)


def log_evidence(log_weights: np.ndarray) -> Estimate:
    """The logarithm of the mean weight; those that are not a number count as zero."""
    weights = np.nan_to_num(log_weights.astype(np.float64), nan=-np.inf, posinf=np.inf)
    top = weights.max()
    with np.errstate(invalid="ignore"):  # where no draw has a finite weight
        share = np.exp(weights - top)
        se = share.std(ddof=1) / share.mean() / len(share) ** 0.5
        return Estimate(float(top + np.log(share.mean())), float(se))


def sd(log_weights: np.ndarray) -> float:
    """Not a number, and no warning, where a draw has no density."""
    with np.errstate(invalid="ignore"):
        return float(log_weights.astype(np.float64).std(ddof=1))


def facts(fit: Any) -> dict[str, Any]:
    """What a fit's summary tells beside its table."""
    told = dict(fit.info)
    if fit.psis is not None and fit.elbo is not None:
        told |= {"elbo": fit.elbo.value, "elbo_se": fit.elbo.se, "khat": fit.psis.khat}
        told |= {"khat_threshold": fit.psis.threshold, "ess": fit.psis.ess}
        told |= {"log_weight_sd": fit.log_weight_sd}
        told |= {"weights": len(fit.psis.log_weights)}
    if fit.correction is not None:
        told |= {"correction": fit.correction, "distinct": fit.distinct}
        if (evidence := fit.log_evidence) is not None:
            told |= {"log_evidence": evidence.value, "log_evidence_se": evidence.se}
    return told | {"draws": DRAWS, "dim": fit.target.dim, "stop_reason": fit.stop_reason}
