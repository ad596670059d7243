"""FlowJAX distributions as families."""

import dataclasses
import math
import sys
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.family._base import AbstractFamily


class Flow(AbstractFamily):
    r"""A FlowJAX distribution, moved through its unconstrained parameters.

    .. math:: x = T_\lambda(z), \qquad
        \log q_\lambda(x) = \log p_0(z) - \log\left|\det \frac{\partial T_\lambda}{\partial z}
        \right|,

    for a transformed one. A draw and its density come from one pass in the direction of T; the
    density at a given point takes the inverse. See `from_flowjax`.

    Attributes:
        arrays: :math:`\lambda`, what paramax makes of which the distribution uses.
        rest: all other leaves of the distribution: permutations, masks, functions, and what is
            wrapped in `paramax.NonTrainable`.
        units: the unit that gradient steps move each of `arrays` in, or None where a leaf belongs
            to `rest`, in order.
        structure: of the distribution.
        shape: of a draw, which the family ravels.
        can: its capabilities.
        name: of the registered builder.
        settings: what that builder was told.
    """

    clip: ClassVar[float | None] = 5.0  # of Neal's funnel, the KL is then 0.01 whatever the seed
    arrays: tuple[Float[Array, "..."], ...]
    rest: tuple[Any, ...]
    units: tuple[float | None, ...] = eqx.field(static=True)
    structure: Any = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    can: frozenset[str] = eqx.field(static=True)
    name: str | None = eqx.field(static=True, default=None)
    settings: tuple[tuple[str, Any], ...] = eqx.field(static=True, default=())

    @property
    def capabilities(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.can

    @property
    def registered_as(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.name

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.settings)

    @property
    def dim(self) -> int:
        return math.prod(self.shape)

    @property
    def distribution(self) -> Any:
        """The FlowJAX distribution at these parameters."""
        arrays, rest = iter(self.arrays), iter(self.rest)
        leaves = [next(rest if unit is None else arrays) for unit in self.units]
        return jax.tree.unflatten(self.structure, leaves)

    def in_units(self, power: float) -> "Flow":
        units = [unit for unit in self.units if unit is not None]
        each = zip(self.arrays, units, strict=True)
        arrays = tuple(v if u == 1.0 else v * u**power for v, u in each)
        return dataclasses.replace(self, arrays=arrays)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.distribution.sample(key).ravel()

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return self.distribution.log_prob(x.reshape(self.shape))

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        x, log_prob = self.distribution.sample_and_log_prob(key)
        return x.ravel(), log_prob


# Its draws choose a component, which pathwise gradients do not see.
_NOT_REPARAMETERISED = ("VmapMixture",)


def from_flowjax(distribution: Any) -> Flow:
    r"""A FlowJAX distribution as a family, over its unconstrained parameters.

    Every floating array is trained that is not wrapped in `paramax.NonTrainable`; constraints are
    those of the distribution itself (`paramax.unwrap`). Use flows made with `invert=False`, whose
    fast direction is sampling. `fit.q.distribution` gives the fitted distribution back.

    Args:
        distribution: without a condition. Draws of another shape than (d,) are ravelled.

    Returns:
        a `Flow`. It has `log_prob` where the distribution does.

    Raises:
        RitzError: for something else, a conditional distribution, or one that cannot be sampled.

    >>> import jax, jax.numpy as jnp, ritz
    >>> from flowjax.distributions import Normal
    >>> q = from_flowjax(Normal(jnp.zeros(3)))
    >>> q.dim, q.arrays[0].shape, sorted(q.capabilities)
    (3, (3,), ['log_prob', 'reparameterised', 'sample'])
    """
    from flowjax.distributions import AbstractDistribution

    if not isinstance(distribution, AbstractDistribution):
        bijection = hasattr(distribution, "transform_and_log_det")
        what = " (for a bijection, Transformed(StandardNormal((d,)), bijection))" * bijection
        raise RitzError(
            f"from_flowjax: {type(distribution).__name__} arrived, expected a FlowJAX distribution "
            f"such as flowjax.flows.coupling_flow(key, base_dist=..., invert=False){what}"
        )
    if distribution.cond_shape is not None:
        raise RitzError(
            f"from_flowjax: {type(distribution).__name__} has a condition of shape "
            f"{distribution.cond_shape}; make it without cond_dim, as a family has none"
        )
    return make(distribution)


def make(distribution: Any, name: str | None = None, options: dict[str, Any] | None = None) -> Flow:
    """As `from_flowjax`, for a registered builder, with what that was told."""
    frozen = lambda leaf: isinstance(leaf, paramax.NonTrainable)
    leaves, structure = jax.tree.flatten(distribution, is_leaf=frozen)
    units = tuple(
        unit if eqx.is_inexact_array(leaf) else None
        for leaf, unit in zip(
            leaves, jax.tree.leaves(_units(distribution), is_leaf=frozen), strict=True
        )
    )
    each = list(zip(leaves, units, strict=True))
    return Flow(
        arrays=tuple(leaf for leaf, u in each if u is not None),
        rest=tuple(leaf for leaf, u in each if u is None),
        units=units,
        structure=structure,
        shape=distribution.shape,
        can=_capabilities(distribution),
        name=name,
        settings=tuple((options or {}).items()),
    )


# A rate at which Adam finds a location or a log scale makes networks jump: their weights move in
# these, so that one rate serves both.
_TENTH = 0.1


def _units(distribution: Any) -> Any:
    """The unit of each leaf."""
    network = lambda node: isinstance(node, eqx.nn.Linear)

    def of(node: Any) -> Any:
        return jax.tree.map(lambda _: _TENTH, node) if network(node) else 1.0

    return jax.tree.map(of, distribution, is_leaf=network)


def is_flowjax(value: Any) -> bool:
    """Whether something is a FlowJAX distribution, without importing FlowJAX to find out."""
    module = sys.modules.get("flowjax.distributions")
    return module is not None and isinstance(value, module.AbstractDistribution)


def _capabilities(distribution: Any) -> frozenset[str]:
    key = jax.eval_shape(jax.random.key, 0)
    point = jax.ShapeDtypeStruct(distribution.shape, jnp.zeros(()).dtype)
    able = lambda f, *args: _works(eqx.filter_eval_shape, f, distribution, *args)
    if not able(lambda q, k: q.sample_and_log_prob(k), key):
        raise RitzError(
            f"from_flowjax: this {type(distribution).__name__} cannot be sampled, as its bijection "
            "has no formula in that direction; make the flow with invert=False"
        )
    can = {"sample", "sample_and_log_prob"}
    if able(lambda q, x: q.log_prob(x), point):
        can = {"sample", "log_prob"}
    parts = jax.tree.leaves(distribution, is_leaf=_chooses)
    if not any(map(_chooses, parts)):
        can |= {"reparameterised"}
    return frozenset(can)


def _chooses(node: Any) -> bool:
    return type(node).__name__ in _NOT_REPARAMETERISED


def _works(f: Any, *args: Any) -> bool:
    try:
        f(*args)
    except NotImplementedError:
        return False
    return True
