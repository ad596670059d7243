"""Targets whose rows arrive in batches, and the check that their scale to the whole is known."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.interpreters import partial_eval

from ritz._errors import RitzError
from ritz.target import _terms
from ritz.target._base import term_name
from ritz.target._failure import NeedsValues, label
from ritz.target._from_numpyro import assemble
from ritz.target._held import NOTHING, hold
from ritz.target._numpyro import NumPyroTarget, split_batch
from ritz.target._structure import Structure, structure
from ritz.target._treatment import Treatment, treated


def from_batches(model: Callable[..., Any], batches: Any, *, discrete: Any = None) -> NumPyroTarget:
    """The posterior of a model that is given `batches.total` rows a batch at a time.

    Two kinds of plate are plates over rows. One whose size follows the batch,
    `numpyro.plate("rows", len(y))`: its sites are scaled by `batches.total / batch rows`. And
    one that says so itself, `numpyro.plate("rows", N, subsample_size=len(y))`: NumPyro scales
    its sites. Other plates are left alone.

    Args:
        model: a function of NumPyro primitives.
        batches: a `ritz.data.Batches`.
        discrete: as for `from_numpyro`.

    Returns:
        the target; it holds all rows where they are in memory, else the first batch.

    Raises:
        RitzError: if the model fails on a batch, has a latent site in a plate over rows, or has
            a term of its log density that depends on the batch and is in no plate over rows.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from ritz.data import batches
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("rows", len(y)):
    ...         numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> from_batches(model, batches((np.zeros(100),), 10)).totals
    (('rows', 100),)
    """
    return treated(discrete, lambda treatment: _build(model, batches, treatment))


def _build(model: Callable[..., Any], batches: Any, treatment: Treatment) -> NumPyroTarget:
    try:
        totals, declared = _plates_over_rows(model, batches)
        abstract = split_batch(batches.abstract(batches.size))
        found = structure(model, *abstract, keep=declared, drawn=treatment)
    except NeedsValues as error:
        raise RitzError(
            f"{error}; of data in batches no values are known: add what the model needs to the "
            'batches, as in {"y": y, "groups": 8}'
        ) from error
    over = declared | set(totals)
    for entry in found.entries:
        if entry.latent and over & entry.plates:
            raise RitzError(
                f"site {entry.name!r} is local to each row of a batch; fit all rows at once, or "
                "subsample inside the model: numpyro.plate(name, N, subsample_size=...)"
            )
    _check_scaled(model, batches, found, over, declared, treatment)
    whole = batches.whole()
    args, kwargs = split_batch(batches.example() if whole is None else whole)
    held = hold((args, kwargs), NOTHING)
    held_structure = structure(model, *held, keep=declared, drawn=treatment)
    return assemble(
        model,
        held_structure,
        held,
        treatment=treatment,
        totals=tuple(sorted(totals.items())),
        declared=declared,
        holds_all=whole is not None,
    )


def _plates_over_rows(
    model: Callable[..., Any], batches: Any
) -> tuple[dict[str, int], frozenset[str]]:
    """Plates that follow a batch's rows, with their size at all rows; and those that declare N."""
    rows, total = batches.size, batches.total
    # A batch of another size shows which plates follow it; more than N rows fit no plate of N.
    other = rows + 1 if rows < total or rows == 1 else rows - 1
    here = structure(model, *split_batch(batches.abstract(rows)), whole=False)
    try:
        there = structure(model, *split_batch(batches.abstract(other)), whole=False)
    except NeedsValues:
        raise
    except RitzError as error:
        raise RitzError(
            f"model {label(model)!r} takes a batch of {rows} rows but none of {other}, so its "
            f"plate over rows cannot be told ({error}); write numpyro.plate('rows', len(y)), or "
            "numpyro.plate('rows', N, subsample_size=len(y))"
        ) from error
    totals, declared = {}, set()
    for name, size in here.plates.items():
        if there.plates.get(name) != size:
            if there.plates.get(name, 0) * rows != size * other:
                raise RitzError(
                    f"plate {name!r} has size {size} at {rows} rows and {there.plates.get(name)} "
                    f"at {other}; a plate over rows must be a multiple of the rows long"
                )
            totals[name] = size // rows * total
        elif there.taken.get(name) != here.taken[name]:
            if size * rows != here.taken[name] * total:
                raise RitzError(
                    f"plate {name!r} has size {size} and takes {here.taken[name]} of them from a "
                    f"batch of {rows} rows, but the data have {total} rows; make its size "
                    f"{here.taken[name] * total // rows}"
                )
            declared.add(name)
    return totals, frozenset(declared)


def _check_scaled(
    model: Callable[..., Any],
    batches: Any,
    found: Structure,
    over: set[str] | frozenset[str],
    declared: frozenset[str],
    treatment: Treatment,
) -> None:
    """Refuse a term that depends on the batch and is in no plate over rows."""
    inside = {entry.name for entry in found.entries if over & entry.plates}
    for name in _depending(model, batches, found, declared, treatment):
        if name not in inside:
            raise RitzError(
                f"{term_name(name)} depends on the batch but is in no plate over its "
                f"{batches.size} rows, so its scale to {batches.total} rows is unknown; put it in "
                "numpyro.plate('rows', len(y))"
            )


def _depending(
    model: Callable[..., Any],
    batches: Any,
    found: Structure,
    declared: frozenset[str],
    treatment: Treatment,
) -> list[str]:
    """The terms of the log density that the arrays of a batch can change."""
    target = assemble(model, found, ((), {}), treatment=treatment, declared=declared, planned=False)
    batch = batches.abstract(batches.size)
    is_array = lambda v: isinstance(v, jax.ShapeDtypeStruct)
    arrays, static = eqx.partition(batch, is_array)
    names: list[str] = []

    def terms(arrays: Any, x: Any) -> list[Any]:
        args, kwargs = split_batch(eqx.combine(arrays, static))
        parts = _terms.terms(*target.run(x, None, args, kwargs))
        names[:] = parts
        return list(parts.values())

    x = jax.ShapeDtypeStruct((target.dim,), jax.dtypes.canonicalize_dtype(float))
    jaxpr = jax.make_jaxpr(terms)(arrays, x).jaxpr
    depending = []
    for i, name in enumerate(names):
        wanted = [j == i for j in range(len(names))]
        *used, _ = partial_eval.dce_jaxpr(jaxpr, wanted)[1]
        if any(used):
            depending.append(name)
    return depending
