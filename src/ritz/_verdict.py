"""What speaks against trusting a fit."""

from typing import Any

import numpy as np
import scipy.special

from ritz import _adapt, _nuts, _probabilities
from ritz._draws import scored
from ritz._groups import in_groups
from ritz._posterior import DRAWS
from ritz._posterior import drawn as drawn_from
from ritz.diagnose import PSIS, energy_test, moment_shift, psis, stein
from ritz.family import name_of
from ritz.report import labels
from ritz.solver import History
from ritz.target import AbstractTarget, SampleTarget

# Below this sd of the log-weights (a KL divergence of 0.02) a large k-hat is about tails that hold
# next to nothing: the moments are right, and are checked by themselves.
NEARLY_EQUAL = 0.2
# A posterior is right when no mean is off by more than a tenth of its sd, and no sd by a fifth.
MEAN_OFF, LOG_SD_OFF = 0.1, 0.2
# Where weights leave less than this share of the draws, q is too far from the target for k-hat.
LEAST_ESS = 0.1
# Above this Pareto shape of its squares an sd is not to be had from thousands of draws.
HEAVY = 0.7
# From here on there is none.
NO_VARIANCE = 1.0
# Of draws, at which a log density may be not a number.
NO_NUMBER = 0.001
# A variance that is off so much in Stein's identity has a log sd that is off as above.
_VARIANCE_OFF = 0.33
# ... and of all directions together, whose sds are then off by a seventh on average.
_TOGETHER_OFF = 0.25
# Below this p-value draws are told from what they should be like.
TOLD = 0.01
_TAILS = 32  # scalars that are looked at, of the largest kurtosis


def reasons(fit: Any) -> tuple[str, ...]:
    """See `Fit.reasons`."""
    own = fit.target.doubts(fit)
    if own is not None:
        return tuple(own)
    drawn, weights, values = fit.stored(), fit.stored().get("log_weights"), fit.draws
    if fit.correction == "nuts":
        counts = fit.info["nuts"]
        found, most = _nuts.doubts(drawn["x"], counts["diverged"], counts["transitions"]), HEAVY
    elif weights is None and fit.target.has_full_density and _all_move(fit.target):
        found = _by_scores(fit.target, drawn["x"]) or in_groups(fit.target, drawn["x"])
        most = HEAVY
        # Each particle counts once.
        first = np.unique(drawn["x"], axis=0, return_index=True)[1]
        values = {name: v[first] for name, v in fit.draws.items()}
        found = [fit.message] * bool(fit.message) + found
    elif isinstance(fit.target, SampleTarget):
        found, most = _unlike(fit.target.held, drawn["x"]), HEAVY
        found = [fit.message] * bool(fit.message) + found
    else:
        richer = "family='full_rank'" if name_of(fit.q) == "mean_field" else ""
        if fit.correction is not None and "refined" not in fit.info and _all_move(fit.target):
            richer = "fit.refine('flow')"
        of_weights = (drawn["x"], weights, fit.psis, richer)
        corrected = fit.correction is not None
        # What has converged by a rule of its own fell in stages, the last of which may be short.
        history = History() if fit.stop_reason == "converged" else fit.history
        found = doubts(history, fit.target, *of_weights, corrected=corrected)
        found = [fit.message] * bool(fit.message) + found
        # What has learned from weights ends where they happened to end.
        learned = bool(fit.info.get("refitted"))
        most = _adapt.KHAT if learned else HEAVY
        if corrected and not found and (learned or fit.khat > _adapt.KHAT):
            found = _beyond(fit, HEAVY if learned else NO_VARIANCE)
    return tuple(found or heavy_tails(fit.target, values, most))


def _beyond(fit: Any, most: float) -> list[str]:
    """What the weights of other draws tell of tails that the draws may not reach.

    Kept with the fit, since one that is loaded without its model has no densities.
    """
    known = fit.info.get("tails")
    if known is None and fit.target.has_full_density:
        pool = drawn_from(fit.q, fit.target, DRAWS, fit.key)
        counts = np.isfinite(pool["log_weights"])
        some = {name: v[counts] for name, v in pool["values"].items()}
        known = heavy_tails(fit.target, some, most, pool["log_weights"][counts])
        fit.info["tails"] = known
    return [line for line in known if isinstance(line, str)] if isinstance(known, list) else []


def _by_scores(target: AbstractTarget, x: np.ndarray) -> list[str]:
    """Whether Stein's identities hold of draws that have no weights."""
    found, d = stein(*scored(target, x)), target.dim
    # Of as many independent draws the variances along principal axes lie between these.
    ratio = (d / len(np.unique(x, axis=0))) ** 0.5
    low, high = np.zeros(2 * d), np.zeros(2 * d)
    low[d:], high[d:] = 1.0 - (1.0 + ratio) ** 2, 1.0 - (1.0 - min(ratio, 1.0)) ** 2
    out = []
    for what, off, se, most, least, largest in (
        ("mean", found.mean, found.mean_se, MEAN_OFF, 0.0, 0.0),
        ("variance", found.variance, found.variance_se, _VARIANCE_OFF, low, high),
    ):
        beyond = off - np.clip(off, least, largest)
        over = np.abs(np.nan_to_num(beyond, nan=np.inf)) - 2 * np.nan_to_num(se)
        worst = int(np.argmax(over))
        if over[worst] > most:
            where = coordinate(target, worst) if worst < d else "a principal axis"
            out.append(
                f"Stein's identity for the {what} of {where} is off by {off[worst]:+.2f} "
                f"± {se[worst]:.2f}: draws are not the posterior's; try more particles or steps, "
                "or ritz.fit without options"
            )
    if not out and not abs(found.together) - 2 * found.together_se <= _TOGETHER_OFF:
        factor = max(1.0 - found.together, 0.0) ** 0.5
        out.append(
            f"Stein's identity says that sds are {factor:.2f} of the posterior's, over all "
            "directions: try more particles, another kernel, or ritz.fit without options"
        )
    return out


