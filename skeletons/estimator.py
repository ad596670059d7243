"""An estimator: copy to src/ritz/estimator/_NAME.py, import it in estimator/__init__.py.

`draw` says where the rest of a program is evaluated, and `combine` makes one number of it: its
value estimates the expectation, its derivative the gradient. Its test compares the mean of many
gradients with the exact one, within standard errors, and rejects a wrong variant. With
`register("NAME", example, "what it serves")` at the end of the file, tests/test_objectives.py runs
it with every objective, and asks for the wrong variant.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ritz.estimator import AbstractEstimator, Draw, law


class ScoreFunction(AbstractEstimator):
    r"""REINFORCE: :math:`\mathbb{E}_q[f(x)\,\nabla_\lambda \log q_\lambda(x) + \nabla_\lambda f]`.

    Williams 1992. High variance: here for the shape of the file.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"log_prob"})

    def draw(self, q: Any, key: Key[Array, ""]) -> Draw:
        x = jax.lax.stop_gradient(law.draw(q, key))
        return Draw(x, {"log_q": law.log_prob(q, x)})

    def combine(self, f: Array, notes: dict[str, Array]) -> Array:
        log_q = notes["log_q"]
        return f * jnp.exp(log_q - jax.lax.stop_gradient(log_q))
