"""An objective: copy to src/ritz/objective/_NAME.py, import it in objective/__init__.py.

A loss, always minimised. Its tests need an exact limiting case (tests/test_exact.py has some) and a
wrong variant that fails.
"""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from ritz.estimator import AbstractEstimator
from ritz.family import AbstractFamily
from ritz.objective import AbstractObjective
from ritz.target import AbstractTarget


class TemperedELBO(AbstractObjective):
    r""":math:`\mathbb{E}_q[-\log\tilde p(x)] - T\,\mathbb{H}(q)`; at T = 1 the negative ELBO.

    Attributes:
        temperature: T.
    """

    temperature: float = eqx.field(static=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"entropy"})

    def __call__(
        self,
        q: AbstractFamily,
        target: AbstractTarget,
        estimator: AbstractEstimator,
        key: Key[Array, ""],
        batch: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        draw, subsample = jax.random.split(key)
        energy = estimator.expectation(lambda x: -target.log_density(x, subsample, batch), q, draw)
        loss = energy - self.temperature * q.entropy()
        return loss, {"loss": loss}
