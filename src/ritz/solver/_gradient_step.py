"""One step of an Optax transformation, in the units that a family moves its arrays in."""

from typing import Any

import jax

from ritz.family._base import in_units


def gradient_step(
    transformation: Any, grad: Any, opt: Any, params: Any, factor: Any = None
) -> tuple[Any, Any]:
    """The parameters after a step, and the transformation's state.

    Args:
        transformation: of Optax.
        grad: at the parameters.
        opt: the transformation's state.
        params: the parameters.
        factor: what its update is multiplied by, if by anything.
    """
    import optax

    given = (in_units(grad, 1.0), opt, in_units(params, -1.0))
    update, opt = transformation.update(*given)
    if factor is not None:
        update = jax.tree.map(lambda u: factor.astype(u.dtype) * u, update)
    return optax.apply_updates(params, in_units(update, 1.0)), opt


def revised(problem: Any, params: Any, key: Any, batch: Any) -> Any:
    """Parameters with those that a problem sets itself; the same, of one that sets none."""
    revise = getattr(problem, "revise", None)
    return params if revise is None else revise(params, key, batch)
