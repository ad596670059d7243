"""What every family has, and the table of those that are known by name."""

import abc
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError

CAPABILITIES = (
    "sample",
    "log_prob",
    "sample_and_log_prob",
    "entropy",
    "linearised_entropy",
    "path",
    "reparameterised",
    "condition",
    "points",
)
# What most families can do.
DENSITY = frozenset({"sample", "log_prob", "reparameterised"})


class AbstractFamily(eqx.Module):
    r"""A trial set :math:`q_\lambda` over an unconstrained vector :math:`x \in \mathbb{R}^d`.

    Only the parameters (the arrays it holds) are required. What else it can do is declared in
    `capabilities`: `sample`, `log_prob`, `entropy`, and `reparameterised` where `sample` is
    differentiable in the parameters. Write each for one point; Ritz batches with `jax.vmap`.

    A family that cannot give its density at any point, but a draw together with
    :math:`\log\hat q` such that :math:`\tilde p(x)/\hat q` has the mean Z for every target
    (a path's probability ratio, an auxiliary variable's), declares `sample_and_log_prob` alone;
    whoever has `sample` and `log_prob` has it too. Where such a draw is the end of a path, and the
    ratio is known of the path alone, it declares `path`: whoever has `sample` and `log_prob` has
    paths of one point. One whose entropy is only known of a
    linearisation declares `linearised_entropy`: no such weights can be made of that. One that is a
    family for each data set declares `condition`, see `AbstractAmortised`.

    Attributes:
        registered_as: the name of its builder; None where that is not registered.
        options: what the builder must be told to make one of the same structure, as JSON values.
        composed: whether a draw is made of choices in a program, each with its own estimator.
        solver: the registered solver that moves it, where gradients of the loss do not.
        clip: how `adam`, where nothing else is asked for, clips the gradients of its parameters.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()
    registered_as: ClassVar[str | None] = None
    composed: ClassVar[bool] = False
    solver: ClassVar[str | None] = None
    clip: ClassVar[float | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "registered_as" not in {**vars(cls), **vars(cls).get("__annotations__", {})}:
            cls.registered_as = None  # a subclass is not what the builder makes

    @property
    def options(self) -> dict[str, Any]:
        """What the builder must be told to make one of the same structure, as JSON values."""
        return {}

    @property
    def looks(self) -> int:
        """At how many points a draw looks at the target, its own among them."""
        return 1

    @property
    def objective(self) -> Any:
        """The loss that trains it where no other is asked for; None for the usual one."""
        return None

    def in_units(self, power: float) -> "AbstractFamily":
        """With each array times a power of the unit that gradient steps move it in.

        Overridden by families some of whose arrays should move less than others at one rate.
        """
        return self

    def for_target(self, target: Any) -> "AbstractFamily":
        """The same for another target; another family only where draws are made with the target."""
        return self

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """d."""

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        r"""One draw :math:`x \sim q_\lambda`."""
        raise _lacks(self, "sample")

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        r""":math:`\log q_\lambda(x)`."""
        raise _lacks(self, "log_prob")

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """A draw and its log density; override where one pass gives both."""
        x = self.sample(key)
        return x, self.log_prob(x)

    def sample_path(self, key: Key[Array, ""]) -> Float[Array, "..."]:
        """The points that a draw goes through; itself, where it is the only one."""
        return self.sample(key)

    def path_log_prob(
        self, path: Float[Array, "..."]
    ) -> tuple[Float[Array, "d"], Float[Array, ""]]:
        r"""The end of a path and its :math:`\log\hat q`, differentiable at a fixed path."""
        return path, self.log_prob(path)

    def prepared(self) -> "AbstractFamily":
        """The same, with all at hand that the density at many points has in common."""
        return self

    def entropy(self) -> Float[Array, ""]:
        r""":math:`-\mathbb{E}_q \log q_\lambda`, in closed form."""
        raise _lacks(self, "entropy")

    def condition(self, data: Any) -> "AbstractFamily":
        """The member for other data, by the names of the observed sites."""
        raise _lacks(self, "condition")

    def sample_and_linearised_entropy(
        self, key: Key[Array, ""], bound: Any = "log_det"
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """A draw, and the entropy that the family would have were it linear around that draw.

        With `bound="smallest_singular_value"` a cheaper number below it.
        """
        raise _lacks(self, "linearised_entropy")


def in_units(params: Any, power: float) -> Any:
    """Parameters, or a gradient or step of them, as those of families in `in_units`.

    A gradient and the step made of it are both to be multiplied by the units: that is what training
    the parameters, divided by their units, comes to.
    """
    has_own = lambda node: (
        isinstance(node, AbstractFamily) and type(node).in_units is not AbstractFamily.in_units
    )
    turn = lambda node: node.in_units(power) if has_own(node) else node
    return jax.tree.map(turn, params, is_leaf=has_own)


def _lacks(family: AbstractFamily, what: str) -> RitzError:
    have = ", ".join(sorted(family.capabilities)) or "none"
    return RitzError(f"{type(family).__name__} has no {what}; its capabilities: {have}")


def lacking(needs: Iterable[str], capabilities: frozenset[str]) -> list[str]:
    """Which of some capabilities are not among those declared.

    >>> lacking({"sample_and_log_prob", "entropy"}, frozenset({"sample", "log_prob"}))
    ['entropy']
    """
    has_pair = capabilities >= {"sample", "log_prob"}
    follow = {"sample_and_log_prob", "path"} if has_pair else set()
    return sorted(set(needs) - capabilities - follow)


@dataclasses.dataclass(frozen=True)
class Registered:
    """A family that is known by name.

    Attributes:
        name: what a user types.
        builder: `(target, start, **options) -> family`, around the unconstrained point `start`, or
            the place of that function, "module:function".
        capabilities: of what it builds.
        parameters: how many, as a formula in d.
        description: one line.
    """

    name: str
    builder: Callable[..., AbstractFamily] | str
    capabilities: frozenset[str]
    parameters: str
    description: str

    @functools.cached_property
    def build(self) -> Callable[..., AbstractFamily]:
        """The function; its module is imported when it is first asked for."""
        if not isinstance(self.builder, str):
            return self.builder
        module, _, function = self.builder.partition(":")
        return getattr(importlib.import_module(module), function)


_REGISTRY: dict[str, Registered] = {}


def register(
    name: str,
    builder: Callable[..., AbstractFamily] | str,
    capabilities: Iterable[str],
    parameters: str,
    description: str,
) -> None:
    """Make a family known by name: to `fit`, to files, to the conformance tests and the docs.

    What it builds has that name as its `registered_as`.

    Args:
        name: what a user types.
        builder: `(target, start, **options) -> family`, or its place as "module:function".
        capabilities: of what it builds.
        parameters: how many, as a formula in d.
        description: one line.
    """
    _REGISTRY[name] = Registered(name, builder, frozenset(capabilities), parameters, description)


def registered() -> dict[str, Registered]:
    """The families that are known by name.

    >>> registered()["mean_field"].parameters
    '2d'
    """
    return dict(_REGISTRY)
