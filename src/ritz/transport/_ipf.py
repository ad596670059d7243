"""Iterative proportional fitting: two drifts, trained in turn along paths of each other."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.solver import AbstractSolver
from ritz.target import samples_of
from ritz.transport._clouds import positive
from ritz.transport._reflected import Places, ReflectedBridge


class IPFState(NamedTuple):
    """Where the turns stand.

    Attributes:
        params: the family's.
        opt: of the drift whose turn it is.
        pool: places of paths of the other one.
        made: updates so far.
    """

    params: PyTree
    opt: PyTree
    pool: Places
    made: Int[Array, ""]


class IPF(AbstractSolver):
    """See `ipf`.

    Attributes:
        inner: updates of a turn.
        paths: of a pool.
        every: updates between two pools.
        rows: places that an update sees.
        lr: at the start of a turn; it falls to zero along a half cosine.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    guarantees: ClassVar[str] = "iterates of proportional fitting, up to how well drifts are known"
    inner: int = eqx.field(static=True)
    paths: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    lr: float = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> IPFState:
        q = problem.family
        if not isinstance(q, ReflectedBridge):
            raise RitzError(
                f"ipf trains a ReflectedBridge, not a {type(q).__name__}; use "
                "family=ritz.transport.reflected_bridge(x0)"
            )
        params = jax.tree.map(jnp.array, problem.params)
        size = self.paths * (q.steps - 1)
        wide, flat = jnp.zeros((size, q.dim)), jnp.zeros(size)
        opt = self._adam().init(_of(params.drifts, 0))
        return IPFState(params, opt, Places(wide, flat, wide), jnp.zeros((), jnp.int32))

    def step(
        self, problem: Any, state: IPFState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[IPFState, dict[str, Array]]:
        look, draw = jax.random.split(key)
        side, turn = (state.made // self.inner) % 2, state.made % self.inner
        q = paramax.unwrap(problem.family_at(state.params))
        pool = jax.lax.cond(
            turn % self.every == 0,
            lambda: self._places(q, problem.target, 1 - side, look),
            lambda: state.pool,
        )
        rows = jax.random.randint(draw, (self.rows,), 0, len(pool.t))
        seen = jax.tree.map(lambda v: v[rows], pool)
        rest = eqx.filter(q.drifts, eqx.is_array, inverse=True)

        def loss(own: Any) -> Array:
            both = jax.tree.map(lambda all, one: all.at[side].set(one), state.params.drifts, own)
            changed = eqx.tree_at(lambda q: q.drifts, q, eqx.combine(both, rest))
            return jax.vmap(changed.half, (None, 0))(side, seen).mean()

        own = _of(state.params.drifts, side)
        value, slope = jax.value_and_grad(loss)(own)
        fresh = self._adam().init(own)
        opt = jax.tree.map(lambda old, new: jnp.where(turn == 0, new, old), state.opt, fresh)
        update, opt = self._adam().update(slope, opt)
        rate = 0.5 * self.lr * (1.0 + jnp.cos(jnp.pi * turn / self.inner))
        new = jax.tree.map(lambda p, u: p - rate * u, own, update)
        drifts = jax.tree.map(lambda all, one: all.at[side].set(one), state.params.drifts, new)
        params = eqx.tree_at(lambda p: p.drifts, state.params, drifts)
        return IPFState(params, opt, pool, state.made + 1), {"loss": value}

    def _places(self, q: ReflectedBridge, target: Any, side: Any, key: Key[Array, ""]) -> Places:
        """Of new paths of a drift, both ends left out."""
        begin, walk = jax.random.split(key)
        first = jax.vmap(q.base.sample)(jax.random.split(begin, self.paths))
        known = samples_of(target, "ipf").draw(begin, self.paths).astype(first.dtype)
        x = jnp.where(side == 0, first, known)
        keys = jax.random.split(walk, self.paths)
        seen = jax.vmap(q.walk, (0, 0, None))(x, keys, side)
        return jax.tree.map(lambda v: v[:, 1:-1].reshape(-1, *v.shape[2:]), seen)

    def _adam(self) -> Any:
        import optax

        return optax.scale_by_adam()


def ipf(
    inner: Any = 500, paths: Any = 512, every: Any = 50, rows: Any = 512, lr: Any = 0.003
) -> IPF:
    r"""Iterative proportional fitting of a bridge's two drifts, in turn.

    A turn trains one drift along paths of the other, first the forward one along the reference from
    the target. Its loss is the divergence of path measures, up to a constant,

    .. math:: \int_0^1 \mathbb{E}\Big[\tfrac12|u|^2 + u\cdot v + \epsilon\,\nabla\cdot u\Big]dt,

    with the divergence exact. At the boundary drifts have no normal part (Neumann's condition), or
    integration by parts would leave a term there and a drift gain by any jump. Deng et al. 2024,
    arXiv:2401.03228, algorithm 1; Chen, Liu and Theodorou 2022, "Likelihood training of Schrödinger
    bridge", equations 18 and 19. An odd number T of turns, which ends with the forward drift, takes
    `steps=T * inner`.

    Args:
        inner: updates of a turn.
        paths: that are drawn at once.
        every: updates between two such draws.
        rows: places of these that an update sees.
        lr: Adam's rate at the start of a turn.

    Raises:
        RitzError: for numbers that are not positive, or, in a fit, for another family.

    >>> ipf(inner=300).inner
    300
    """
    whole = {"inner": inner, "paths": paths, "every": every, "rows": rows}
    return IPF(
        **{name: whole_number(name, value, 1) for name, value in whole.items()},
        lr=positive("lr", lr),
    )


def _of(tree: Any, side: Any) -> Any:
    """One of two drifts."""
    return jax.tree.map(lambda v: v[side], tree)
