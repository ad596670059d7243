"""A loss as a program, and the view of a target that it sees."""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz._mesh import split_draws
from ritz.estimator import AbstractEstimator, DoublyReparameterised
from ritz.program import expectation, with_default
from ritz.target import AbstractTarget


class Density(eqx.Module):
    """A target at one batch and one subsample of it: what a program scores with.

    Attributes:
        target: what is seen.
        key: of the subsample.
        batch: rows of data.
    """

    target: AbstractTarget
    key: Key[Array, ""]
    batch: Any

    def log_density(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        r""":math:`\log\tilde p(x)`, on the unconstrained space."""
        return self.target.log_density(x, self.key, self.batch)

    def terms(self, x: Float[Array, " d"]) -> dict[str, Float[Array, ""]]:
        """Its terms, by the name of their site."""
        return self.target.terms(x, self.key, self.batch)


class AbstractObjective(eqx.Module):
    """A loss, always minimised: the expectation of a program that samples from a family.

    Attributes:
        needs: capabilities that the family must declare.
        cost: points at which the target is evaluated for a gradient, in words; an estimator
            that evaluates a program several times does so for each.
        bias: how far its expectation is from the functional of its description, in draws K, as in
            "O(1/K)"; None where K does not matter.
    """

    cost: ClassVar[str] = "1"
    bias: ClassVar[str | None] = None

    @property
    def needs(self) -> frozenset[str]:
        """Capabilities that the family must declare."""
        return frozenset({"sample", "log_prob"})

    @property
    def trains_target(self) -> bool:
        """Whether its minimum in the target's own parameters is a maximum of a bound of log Z."""
        return True

    @property
    def points(self) -> int | None:
        """How many points of the target one evaluation looks at; None where it is not known."""
        return getattr(self, "draws", None)

    def check(self, estimator: AbstractEstimator) -> None:
        """Raise a RitzError, which names one that serves, if an estimator cannot serve this."""
        refuse_doubly(self, estimator)
        if estimator.detaches:
            raise RitzError(
                f"{type(estimator).__name__} is biased for {type(self).__name__}, which is not "
                "linear in log q; use pathwise()"
            )

    def keys(self, key: Key[Array, ""]) -> Key[Array, " n"]:
        """A key for each independent run of the program in one evaluation."""
        return key[None]

    @property
    def changes(self) -> bool:
        """Whether it changes with the step of the run."""
        return type(self).at is not AbstractObjective.at

    def at(self, step: Any) -> "AbstractObjective":
        """The objective at a step of the run: itself, where it does not change."""
        return self

    @property
    def revises(self) -> bool:
        """Whether it sets some parameters itself, see `revise`."""
        return type(self).revise is not AbstractObjective.revise

    def revise(
        self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None
    ) -> tuple[Any, Any]:
        """The family and the target with what a step sets without a gradient.

        Called before the gradient of each step, with the same key and batch: running means, codes
        that follow what is mapped to them, updates in closed form. An array of these is a
        parameter whose gradient is zero.
        """
        return q, target

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        """One number, whose expectation is the loss; see `ritz.objective.expectation`.

        Args:
            q: the family, or anything else that `sample` draws from.
            target: what it scores with.
            estimator: of its choices.
        """
        raise NotImplementedError

    def __call__(
        self,
        q: Any,
        target: AbstractTarget,
        estimator: AbstractEstimator,
        key: Key[Array, ""],
        batch: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """A number whose derivative estimates the gradient, and the figures to record.

        The figures hold `loss`, an estimate of the functional, and `loss_se`, its standard
        error, where several runs of the program tell it.
        """

        def one(key: Array) -> Array:
            seen = Density(target, subsample_key(key), batch)

            @functools.wraps(getattr(self, "function", type(self).program))  # for messages
            def program() -> Any:
                return self.program(q, seen, estimator)

            return expectation(program).value(key)

        keys = self.keys(key)
        if len(keys) == 1:
            loss = one(keys[0])
            return loss, {"loss": loss}
        values = jax.vmap(one)(split_draws(keys))
        loss = values.mean()
        return loss, {"loss": loss, "loss_se": values.std(ddof=1) / len(keys) ** 0.5}


class AbstractDirect(AbstractObjective):
    """A loss that is differentiated as it stands: no program, and no choices to be estimated.

    Of a family that trains itself, or of samples of the target.
    """

    cost: ClassVar[str] = "none"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def trains_target(self) -> bool:
        return False

    @property
    def points(self) -> int | None:
        return None

    def check(self, estimator: AbstractEstimator) -> None:
        return None

    @abc.abstractmethod
    def loss(
        self, q: Any, target: AbstractTarget, key: Key[Array, ""], batch: Any = None
    ) -> Float[Array, ""] | tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The loss, or the loss and figures to record beside it."""

    def __call__(
        self,
        q: Any,
        target: AbstractTarget,
        estimator: AbstractEstimator,
        key: Key[Array, ""],
        batch: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        found = self.loss(q, target, key, batch)
        loss, figures = found if isinstance(found, tuple) else (found, {})
        return loss, {"loss": jax.lax.stop_gradient(loss)} | figures


class AbstractAveraged(AbstractObjective):
    """A loss whose program runs several times, independently, in one evaluation.

    Attributes:
        draws: how many times.
    """

    cost: ClassVar[str] = "K"
    draws: int = eqx.field(static=True)

    def keys(self, key: Key[Array, ""]) -> Key[Array, " n"]:
        return key[None] if self.draws == 1 else jax.random.split(key, self.draws)


class Program(AbstractObjective):
    """A loss given as a function.

    Attributes:
        function: from a family and the view of a target to one number; it calls `sample`. Where
            it names no estimator for the family, the fit's serves.
    """

    cost: ClassVar[str] = "what the function says"
    function: Callable[..., Any] = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"sample"})

    def check(self, estimator: AbstractEstimator) -> None:
        if isinstance(estimator, DoublyReparameterised):
            return  # which finds out whether the function uses `of_log_weights`
        if estimator.detaches:
            raise RitzError(
                f"{type(estimator).__name__} is unbiased where a loss is linear in log q only, "
                "which is not known of a function; name it there, as in sample_and_log_prob(q, "
                "sticking_the_landing()), or use pathwise()"
            )

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Any:
        with with_default(q, estimator):
            return self.function(q, target)


@dataclasses.dataclass(frozen=True)
class Registered:
    """An objective that is known by name.

    Attributes:
        name: how it is written.
        example: makes one, with the settings that the conformance tests use.
        description: what it bounds and in which direction, in one line.
    """

    name: str
    example: Callable[[], AbstractObjective]
    description: str


_REGISTRY: dict[str, Registered] = {}


def register(name: str, example: Callable[[], AbstractObjective], description: str) -> None:
    """Make an objective known by name: to the conformance tests and to the docs.

    One that is not registered works all the same.

    Args:
        name: how it is written.
        example: makes one. It is called by tests only, so that an import stays cheap.
        description: what it bounds and in which direction, in one line.

    >>> register("mine", lambda: Program(lambda q, target: 0.0), "bounds nothing")
    >>> registered()["mine"].description
    'bounds nothing'
    >>> del _REGISTRY["mine"]
    """
    _REGISTRY[name] = Registered(name, example, description)


def registered() -> dict[str, Registered]:
    """The objectives that are known by name.

    >>> import ritz
    >>> "iwae" in ritz.objective.registered()
    True
    """
    return dict(_REGISTRY)


def refuse_doubly(objective: AbstractObjective, estimator: AbstractEstimator) -> None:
    """Refuse an estimator of functions of log weights, for an objective that is none."""
    if isinstance(estimator, DoublyReparameterised):
        raise RitzError(
            f"DoublyReparameterised serves functions of K log weights, such as iwae(), which "
            f"{type(objective).__name__} is not; for it use pathwise()"
        )


def subsample_key(key: Key[Array, ""]) -> Key[Array, ""]:
    """The key of a draw's data subsample; costs nothing where the model has none."""
    return jax.random.fold_in(key, 2**31 - 1)  # no choice of a program has so high a number
