"""An objective: copy to src/ritz/objective/_NAME.py, import it in objective/__init__.py.

A loss, always minimised: a program that samples and scores, whose expectation is the functional.
For one of your own, a function `(q, target)` given to `ritz.fit(objective=...)` is enough. Its
tests need an exact limiting case (tests/test_exact.py has some) and a wrong variant that fails.
With `register("NAME", example, "what it bounds")` at the end of the file, tests/test_objectives.py
runs it with every estimator.
"""

import equinox as eqx
from jaxtyping import Array, Float

from ritz.estimator import AbstractEstimator
from ritz.family import AbstractFamily
from ritz.objective import AbstractObjective, Density, sample


class TemperedELBO(AbstractObjective):
    r""":math:`\mathbb{E}_q[-\log\tilde p(x)] - T\,\mathbb{H}(q)`; at T = 1 the negative ELBO.

    Attributes:
        temperature: T.
    """

    temperature: float = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"sample", "entropy"})

    def program(
        self, q: AbstractFamily, target: Density, estimator: AbstractEstimator
    ) -> Float[Array, ""]:
        return -target.log_density(sample(q, estimator)) - self.temperature * q.entropy()
