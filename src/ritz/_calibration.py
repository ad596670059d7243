"""`Fit.diagnose(calibrate=...)`: are fits of simulated data right as often as they say?"""

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro.handlers import condition

from ritz._draws import at_keys, generator
from ritz._errors import RitzError, whole_number
from ritz.report import labels
from ritz.target import NumPyroTarget
from ritz.target import _simulated as simulation

# Fewer data sets say nothing.
_LEAST = 10
# Draws that a true value is ranked among: few of those stored, so that they are nearly independent.
_RANKED = 99
# Points at which distribution functions are compared.
_POINTS = 50
# Ranks are called not uniform below this adjusted p-value.
_REJECT = 0.01


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What simulation-based calibration found; `ritz.plot.calibration(ranks, draws)` draws it.

    Attributes:
        ranks: by scalar, how many of `draws` posterior draws lie below the true value, of each
            simulated data set.
        draws: how many draws each rank was taken among.
        p_values: by scalar, of uniform ranks, adjusted for how many scalars there are.
        refits: by verdict ("ok", "doubtful" or "failed"), how many data sets.
        compiled: how many of the refits compiled a program.
    """

    ranks: dict[str, np.ndarray]
    draws: int
    p_values: dict[str, float]
    refits: dict[str, int]
    compiled: int

    @property
    def rejected(self) -> tuple[str, ...]:
        """The scalars whose ranks are not uniform, the worst first."""
        worst = sorted(self.p_values, key=lambda name: self.p_values[name])
        return tuple(name for name in worst if self.p_values[name] < _REJECT)

    def reasons(self) -> tuple[str, ...]:
        """What speaks against the fits, a line for the worst scalar; empty where nothing does."""
        if not self.rejected:
            return ()
        name, others = self.rejected[0], len(self.rejected) - 1
        also = f" (and of {others} more)" if others else ""
        return (
            f"posteriors of {name}{also} are {self._how(name)}: true values of simulated data do "
            f"not rank uniformly among their draws, p = {self.p_values[name]:.1g}",
        )

    def _how(self, name: str) -> str:
        u = (self.ranks[name] + 0.5) / (self.draws + 1) - 0.5
        shift = u.mean() * (12 * len(u)) ** 0.5
        spread = ((u**2).mean() - 1 / 12) * (180 * len(u)) ** 0.5
        if abs(shift) > abs(spread):
            return "too low" if shift > 0 else "too high"
        return "too narrow" if spread > 0 else "too wide"

    def __str__(self) -> str:
        n = sum(self.refits.values())
        ends = ", ".join(f"{count} {how}" for how, count in self.refits.items() if count)
        many = f"{len(self.p_values)} scalars" if len(self.p_values) > 1 else "1 scalar"
        word = "NOT uniform" if self.rejected else "uniform"
        least = min(self.p_values.values())
        return f"{n} refits of simulated data ({ends}): ranks of {many} {word}, least p {least:.2g}"


def calibrate(fit: Any, n: Any) -> Calibration:
    r"""Simulation-based calibration of a fit's model and settings.

    Parameters are drawn from the prior and data given these, n times, and each data set is fitted
    as the fit's own was. Were every posterior right, the rank of each true scalar among posterior
    draws would be uniform,

    .. math:: \theta_i \sim p(\theta),\ y_i \sim p(y \mid \theta_i),\
        r_i = \#\{s : \theta_{is} < \theta_i\},\ \theta_{is} \sim q(\theta \mid y_i)
        \ \Rightarrow\ r_i \sim \mathrm{Uniform}\{0, \ldots, S\},

    which is tested by `uniform_p_values` and adjusted by Holm's method.

    Args:
        fit: a `Fit` that `ritz.fit` made in this process, of a NumPyro model with proper priors.
        n: how many data sets, at least 10; 50 find sds that are half of what they should be.

    Returns:
        a `Calibration`.

    Raises:
        RitzError: for what cannot be simulated or fitted again, naming it.

    Talts, Betancourt, Simpson, Vehtari and Gelman, "Validating Bayesian inference algorithms with
    simulation-based calibration", 2018; Holm, "A simple sequentially rejective multiple test
    procedure", 1979.
    """
    n = whole_number("calibrate", n, _LEAST)
    target = _simulable(fit)
    key = jax.random.fold_in(fit.key, 0xD3)
    seen = {name: np.asarray(v).dtype for name, v in fit.observed_data().items()}
    prior = lambda target, key, _: target.prior_predict(key)
    drawn = at_keys(prior, target, n, key, ())
    names = [(s, labels(s.name, s.shape)) for s in target.sites]
    ranks: dict[str, list[int]] = {label: [] for _, own in names for label in own}
    ends, compiled, rng = Counter({"ok": 0, "doubtful": 0, "failed": 0}), 0, generator(key)
    for i in range(n):
        data = {name: drawn[name][i].astype(dtype) for name, dtype in seen.items()}
        again = _refit(fit, target, data, i) if _finite(data) else None
        if again is None:
            ends["failed"] += 1
            continue
        ends[again.status] += 1
        compiled += again.info["compiled"]
        rows = np.linspace(0, len(again.stored()["x"]) - 1, _RANKED).astype(int)
        for site, own in names:
            draws = again.draws[site.name][rows].reshape(_RANKED, -1)
            true = drawn[site.name][i].reshape(-1)
            ties = rng.binomial((draws == true).sum(0), 0.5)
            for label, rank in zip(own, (draws < true).sum(0) + ties, strict=True):
                ranks[label].append(int(rank))
    if n - ends["failed"] < _LEAST:
        raise RitzError(
            f"calibrate: {ends['failed']} of {n} data sets simulated from the prior could not be "
            "fitted; choose a narrower prior"
        )
    found = {label: np.array(values) for label, values in ranks.items()}
    spread = np.array([(r + rng.uniform(size=len(r))) / (_RANKED + 1) for r in found.values()])
    p_values = dict(zip(found, holm(uniform_p_values(spread)).tolist(), strict=True))
    return Calibration(found, _RANKED, p_values, dict(ends), compiled)


def _simulable(fit: Any) -> NumPyroTarget:
    """The fit's target, if data can be drawn from its model and fitted as the fit was."""
    target = fit.target
    if not (isinstance(target, NumPyroTarget) and target.can_simulate):
        raise RitzError(
            "calibrate: data cannot be drawn from this target; it needs a NumPyro model with "
            "observed sites, fitted to all data at once"
        )
    if fit.again is None:
        raise RitzError("calibrate: a fit that was not made here by ritz.fit cannot be made again")
    if target.continuous_dim != target.dim or target.trained:
        raise RitzError(
            "calibrate: the model has parameters of its own or discrete sites that are drawn; fix "
            "them, or sum the sites out"
        )
    if simulation.has_factor(target):
        raise RitzError(
            "calibrate: the model has a numpyro.factor, of which no data can be drawn; write it as "
            "an observed site"
        )
    if set(simulation.inputs_of(target)) & set(simulation.observed_of(target)):
        raise RitzError(
            "calibrate: the model computes what it observes from the observed values themselves; "
            "draw one observation from the last, with numpyro's scan"
        )
    return target


