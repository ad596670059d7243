"""Maps composed one after another, the family of a Wasserstein gradient flow."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, described, whole_number
from ritz.family import AbstractFamily
from ritz.objective import AbstractDirect
from ritz.transport._interpolant_parts import StandardNormal


class Move(eqx.Module):
    """A map x + Ax + b + network(x); the identity at first.

    Attributes:
        matrix: A.
        shift: b.
        network: the rest; its last layer is zero at first.
    """

    matrix: Float[Array, "d d"]
    shift: Float[Array, " d"]
    network: eqx.nn.MLP

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return x + self.matrix @ x + self.shift + self.network(x)


class WassersteinFlow(AbstractFamily):
    """See `wasserstein_flow`.

    Attributes:
        base: where the flow begins; not trained.
        maps: one for each step, as one map whose arrays have a leading axis of length K.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "reparameterised"})
    base: AbstractFamily
    maps: Move

    @property
    def dim(self) -> int:
        return self.maps.shift.shape[1]

    @property
    def steps(self) -> int:
        """K."""
        return self.maps.shift.shape[0]

    @property
    def objective(self) -> "JKOLoss":
        return JKOLoss()

    def map(self, k: Any) -> Move:
        """The k-th map."""
        return jax.tree.map(lambda v: v[k] if eqx.is_array(v) else v, self.maps)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.sample_at(key, self.steps)

    def sample_at(self, key: Key[Array, ""], k: Any) -> Float[Array, " d"]:
        """A draw after the first k steps."""
        q = paramax.unwrap(self)
        arrays, static = eqx.partition(q.maps, eqx.is_array)

        def one(x: Array, at: Any) -> tuple[Array, None]:
            j, own = at
            return jnp.where(j < k, eqx.combine(own, static)(x), x), None

        return jax.lax.scan(one, q.base.sample(key), (jnp.arange(q.steps), arrays))[0]


class JKOLoss(AbstractDirect):
    """What a JKO step minimises; it has a value against a critic only, which `jko` trains."""

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        raise RitzError("a WassersteinFlow is moved by a critic too; use ritz.transport.jko()")


def wasserstein_flow(
    steps: Any, base: Any = None, width: Any = 64
) -> Callable[[Any, Any], WassersteinFlow]:
    r"""A composition of maps :math:`T_K \circ \dots \circ T_1`, for `jko`.

    Args:
        steps: K.
        base: a family that can be drawn from, where the flow begins; None for the standard normal.
            It is not trained.
        width: of the two hidden layers of each map's network.

    Returns:
        a function `(target, start)` for `ritz.fit(family=...)`.

    Raises:
        RitzError: for a number below one, or a base that is no family of the target's dimension.

    >>> import jax.numpy as jnp, ritz
    >>> from ritz.transport import jko
    >>> target = ritz.target.from_log_density(lambda x: -2.0 * (x - 1.0) @ (x - 1.0), jnp.zeros(1))
    >>> fit = ritz.fit(target, family=wasserstein_flow(2, width=8), steps=400, progress=False,
    ...                solver=jko(1.0, inner=200, rows=128, width=8))
    >>> bool(0.4 < fit.mean()[0] < 1.2)
    True
    """
    count, width = whole_number("steps", steps, 1), whole_number("width", width, 1)
    if base is not None and not isinstance(base, AbstractFamily):
        raise RitzError(f"wasserstein_flow: base: {described(base)} arrived, expected a family")

    def build(target: Any, start: Any) -> WassersteinFlow:
        d = start.shape[0]
        begin = StandardNormal(d) if base is None else base
        if begin.dim != d:
            raise RitzError(
                f"wasserstein_flow: the base has {begin.dim} dimensions, the target {d}; give alike"
            )

        def move(key: Any) -> Move:
            network = small(eqx.nn.MLP(d, d, width, 2, jax.nn.silu, key=key))
            return Move(jnp.zeros((d, d)), jnp.zeros(d), network)

        maps = eqx.filter_vmap(move)(jax.random.split(jax.random.key(3), count))
        return WassersteinFlow(paramax.non_trainable(begin), maps)

    return build


def small(network: eqx.nn.MLP) -> eqx.nn.MLP:
    """With a last layer of zeros."""
    last = lambda n: (n.layers[-1].weight, n.layers[-1].bias)
    return eqx.tree_at(last, network, tuple(map(jnp.zeros_like, last(network))))
