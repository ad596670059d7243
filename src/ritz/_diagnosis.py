"""`Fit.diagnose`: all that is known of how good a fit is, and what to do about it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz import _calibration, _posterior
from ritz._automatic import MOST_DIMENSIONS
from ritz._draws import SCORED, scored
from ritz._verdict import TOLD, coordinate
from ritz.diagnose import ksd, moment_shift, stein
from ritz.family import registered

PREDICTED = 400  # draws of data
# A statistic of the data further out than this share of what the model predicts is told.
_RARE = 0.01
_STATISTICS = ("mean", "sd", "smallest", "largest")


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What `Fit.diagnose` found; printed, a line each.

    Attributes:
        measures: by name, a value and what it means.
        status: the fit's verdict; "doubtful" too where calibration is what speaks against it.
        reasons: what speaks against the fit.
        remedies: what to do, the cheapest first; empty for a fit that is ok.
    """

    measures: dict[str, tuple[Any, str]]
    status: str
    reasons: tuple[str, ...]
    remedies: tuple[str, ...]

    def __str__(self) -> str:
        width = max(len(name) for name in (*self.measures, "remedies"))
        lines = [f"{name:{width}}  {said}" for name, (_, said) in self.measures.items()]
        lines.append(f"{'verdict':{width}}  {self.status}")
        lines += [f"{'':{width}}  - {reason}" for reason in self.reasons]
        for i, remedy in enumerate(self.remedies):
            lines.append(f"{'remedies' if i == 0 else '':{width}}  {i + 1}. {remedy}")
        return "\n".join(lines)

    __repr__ = __str__


def diagnose(fit: Any, calibrate: Any = None) -> Diagnosis:
    """See `Fit.diagnose`."""
    found: dict[str, tuple[Any, str]] = {}
    if "decisions" in fit.info:
        found["starts"] = (None, fit.info["decisions"][0])
    if fit.psis is not None:
        _of_weights(fit, found)
    target = fit.target
    found |= target.measures(fit)
    if target.has_full_density and 0 < target.continuous_dim == target.dim:
        _of_scores(fit, found)
    if hasattr(fit, "predict"):
        _of_data(fit, found)
    status, reasons = fit.status, fit.reasons
    if calibrate is not None:
        calibration = _calibration.calibrate(fit, calibrate)
        found["calibration"] = calibration, str(calibration)
        reasons += calibration.reasons()
        status = "doubtful" if status == "ok" and reasons else status
    return Diagnosis(found, status, reasons, () if status == "ok" else _remedies(fit))


def _of_weights(fit: Any, found: dict[str, tuple[Any, str]]) -> None:
    smoothed, n = fit.psis, len(fit.psis.log_weights)
    word = "below" if smoothed.khat <= smoothed.threshold else "ABOVE"
    found["k-hat"] = smoothed.khat, f"{smoothed.khat:.2f}, {word} {smoothed.threshold:.2f}"
    found["ESS"] = smoothed.ess, f"{smoothed.ess:,.0f} of {n:,} draws, by their weights"
    elbo, evidence = fit.elbo, fit.log_evidence
    found["ELBO"] = elbo, f"{elbo.value:.2f} ± {elbo.se:.2g}"
    found["log Z"] = (
        evidence,
        (
            f"{evidence.value:.2f} ± {evidence.se:.2g} by the same weights, which bounds the ELBO: "
            f"{evidence.value - elbo.value:.2f} nats above it"
        ),
    )
    if not fit.target.has_density or fit.target.continuous_dim == 0:
        return
    key = jax.random.fold_in(fit.key, 0xD1)
    drawn = _posterior.drawn(fit.q, fit.target, _posterior.DRAWS, key)
    shift = moment_shift(
        drawn["x"][:, : fit.target.continuous_dim], _posterior.smooth(drawn["log_weights"])
    )
    worst = int(np.argmax(np.maximum(np.abs(shift.mean), np.abs(shift.log_sd))))
    moved = f"moves q's {coordinate(fit.target, worst)} by {shift.mean[worst]:+.2f} sd and its sd"
    by = f"by a factor {np.exp(shift.log_sd[worst]):.2f}, the most of all"
    found["weighting"] = shift, f"{moved} {by} (noise {shift.noise:.2f})"


