"""The parts of a fit: from what a user names, or does not, to what the engine runs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ritz import _discrete
from ritz import family as _family
from ritz import solver as _solvers
from ritz._errors import RitzError, suggest, takes, whole_number
from ritz._result import Fit
from ritz.estimator import AbstractEstimator, default
from ritz.objective import (
    AbstractObjective,
    Program,
    linearised_elbo,
    maximum_likelihood,
    negative_elbo,
    stein_discrepancy,
)
from ritz.solver import AbstractSolver, adam, optax_solver
from ritz.target import AbstractTarget, SampleTarget, check_values
from ritz.target._centring import centred, fits

FULL_RANK_UP_TO = 50


def as_key(seed: Any) -> jax.Array:
    """A JAX key of an integer or a key.

    Raises:
        RitzError: for anything else.
    """
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        key = seed
    elif isinstance(seed, jax.Array) and seed.dtype == jnp.uint32 and seed.shape == (2,):
        key = jax.random.wrap_key_data(seed)
    elif isinstance(seed, int | np.integer) and not isinstance(seed, bool) and 0 <= seed < 2**32:
        key = jax.random.key(int(seed))
    else:
        raise RitzError(
            f"seed={seed!r} arrived, expected an integer from 0 to 2**32 - 1 or a JAX key"
        )
    if key.shape != ():
        raise RitzError(f"seed holds {key.size} keys, expected one; index it")
    return key


def start_of(
    target: Any, family: Any, moved: tuple[str, ...], init: Any, key: jax.Array
) -> tuple[Any, str]:
    n = target.continuous_dim
    if family is None and n > 0:
        family = "full_rank" if n <= FULL_RANK_UP_TO else "mean_field"
        family = family if not moved or family in moved else moved[0]
    x, how = point_of(target, init, key)
    if isinstance(init, Fit) and isinstance(family, str) and _family.name_of(init.q) == family:
        return init.q.for_target(target), "an earlier fit"
    return _family.build(family, target, x), how


def point_of(target: Any, init: Any, key: jax.Array) -> tuple[jax.Array, str]:
    if init is None:
        return target.start(key)
    if isinstance(init, Fit):
        form = lambda target: [(s.name, s.shape) for s in target.sites]
        if form(init.target) != form(target):
            raise RitzError(
                f"init is a fit of other sites: it has {init.target.describe()}, the target has "
                f"{target.describe()}"
            )
        return jnp.asarray(init.unconstrained_mean()), "an earlier fit's mean"
    values = target.unpack(init)
    if isinstance(values, dict):  # what `Fit.mean` returns has deterministic sites too
        computed = {quantity.name for quantity in target.deterministic}
        values = {name: value for name, value in values.items() if name not in computed}
    values = check_values(target.sites, values, partial=True)
    given = {name: np.asarray(value, float) for name, value in values.items()}
    if all(site.name in given for site in target.sites):
        x = target.unconstrain(given)
        how = "the values given"
    else:
        base, base_how = target.start(key)
        defaults = {s.name: target.constrain(base)[s.name] for s in target.sites}
        x = target.unconstrain(defaults | given)
        how = f"the values given, and {base_how}"
    for site in target.sites:
        if not np.isfinite(np.asarray(site.take(x))).all():
            raise RitzError(
                f"init for site {site.name!r} is outside its support {site.support}, or on its edge"
            )
    return x, how


def estimator_of(given: Any, q: Any, target: Any, by_site: Callable[[str], Any]) -> Any:
    """The estimator of all choices; the one given is for the continuous coordinates."""
    if given is not None:
        _part("estimator", given, AbstractEstimator, "pathwise", lambda: None)
    return _discrete.estimator(given, q, target, by_site) or given or default(q)


def solver_of(solver: Any, lr: Any, steps: Any, clip: float | None = None) -> AbstractSolver:
    if solver is None or solver == "adam":
        return adam(lr, None if steps is None else max(whole_number("steps", steps, 0), 1), clip)
    if isinstance(solver, str):
        known = _solvers.registered()
        if solver not in known:
            raise RitzError(f"no solver {solver!r}; {suggest(solver, known)}")
        return known[solver].build()
    return solver if isinstance(solver, AbstractSolver) else optax_solver(solver)


def solver_name(given: Any, chosen: AbstractSolver, lr: float, clip: float | None) -> str:
    if given is None or given == "adam":
        return f"adam (lr {lr:g}, falling{'; gradients clipped' * (clip is not None)})"
    return given if isinstance(given, str) else type(chosen).__name__


def objective_of(given: Any, draws: Any, q: Any, target: Any) -> AbstractObjective:
    if callable(given) and not isinstance(given, AbstractObjective | type):
        takes("objective", given, ["q", "target"])
        return Program(given)
    if q.objective is not None:
        default = lambda: q.objective
    elif "points" in q.capabilities:
        default = stein_discrepancy
    elif isinstance(target, SampleTarget) and "log_prob" in q.capabilities:
        default = maximum_likelihood
    elif "linearised_entropy" in q.capabilities:
        default = functools.partial(linearised_elbo, draws)
    else:
        entropy = "closed" if "entropy" in q.capabilities else "mc"
        default = functools.partial(negative_elbo, draws, entropy)
    return _part("objective", given, AbstractObjective, "negative_elbo", default)


def _part(name: str, given: Any, kind: type, example: str, default: Callable[[], Any]) -> Any:
    if given is None:
        return default()
    if not isinstance(given, kind):
        raise RitzError(
            f"{name} arrived as {type(given).__name__}, expected one of ritz.{name}, such as "
            f"ritz.{name}.{example}()"
        )
    return given


def resumed(target: AbstractTarget, init: Any) -> AbstractTarget:
    """The target with the parameters of its own, and the coordinates, of an earlier fit."""
    if not isinstance(init, Fit):
        return target
    centring = getattr(init.target, "centring", {})
    if centring and fits(target, centring):
        target = centred(target, centring)
    form = lambda target: [(name, value.shape) for name, value in target.trained.items()]
    if target.params is None or form(init.target) != form(target):
        return target
    treedef = jax.tree.structure(target.params)
    return target.with_params(jax.tree.unflatten(treedef, jax.tree.leaves(init.target.params)))
