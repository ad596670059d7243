"""Where a fit starts: the first of several candidates with a finite density and gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz._compile import compile
from ritz._errors import RitzError
from ritz.target._base import LOG_DET, term_name


def search(
    target: Any, key: Any, strategies: Any, point: Callable[..., Any]
) -> tuple[jax.Array, str]:
    """The first finite point over a list of strategies, and the strategy's name.

    Args:
        target: has `log_density` and `terms`.
        key: for draws.
        strategies: tuples of a name, something that `point` understands, and a count.
        point: `point(target, strategy, key)` gives an unconstrained vector.

    Raises:
        RitzError: if every candidate fails, naming the term that is not finite.
    """
    x = None
    for index, (name, strategy, count) in enumerate(strategies):

        def candidates(target: Any, key: Any, strategy: Any = strategy, count: int = count) -> Any:
            if count == 1:
                x = point(target, strategy, key)
                return x, _finite(*jax.value_and_grad(target.log_density)(x))
            points = jax.vmap(lambda k: point(target, strategy, k))(jax.random.split(key, count))
            good = jax.vmap(_finite)(*jax.vmap(jax.value_and_grad(target.log_density))(points))
            return points[jnp.argmax(good)], good.any()

        key_here = jax.random.fold_in(key, index)
        x, found = compile(candidates, target, key_here, quick=True)(target, key_here)
        if bool(found):
            return x, name
    raise RitzError(blame(target, x))


def _finite(value: Any, grad: Any) -> Any:
    return jnp.isfinite(value) & jnp.isfinite(grad).all()


def blame(target: Any, x: Any) -> str:
    """One line: which term, or which site's gradient, is not finite at a point."""

    def parts(target: Any, x: Any) -> Any:
        return target.terms(x), jax.grad(target.log_density)(x)

    terms, grad = jax.tree.map(np.asarray, compile(parts, target, x, quick=True)(target, x))
    for name, value in terms.items():
        if not np.isfinite(value):
            fix = "check its data against its support" if target.has_model else "start elsewhere"
            return (
                f"no starting point has a finite log density: {_culprit(target, name, value, x)}; "
                f"{fix}, or give init={{...}}"
            )
    for site in target.sites:
        if not np.isfinite(grad[site.start : site.stop]).all():
            return (
                f"the gradient with respect to site {site.name!r} is not finite at each starting "
                "point tried; look for sqrt, log or a division at zero, or give init={...}"
            )
    return "no starting point has a finite log density and gradient; give init={...}"


def _culprit(target: Any, name: str, value: Any, x: Any) -> str:
    """The term that is not finite and, at an observed site, the first observation."""
    if not target.has_model and not name.endswith(LOG_DET):
        return f"the log density {name!r} is {value:g}"
    said = f"{term_name(name)} is {value:g}"
    if not target.has_model or name not in {q.name for q in target.observed}:
        return said

    def points(target: Any, x: Any) -> Any:
        return target.log_likelihood(x)[name], target.observed_data()[name]

    each, data = map(np.atleast_1d, compile(points, target, x, quick=True)(target, x))
    bad = np.argwhere(~np.isfinite(each))
    if bad.size == 0:
        return said
    index = tuple(int(i) for i in bad[0])
    shown = ",".join(map(str, index))
    seen = f", data {data[index]!s}" if data.shape[: each.ndim] == each.shape else ""
    return f"{said} ({len(bad)} of {each.size} observations, first at [{shown}]{seen})"
