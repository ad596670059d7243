"""From a NumPyro model to its target."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ritz._errors import RitzError
from ritz.target._failure import NeedsValues, label
from ritz.target._held import EVERYTHING, INTEGERS, NOTHING, hold
from ritz.target._numpyro import NumPyroTarget
from ritz.target._parameters import parameters
from ritz.target._plan import Plan, plan
from ritz.target._structure import Structure, structure
from ritz.target._treatment import Treatment, treated


def from_numpyro(
    model: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    discrete: Any = None,
) -> NumPyroTarget:
    """The posterior of a NumPyro model given its arguments.

    Plates (subsampled ones too), `scan`, `cond`, `factor`, improper priors, constrained and
    reparameterised sites and `deterministic` sites are understood. Arrays among the arguments
    are traced, so that other data of the same shapes compile nothing; where a model computes
    Python values from its data (`int(group.max()) + 1`), first the integers among them, then all
    are closed over instead.

    Discrete latent sites with finitely many values are summed out, exactly: `log_density` is
    that of the continuous sites alone. The model needs no change: it runs for one value of each
    site at a time. The elements of a plate are summed one by one, at a cost linear in its size;
    elements that the model mixes (a sum over the plate, say) jointly, up to 4,096 combinations.
    A discrete state that a `scan` carries is summed step by step. A site that would need more
    combinations, or that `discrete` says is not to be summed, becomes a part of the vector x
    instead, one number for each element, which a family draws. `lines` of the target says what
    was done.

    Sites of `numpyro.param` are the model's own parameters: a fit trains them along with the
    family, and `trained` of its target has their values.

    The log density is that of NumPyro, with two differences. `handlers.scale` and
    `handlers.mask` around a constrained latent site change its density and not its Jacobian, so
    that the posterior does not depend on how the site is parameterised. And entries of an
    `obs_mask` site that have been observed have a standard normal density in place of none.

    Args:
        model: a function of NumPyro primitives.
        args: its positional arguments, data included.
        kwargs: its keyword arguments.
        discrete: what is done with discrete latent sites: "summed", "score" (drawn: x holds
            integers) or "relaxed" (drawn: the model also sees numbers between 0 and 1), or a
            mapping from sites to these. By default they are summed where that is possible.

    Returns:
        the target.

    Raises:
        RitzError: if the model fails, or has no latent site but those that are summed out, or a
            discrete one that cannot be treated as `discrete` says.

    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> def model(y):
    ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    >>> from_numpyro(model, (np.zeros(3),)).dim
    1
    """
    if not callable(model):
        raise RitzError(f"the model is a {type(model).__name__}; expected a function")
    if not isinstance(args, tuple | list):
        raise RitzError(f"args is a {type(args).__name__}; expected a tuple: args=(y,)")

    def build(treatment: Treatment) -> NumPyroTarget:
        failed: NeedsValues | None = None
        for holds in (NOTHING, INTEGERS, EVERYTHING):
            held = hold((tuple(args), dict(kwargs or {})), holds)
            try:
                found = structure(model, *held, drawn=treatment)
                return assemble(model, found, held, treatment=treatment, holds=holds)
            except NeedsValues as error:
                failed = error
        assert failed is not None
        raise failed

    return treated(discrete, build)


def assemble(
    model: Callable[..., Any],
    found: Structure,
    held: tuple[Any, Any],
    *,
    treatment: Treatment,
    holds: str = NOTHING,
    totals: tuple[tuple[str, int], ...] = (),
    declared: frozenset[str] = frozenset(),
    holds_all: bool = True,
    planned: bool = True,
) -> NumPyroTarget:
    """A target from what is known of its model; the fields are those of `NumPyroTarget`.

    Without `planned`, `log_density` cannot be evaluated where there are discrete latent sites.

    Raises:
        RitzError: if the model has no continuous latent site, or its discrete ones cannot be
            summed out.
    """
    if not found.sites and found.discrete:
        names = ", ".join(site.name for site in found.discrete)
        raise RitzError(
            f"model {label(model)!r} has discrete latent sites only ({names}), which are summed "
            "out: nothing is left to fit; use discrete='score'"
        )
    if not found.sites:
        raise RitzError(f"model {label(model)!r} has no latent site: nothing to infer")
    treatment.check(found.discrete, found.sites)
    theta, maps = parameters(model, held, found.params) if found.params and planned else ({}, {})
    target = NumPyroTarget(
        sites=found.sites,
        observed=found.observed,
        deterministic=found.deterministic,
        model=model,
        args=held[0],
        kwargs=held[1],
        holds=holds,
        totals=totals,
        declared=declared,
        holds_all=holds_all,
        plan=Plan(found.discrete) if found.discrete else None,
        relaxed=treatment.relaxed(found.sites),
        theta=theta,
        theta_maps=maps,
    )
    if not planned:
        return target
    target = _planned(target)
    treatment.check_smooth(target)
    return target


def _planned(target: NumPyroTarget) -> NumPyroTarget:
    """The target with its discrete sites' plan made and checked."""
    if target.plan is None:
        return target
    made = plan(target, target.plan.sites)
    shown = tuple(q for q in target.deterministic if q.name not in made.hidden)
    return dataclasses.replace(target, plan=made, deterministic=shown)
