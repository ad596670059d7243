"""Schrödinger bridges inside a domain: two drifts of reflected paths."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, described, whole_number
from ritz.family import AbstractFamily
from ritz.objective import AbstractDirect
from ritz.transport._clouds import cloud, positive, samples_for
from ritz.transport._domain import Domain
from ritz.transport._interpolant_parts import Drawn
from ritz.transport._wasserstein_flow import small

# Frequencies of the waves that drifts see, of time and of standardised coordinates.
_OF_TIME, _OF_SPACE = (1.0, 2.0, 4.0), (1.0, 2.0, 4.0)


class Places(NamedTuple):
    """Where a path was, and how it came there.

    Attributes:
        x: a place.
        t: its time.
        drift: of the path there.
    """

    x: Float[Array, "... d"]
    t: Float[Array, "..."]
    drift: Float[Array, "... d"]


class ReflectedBridge(AbstractFamily):
    """See `reflected_bridge`.

    Attributes:
        drifts: forward and backward, as one network whose arrays have a leading axis of two.
        base: where it begins; not trained.
        frame: mean and scale of both ends; not trained.
        domain: what paths are kept in; None for all of space.
        epsilon: the variance of the reference at time one.
        steps: K, of a path.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample"})
    drifts: eqx.nn.MLP
    base: Drawn
    frame: Any
    domain: Domain | None
    epsilon: float = eqx.field(static=True)
    steps: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.base.dim

    @property
    def objective(self) -> "IPFLoss":
        return IPFLoss()

    def drift(self, x: Float[Array, " d"], t: Any, side: Any = 0) -> Float[Array, " d"]:
        """Of the path that leaves x at time t: forward, or backward for side 1."""
        centre, scale = paramax.unwrap(self.frame)
        net = jax.tree.map(lambda v: v[side] if eqx.is_array(v) else v, self.drifts)
        angle = jnp.pi * jnp.asarray(t, x.dtype) * jnp.asarray(_OF_TIME, x.dtype)
        times = jnp.concatenate([jnp.asarray(t, x.dtype)[None], jnp.cos(angle), jnp.sin(angle)])
        z = (x - centre) / scale
        waves = jnp.outer(jnp.asarray(_OF_SPACE, x.dtype), z).ravel()
        seen = jnp.concatenate([z, jnp.cos(waves), jnp.sin(waves), times])
        free = scale * net(seen)
        if self.domain is None:
            return free
        # At the boundary the normal part is zero: nothing of it is left by integration by parts.
        depth = 2.0 * math.sqrt(self.epsilon / self.steps)
        near = jnp.exp(jnp.minimum(self.domain.level(x), 0.0) / depth)
        normal = self.domain.normal(x)
        return free - near * (free @ normal) * normal

    def walk(self, x: Float[Array, " d"], key: Key[Array, ""], side: Any = 0) -> Places:
        """The path from x on, K + 1 places of it: forward, or backward for side 1."""
        h = 1.0 / self.steps
        time = lambda j: jnp.where(side == 0, j * h, 1.0 - j * h).astype(x.dtype)

        def one(x: Array, at: Any) -> tuple[Array, Places]:
            j, key = at
            drift = self.drift(x, time(j), side)
            noise = math.sqrt(h * self.epsilon) * jax.random.normal(key, x.shape, x.dtype)
            new = x + h * drift + noise
            if self.domain is not None:
                new = self.domain.reflect(new, x)
            return new, Places(x, time(j), drift)

        keys = jax.random.split(key, self.steps)
        end, seen = jax.lax.scan(one, x, (jnp.arange(self.steps), keys))
        last = Places(end, time(jnp.asarray(self.steps)), jnp.zeros_like(end))
        return jax.tree.map(lambda all, one: jnp.concatenate([all, one[None]]), seen, last)

    def push(self, x: Float[Array, " d"], key: Key[Array, ""]) -> Float[Array, " d"]:
        """The end of a forward path."""
        return self.walk(x, key).x[-1]

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        first, walk = jax.random.split(key)
        q = paramax.unwrap(self)
        return q.push(q.base.sample(first), walk)

    def half(self, side: Any, at: Places) -> Float[Array, ""]:
        r"""A place's share of the loss that trains a drift u on paths of the other one, v.

        .. math:: \tfrac12|u|^2 + u \cdot v + \epsilon\,\nabla\cdot u.

        Since u has no normal part at the boundary, the mean of the last term is that of
        :math:`-\epsilon\,u\cdot\nabla\log p`.
        """
        field = lambda x: self.drift(x, at.t, side)
        slope = lambda e: jax.jvp(field, (at.x,), (e,))
        basis = jnp.eye(len(at.x), dtype=at.x.dtype)
        values, turned = jax.vmap(slope, out_axes=(None, 0))(basis)
        return 0.5 * values @ values + values @ at.drift + self.epsilon * jnp.trace(turned)


