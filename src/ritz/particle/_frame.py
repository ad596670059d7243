"""The coordinates that particles move in, and scores at them."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.estimator import pathwise
from ritz.family import FullRank
from ritz.objective import Problem, negative_elbo, subsample_key
from ritz.solver import laplace
from ritz.solver._side_by_side import held

# Beyond so many dimensions a Hessian costs more than it is worth.
_MOST = 1000
# Numbers of data that are looked at once, by all particles together.
_SIDE_BY_SIDE = 8_000_000


class Frame(NamedTuple):
    r""":math:`x = m + L z`.

    Attributes:
        centre: m.
        root: L; None for the identity.
        inverse: of L.
    """

    centre: Float[Array, " d"]
    root: Float[Array, "d d"] | None
    inverse: Float[Array, "d d"] | None

    def whiten(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """z."""
        away = x - self.centre
        return away if self.inverse is None else away @ self.inverse.T

    def colour(self, z: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """x."""
        return self.centre + (z if self.root is None else z @ self.root.T)

    def pull(self, scores: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Gradients in z of those in x."""
        return scores if self.root is None else scores @ self.root


def scores_at(
    problem: Any, x: Float[Array, "n d"], key: Key[Array, ""], batch: Any
) -> tuple[Float[Array, " n"], Float[Array, "n d"]]:
    """Log densities and their gradients at all particles, on one subsample of the data."""
    one = lambda x: problem.score_at(x, subsample_key(key), batch)
    at_once = max(1, _SIDE_BY_SIDE // max(1, held((problem.target, batch))))
    return jax.vmap(one)(x) if at_once >= len(x) else jax.lax.map(one, x, batch_size=at_once)


def frame_of(problem: Any, metric: Any, key: Key[Array, ""]) -> tuple[Any, Frame, Float[Array, ""]]:
    """The cloud where it starts, its coordinates, and what finding them cost in gradients.

    Args:
        problem: whose family is a cloud.
        metric: "auto" for Laplace's approximation at the mode nearest to the cloud, where it was
            not placed by somebody and all data are there; None for coordinates as they are; a
            covariance.
        key: of the noise that a cloud starts as, where it was not placed.
    """
    cloud, target = problem.family, problem.target
    x = cloud.points
    d, dtype = x.shape[1], x.dtype
    none = jnp.zeros((), dtype)
    start = x.mean(axis=0)
    if metric is None or isinstance(metric, str):
        able = target.has_full_density and target.continuous_dim == d <= _MOST
        if metric is None or cloud.placed or not able or problem.refuses("hvp_at"):
            return cloud, Frame(jnp.zeros(d, dtype), None, None), none
        frame, cost = _at_the_mode(problem, start)
        noise = jax.random.normal(key, x.shape, dtype)
        return _moved(cloud, frame.colour(noise)), frame, cost
    root = np.linalg.cholesky(np.asarray(metric, float))
    if root.shape != (d, d):
        raise RitzError(f"metric of shape {root.shape} arrived, expected ({d}, {d})")
    matrices = (jnp.asarray(root, dtype), jnp.asarray(np.linalg.inv(root), dtype))
    return cloud, Frame(start, *matrices), none


def _moved(cloud: Any, points: Array) -> Any:
    return eqx.tree_at(lambda q: q.points, cloud, points)


def _at_the_mode(problem: Any, start: Float[Array, " d"]) -> tuple[Frame, Float[Array, ""]]:
    d, dtype = start.shape[0], start.dtype
    q = FullRank(start, jnp.zeros(d, dtype), jnp.zeros((d, d), dtype))
    gaussian = Problem(problem.target, q, negative_elbo(1), pathwise())
    solver = laplace()

    def onward(at: Any) -> Any:
        count, state, _ = at
        state, info = solver.step(gaussian, state, jax.random.key(0))
        return count + 1, state, info["converged"]

    going = lambda at: (at[0] < solver.steps) & ~at[2]
    first = (jnp.zeros((), int), solver.init(gaussian, jax.random.key(0)), jnp.zeros((), bool))
    _, state, _ = jax.lax.while_loop(going, onward, first)
    found: Any = gaussian.family_at(state.params)
    root = found.scale_tril
    eye = jnp.eye(d, dtype=dtype)
    right = jnp.isfinite(root).all() & jnp.isfinite(found.loc).all()
    root = jnp.where(right, root, eye)
    inverse = jax.scipy.linalg.solve_triangular(root, eye, lower=True)
    return Frame(jnp.where(right, found.loc, start), root, inverse), state.cost.astype(dtype)


def as_metric(name: str, metric: Any) -> Any:
    """What a user gives as the metric, checked.

    Raises:
        RitzError: for what is neither "auto", None nor a covariance.
    """
    if metric is None or (isinstance(metric, str) and metric == "auto"):
        return metric
    try:
        matrix = np.asarray(metric, float)
        np.linalg.cholesky(matrix)
        right = math.isclose(float(np.abs(matrix - matrix.T).max()), 0.0, abs_tol=1e-6)
    except (TypeError, ValueError, np.linalg.LinAlgError):
        right = False
    if not right:
        raise RitzError(
            f"{name}: metric={metric!r} arrived, expected 'auto', None, or a covariance matrix"
        )
    return jnp.asarray(matrix)
