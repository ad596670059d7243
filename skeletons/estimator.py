"""An estimator: copy to src/ritz/estimator/_NAME.py, import it in estimator/__init__.py.

`expectation` returns a number whose value estimates E_q f and whose derivative with respect to q
estimates the gradient. Its test compares the mean of many gradients with the exact one, within
standard errors, and rejects a wrong variant (`test_gradient_is_unbiased` in tests/test_exact.py).
"""

from collections.abc import Callable
from typing import ClassVar

import jax
from jaxtyping import Array, Float, Key

from ritz.estimator import AbstractEstimator
from ritz.family import AbstractFamily


class ScoreFunction(AbstractEstimator):
    r"""REINFORCE: :math:`\mathbb{E}_q[f(x)\,\nabla_\lambda \log q_\lambda(x) + \nabla_\lambda f]`.

    Williams 1992. High variance: here for the shape of the file.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob"})

    def expectation(
        self,
        f: Callable[[Float[Array, " d"]], Float[Array, ""]],
        q: AbstractFamily,
        key: Key[Array, ""],
    ) -> Float[Array, ""]:
        x = jax.lax.stop_gradient(q.sample(key))
        value, log_q = f(x), q.log_prob(x)
        surrogate = jax.lax.stop_gradient(value) * log_q
        return value + surrogate - jax.lax.stop_gradient(surrogate)
