"""What every family has, and the table of those that are known by name."""

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError

CAPABILITIES = ("sample", "log_prob", "entropy", "reparameterised")


class AbstractFamily(eqx.Module):
    r"""A trial set :math:`q_\lambda` over an unconstrained vector :math:`x \in \mathbb{R}^d`.

    Only the parameters (the arrays it holds) are required. What else it can do is declared in
    `capabilities`: `sample`, `log_prob`, `entropy`, and `reparameterised` where `sample` is
    differentiable in the parameters. Write each for one point; Ritz batches with `jax.vmap`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

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

    def entropy(self) -> Float[Array, ""]:
        r""":math:`-\mathbb{E}_q \log q_\lambda`, in closed form."""
        raise _lacks(self, "entropy")


def _lacks(family: AbstractFamily, what: str) -> RitzError:
    have = ", ".join(sorted(family.capabilities)) or "none"
    return RitzError(f"{type(family).__name__} has no {what}; its capabilities: {have}")


@dataclasses.dataclass(frozen=True)
class Registered:
    """A family that is known by name.

    Attributes:
        name: what a user types.
        build: `(target, start) -> family`, around the unconstrained point `start`.
        kind: the class that `build` returns.
        description: one line.
    """

    name: str
    build: Callable[..., AbstractFamily]
    kind: type[AbstractFamily]
    description: str


_REGISTRY: dict[str, Registered] = {}


def register(
    name: str, build: Callable[..., AbstractFamily], kind: type[AbstractFamily], description: str
) -> None:
    """Make a family known by name: to `fit`, to files, to the conformance tests and the docs."""
    _REGISTRY[name] = Registered(name, build, kind, description)


def registered() -> dict[str, Registered]:
    """The families that are known by name."""
    return dict(_REGISTRY)