class IPFLoss(AbstractDirect):
    """What a half-bridge minimises; it has a value along paths only, which `ipf` draws."""

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        raise RitzError("a ReflectedBridge is trained in turns; use solver=ritz.transport.ipf()")


def reflected_bridge(
    base: Any, domain: Any = None, epsilon: Any = 0.1, steps: Any = 50, width: Any = 64
) -> Callable[[Any, Any], ReflectedBridge]:
    r"""A Schrödinger bridge from samples to samples, inside a domain, for `ipf`.

    Of all processes with the two ends it is the one nearest to a reflected Brownian motion of
    variance epsilon. It is one of two reflected diffusions,

    .. math:: dX = u(X, t)\,dt + \sqrt\epsilon\,dW + dR, \qquad u + v = \epsilon\,\nabla\log p_t,

    forward with the drift u and backward in time with v; R pushes inward at the boundary. A path
    takes K steps of Euler and Maruyama, each mirrored at the boundary where it leaves the domain,
    so that no place of it is outside. W. Deng, Y. Chen, N. Yang, H. Du, Q. Feng and R. Chen 2024,
    "Reflected Schrödinger bridge for constrained generative modeling", arXiv:2401.03228.

    Args:
        base: samples that paths begin from, shape (N, d), all of them inside.
        domain: of `ritz.transport.domain`; None for all of space.
        epsilon: the variance of the reference Brownian motion at time one.
        steps: K.
        width: of the three hidden layers of each drift.

    Returns:
        a function `(target, start)` for `ritz.fit(family=...)`, with a target of
        `ritz.target.from_samples`. What is fitted has `sample`, `push`, `walk` and `drift`.

    Raises:
        RitzError: for samples that are outside or not of one space, an epsilon that is not
            positive, or fewer than two steps.

    >>> import ritz
    >>> from ritz.transport import domain, ipf
    >>> rng = np.random.default_rng(0)
    >>> x0, x1 = rng.uniform(0.0, 1.0, (1000, 1)), rng.beta(4.0, 2.0, (1000, 1))
    >>> unit = domain(lambda x: jnp.abs(x[0] - 0.5) - 0.5)
    >>> family = reflected_bridge(x0, unit, steps=20, width=16)
    >>> fit = ritz.fit(ritz.target.from_samples(x1), family=family, steps=600, progress=False,
    ...                solver=ipf(inner=200, lr=0.01))
    >>> bool(abs(fit.mean()[0] - 2 / 3) < 0.1)
    True
    """
    x0, eps = cloud("base", base), positive("epsilon", epsilon)
    steps = whole_number("steps", steps, 2)
    width = whole_number("width", width, 1)
    if domain is not None and not isinstance(domain, Domain):
        raise RitzError(
            f"reflected_bridge: domain: {described(domain)} arrived, expected one of "
            "ritz.transport.domain(level), or None"
        )

    def build(target: Any, start: Any) -> ReflectedBridge:
        x1 = samples_for(x0, target, "reflected_bridge")
        d = x0.shape[1]
        for name, x in (("base", x0), ("target", x1)):
            within = True if domain is None else jax.vmap(domain.inside)(jnp.asarray(x))
            if not np.all(within):
                raise RitzError(
                    f"reflected_bridge: {np.sum(~np.asarray(within))} of {len(x)} samples of the "
                    f"{name} are outside of the domain; leave them out, or project them"
                )
        both = np.concatenate([x0, x1])
        scale = float(both.std(axis=0).mean()) or 1.0
        frame = paramax.non_trainable((jnp.asarray(both.mean(axis=0)), jnp.asarray(scale)))
        inputs = d * (1 + 2 * len(_OF_SPACE)) + 1 + 2 * len(_OF_TIME)

        def net(key: Any) -> eqx.nn.MLP:
            return small(eqx.nn.MLP(inputs, d, width, 3, jax.nn.silu, key=key))

        drifts = eqx.filter_vmap(net)(jax.random.split(jax.random.key(6), 2))
        begin = Drawn(paramax.NonTrainable(jnp.asarray(x0, jnp.result_type(float))))
        return ReflectedBridge(drifts, begin, frame, domain, eps, steps)

    return build
