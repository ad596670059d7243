"""Images of digits, and features in which sets of them are compared."""

import functools
import warnings
from typing import Any

import numpy as np

import ritz

TEST = 2000


@functools.cache
def digits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MNIST's 10,000 images as rows of grey levels: 8,000 to train on, with labels, and 2,000."""
    data = ritz.data.load("mnist10k")
    order = np.random.default_rng(seed).permutation(10_000)
    x = np.asarray(data["images"], np.float32).reshape(10_000, -1)[order] / 255.0
    return x[TEST:], np.asarray(data["labels"])[order][TEST:], x[:TEST]


@functools.cache
def features(seed: int) -> Any:
    """The 64 hidden units of a classifier of the images to train on, as a function of images."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    x, labels, _ = digits(seed)
    net = MLPClassifier((64,), max_iter=10, random_state=seed)
    with warnings.catch_warnings():  # ten passes are enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.fit(x, labels)
    weight, shift = net.coefs_[0], net.intercepts_[0]
    return lambda rows: np.maximum(np.asarray(rows).reshape(len(rows), -1) @ weight + shift, 0.0)
