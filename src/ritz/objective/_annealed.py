"""A target that is let in slowly."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, described, takes, whole_number
from ritz.estimator import AbstractEstimator
from ritz.objective._base import AbstractObjective, Density, Program, register
from ritz.objective._negative_elbo import negative_elbo


class Tempered(Density):
    r"""The density :math:`\tilde p^\beta`, and its terms.

    Attributes:
        seen: :math:`\tilde p`.
        beta: :math:`\beta`.
    """

    seen: Density
    beta: Float[Array, ""]

    def log_density(self, x: Array) -> Float[Array, ""]:
        return self.beta * self.seen.log_density(x)

    def terms(self, x: Array) -> dict[str, Float[Array, ""]]:
        return {name: self.beta * value for name, value in self.seen.terms(x).items()}


class Annealed(AbstractObjective):
    """See `annealed`.

    Attributes:
        objective: what is annealed.
        beta: the inverse temperature.
        first: its value at the first step.
        steps: T.
    """

    objective: AbstractObjective
    beta: Float[Array, ""]
    first: Float[Array, ""]
    steps: Float[Array, ""]

    @property
    def needs(self) -> frozenset[str]:
        return self.objective.needs

    @property
    def trains_target(self) -> bool:
        return self.objective.trains_target

    @property
    def points(self) -> int | None:
        return self.objective.points

    @property
    def cost(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.objective.cost

    @property
    def bias(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.objective.bias

    def check(self, estimator: AbstractEstimator) -> None:
        self.objective.check(estimator)

    def keys(self, key: Key[Array, ""]) -> Key[Array, " n"]:
        return self.objective.keys(key)

    def at(self, step: Any) -> "Annealed":
        beta = jnp.minimum(1.0, self.first + step / self.steps).astype(self.first.dtype)
        return Annealed(self.objective.at(step), beta, self.first, self.steps)

    def program(self, q: Any, target: Density, estimator: AbstractEstimator) -> Float[Array, ""]:
        tempered = Tempered(target.target, target.key, target.batch, target, self.beta)
        return self.objective.program(q, tempered, estimator)


def annealed(objective: Any = None, steps: Any = 10_000, first: Any = 0.01) -> Annealed:
    r"""An objective whose target is :math:`\tilde p^{\beta_t}` at step t of the run.

    .. math:: \beta_t = \min(1, \beta_0 + t / T).

    A flat target first lets q see all of the space before it settles: on targets with several
    modes or thin shapes fewer are missed. For the negative ELBO the loss is the annealed free
    energy :math:`\mathbb{E}_q[\log q(x) - \beta_t \log\tilde p(x)]` of Rezende and Mohamed 2015
    (equation 20, with :math:`\beta_0` = 0.01 and T = 10,000). From step T on it is the objective
    itself; let the run be longer than T.

    Args:
        objective: what is annealed: an objective, or a function `(q, target)`. By default
            `negative_elbo(4, entropy="mc")`.
        steps: T.
        first: :math:`\beta_0`, above 0 and at most 1.

    Raises:
        RitzError: for another objective, or a schedule that is none.

    >>> float(annealed(steps=1000).at(490).beta)
    0.5
    """
    if objective is None:
        objective = negative_elbo(4, entropy="mc")
    elif not isinstance(objective, AbstractObjective):
        if not callable(objective):
            raise RitzError(
                f"annealed: {described(objective)} arrived, expected one of ritz.objective, such "
                "as negative_elbo(4, entropy='mc'), or a function (q, target)"
            )
        takes("annealed", objective, ["q", "target"])
        objective = Program(objective)
    whole_number("annealed: steps", steps, 1)
    if isinstance(first, bool) or not isinstance(first, int | float) or not 0.0 < first <= 1.0:
        raise RitzError(f"annealed: first={first!r} arrived, expected a number above 0, up to 1")
    # As arrays these are lifted out of the program, so that other values compile nothing.
    return Annealed(
        objective, jnp.asarray(1.0), jnp.asarray(float(first)), jnp.asarray(float(steps))
    )


register(
    "annealed",
    lambda: annealed(negative_elbo(entropy="mc"), steps=2, first=0.1).at(1),
    "as what it anneals, once its schedule has ended",
)
