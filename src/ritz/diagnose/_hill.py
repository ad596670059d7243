"""How heavy a tail is."""

from typing import Any

import numpy as np

from ritz._errors import RitzError


def hill(x: Any, share: Any = 0.001) -> tuple[float, float]:
    r"""Hill's estimate of the index of a tail, and its standard error.

    .. math:: \hat\alpha = \Big(\frac1k \sum_{i=1}^k \log\frac{x_{(i)}}{x_{(k+1)}}\Big)^{-1},

    over the k largest of n values. A tail :math:`P(X > x) \sim x^{-\alpha}` has index
    :math:`\alpha`: that of a Student t is its degrees of freedom. Lighter tails have no index, and
    the estimate grows as the share shrinks. The standard error is :math:`\hat\alpha/\sqrt k`, which
    leaves out that a tail is of that form only far out. Hill, "A simple general approach to
    inference about the tail of a distribution", 1975.

    Args:
        x: independent values, shape (n,); that of the share that is looked at is positive.
        share: k / n.

    Returns:
        the index and its standard error.

    Raises:
        RitzError: for values that are not finite, a share that is none, fewer than two values in
            it, or a tail that is not positive or of one value.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).pareto(2.0, 100_000) + 1.0
    >>> index, error = hill(x, 0.01)
    >>> bool(abs(index - 2.0) < 3.0 * error)
    True
    """
    values = np.asarray(x, np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise RitzError(
            f"hill: values of shape {values.shape} arrived, expected finite ones of shape (n,)"
        )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise RitzError(f"hill: share={share!r} arrived, expected a number between 0 and 1")
    k = round(share * len(values))
    if k < 2:
        raise RitzError(
            f"hill: a share of {share} of {len(values)} values is {k} of them, two are needed; "
            "give more values, or a larger share"
        )
    top = np.partition(values, len(values) - k - 1)[-k - 1 :]
    if top.min() <= 0 or top.min() == top.max():
        raise RitzError(
            f"hill: the largest {k} values are from {top.min():g} to {top.max():g}, expected "
            "positive ones that differ"
        )
    index = 1.0 / np.log(top / top.min()).sum() * k
    return float(index), float(index / np.sqrt(k))
