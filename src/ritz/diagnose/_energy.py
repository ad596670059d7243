"""Whether two sets of samples come from one distribution."""

from typing import NamedTuple

import numpy as np

from ritz._errors import RitzError, whole_number


class Energy(NamedTuple):
    """What `energy_test` measures.

    Attributes:
        squared: the energy distance, zero or more.
        p_value: how often a random split of all samples would give as much.
    """

    squared: float
    p_value: float


def energy_test(x: np.ndarray, y: np.ndarray, permutations: int = 200, seed: int = 0) -> Energy:
    r"""The energy distance of two sets of samples, and a permutation test of their being alike.

    .. math:: 2\,\mathbb{E}\|X - Y\| - \mathbb{E}\|X - X'\| - \mathbb{E}\|Y - Y'\|,

    in coordinates divided by the sds of all samples. It is zero for equal distributions only.

    Args:
        x: shape (S, d).
        y: shape (T, d).
        permutations: of the test; 0 for the distance alone, with a p-value of nan.
        seed: of the permutations.

    Returns:
        an `Energy`. Takes (S + T)² (d + permutations) operations, and (S + T)² numbers of memory.

    Raises:
        RitzError: for fewer than two samples, or shapes that do not fit.

    Székely and Rizzo, "Energy statistics: a class of statistics based on distances", 2013,
    equation 5; Sejdinovic, Sriperumbudur, Gretton and Fukumizu, 2013.

    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    >>> energy_test(x, y).p_value > 0.05, energy_test(x, y + 0.5).p_value < 0.01
    (True, True)
    """
    whole_number("permutations", permutations, 0)
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise RitzError(
            f"energy_test: samples of shapes {x.shape} and {y.shape} arrived, expected (S, d) and "
            "(T, d) with two or more each"
        )
    both = np.concatenate([x, y])
    if not np.isfinite(both).all():
        return Energy(np.inf, 1.0 / (permutations + 1))
    sd = both.std(axis=0)
    z = both / np.where(sd > 0, sd, 1.0)
    squares = (z**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2.0 * z @ z.T, 0.0))
    np.fill_diagonal(apart, 0.0)
    # The distance is -a' D a, with a = 1/S on the one and -1/T on the other.
    signs = np.concatenate([np.full(len(x), 1.0 / len(x)), np.full(len(y), -1.0 / len(y))])
    rng = np.random.default_rng(seed)
    mixed = np.stack([signs, *(rng.permutation(signs) for _ in range(permutations))], axis=1)
    found = -np.einsum("ib,ib->b", mixed, apart @ mixed)
    if permutations == 0:
        return Energy(float(found[0]), np.nan)
    at_least = 1 + int((found[1:] >= found[0] - 1e-12).sum())
    return Energy(float(found[0]), at_least / (permutations + 1))