def _of_scores(fit: Any, found: dict[str, tuple[Any, str]]) -> None:
    x, scores = scored(fit.target, fit.stored()["x"])
    identity = stein(x, scores)
    told = []
    for what, off, se in (
        ("mean", identity.mean, identity.mean_se),
        ("variance", identity.variance, identity.variance_se),
    ):
        worst = int(np.argmax(np.abs(np.nan_to_num(off, nan=np.inf))))
        d = fit.target.dim
        where = coordinate(fit.target, worst) if worst < d else "a principal axis"
        told.append(f"{what} {off[worst]:+.2f} ± {se[worst]:.2f} at {where}")
    found["Stein"] = identity, "identities, zero for right draws: " + ", ".join(told)
    if fit.distinct < 2:  # one draw holds all the weight
        return
    distance = ksd(x, scores)
    surely = "" if distance.p_value < TOLD else "not "
    found["KSD"] = (
        distance,
        f"squared kernel Stein discrepancy {distance.squared:.2g}, p = {distance.p_value:.2g}: "
        f"{SCORED:,} draws are {surely}told from the posterior's",
    )


def _of_data(fit: Any, found: dict[str, tuple[Any, str]]) -> None:
    """Statistics of the data among those of data drawn from the posterior predictive."""

    def statistics(draw: Any) -> Any:
        of = lambda v: jnp.stack([v.mean(), v.std(), v.min(), v.max()])
        return {name: of(jnp.asarray(v, float)) for name, v in draw.items()}

    seen = {k: np.asarray(v) for k, v in fit.observed_data().items()}
    seen = {k: v for k, v in seen.items() if v.size and v.dtype.kind in "fiub"}
    drawn = fit.predict(n=PREDICTED, reduce=statistics, key=jax.random.fold_in(fit.key, 0xD2))
    shares, told = {}, []
    for name, data in seen.items():
        own = np.asarray(statistics({name: data})[name])
        for k, what in enumerate(_STATISTICS[: 4 if data.size > 1 else 1]):
            above = float((drawn[name][:, k] >= own[k]).mean())
            below = float((drawn[name][:, k] <= own[k]).mean())
            shares[name, what] = share = min(1.0, 2.0 * min(above, below))
            if share < _RARE:
                told.append(f"the {what} of {name} is {own[k]:.4g}, rare among predicted ones")
    said = "; ".join(told) or "mean, sd, smallest and largest of the data are as predicted"
    found["predictive"] = shares, said + f" ({PREDICTED} draws)"


def _remedies(fit: Any) -> tuple[str, ...]:
    if fit.target.in_batches:  # whose reasons say what to do
        return ()
    out = []
    if any("rests on" in reason for reason in fit.reasons):
        out.append("read quantiles in fit.summary() rather than means and sds")
    if fit.stop_reason in ("steps", "interrupted", "budget") and "refined" not in fit.info:
        out.append("run on: ritz.fit(model, data, init=fit)")
    if fit.correction is None and hasattr(fit, "refine"):
        out.append("fit.refine('importance')")
    if fit.info["family"] == "mean_field" and 1 < fit.target.continuous_dim <= MOST_DIMENSIONS:
        out.append("ritz.fit(model, data, family='full_rank')")
    rich = hasattr(fit, "refine") and "spline" in registered()
    rich = rich and fit.target.continuous_dim == fit.target.dim > 1
    if rich and fit.correction != "nuts" and "refined" not in fit.info:
        out.append("fit.refine('flow')")
    if fit.correction != "nuts" and rich:
        out.append("fit.refine('nuts')")
    out.append("write scales and the effects they govern apart (non-centred), or lighter tails")
    return tuple(out)
