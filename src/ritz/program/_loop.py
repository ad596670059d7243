"""Choices inside a scan."""

from typing import Any

import jax
import jax.numpy as jnp

from ritz._errors import RitzError
from ritz.estimator import score
from ritz.program._graph import graph
from ritz.program._scan import operands
from ritz.program._value import Record, Records, Value, lifted


def repeat(
    op: Any,
    given: list[Value],
    key: Any,
    site: int,
    deps: list[Any],
    settle: list[bool],
) -> tuple[list[Value], Record]:
    r"""A scan whose body samples, as one scan; all its choices together are one.

    What a step sends on depends on the choices of all steps before, whose log densities are
    summed along the way. Outputs of which means are taken are settled in the step they are made,
    so that a choice is credited with what comes after it only.

    Args:
        op: the scan.
        given: its operands.
        key: of the program.
        site: the number of its choices as one.
        deps: of its results.
        settle: of which results means are taken.
    """
    from ritz.program._expectation import linear_inputs, run  # which runs scans by this function

    params = op.params
    (consts, carries), length = operands(params), params["length"]
    flow = graph(params["jaxpr"])
    sums = linear_inputs(flow, settle, range(consts, consts + carries))
    now = [*sums, *settle[carries:]]
    keys = jax.random.split(jax.random.fold_in(key, site), length)
    past = -1  # the number, within a step, of all choices of the steps before

    def whole(*arrays: Any) -> Any:
        fixed, start = arrays[:consts], arrays[consts : consts + carries]
        rows = arrays[consts + carries :]

        def step(state: Any, row: Any) -> Any:
            carry, log_q = state
            key, xs = row
            before = Record(score(), {"log_q": log_q}, ())
            records = Records({past: before})
            inputs = [Value(x) for x in fixed]
            for x, is_sum in zip(carry, sums, strict=True):
                inputs.append(Value(x) if is_sum else Value(x, (), {past: ()}))
            inputs += [Value(x) for x in xs]
            found = run(flow, inputs, key, records, now)
            sent: set[int] = set()
            for value, done in zip(found, now, strict=True):
                if not done and value.stacked:
                    raise _too_many(records[value.stacked[-1]].estimator, length)
                sent |= set() if done else set(value.deps)
            for choice in sent - {past}:
                log_q = log_q + _log_density(records[choice], length).astype(log_q.dtype)
            arrays = [v.array for v in found]
            return (arrays[:carries], log_q), arrays[carries:]

        state = (list(start), jnp.zeros(()))
        (carry, log_q), ys = jax.lax.scan(
            step, state, (keys, list(rows)), length=length, reverse=params["reverse"]
        )
        return [*carry, *ys], log_q

    (arrays, log_q), stacked = lifted(whole, given)
    out = []
    for x, d, done in zip(arrays, deps, now, strict=True):
        own = {s: p for s, p in d.items() if not (done and s == site)}
        out.append(Value(x, stacked, own))
    return out, Record(score(), {"log_q": log_q}, stacked)


def _log_density(record: Record, length: int) -> Any:
    """What a choice adds to the likelihood ratio of all steps so far."""
    notes = [note.sum() for name, note in record.notes.items() if name.startswith("log")]
    if record.estimator.combines and not notes:
        raise RitzError(
            f"{type(record.estimator).__name__} inside a scan of {length} steps reaches what the "
            "next step starts from, and none of its notes is a log density (a name that begins "
            "with log), by which later steps would be credited; name it so, use score() there, or "
            "a scan of at most 16 steps"
        )
    return sum(notes, start=jnp.zeros(()))


def _too_many(estimator: Any, length: int) -> RitzError:
    return RitzError(
        f"{type(estimator).__name__} inside a scan of {length} steps reaches what the next step "
        "starts from, so that its values multiply from step to step; use pathwise() or score() "
        "there, or a scan of at most 16 steps"
    )
