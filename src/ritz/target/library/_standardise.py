"""Put columns on one scale, so that one prior suits them all."""

import numpy as np


def standardise(x: np.ndarray) -> np.ndarray:
    """Shift and scale each column to mean 0 and standard deviation 1.

    Args:
        x: rows by columns, or one column.

    Returns:
        floats of the same shape.

    >>> standardise(np.array([1, 3]))
    array([-1.,  1.])
    """
    return (x - x.mean(axis=0)) / x.std(axis=0)