def _unlike(held: Any, x: np.ndarray) -> list[str]:
    """Whether draws are told from samples that the fit has not seen."""
    n = len(held)
    found = energy_test(
        x[np.linspace(0, len(x) - 1, min(len(x), max(n, 1000))).astype(int)], np.asarray(held)
    )
    if found.p_value >= TOLD:
        return []
    return [
        f"draws are told from {n:,} samples kept aside (energy distance {found.squared:.2g}, "
        f"p = {found.p_value:.2g}); try more steps, or a richer family"
    ]


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
        richer: what to try in place of the family used, in code; empty where there is nothing.
        corrected: whether x are draws that importance weights have corrected already.

    Returns:
        the lines.
    """
    out = _still_falling(history)
    if log_weights is None or smoothed is None:
        return [*out, "k-hat cannot be computed here, so the fit's accuracy is unchecked"]
    instead = f"{richer}, or " if richer else ""
    sampler = ", or fit.refine('nuts')" * _all_move(target)
    lost = float(np.isnan(log_weights).mean())
    if lost > NO_NUMBER:
        single = log_weights.dtype == np.float32
        how = "use jax.config.update('jax_enable_x64', True)" if single else "reparameterise it"
        return [
            *out,
            f"the model's log density is not a number at {lost:.1%} of the draws, as of a matrix "
            f"that rounding has left without a Cholesky factor: {how}",
        ]
    with np.errstate(invalid="ignore"):  # where a draw has no density
        spread = log_weights.std()
    if smoothed.khat > smoothed.threshold and not spread <= NEARLY_EQUAL:
        narrow = "" if corrected else _too_narrow(target, x, smoothed)
        return [
            *out,
            f"k-hat {smoothed.khat:.2f} is above {smoothed.threshold:.2f}: q misses part of the "
            f"posterior, often its tails or correlations{narrow}; try more steps, "
            f"{instead}reparameterise the model{sampler}",
        ]
    if corrected and smoothed.ess < LEAST_ESS * len(log_weights):
        return [
            *out,
            f"importance weights leave {smoothed.ess:,.0f} of {len(log_weights):,} draws: q is far "
            f"from the posterior; try {instead}reparameterise the model{sampler}",
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
            f"importance weighting moves {coordinate(target, worst)} by "
            f"{shift.mean[worst]:+.2f} sd and its sd by a factor "
            f"{np.exp(shift.log_sd[worst]):.2f}: q has not converged, or its shape does not fit; "
            f"try more steps, another learning rate, {instead}reparameterise the model{sampler}"
        )
    return out


def _all_move(target: AbstractTarget) -> bool:
    return target.continuous_dim == target.dim


def _too_narrow(target: AbstractTarget, x: np.ndarray, smoothed: PSIS) -> str:
    """What weights say of q's sds where they are certain that one is too small."""
    if target.continuous_dim == 0:
        return ""
    shift = moment_shift(x[:, : target.continuous_dim], smoothed)
    worst = int(np.argmax(np.nan_to_num(shift.log_sd, nan=-np.inf)))
    if not shift.log_sd[worst] > LOG_SD_OFF + 2 * shift.noise:
        return ""
    factor = np.exp(shift.log_sd[worst])
    where = coordinate(target, worst)
    return f", and is too narrow (weighting widens {where} by a factor {factor:.2f} or more)"


def heavy_tails(
    target: AbstractTarget,
    values: dict[str, np.ndarray],
    most: float = HEAVY,
    log_weights: np.ndarray | None = None,
) -> list[str]:
    """Whether some scalar's sd rests on a few draws far out, whatever they are draws of.

    The Pareto shape of squared distances from the mean is at least one where a variance does not
    exist, as of Student's t of two degrees, and about 0.3 at most for tails like an exponential's
    (Vehtari et al. 2024, section 2, on estimates of other functions).

    Args:
        target: names the sites.
        values: draws by site.
        most: the shape that is let pass.
        log_weights: of the draws, where they are a proposal's: squares count by weight.
    """
    names, columns = [], []
    for site in target.sites:
        drawn = np.asarray(values[site.name])
        whole = drawn.dtype.kind != "f" or (drawn == np.round(drawn)).all()  # such as classes
        if not whole and np.isfinite(drawn).all():
            columns.append(drawn.reshape(len(drawn), -1).astype(np.float64))
            names += labels(site.name, site.shape)
    if not columns:
        return []
    x = np.concatenate(columns, axis=1)
    logs = np.zeros(len(x)) if log_weights is None else log_weights
    share = scipy.special.softmax(logs.astype(np.float64))
    far = (x - share @ x) ** 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        kurtosis = np.nan_to_num((share @ far**2) / (share @ far) ** 2)
        at = np.argsort(-kurtosis)[:_TAILS]
        squares = np.log(np.maximum(far[:, at], np.finfo(float).tiny))
        shape = [psis(logs + column).khat for column in squares.T]
    worst = int(np.argmax(shape))
    if not shape[worst] > most:
        return []
    return [
        f"the sd of {names[at[worst]]} rests on a few draws far out (Pareto shape "
        f"{shape[worst]:.2f} of its squares, above {most}): go by its quantiles, or give it a "
        "prior with lighter tails"
    ]


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


def coordinate(target: AbstractTarget, index: int) -> str:
    """A name for one entry of the unconstrained vector."""
    site = next(s for s in target.sites if s.start <= index < s.stop)
    return labels(site.name, site.unconstrained_shape)[index - site.start]
