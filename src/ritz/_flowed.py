"""A fit refined by a normalising flow: trained from its draws, in coordinates that they whiten."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ritz._posterior import DRAWS, drawn, smooth
from ritz._whitened import whitened
from ritz.estimator import pathwise
from ritz.family._coupling import spline
from ritz.family._flow_parts import placed
from ritz.objective import AbstractObjective, Problem, negative_elbo, wake_sleep
from ritz.solver import History, adam, run
from ritz.solver._run import Result

# Stages, each of twice the steps of the one before, at these rates.
_STEPS, _RATES = 4000, (0.02, 0.01, 0.01, 0.01)
_DRAWS = 16
# It has settled where a stage moves no mean by more than so many sds, and no log sd by more than
# this, beyond their Monte Carlo noise.
_MEAN, _LOG_SD = 0.05, 0.1
# Afterwards, towards tails.
_TAIL_DRAWS, _TAIL_STEPS, _TAIL_RATE = 64, 1000, 0.003


class Flowed(NamedTuple):
    """What `flowed` returns.

    Attributes:
        q: the flow.
        history: of the last stage.
        evaluations: gradients of all runs; a log density that was looked at counts a third.
        steps: of all.
        settled: whether its last stage left means and sds as they were.
    """

    q: Any
    history: History
    evaluations: float
    steps: int
    settled: bool


def flowed(q: Any, target: Any, key: jax.Array) -> Flowed:
    r"""A flow :math:`x = m + L\,T(z)`, with m and :math:`LL^\top` those of draws from q by weight.

    T is the spline flow, the identity at first. Adam lowers :math:`\mathrm{KL}(q\,\|\,p)`, which
    gives way from inside to parts of p that q does not hold yet: small weights do not tell that
    such a part is there, but means and sds go on moving. So stages of 4,000, 8,000, 16,000 and
    32,000 steps follow one another until one leaves them as they were. At last 1,000 steps of
    reweighted wake-sleep, which lower :math:`\mathrm{KL}(p\,\|\,q)`, mend tails.

    Durkan, Bekasov, Murray and Papamakarios, "Neural spline flows", 2019; Bornschein and Bengio,
    "Reweighted wake-sleep", 2015.
    """
    draws, walk, look = jax.random.split(key, 3)
    found = whitened(q, target, draws, "flow")
    factor = found.factor if found.factor.ndim == 2 else np.diag(found.factor)
    dtype = found.drawn["x"].dtype
    center, factor = jnp.asarray(found.center, dtype), jnp.asarray(factor, dtype)
    flow: Any = placed(spline(target, center, scale=1.0, whitened=True), center, factor)
    before, settled, steps, seen, history = None, False, 0, 0.0, History()
    for at, rate in enumerate(_RATES):
        objective, n = negative_elbo(_DRAWS, "mc"), _STEPS * 2**at
        flow, result = _run(flow, target, objective, n, rate, jax.random.fold_in(walk, at))
        steps, seen = steps + result.steps, seen + _DRAWS * result.steps + DRAWS / 3
        if result.steps == 0 or result.stop_reason == "not finite":
            break
        history = result.history
        after = _moments(flow, target, jax.random.fold_in(look, at))
        settled, before = before is not None and _same(before, after), after
        if settled:
            break
    end = jax.random.fold_in(walk, len(_RATES))
    flow, result = _run(flow, target, wake_sleep(_TAIL_DRAWS), _TAIL_STEPS, _TAIL_RATE, end)
    seen += _TAIL_DRAWS * result.steps / 3
    return Flowed(flow, history, seen, steps + result.steps, settled)


def _run(
    q: Any, target: Any, objective: AbstractObjective, steps: int, rate: float, key: jax.Array
) -> tuple[Any, Result]:
    problem, solver = Problem(target, q, objective, pathwise()), adam(rate, steps, clip=q.clip)
    with warnings.catch_warnings():
        # Whether it has led anywhere is seen from its weights.
        warnings.filterwarnings("ignore", "step .* is not finite", RuntimeWarning)
        result = run(problem, solver, steps, key, progress=False)
    if result.stop_reason == "interrupted":  # the fit that it was to improve is still there
        raise KeyboardInterrupt
    return problem.family_at(solver.answer(result.state)), result


def _moments(q: Any, target: Any, key: jax.Array) -> tuple[np.ndarray, np.ndarray, float]:
    """Means and sds by weight, and how many draws they are worth."""
    pool = drawn(q, target, DRAWS, key)
    smoothed = smooth(pool["log_weights"])
    weights = np.exp(smoothed.log_weights - smoothed.log_weights.max())
    weights, x = weights / weights.sum(), pool["x"].astype(np.float64)
    mean = weights @ x
    return mean, np.sqrt(weights @ (x - mean) ** 2), smoothed.ess


def _same(before: Any, after: Any) -> bool:
    noise = 2.0 * (1.0 / before[2] + 1.0 / after[2]) ** 0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.abs(after[0] - before[0]) / after[1]
        wider = np.abs(np.log(after[1] / before[1]))
    return bool((shift <= _MEAN + noise).all() and (wider <= _LOG_SD + noise).all())
