"""The symbolic part of a sparse Cholesky factorisation, on the host."""

import dataclasses

import numpy as np

from ritz._errors import RitzError

# The most entries of a factor; more would not be sparse on any machine that this runs on.
_MOST = 20_000_000


@dataclasses.dataclass(frozen=True)
class Elimination:
    """An order of the coordinates, and which later ones each depends on.

    Positions count from 1 in the order in which draws are made: the last clique first, then
    groups of coordinates that depend on earlier positions alone.

    Attributes:
        order: the coordinate at each position, shape (d,).
        last: how many are in the last clique.
        parents: for each group the positions that its coordinates depend on, shape (n, p); 0
            where one has fewer than p.
    """

    order: np.ndarray
    last: int
    parents: tuple[np.ndarray, ...]


def eliminate(pairs: np.ndarray, d: int) -> Elimination:
    """Eliminate coordinates, whose neighbours then depend on each other (the fill-in).

    In each round go independent ones of about the smallest degree: a long chain takes
    logarithmically many rounds, which are made one after the other, and the members of a round
    all at once. What remains when all depend on all are the global parameters, if there are any.

    Args:
        pairs: coordinates that interact, shape (n, 2).
        d: how many there are.

    Returns:
        an `Elimination`.

    Raises:
        RitzError: where the fill-in makes the factor too large.

    George and Liu, "The evolution of the minimum degree ordering algorithm", 1989; Liu,
    "Modification of the minimum-degree algorithm by multiple elimination", 1985.

    >>> import numpy as np
    >>> star = eliminate(np.array([[1, 0], [2, 0], [3, 0]]), 4)
    >>> star.last, [p.tolist() for p in star.parents]
    (1, [[[1], [1], [1]]])
    """
    near: list[set[int]] = [set() for _ in range(d)]
    for i, j in pairs.tolist():
        near[i].add(j)
        near[j].add(i)
    left = list(range(d))
    rounds: list[list[tuple[int, tuple[int, ...]]]] = []
    entries = 0
    while True:
        degrees = [len(near[i]) for i in left]
        if min(degrees) == len(left) - 1:
            break
        gone = _independent(left, degrees, near)
        rounds.append([(i, tuple(near[i])) for i in gone])
        for i in gone:
            parents = near[i]
            entries += len(parents)
            for j in parents:
                near[j] |= parents
                near[j] -= {i, j}
        if entries + len(left) ** 2 / 2 > _MOST and entries > _MOST:
            raise RitzError(
                f"the Cholesky factor of this pattern has more than {_MOST:,} entries; use "
                "family='low_rank', or a sparser pattern"
            )
        out = set(gone)
        left = [i for i in left if i not in out]
    return _grouped(left, rounds, d)


def _independent(left: list[int], degrees: list[int], near: list[set[int]]) -> list[int]:
    """Coordinates without common interactions, of at most twice the least degree."""
    limit = max(2, 2 * min(degrees))
    blocked: set[int] = set()
    gone = []
    for degree, i in sorted(zip(degrees, left, strict=True)):
        if degree > limit:
            break
        if i not in blocked:
            gone.append(i)
            blocked |= near[i]
    return gone if len(gone) < len(left) else gone[1:]


def _grouped(last: list[int], rounds: list, d: int) -> Elimination:
    """Positions for all, and each round's coordinates in groups of about as many parents."""
    place = {i: k + 1 for k, i in enumerate(last)}
    order, groups = list(last), []
    for done in reversed(rounds):
        by_size: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
        for i, parents in done:
            n = len(parents)
            size = n if n <= 4 else 1 << (n - 1).bit_length()
            by_size.setdefault(size, []).append((i, parents))
        for size, members in sorted(by_size.items()):
            table = np.zeros((len(members), size), np.int32)
            for row, (_, parents) in zip(table, members, strict=True):
                row[: len(parents)] = sorted(place[j] for j in parents)
            groups.append(table)
        for _, members in sorted(by_size.items()):
            for i, _ in members:
                order.append(i)
                place[i] = len(order)
    return Elimination(np.array(order, np.int32), len(last), tuple(groups))
