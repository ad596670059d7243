"""Hierarchies seen in other coordinates: centred, non-centred, or between the two."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval
from jaxtyping import Array, Float

from ritz._compile import compile
from ritz.target import _laws as laws
from ritz.target._base import float_dtype
from ritz.target._numpyro import NumPyroTarget

# Of a site's own scale: half the width of the differences that give a curvature.
_STEP = 0.1


def hierarchical(target: Any) -> tuple[str, ...]:
    """The sites whose prior has a location or scale that depends on other latent sites.

    Of normal, log-normal and Student-t ones, summed-out sites apart; none where the target is not
    that of a model.
    """
    if not isinstance(target, NumPyroTarget) or target.plan is not None:
        return ()
    names: list[str] = []

    def of_priors(x: Array) -> list[Any]:
        traced, _ = target.run(x)
        out = []
        for site in target.sites:
            found = laws.location_and_scale(traced[site.name]["fn"])
            if found is not None:
                names.append(site.name)
                out += [jnp.asarray(v, float_dtype()).sum() for v in found]
        return out

    x = jax.ShapeDtypeStruct((target.dim,), float_dtype())
    jaxpr = jax.make_jaxpr(of_priors)(x).jaxpr
    depends = []
    for i, name in enumerate(names):
        wanted = [j // 2 == i for j in range(2 * len(names))]
        if any(partial_eval.dce_jaxpr(jaxpr, wanted)[1]):
            depends.append(name)
    return tuple(depends)


def centred(target: Any, centring: dict[str, Array]) -> NumPyroTarget:
    r"""The same posterior, with other coordinates of some sites.

    A site u with the prior location m and scale s (of its logarithm, if it is log-normal) has the
    coordinate z instead,

    .. math:: u = m + s^{1-\lambda} (z - \lambda m), \qquad
              z \sim (\lambda m, s^\lambda):

    1 is centred, as a model writes it, 0 non-centred.

    Args:
        target: of a model.
        centring: lambda by site, of the site's unconstrained shape.

    Papaspiliopoulos, Roberts and Sköld, "A general framework for the parametrization of
    hierarchical models", 2007; Gorinova, Moore and Hoffman, "Automatic reparameterisation of
    probabilistic programs", 2020, section 4.
    """
    # By its own support alone such a site cannot be told from its coordinate.
    sites = tuple(
        dataclasses.replace(s, constraint=None) if s.name in centring else s for s in target.sites
    )
    return dataclasses.replace(target, sites=sites, centring=centring)


def fits(target: Any, centring: dict[str, Any]) -> bool:
    """Whether these sites of a target can be centred so: they are hierarchical, of these shapes."""
    shapes = {s.name: s.unconstrained_shape for s in target.sites}
    names = set(centring)
    same = names <= set(shapes) and all(v.shape == shapes[n] for n, v in centring.items())
    return not names or (same and names <= set(hierarchical(target)))


def chosen(target: NumPyroTarget, names: tuple[str, ...], x: Float[Array, " d"]) -> dict[str, Any]:
    r"""How far to centre each element of some sites, by what data say of it at a point.

    With z of unit prior variance and :math:`P = -\partial_z^2\log\tilde p`, of which 1 is the
    prior's, :math:`\lambda = 1 - 1/P`: the share of what is known of z that data say. In normal
    models z given everything else then depends least on m and s.

    Args:
        target: of a model.
        names: of its `hierarchical` sites.
        x: the point, in the target's coordinates.

    Returns:
        lambda by site; 0 where the log density is not finite or not concave.
    """
    zero = {s.name: jnp.zeros(s.unconstrained_shape) for s in target.sites if s.name in names}
    apart = centred(target, zero)
    z = moved(target, apart, x)
    at = np.concatenate([np.arange(s.start, s.stop) for s in target.sites if s.name in names])

    def curvatures(target: Any, z: Any, at: Any) -> Any:
        def one(i: Any) -> Any:
            slope = lambda step: jax.grad(target.log_density)(z.at[i].add(step))[i]
            return (slope(-_STEP) - slope(_STEP)) / (2.0 * _STEP)

        return jax.lax.map(one, at, batch_size=64)

    args = (apart, z, jnp.asarray(at))
    known = np.maximum(np.nan_to_num(np.asarray(compile(curvatures, *args, quick=True)(*args))), 1)
    whole = np.zeros(target.dim)
    whole[at] = 1.0 - 1.0 / known
    return {s.name: s.take(jnp.asarray(whole, x.dtype)) for s in target.sites if s.name in names}


def moved(old: NumPyroTarget, new: NumPyroTarget, x: Float[Array, " d"]) -> Float[Array, " d"]:
    """The point of the coordinates of `new` that x is in those of `old`."""
    return compile(in_coordinates, old, new, x, quick=True)(old, new, x)


def in_coordinates(old: Any, new: Any, x: Float[Array, " d"]) -> Float[Array, " d"]:
    """As `moved`, to be traced."""
    values = old.constrain(x)
    return new.unconstrain({site.name: values[site.name] for site in old.sites})
