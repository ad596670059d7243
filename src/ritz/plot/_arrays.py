"""What arrives to be drawn, as arrays that can be."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ritz._errors import RitzError, listed, suggest
from ritz.report import labels


def numbers(values: Any, what: str, *, ndim: tuple[int, ...]) -> np.ndarray:
    """Values as a float array of an expected number of axes, finite and not empty.

    Args:
        values: what arrived.
        what: its name in an error.
        ndim: how many axes it may have.

    Returns:
        a float64 array.

    Raises:
        RitzError: for anything else.

    >>> numbers([1, 2], "ranks", ndim=(1,))
    array([1., 2.])
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise RitzError(f"{what}: expected numbers, got {type(values).__name__}") from error
    if array.ndim not in ndim:
        axes = " or ".join(map(str, ndim))
        raise RitzError(f"{what}: expected {axes} axes, got an array of shape {array.shape}")
    if array.size == 0:
        raise RitzError(f"{what}: there is nothing to draw, its shape is {array.shape}")
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))[0].tolist()
        where = bad[0] if len(bad) == 1 else bad
        raise RitzError(f"{what} holds {array[tuple(bad)]} at index {where}")
    return array


def margins_of(posterior: Any, what: str) -> dict[str, np.ndarray]:
    """The draws of each scalar.

    Args:
        posterior: a fit, a mapping of names to arrays of draws (axis 0), or an array of shape
            (n,) or (n, d).
        what: its name in an error.

    Returns:
        arrays of shape (n,), by label, such as `beta[2]`.

    Raises:
        RitzError: where these are not draws, or there are fewer than two.

    >>> list(margins_of({"a": np.zeros((3, 2)), "b": np.ones(3)}, "posterior"))
    ['a[0]', 'a[1]', 'b']
    """
    if hasattr(posterior, "draws") and hasattr(posterior, "target"):
        posterior = {site.name: posterior.draws[site.name] for site in posterior.target.sites}
    if not isinstance(posterior, Mapping):
        array = numbers(posterior, what, ndim=(1, 2))
        posterior = {"x": array}
    out: dict[str, np.ndarray] = {}
    for name, values in posterior.items():
        array = numbers(values, f"{what}: {name!r}", ndim=(1, 2, 3, 4))
        if len(array) < 2:
            raise RitzError(f"{what}: {name!r} has {len(array)} draws, expected at least 2")
        flat = array.reshape(len(array), -1)
        out |= dict(zip(labels(str(name), array.shape[1:]), flat.T, strict=True))
    if not out:
        raise RitzError(f"{what}: there are no draws in it")
    return out


def chosen(found: dict[str, Any], names: Iterable[str] | None, most: int) -> list[str]:
    """The labels to draw.

    Args:
        found: what there is, by label.
        names: labels, or names of sites, which stand for all their entries; everything by default.
        most: how many at most, where `names` says nothing.

    Returns:
        labels.

    Raises:
        RitzError: for a name that is not there.

    >>> chosen({"a[0]": 0, "a[1]": 0, "b": 0}, ["b", "a"], 12)
    ['b', 'a[0]', 'a[1]']
    """
    if names is None:
        return list(found)[:most]
    out: list[str] = []
    for name in names:
        hits = [label for label in found if label == name or label.startswith(f"{name}[")]
        if not hits:
            known = dict.fromkeys([*(label.partition("[")[0] for label in found), *found])
            raise RitzError(f"names: there is no {name!r}; {suggest(name, known)}")
        out += hits
    if not out:
        raise RitzError(f"names: an empty list arrived; choose from {listed(found)}")
    return out
