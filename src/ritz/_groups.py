"""Groups of draws whose shares no score tells."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ritz._draws import SCORED, at_rows
from ritz.target import AbstractTarget

# Where the log density falls by so much between two places, modes are apart...
_DIP = 1.0
# ... if they hold at least this share of the draws.
_SMALL = 0.02
# Draws that climb, steps of each, and the slope, in sds, at which it has arrived.
_CLIMBERS, _STEPS, _FLAT = 24, 100, 0.1


def in_groups(target: AbstractTarget, drawn: np.ndarray) -> list[str]:
    """Whether draws stand in groups with lower density between them.

    First by neighbours: nearest ones are joined to a tree, and where the log density along one of
    its edges falls below that at both ends, draws on either side belong to different modes. Then,
    as draws in between may bridge a gap, by climbing: from some draws the log density is followed
    up to a mode, and two modes are apart where it falls on the way from one to the other.

    Args:
        target: whose log density.
        drawn: the draws, shape (S, d).

    Returns:
        a line for a verdict, or none.
    """
    x = np.unique(drawn, axis=0)
    x = x[np.linspace(0, len(x) - 1, min(len(x), SCORED)).astype(int)].astype(np.float64)
    shares = _by_neighbours(target, x, drawn.dtype)
    if len(shares) == 1 or shares[1] < _SMALL:
        shares = _by_climbing(target, x, drawn.dtype)
    if len(shares) == 1 or shares[1] < _SMALL:
        return []
    told = ", ".join(f"{s:.0%}" for s in shares[shares >= _SMALL][:4])
    return [
        f"draws stand in groups ({told}) with lower density between them: nothing tells whether "
        "these shares are the posterior's; try ritz.fit without options"
    ]


def _by_neighbours(target: AbstractTarget, x: np.ndarray, dtype: Any) -> np.ndarray:
    """Shares of groups of neighbours, the largest first."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
    from scipy.spatial.distance import cdist

    n, sd = len(x), x.std(axis=0)
    z = x / np.where(sd > 0, sd, 1.0)
    tree = minimum_spanning_tree(cdist(z, z)).tocoo()
    one, two = tree.row, tree.col
    joined = ~(_dips(target, x[one], x[two], dtype) > _DIP)
    graph = csr_matrix((np.ones(joined.sum()), (one[joined], two[joined])), shape=(n, n))
    group = connected_components(graph, directed=False)[1]
    return np.sort(np.bincount(group))[::-1] / n


def _by_climbing(target: AbstractTarget, x: np.ndarray, dtype: Any) -> np.ndarray:
    """Shares of the modes above some draws, taken along the longest axis; the largest first."""
    from scipy.optimize import minimize

    sd = np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    z = (x - x.mean(axis=0)) / sd
    axis = np.linalg.svd(z, full_matrices=False)[2][0]
    chosen = np.linspace(0, len(x) - 1, min(len(x), _CLIMBERS)).astype(int)
    starts = x[np.argsort(z @ axis)[chosen]]
    down = lambda x, target: -target.log_density(x)
    slope = eqx.filter_jit(eqx.filter_value_and_grad(down))

    def climb(at: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = slope(jnp.asarray(at * sd, dtype), target)
        value = float(value)
        if not np.isfinite(value):
            return 1e30, np.zeros_like(at)
        return value, np.asarray(gradient, np.float64) * sd

    modes: list[np.ndarray] = []
    counts: list[int] = []
    for start in starts:
        found = minimize(
            climb, start / sd, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}
        )
        if not np.abs(climb(found.x)[1]).max() < _FLAT:
            continue  # on its way along a ridge
        top = found.x * sd
        for i, mode in enumerate(modes):
            if not _dips(target, mode[None], top[None], dtype)[0] > _DIP:
                counts[i] += 1
                break
        else:
            modes.append(top)
            counts.append(1)
    if len(modes) < 2:
        return np.ones(1)
    return np.sort(np.array(counts))[::-1] / sum(counts)


def _dips(target: AbstractTarget, one: np.ndarray, two: np.ndarray, dtype: Any) -> np.ndarray:
    """By how much the log density between pairs of places is below that at both."""
    shares = np.linspace(0.0, 1.0, 5)[:, None, None]
    between = (1.0 - shares) * one + shares * two
    value = lambda target, x, _: target.log_density(x)
    found = at_rows(value, target, between.reshape(-1, one.shape[1]).astype(dtype), ())
    found = np.asarray(found, np.float64).reshape(5, -1)
    return np.minimum(found[0], found[-1]) - found[1:-1].min(axis=0)
