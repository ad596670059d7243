"""Which coordinates of a target interact: the pattern of its second derivatives, by probing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from ritz._compile import compile
from ritz._errors import RitzError

# Points at which a pair must show that it interacts, and directions that are tried at a time.
_POINTS = 3
_AT_ONCE = 32
# Up to here each coordinate is probed by itself; above, blocks of them first.
_SMALL = 256
# Beyond so many interactions of each block on average the pattern has no use, nor the time.
_MOST = 400


def interactions(target: Any, at: Any) -> np.ndarray:
    r"""Pairs of coordinates whose effects on a log density do not add up.

    A pair interacts where :math:`\partial^2\log\tilde p/\partial x_i\partial x_j` differs from
    zero at one of three random points near `at`, or where moving one coordinate, a few units
    either way, changes the score in the other (as across the kink of an absolute value). Second
    derivatives that vanish identically come out of automatic differentiation as exact zeros; those
    that only cancel count as interactions.

    Columns of the Hessian that share no row are probed by one Hessian-vector product. Blocks of
    coordinates are probed first and halved where they interact, so that a band of width b takes
    :math:`O(b \log d)` products, and so does a hierarchical model with b global parameters.

    Args:
        target: the target.
        at: an unconstrained point, or an array of its shape; where that has no numbers (as in an
            abstract evaluation), zero.

    Returns:
        pairs (i, j) with i > j, sorted, of shape (n, 2).

    Raises:
        RitzError: where the log density cannot be evaluated near the point, or nearly every pair
            of many interacts.

    Coleman and Moré, "Estimation of sparse Hessian matrices and graph coloring problems", 1984.

    >>> import jax.numpy as jnp
    >>> from ritz.target import from_log_density
    >>> chain = from_log_density(lambda x: -((x[1:] - x[:-1]) ** 2).sum(), jnp.zeros(4))
    >>> interactions(chain, jnp.zeros(4)).tolist()
    [[1, 0], [2, 1], [3, 2]]
    """
    with jax.ensure_compile_time_eval():
        return _refined(*_prober(target, at))


def _refined(probe: Any, d: int) -> np.ndarray:
    """Halve blocks of coordinates until each is one, keeping pairs of blocks that interact."""
    blocks = d if d <= _SMALL else _SMALL // 2
    count = min(blocks, d)
    owner = np.arange(d) * count // d
    pairs = {(i, j) for i in range(count) for j in range(count)}
    while True:
        pairs = _tested(probe, owner, count, pairs, d)
        if count == d:
            break
        # Each block in two: its first half keeps an even number, its second an odd one.
        size = np.bincount(owner, minlength=count)
        first = np.concatenate([[0], np.cumsum(size)[:-1]])
        half = (np.arange(d) - first[owner]) >= (size[owner] + 1) // 2
        fine = 2 * owner + half
        alive, fine = np.unique(fine, return_inverse=True)
        number = {int(a): k for k, a in enumerate(alive)}
        kids = [[number[c] for c in (2 * b, 2 * b + 1) if c in number] for b in range(count)]
        pairs = {(i, j) for a, b in pairs for i in kids[a] for j in kids[b]}
        owner, count = fine, len(alive)
    found = sorted({(max(i, j), min(i, j)) for i, j in pairs if i != j})
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _tested(
    probe: Any, owner: np.ndarray, count: int, pairs: set[tuple[int, int]], d: int
) -> set[tuple[int, int]]:
    """Which of the candidate pairs of blocks interact."""
    rows: list[list[int]] = [[] for _ in range(count)]
    for i, j in pairs:
        rows[j].append(i)
    if len(pairs) > _MOST * count:
        raise RitzError(
            f"the {d:,} coordinates of the target interact nearly all with each other; use "
            "family='low_rank', or family='full_rank' where memory holds it"
        )
    colours, alone = _colouring(rows)
    colour = np.asarray(colours)[owner]
    hit = np.zeros((max(colours) + 1, count), bool)
    for k, answer in enumerate(probe(colour, max(colours) + 1)):
        np.logical_or.at(hit[k], owner, answer)
    found = set()
    for j in range(count):
        for i in rows[j]:
            # What a block probed alone says of another counts for both.
            sure = j in alone or i not in alone
            if hit[colours[j], i] if sure else hit[colours[i], j]:
                found |= {(i, j), (j, i)}
    return found


def _colouring(rows: list[list[int]]) -> tuple[list[int], set[int]]:
    """Colours of columns such that one colour meets each row once; dense ones get their own.

    A row whose own column is probed alone is known from there, and does not count.
    """
    degree = np.array([len(r) for r in rows])
    order = np.argsort(-degree, kind="stable")
    cost = np.arange(len(rows)) + degree[order]
    if cost.min() >= len(rows):
        return list(range(len(rows))), set(range(len(rows)))
    dense = int(np.argmin(cost))
    alone = set(order[:dense].tolist())
    colours = [0] * len(rows)
    for k, j in enumerate(order[:dense]):
        colours[j] = k
    taken: list[set[int]] = [set() for _ in rows]
    for j in order[dense:]:
        near = [i for i in rows[j] if i not in alone]
        used = set().union(*(taken[i] for i in near)) if near else set()
        own = next(c for c in range(len(used) + 1) if c not in used)
        colours[j] = dense + own
        for i in near:
            taken[i].add(own)
    return colours, alone


def _prober(target: Any, at: Any) -> tuple[Any, int]:
    """A function from colours of the coordinates to what moving each colour changes."""
    d = at.shape[0]
    start = np.zeros(d) if isinstance(at, Tracer) else np.asarray(at, np.float64)
    points = _points(target, start, at.dtype)
    rng = np.random.default_rng(1)
    size = (2.0 + rng.random(d)) * rng.choice([-1.0, 1.0], d)
    program: Any = None

    def probe(colour: np.ndarray, n: int) -> Any:
        nonlocal program
        for first in range(0, n, _AT_ONCE):
            which = np.arange(first, first + _AT_ONCE)[:, None]
            moves = jnp.asarray(np.where(colour == which, size, 0.0), at.dtype)
            if program is None:
                program = compile(_responses, target, points, moves)
            yield from np.asarray(program(target, points, moves))[: n - first]

    return probe, d


def _responses(
    target: Any, points: Float[Array, "p d"], moves: Float[Array, "n d"]
) -> Bool[Array, "n d"]:
    """For each move, the coordinates whose score it changes at some point."""
    score = jax.grad(target.log_density)

    def one(x: Array, v: Array) -> Array:
        here, change = jax.jvp(score, (x,), (v,))
        hit = (change != 0) & jnp.isfinite(change)
        for there in (score(x + v), score(x - v)):
            apart = jnp.abs(there - here) > 0.01 * jnp.maximum(jnp.abs(here), jnp.abs(there))
            hit |= apart & jnp.isfinite(there)
        return hit

    return jax.lax.map(lambda v: jax.vmap(lambda x: one(x, v))(points).any(0), moves)


def _points(target: Any, start: np.ndarray, dtype: Any) -> Float[Array, "p d"]:
    """Random points near the start with finite scores, as near as need be."""
    if not target.has_full_density:
        raise RitzError(
            "the dependencies of this target cannot be read, as it sees its data in batches; give "
            "pattern=..., or use family='low_rank' or 'mean_field'"
        )
    look = lambda target, x: jax.vmap(jax.value_and_grad(target.log_density))(x)
    for spread in (0.5, 0.1, 0.01):
        noise = np.random.default_rng(0).normal(size=(_POINTS, len(start)))
        points = jnp.asarray(start + spread * noise, dtype)
        found = compile(look, target, points)(target, points)
        if all(np.isfinite(np.asarray(v)).all() for v in found):
            return points
    raise RitzError(
        "the dependencies of this target cannot be read, as it is not finite near the start, or "
        "its gradient is not; give init=..., pattern=..., or use family='low_rank' or 'mean_field'"
    )


def check_pattern(name: str, pattern: Any, d: int) -> np.ndarray:
    """Pairs of coordinates as `interactions` returns them.

    Raises:
        RitzError: for something that is not pairs of different coordinates below d.
    """
    said = f"{name}: pattern"
    try:
        pairs = np.asarray(pattern)
        pairs = pairs.reshape(-1, 2) if pairs.size == 0 else pairs
    except (ValueError, TypeError):
        raise RitzError(f"{said} arrived as a ragged list, expected pairs (i, j)") from None
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (pairs.size and pairs.dtype.kind not in "iu"):
        raise RitzError(
            f"{said} arrived as {pairs.dtype} of shape {pairs.shape}, expected pairs (i, j) of "
            "coordinates that interact"
        )
    bad = [p for p in pairs.tolist() if not (min(p) >= 0 and max(p) < d and p[0] != p[1])]
    if bad:
        raise RitzError(
            f"{said} has the pair {tuple(bad[0])}, expected two different coordinates from 0 to "
            f"{d - 1}"
        )
    pairs = np.sort(pairs.astype(np.int64), axis=1)[:, ::-1]
    return np.unique(pairs, axis=0).reshape(-1, 2)
