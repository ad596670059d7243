r"""How far single latents stand for single factors of variation."""

from typing import Any, NamedTuple

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


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness; see `dci`."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(z: Any, factors: Any, classes: Any = ()) -> DCI:
    r"""Disentanglement, completeness and informativeness of encodings.

    A random forest for each factor is trained on half of the rows; :math:`R_{jk}` is how much it
    rests on latent j for factor k. With :math:`P_{j\cdot}` and :math:`P_{\cdot k}` its rows and
    columns made to sum to one,

    .. math:: D = \sum_j \rho_j\,\big(1 - \mathrm{H}_K(P_{j\cdot})\big), \qquad
        C = \frac1K\sum_k \big(1 - \mathrm{H}_d(P_{\cdot k})\big), \qquad
        \rho_j = \frac{\sum_k R_{jk}}{\sum_{ik} R_{ik}},

    entropies to the bases K and d: D is 1 where each latent tells of one factor, C where each
    factor is told by one latent. I is how well they predict the other half: the mean over factors
    of :math:`R^2`, or of balanced accuracy. Eastwood and Williams, "A framework for the
    quantitative evaluation of disentangled representations", 2018, section 2.

    Args:
        z: encodings, (n, d), d at least 2.
        factors: (n, K), K at least 2.
        classes: which of them are classes, by position.

    Raises:
        RitzError: for other shapes, or a factor of one value.

    >>> import numpy as np
    >>> v = np.random.default_rng(0).normal(size=(400, 2))
    >>> min(dci(v, v)) > 0.9
    True
    """
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.metrics import balanced_accuracy_score, r2_score

    z, factors = _checked("dci", z, factors)
    if factors.shape[1] < 2:
        raise RitzError("dci: one factor arrived, expected two at least")
    half, weights, told = len(z) // 2, [], []
    for k, v in enumerate(factors.T):
        kind = k in tuple(classes)
        forest: Any = RandomForestClassifier if kind else RandomForestRegressor
        forest = forest(30, min_samples_leaf=3, random_state=0).fit(z[:half], v[:half])
        weights.append(forest.feature_importances_)
        score = balanced_accuracy_score if kind else r2_score
        told.append(score(v[half:], forest.predict(z[half:])))
    r = np.stack(weights, axis=1)
    by_latent = 1.0 - _entropy(r / np.maximum(r.sum(axis=1, keepdims=True), 1e-30), axis=1)
    by_factor = 1.0 - _entropy(r / r.sum(axis=0), axis=0)
    share = r.sum(axis=1) / r.sum()
    return DCI(float(share @ by_latent), float(by_factor.mean()), float(np.mean(told)))


def factor_vae_score(
    z: Any, factors: Any, votes: Any = 800, rows: Any = 32, seed: Any = 0
) -> float:
    r"""How surely the latent that varies least tells which factor is held fixed.

    Rows that share one factor's value, drawn at random, vote: the latent whose variance is least,
    in units of its variance over all rows, for that factor. Each latent stands for the factor that
    most of its votes are for, by half of the votes; the score is the accuracy on the others. One
    over K where latents know nothing. Kim and Mnih, "Disentangling by factorising", 2018,
    section 3.

    Args:
        z: encodings, (n, d), d at least 2.
        factors: (n, K), each of a few values.
        votes: how many.
        rows: of a vote, with replacement.
        seed: of the draws.

    Raises:
        RitzError: for other shapes, or a factor of one value.

    >>> import numpy as np
    >>> v = np.random.default_rng(0).integers(4, size=(2000, 2))
    >>> factor_vae_score(v + 0.0, v)
    1.0
    """
    z, factors = _checked("factor_vae_score", z, factors)
    many, few = whole_number("votes", votes, 2), whole_number("rows", rows, 2)
    rng = np.random.default_rng(whole_number("seed", seed, 0))
    z = z[:, z.std(axis=0) > _SPREAD]
    if not z.shape[1]:
        return 1.0 / factors.shape[1]
    z = z / z.std(axis=0)
    table = np.zeros((2, z.shape[1], factors.shape[1]))
    for i in range(many):
        k = rng.integers(factors.shape[1])
        alike = np.flatnonzero(factors[:, k] == rng.choice(factors[:, k]))
        table[i % 2, z[rng.choice(alike, few)].var(axis=0).argmin(), k] += 1
    stands = table[0].argmax(axis=1)
    return float(table[1][np.arange(len(stands)), stands].sum() / table[1].sum())


def _entropy(p: np.ndarray, axis: int) -> np.ndarray:
    """In units of the largest."""
    logs = np.log(np.where(p > 0, p, 1.0))
    return -(p * logs).sum(axis=axis) / np.log(p.shape[axis])


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
