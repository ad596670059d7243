r"""How far single latents stand for single factors of variation."""

from typing import Any

import numpy as np

from ritz._errors import RitzError, whole_number

_SPREAD = 1e-2  # the least sd of a latent that is looked at (Kumar et al. 2018, section 3)


def mutual_information_gap(z: Any, factors: Any, bins: Any = 20) -> float:
    r"""The gap of the two latents that tell most of a factor, mean over factors.

    .. math:: \frac1K \sum_k \frac{1}{\mathrm{H}(v_k)}
        \Big(\mathrm{I}(z_{j_k}; v_k) - \max_{j \ne j_k} \mathrm{I}(z_j; v_k)\Big),
        \qquad j_k = \arg\max_j \mathrm{I}(z_j; v_k),

    from counts, with each latent cut into equal bins. 1 where every factor has a latent of its own
    that tells it whole, near 0 where none does. Chen, Li, Grosse and Duvenaud, "Isolating sources
    of disentanglement in variational autoencoders", 2018, equation 6.

    Args:
        z: encodings, (n, d), d at least 2.
        factors: (n, K), each of a few values.
        bins: of a latent, between its extremes.

    Raises:
        RitzError: for other shapes, or a factor of one value.

    >>> import numpy as np
    >>> v = np.random.default_rng(0).integers(4, size=(2000, 2))
    >>> round(mutual_information_gap(v + 0.0, v), 2) > 0.98
    True
    """
    from sklearn.metrics import mutual_info_score

    z, factors = _checked("mutual_information_gap", z, factors)
    many = whole_number("bins", bins, 2)
    cut = [np.digitize(c, np.linspace(c.min(), c.max(), many + 1)[1:-1]) for c in z.T]
    gaps = []
    for v in factors.T:
        told = np.sort([mutual_info_score(v, c) for c in cut])
        gaps.append((told[-1] - told[-2]) / mutual_info_score(v, v))
    return float(np.mean(gaps))


def separated_attribute_predictability(z: Any, factors: Any, classes: Any = ()) -> float:
    r"""The gap of the two latents that alone predict a factor best, mean over factors.

    Of a factor with an order the score of a latent is the squared correlation; of classes it is the
    balanced accuracy of thresholds, found on half of the rows, on the other half. Latents that
    hardly vary score 0. Kumar, Sattigeri and Balakrishnan, "Variational inference of disentangled
    latent concepts from unlabeled observations", 2018, section 3 (SAP).

    Args:
        z: encodings, (n, d), d at least 2.
        factors: (n, K).
        classes: which of them are classes, by position.

    Raises:
        RitzError: for other shapes, or a factor of one value.

    >>> import numpy as np
    >>> v = np.random.default_rng(0).normal(size=(2000, 2))
    >>> round(separated_attribute_predictability(v, v), 2) > 0.98
    True
    """
    z, factors = _checked("separated_attribute_predictability", z, factors)
    moves = z.std(axis=0) > _SPREAD
    gaps = []
    for k, v in enumerate(factors.T):
        score = _thresholds if k in tuple(classes) else _squared_correlation
        scores = np.sort([score(c, v) if m else 0.0 for c, m in zip(z.T, moves, strict=True)])
        gaps.append(scores[-1] - scores[-2])
    return float(np.mean(gaps))


def _squared_correlation(c: np.ndarray, v: np.ndarray) -> float:
    return float(np.corrcoef(c, v)[0, 1] ** 2)


def _thresholds(c: np.ndarray, v: np.ndarray) -> float:
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    half, leaves = len(c) // 2, len(np.unique(v))
    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, class_weight="balanced", random_state=0)
    tree.fit(c[:half, None], v[:half])
    return float(balanced_accuracy_score(v[half:], tree.predict(c[half:, None])))


def _checked(name: str, z: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    z, factors = np.asarray(z), np.asarray(factors)
    if z.ndim != 2 or factors.ndim != 2 or len(z) != len(factors) or z.shape[1] < 2:
        raise RitzError(
            f"{name}: encodings of shape {z.shape} and factors of shape {factors.shape} arrived, "
            "expected (n, d) and (n, K), d at least 2"
        )
    same = np.flatnonzero((factors == factors[:1]).all(axis=0))
    if same.size:
        raise RitzError(f"{name}: factor {same[0]} has one value only; leave it out")
    return z.astype(np.float64), factors
