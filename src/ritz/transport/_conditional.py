"""Conditional transport: two amortised couplings between samples, and what they cost."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily, build, lacking
from ritz.objective import AbstractDirect
from ritz.target import samples_of
from ritz.transport._clouds import units

# Numbers that an embedding has.
_FEATURES = 10


class Navigated(AbstractFamily):
    """A family, and the networks that tell how far its draws are from samples.

    Made by `conditional_transport`; the networks see positions in units of the target.

    Attributes:
        base: what is fitted.
        navigator: an embedding whose distances are those of the couplings.
        critic: an embedding whose angles are the cost; None for squared distances.
        frame: the mean and the scale of the target; not trained.
        weight: rho, of the way from samples to draws.
        rows: samples, and draws, that a step sees.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "reparameterised"})
    base: AbstractFamily
    navigator: eqx.nn.MLP
    critic: eqx.nn.MLP | None
    frame: Any
    weight: float = eqx.field(static=True)
    rows: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.base.dim

    @property
    def objective(self) -> "ConditionalTransport":
        return ConditionalTransport()

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return paramax.unwrap(self.base).sample(key)

    def distances(
        self, x: Float[Array, "n d"], y: Float[Array, "m d"]
    ) -> tuple[Float[Array, "n m"], Float[Array, "n m"]]:
        """d of the couplings, and the cost, whose critic has its gradient reversed."""
        centre, scale = paramax.unwrap(self.frame)
        x, y = (x - centre) / scale, (y - centre) / scale
        apart = _squares(jax.vmap(self.navigator)(x), jax.vmap(self.navigator)(y))
        if self.critic is None:
            return apart, _squares(x, y)
        against = _reversed(self.critic)
        on = lambda v: v / jnp.sqrt((v**2).sum(-1, keepdims=True) + 1e-12)
        return apart, 1.0 - on(jax.vmap(against)(x)) @ on(jax.vmap(against)(y)).T


class ConditionalTransport(AbstractDirect):
    r"""The cost of going from samples to draws and back; see `conditional_transport`."""

    def couplings(self, apart: Float[Array, "n m"]) -> tuple[Array, Array]:
        """Where each sample goes, by rows, and where each draw goes, by columns."""
        return jax.nn.softmax(-apart, axis=1), jax.nn.softmax(-apart, axis=0)

    def loss(
        self, q: Navigated, target: Any, key: Key[Array, ""], batch: Any = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        seen, drawn = jax.random.split(key)
        x = samples_of(target, "conditional_transport").draw(seen, q.rows)
        y = jax.vmap(q.sample)(jax.random.split(drawn, q.rows))
        apart, cost = q.distances(x, y)
        there, back = self.couplings(apart)
        forward, backward = (cost * there).sum(1).mean(), (cost * back).sum(0).mean()
        figures = {"forward": forward, "backward": backward}
        return q.weight * forward + (1.0 - q.weight) * backward, figures


def conditional_transport(
    family: Any = "implicit",
    weight: Any = 0.5,
    critic: Any = True,
    width: Any = 64,
    rows: Any = 128,
) -> Callable[[Any, Any], Navigated]:
    r"""Fit any family with differentiable draws to samples by conditional transport.

    .. math:: \rho\,\mathbb{E}_{x}\,\mathbb{E}_{\pi(y|x)} c(x,y)
        + (1-\rho)\,\mathbb{E}_{y}\,\mathbb{E}_{\pi(x|y)} c(x,y), \qquad
        \pi(y\mid x) \propto e^{-d_\phi(x,y)} q(y), \quad
        \pi(x\mid y) \propto e^{-d_\phi(x,y)} p(x),

    with x from the target and y from the family, both as mini-batches, so that the couplings are
    softmaxes. :math:`d_\phi` is the squared distance of embeddings, which are trained with the
    family. The way from samples to draws (rho near 1) wants a draw near each sample, and covers
    modes; the way back wants a sample near each draw, and seeks them. The cost is one less the
    cosine of a critic's embeddings, which is trained to make it large, or the squared distance in
    units of the target. H. Zheng and M. Zhou, "Exploiting chain rule and Bayes' theorem to compare
    probability distributions", NeurIPS 2021, arXiv:2012.14100, equations 4 to 11.

    The loss of a step with a critic is no measure of progress: give `ritz.fit` a number of steps.

    Args:
        family: a name, a function `(target, start)` or a family, whose draws are differentiable.
        weight: rho, from 0 to 1.
        critic: whether there is one.
        width: of the networks' two hidden layers.
        rows: samples, and draws, that a step sees.

    Returns:
        what `ritz.fit` takes as `family`, with a target of `ritz.target.from_samples`; what is
        fitted has the family as its `base`.

    Raises:
        RitzError: for a family whose draws are not differentiable, or numbers out of their range.

    >>> import numpy as np, ritz
    >>> x = 3.0 + 2.0 * np.random.default_rng(0).normal(size=(500, 1))
    >>> family = conditional_transport("full_rank", critic=False, width=16)
    >>> fit = ritz.fit(ritz.target.from_samples(x), family=family, steps=500, progress=False)
    >>> bool(abs(fit.mean()[0] - 3.0) < 0.5)
    True
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise RitzError(f"weight={weight!r} arrived, expected a number from 0 to 1")
    if not isinstance(critic, bool):
        raise RitzError(f"critic={critic!r} arrived, expected True or False")
    whole_number("width", width, 1)
    whole_number("rows", rows, 1)

    def conditional_transport(target: Any, start: Any) -> Navigated:
        x = np.asarray(samples_of(target, "conditional_transport").samples)
        base = build(family, target, start)
        lacks = lacking({"sample", "reparameterised"}, base.capabilities)
        if lacks:
            raise RitzError(
                f"conditional_transport moves draws by their gradients, but {type(base).__name__} "
                f"lacks {', '.join(lacks)}; use family='implicit'"
            )
        _, centre, scale = units(x, x)
        one, other = jax.random.split(jax.random.key(0))
        network = lambda key: eqx.nn.MLP(
            x.shape[1], _FEATURES, width, 2, jax.nn.leaky_relu, key=key
        )
        return Navigated(
            base=base,
            navigator=network(one),
            critic=network(other) if critic else None,
            frame=paramax.non_trainable((centre, scale)),
            weight=float(weight),
            rows=rows,
        )

    return conditional_transport


def _squares(x: Array, y: Array) -> Array:
    return ((x[:, None] - y) ** 2).sum(-1)


def _reversed(network: Any) -> Any:
    """The same, with the opposite gradient: what is minimised is maximised in its parameters."""
    turn = lambda v: 2.0 * jax.lax.stop_gradient(v) - v
    return jax.tree.map(lambda v: turn(v) if eqx.is_inexact_array(v) else v, network)
