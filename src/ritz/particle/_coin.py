"""Steps without a rate, by betting on coins."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class CoinState(NamedTuple):
    """What bets are made of.

    Attributes:
        start: the first parameters.
        total: S, the sum of directions.
        absolute: G, that of their absolute values.
        largest: L, the largest of these.
        reward: R.
    """

    start: PyTree
    total: PyTree
    absolute: PyTree
    largest: PyTree
    reward: PyTree


def coin() -> Any:
    r"""An Optax transformation that needs no learning rate: each coordinate bets on its direction.

    With directions :math:`c_t` (minus the gradients), and per coordinate :math:`S = \sum c`,
    :math:`G = \sum |c|`, :math:`L = \max |c|`,

    .. math:: R \leftarrow \max\bigl(0,\, R + c_t (x_t - x_1)\bigr), \qquad
        x_{t+1} = x_1 + \frac{S}{L\,(G + L)}\,(L + R).

    Directions that are multiplied by a number leave every position as it is. It takes the place of
    a rate in `svgd(optimiser=coin())` and in the other flows; in `ritz.fit(...,
    solver=coin())` with `stein_discrepancy()` it is coin KSD descent.

    Sharrock and Nemeth, "Coin sampling: gradient-based Bayesian inference without learning rates",
    2023, algorithm 3; Orabona and Tommasi 2017.

    >>> import jax.numpy as jnp
    >>> transformation = coin()
    >>> x = jnp.array([4.0])
    >>> state = transformation.init(x)
    >>> for _ in range(300):
    ...     update, state = transformation.update(x - 1.0, state, x)
    ...     x = x + update
    >>> bool(abs(x[0] - 1.0) < 0.1)
    True
    """
    import optax

    def init(params: PyTree) -> CoinState:
        none = lambda: jax.tree.map(jnp.zeros_like, params)
        return CoinState(jax.tree.map(jnp.array, params), none(), none(), none(), none())

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, Any]:
        each = jax.tree.map(
            _bet, updates, params, state.start, state.total, state.absolute, state.largest,
            state.reward,
        )  # fmt: skip
        pick = lambda i: jax.tree.map(lambda e: e[i], each, is_leaf=lambda e: isinstance(e, tuple))
        return pick(0), CoinState(state.start, pick(1), pick(2), pick(3), pick(4))

    return optax.GradientTransformation(init, update)


def _bet(
    grad: Any, x: Any, start: Any, total: Any, absolute: Any, largest: Any, reward: Any
) -> Any:
    c = -grad
    total, absolute = total + c, absolute + jnp.abs(c)
    largest = jnp.maximum(largest, jnp.abs(c))
    reward = jnp.maximum(0.0, reward + c * (x - start))
    # Ratios of sums, so that no product of small numbers underflows.
    safe = jnp.where(largest > 0, largest, 1.0)
    moved = total / (absolute + safe) * ((safe + reward) / safe)
    return start + moved - x, total, absolute, largest, reward
