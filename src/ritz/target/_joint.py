"""A model's joint log density where its discrete sites have given values, as factors."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from numpyro import handlers

from ritz.target import _effects as effects
from ritz.target import _factors
from ritz.target._factors import Factor
from ritz.target._held import release
from ritz.target._scans import Scans
from ritz.target._tables import Indices


@dataclasses.dataclass(frozen=True)
class Joint:
    """A run at given values of the discrete sites.

    Attributes:
        traced: its trace, without the bodies of scans that have discrete sites.
        factors: its log factors; each scan that has discrete sites is one, at given values of
            their last step, and summed over the steps before.
        hidden: deterministic sites in such scans that depend on a discrete one.
        mixed: see `Scans`.
    """

    traced: Mapping[str, Any]
    factors: list[Factor]
    hidden: list[str]
    mixed: list[tuple[tuple[str, ...], tuple[str, ...], Any]]


def joint(
    target: Any,
    x: Any,
    indices: Indices,
    arguments: tuple[Any, Any],
    *,
    key: Any = None,
    totals: Mapping[str, int] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Joint:
    """Run a target's model.

    Args:
        target: a `NumPyroTarget`.
        x: unconstrained vector.
        indices: which of its values each discrete site has.
        arguments: the model's, positional and by name.
        key: for subsampled plates; without it they are made whole.
        totals: plates over a batch's rows, each with the rows of the whole.
        weights: see `Scans`.
    """
    args, kwargs = release(arguments)
    others = effects.at({site.name: site for site in target.sites}, x, target.relaxed)
    seed = jax.random.key(0) if key is None else key
    options: dict[str, Any] = {"whole": key is None, "keep": target.declared, "totals": totals}
    read = lambda traced, plates: _factors.read(traced, plates, totals or {})

    def step(body: Callable[..., Any], carry: Any, at: Any, indices: Indices) -> Any:
        out: list[Any] = []
        keep = lambda *operands: out.append(body(*operands))
        value_of = target.plan.value_of(indices, others)
        with handlers.block():
            traced, plates = effects.run(
                keep, (carry, *at), {}, seed, value_of, steps=at[1:], **options
            )
        return out[-1], traced, read(traced, plates)

    names = {site.name for site in target.sites}
    scans = Scans(target.bound, target.plan.sites, step, indices, names, weights or {})
    value_of = target.plan.value_of(indices, others)
    traced, plates = effects.run(scans, args, kwargs, seed, value_of, **options)
    traced = scans.take(traced)
    return Joint(traced, read(traced, plates) + scans.found, scans.hidden, scans.mixed)