def _refit(fit: Any, target: NumPyroTarget, data: dict[str, Any], i: int) -> Any:
    """A fit of other data, made as the fit was; None where there is none."""
    given = dataclasses.replace(
        target,
        model=_given(target.model),
        args=({k: jnp.asarray(v) for k, v in data.items()}, target.args, target.kwargs),
        kwargs={},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of runs that fail, which are counted
        try:
            made = fit.again(given, seed=jax.random.fold_in(fit.key, i), progress=False)
        except RitzError:
            return None
    if made.stop_reason == "not finite":
        return None
    return made if fit.correction == made.correction else made.refine(fit.correction)


def _given(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model with data by site in place of what it observes."""

    def simulated(data: dict[str, Any], args: Any, kwargs: Any) -> Any:
        with condition(data=data):
            return model(*args, **kwargs)

    return simulated


def _finite(data: dict[str, Any]) -> bool:
    return all(np.isfinite(v).all() for v in data.values())


def uniform_p_values(u: Float[np.ndarray, "m n"]) -> Float[np.ndarray, " m"]:
    r"""Exact p-values of n independent uniform numbers, for each row, by simultaneous bands.

    With :math:`F(z)` how many are at most z, the statistic is the smallest two-sided tail
    probability of :math:`F(z_k) \sim \mathrm{Binomial}(n, z_k)` over equally spaced
    :math:`z_k`; its law is found by summing over the paths of F, a Markov chain in k, that stay
    inside the band.

    Args:
        u: numbers between 0 and 1, shape (m, n).

    Returns:
        p-values, shape (m,).

    Säilynoja, Bürkner and Vehtari, "Graphical test for discrete uniformity and its applications in
    goodness-of-fit evaluation and multiple sample comparison", 2022, section 2.

    >>> rng = np.random.default_rng(0)
    >>> p = uniform_p_values(np.stack([rng.uniform(size=60), rng.beta(2.0, 2.0, size=60)]))
    >>> bool(p[0] > 0.1 > 0.01 > p[1])
    True
    """
    from scipy.special import gammaln
    from scipy.stats import binom

    n = u.shape[1]
    points = min(n, _POINTS)
    z = np.arange(1, points) / points
    k = np.arange(n + 1)
    tails = 2 * np.minimum(binom.cdf(k, n, z[:, None]), binom.sf(k - 1, n, z[:, None]))
    below = (u[:, :, None] <= z).sum(1)
    least = tails[np.arange(len(z)), below].min(1)
    log_factorial = gammaln(k + 1.0)
    more = k - k[:, None]  # from a row's count to a column's
    ways = np.where(
        more >= 0,
        log_factorial[::-1, None] - log_factorial[abs(more)] - log_factorial[::-1],
        -np.inf,
    )
    inside = np.zeros((len(u), n + 1))
    inside[:, 0] = 1.0
    for i in range(len(z)):
        p = 1.0 / (points - i)  # of the rest, those in this step
        move = np.exp(ways + np.maximum(more, 0) * np.log(p) + (n - k) * np.log1p(-p))
        inside = inside @ move * (tails[i] > least[:, None] * (1 + 1e-9))
    return np.clip(1.0 - inside.sum(1), 0.0, 1.0)


def holm(p_values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """P-values adjusted for how many there are.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    out = np.empty(len(p_values))
    out[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return out
