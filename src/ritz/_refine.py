"""A fit improved from where it stands: by weights, a flow, or a sampler."""

import dataclasses
import time
from typing import Any

import jax

from ritz import _nuts
from ritz._compile import spent
from ritz._errors import RitzError, suggest

WAYS = ("importance", "flow", "nuts")


def refine(fit: Any, how: Any, key: jax.Array) -> Any:
    """See `Fit.refine`."""
    if how not in WAYS:
        raise RitzError(f"refine: {how!r} arrived; {suggest(str(how), WAYS)}")
    # What was told of the draws before is not true of others.
    told = ("nuts", "refined", "tails")
    info = {name: value for name, value in fit.info.items() if name not in told}
    better = dataclasses.replace(fit, correction="importance", info=info)
    if how == "importance":
        return better
    spent_before, began = spent(), time.perf_counter()
    if how == "nuts":
        # Whether these chains are right does not depend on how the run before them ended.
        better.correction, better.stop_reason = "nuts", "converged"
        stored, found = _nuts.run(fit.q, fit.target, key)
        better.info |= {"nuts": found}
        better.info["refined"] = [
            f"refined by NUTS, as asked for: {found['gradients']:,} gradient evaluations"
        ]
        if found["others"]:
            better.info["refined"].append(
                "these are other chains, non-centred and with shorter steps; of the first ones "
                + found["others"]
            )
        better.restore(stored)
    else:
        better = _by_flow(fit, better, key)
    compiling = spent() - spent_before
    better.info["compile_seconds"] += compiling
    better.info["run_seconds"] += time.perf_counter() - began - compiling
    return better


def _by_flow(fit: Any, corrected: Any, key: jax.Array) -> Any:
    """The fit with a flow in q's place, corrected; or with q, if weights prefer that."""
    from ritz._flowed import flowed

    found = flowed(fit.q, fit.target, key)
    cost = f"{found.evaluations:,.0f} gradient evaluations"
    info = corrected.info | {
        "family": found.q.registered_as,
        "objective": "NegativeELBO, then WakeSleep",
        "solver": "adam",
        "steps": found.steps,
        "evaluations": (fit.info["evaluations"] or 0.0) + found.evaluations,
        "refitted": True,
        "refined": [f"refined by a spline flow, as asked for: {cost}"],
    }
    better = dataclasses.replace(
        corrected,
        q=found.q,
        history=found.history,
        stop_reason="converged" if found.settled else "steps",
        message="" if found.settled else "means and sds of the flow were still moving",
        info=info,
    )
    before, after = (f.psis.ess / len(f.psis.log_weights) for f in (corrected, better))
    if after > before:
        return better
    corrected.info["evaluations"] = info["evaluations"]
    corrected.info["refined"] = [
        f"a spline flow, as asked for, is no better: weights leave {after:.0%} of its draws and "
        f"{before:.0%} of those before ({cost})"
    ]
    return corrected
