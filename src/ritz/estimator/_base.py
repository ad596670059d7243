"""What an estimator of one random choice is made of."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ritz.estimator import law
from ritz.family import AbstractFamily


class Draw(NamedTuple):
    """What an estimator puts in the place of a random choice.

    Attributes:
        value: a draw, or K of them along a first axis if the estimator is `stacked`.
        notes: what `combine` needs, arrays of shape (K, *plates) or (*plates), by name. Over
            elements that f mixes, those whose name begins with "log" add up, and others are
            averaged.
    """

    value: Array
    notes: dict[str, Array]


class AbstractEstimator(eqx.Module):
    r"""How :math:`\nabla_\lambda \mathbb{E}_{x \sim q_\lambda} f(x, \lambda)` is estimated.

    `draw` says where f is evaluated, and `combine` makes one number of f there: its value
    estimates the expectation and its derivative the gradient. `ritz.diagnose.check_unbiased`
    tests one that you wrote.

    Attributes:
        biased: whether the mean of the estimated gradient differs from the gradient.
        needs: "log_prob" where it uses the log density of q, which a family must then declare;
            "slope" where it differentiates f along the choice.
        cost: evaluations of f for a choice, in words.
        combines: whether `combine` does anything.
        stacked: whether `draw` gives several values along a first axis.
        factorised: whether its weights multiply over independent elements, so that elements
            which f mixes need every combination.
        coordinatewise: whether the first of its values is a draw, with weight 1 plus something,
            and the others' weights sum to the opposite of that, so that elements which f mixes are
            changed one at a time.
        fixed: whether its values do not depend on q's parameters.
        pairs: whether a draw and its log density may be taken from one pass of the family. A
            subclass must say so again, as its `draw` may look into the family.
        detaches: whether `log_prob` holds q's parameters fixed, which only a loss that is linear
            in log q allows.
    """

    biased: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset()
    cost: ClassVar[str] = "1"
    combines: ClassVar[bool] = True
    stacked: ClassVar[bool] = False
    factorised: ClassVar[bool] = False
    coordinatewise: ClassVar[bool] = False
    fixed: ClassVar[bool] = False
    pairs: ClassVar[bool] = False
    detaches: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "pairs" not in vars(cls):
            cls.pairs = False

    @property
    def ratio(self) -> bool:
        """Whether `combine` is f plus f times `detached` of its only note.

        Then many choices are credited at once, with the sum of their notes.
        """
        return False

    def evaluations(self, q: Any) -> int | None:
        """How often f is evaluated for a choice from q, where it is known."""
        return 1 if self.cost == "1" else None

    def check(self, q: Any) -> None:
        """Raise a RitzError, which names an estimator that serves, if this one cannot serve q."""
        lacking = isinstance(q, AbstractFamily) and "log_prob" not in q.capabilities
        if lacking and "log_prob" in self.needs:
            raise law.refuse(self, q, "it has no log_prob", "pathwise()")

    def value(self, q: Any) -> Any:
        """Shape and dtype of one value."""
        return law.value(q)

    @abc.abstractmethod
    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        """Where f is evaluated."""

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        """One number of f, element by element: (K, ...) or (...) to (...).

        It sees the estimator without its arrays: what these give belongs to the notes.

        Args:
            f: the rest of the program, at each value.
            notes: of `draw`, in shapes that broadcast against f.
        """
        return f

    def log_prob(self, q: Any, x: Any) -> Array:
        """The log density of a value, as it enters an objective."""
        return law.log_prob(q, x).sum()


@dataclasses.dataclass(frozen=True)
class Registered:
    """An estimator that is known by name.

    Attributes:
        name: how it is written.
        example: makes one, with the settings that the conformance tests use.
        description: which choices it serves, in one line.
    """

    name: str
    example: Callable[[], AbstractEstimator]
    description: str


_REGISTRY: dict[str, Registered] = {}


def register(name: str, example: Callable[[], AbstractEstimator], description: str) -> None:
    """Make an estimator known by name: to the conformance tests and to the docs.

    One that is not registered works all the same.

    Args:
        name: how it is written.
        example: makes one. It is called by tests only, so that an import stays cheap.
        description: which choices it serves, in one line.

    >>> class Mine(AbstractEstimator):
    ...     def draw(self, q, key):
    ...         return Draw(law.draw(q, key), {})
    >>> register("mine", Mine, "draws that are differentiable")
    >>> registered()["mine"].example().biased
    False
    >>> del _REGISTRY["mine"]
    """
    _REGISTRY[name] = Registered(name, example, description)


def registered() -> dict[str, Registered]:
    """The estimators that are known by name.

    >>> import ritz
    >>> ritz.estimator.registered()["pathwise"].description
    'draws that are differentiable'
    """
    return dict(_REGISTRY)


def stop(tree: Any) -> Any:
    """The same numbers, constant for derivatives."""
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, tree)


@jax.custom_jvp
def detached(log_q: Array) -> Array:
    r"""0, whose derivative is the score: :math:`e^{\log q - \bot \log q} - 1`.

    Higher derivatives are those of a likelihood ratio (Foerster et al. 2018, "DiCE").
    """
    return jnp.zeros_like(log_q)


@detached.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Written out, the exponential would keep the value of log q alive, which nobody needs.
    (log_q,), (tangent,) = primals, tangents
    return detached(log_q), (1.0 + detached(log_q)) * tangent
