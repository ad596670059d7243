"""JKO steps of the Kullback-Leibler divergence: a map against a critic."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Int, Key, PyTree

from ritz._errors import RitzError, whole_number
from ritz.solver import AbstractSolver
from ritz.transport._wasserstein_flow import WassersteinFlow, small

_POOL = 20_000  # particles of a step; updates see some of them, the reference has their moments


class Critic(eqx.Module):
    """The logarithm of a density ratio: a quadratic and a network, in whitened coordinates."""

    matrix: Float[Array, "d d"]
    slope: Float[Array, " d"]
    level: Float[Array, ""]
    network: eqx.nn.MLP

    def __call__(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        return z @ self.matrix @ z + self.slope @ z + self.level + self.network(z)


class JKOState(NamedTuple):
    """Where the steps stand.

    Attributes:
        params: the family's.
        critic: of the step that is made.
        opt: of its map's Adam.
        critic_opt: of its critic's.
        centre: mean of the reference.
        root: Cholesky factor of the reference's covariance.
        pool: particles that the step begins from.
        made: updates so far.
    """

    params: PyTree
    critic: PyTree
    opt: PyTree
    critic_opt: PyTree
    centre: Float[Array, " d"]
    root: Float[Array, "d d"]
    pool: Float[Array, "N d"]
    made: Int[Array, ""]


class JKO(AbstractSolver):
    """See `jko`.

    Attributes:
        step_size: a.
        inner: updates of a map for each step.
        ascents: updates of the critic for each of a map's.
        rows: particles an update sees.
        width: of the critic's hidden layers.
        lr: of both, at the start of a step; it falls to zero along a half cosine.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    guarantees: ClassVar[str] = "JKO steps, up to how well map and critic are trained"
    step_size: float = eqx.field(static=True)
    inner: int = eqx.field(static=True)
    ascents: int = eqx.field(static=True)
    rows: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    lr: float = eqx.field(static=True)

    def init(self, problem: Any, key: Key[Array, ""]) -> JKOState:
        q = problem.family
        if not isinstance(q, WassersteinFlow):
            raise RitzError(
                f"jko moves a WassersteinFlow, not a {type(q).__name__}; use "
                "family=ritz.transport.wasserstein_flow(K)"
            )
        d, params = q.dim, jax.tree.map(jnp.array, problem.params)
        critic = eqx.filter(self._critic(d), eqx.is_inexact_array)
        return JKOState(
            params,
            critic,
            self._adam().init(_first(params.maps, 0)),
            self._adam().init(critic),
            jnp.zeros(d),
            jnp.eye(d),
            jnp.zeros((_POOL, d)),
            jnp.zeros((), jnp.int32),
        )

    def step(
        self, problem: Any, state: JKOState, key: Key[Array, ""], batch: Any = None
    ) -> tuple[JKOState, dict[str, Array]]:
        k = state.made // self.inner
        look, draw, noise = jax.random.split(key, 3)
        before = paramax.unwrap(problem.family_at(state.params))
        state = jax.lax.cond(
            state.made % self.inner == 0,
            lambda: self._begin(before, state, k, look),
            lambda: state,
        )
        x = state.pool[jax.random.randint(draw, (self.rows,), 0, _POOL)]
        z = jax.random.normal(noise, (self.ascents, *x.shape), x.dtype)
        own = _first(state.params.maps, k)
        rest = eqx.filter(before.maps, eqx.is_array, inverse=True)
        move = lambda own: eqx.combine(own, rest)
        whiten = lambda y: (
            jax.scipy.linalg.solve_triangular(state.root, (y - state.centre).T, lower=True).T
        )
        rate = 0.5 * self.lr * (1.0 + jnp.cos(jnp.pi * (state.made % self.inner) / self.inner))

        def falls(own: Any, critic: Any) -> tuple[Array, Array]:
            y = jax.vmap(move(own))(x)
            w = whiten(y)
            # log h + log of the reference - log p, and what it costs to move.
            energy = jax.vmap(critic)(w) - 0.5 * (w**2).sum(-1) - _log_det(state.root)
            energy = energy - jax.vmap(problem.target.log_density)(y)
            far = ((y - x) ** 2).sum(-1).mean() / (2.0 * self.step_size)
            return far + energy.mean(), energy.mean()

        trained = state.critic
        frozen = eqx.filter(self._critic(before.dim), eqx.is_inexact_array, inverse=True)
        moved, opt = whiten(jax.vmap(move(own))(x)), state.critic_opt

        def rises(trained: Any, z: Array) -> Array:
            critic = jax.vmap(eqx.combine(trained, frozen))
            return jnp.exp(jnp.minimum(critic(z), 20.0)).mean() - critic(moved).mean()

        def ascend(carry: Any, z: Array) -> tuple[Any, Array]:
            trained, opt = carry
            value, slope = jax.value_and_grad(rises)(trained, z)
            update, opt = self._adam().update(slope, opt)
            return (jax.tree.map(lambda p, u: p - rate * u, trained, update), opt), value

        (trained, critic_opt), dual = jax.lax.scan(ascend, (trained, opt), z)
        against = eqx.combine(trained, frozen)
        (loss, energy), slope = jax.value_and_grad(falls, has_aux=True)(own, against)
        update, opt = self._adam().update(slope, state.opt)
        new = jax.tree.map(lambda p, u: p - rate * u, own, update)
        maps = jax.tree.map(lambda all, one: all.at[k].set(one), state.params.maps, new)
        params = eqx.tree_at(lambda p: p.maps, state.params, maps)
        made = state.made + 1
        ended = made >= self.inner * before.steps
        info = {"loss": loss - dual[-1], "energy": energy, "converged": ended}
        kept = (state.centre, state.root, state.pool, made)
        return JKOState(params, trained, opt, critic_opt, *kept), info

    def _begin(self, q: WassersteinFlow, state: JKOState, k: Array, key: Array) -> JKOState:
        """The particles of step k, and the Gaussian with their moments, its reference."""
        keys = jax.random.split(key, _POOL)
        x = jax.vmap(q.sample_at, (0, None))(keys, k)
        cov = jnp.atleast_2d(jnp.cov(x.T))
        root = jnp.linalg.cholesky(cov + 1e-6 * jnp.trace(cov) * jnp.eye(q.dim))
        maps = state.params.maps
        # The last map and the last critic are good guesses of these ones.
        last = jax.tree.map(lambda v: v.at[k].set(v[jnp.maximum(k - 1, 0)]), maps)
        return JKOState(
            eqx.tree_at(lambda p: p.maps, state.params, last),
            state.critic,
            self._adam().init(_first(last, 0)),
            self._adam().init(state.critic),
            x.mean(axis=0),
            root,
            x,
            state.made,
        )

    def _critic(self, d: int) -> Critic:
        network = small(eqx.nn.MLP(d, "scalar", self.width, 2, jax.nn.silu, key=jax.random.key(2)))
        return Critic(jnp.zeros((d, d)), jnp.zeros(d), jnp.zeros(()), network)

    def _adam(self) -> Any:
        import optax

        return optax.scale_by_adam(b1=0.5)


def jko(
    step_size: Any = 0.1,
    inner: Any = 500,
    ascents: Any = 2,
    rows: Any = 512,
    width: Any = 64,
    lr: Any = 0.005,
) -> JKO:
    r"""JKO steps of the KL divergence to a target, each a saddle point of a map and a critic.

    .. math:: \min_T \max_h\; \mathbb{E}_{x \sim P_k}\Big[\tfrac{1}{2a}|x - T(x)|^2
        + \log\frac{h\,\Gamma}{\tilde p}(T(x))\Big] + 1 - \mathbb{E}_\Gamma[h], \qquad
        P_{k+1} = T_\# P_k,

    where :math:`\Gamma` is the Gaussian with the moments of :math:`P_k`. The best h is
    :math:`P_{k+1}/\Gamma`, so that no Jacobian of T is needed. Fan, Zhang, Taghvaei and Chen 2022,
    "Variational Wasserstein gradient flow", arXiv:2112.02424 (section 3). The updates run in the
    engine's loop: K steps take `steps=K * inner`.

    Args:
        step_size: a.
        inner: updates of the map for each JKO step.
        ascents: updates of the critic for each of the map's.
        rows: particles that an update sees.
        width: of the critic's two hidden layers.
        lr: Adam's rate for both.

    Raises:
        RitzError: for numbers that are not positive, or, in a fit, for another family.

    >>> jko(0.2).step_size
    0.2
    """
    for name, value in (("step_size", step_size), ("lr", lr)):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise RitzError(f"jko: {name}={value!r} arrived, expected a positive number")
    for name, value in (
        ("inner", inner),
        ("ascents", ascents),
        ("rows", rows),
        ("width", width),
    ):
        whole_number(name, value, 1)
    return JKO(
        step_size=float(step_size),
        inner=int(inner),
        ascents=int(ascents),
        rows=int(rows),
        width=int(width),
        lr=float(lr),
    )


def _first(tree: Any, k: Any) -> Any:
    """The k-th of stacked arrays."""
    return jax.tree.map(lambda v: v[k], tree)


def _log_det(root: Array) -> Array:
    """Of the reference's scale, with the constant of a Gaussian's density."""
    return jnp.log(jnp.diagonal(root)).sum() + 0.5 * len(root) * math.log(2.0 * math.pi)
