r"""What outputs are, given functions' values: what likelihoods share."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ritz._errors import RitzError

NODES = 20  # of Gauss and Hermite's rule
LEAST = 1e-12  # a variance that rounding may have made zero


class AbstractLikelihood(eqx.Module):
    r"""The law of an output given the values of c functions at its row.

    Every floating array is a positive parameter, learned with the kernel's. Expectations over a
    Gaussian of each value are by Gauss and Hermite's rule of 20 points where a likelihood has no
    closed form of its own.
    """

    # Functions a row, whether outputs are standardised first, and whether there is a mean to learn.
    latents: ClassVar[int] = 1
    standardised: ClassVar[bool] = False
    has_mean: ClassVar[bool] = True
    classifies: ClassVar[bool] = False

    def log_prob(self, f: Float[Array, " c"], y: Any) -> Float[Array, ""]:
        r""":math:`\log p(y \mid f)`."""
        raise NotImplementedError

    def mean(self, f: Float[Array, " c"]) -> Float[Array, "..."]:
        """The expected output; of classes, the probability of each."""
        raise NotImplementedError

    def outputs(self, y: Any, known: Any = None) -> tuple[np.ndarray, Any]:
        """Outputs as numbers, and what must be known to read others like them.

        Args:
            y: outputs.
            known: what the outputs of training gave, for others.

        Raises:
            RitzError: for outputs that this likelihood does not have.
        """
        raise NotImplementedError

    def expected(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        r""":math:`\mathbb{E}\log p(y \mid f)` for :math:`f \sim \mathcal{N}(m, v)`."""
        points, weights = self.points(mean, var)
        return weights @ jax.vmap(lambda f: self.log_prob(f, y))(points)

    def log_mean(
        self, mean: Float[Array, " c"], var: Float[Array, " c"], y: Any
    ) -> Float[Array, ""]:
        r""":math:`\log\mathbb{E}\,p(y \mid f)`, the density of a new output."""
        points, weights = self.points(mean, var)
        return jax.nn.logsumexp(jax.vmap(lambda f: self.log_prob(f, y))(points), b=weights)

    def response(self, mean: Float[Array, " c"], var: Float[Array, " c"]) -> Float[Array, "..."]:
        """The expected output, the function's values being uncertain."""
        points, weights = self.points(mean, var)
        return jnp.tensordot(weights, jax.vmap(self.mean)(points), 1)

    def points(
        self, mean: Float[Array, " c"], var: Float[Array, " c"]
    ) -> tuple[Float[Array, "k c"], Float[Array, " k"]]:
        """A rule for expectations."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        out = jnp.sqrt(jnp.maximum(var, LEAST)) * jnp.asarray(nodes, mean.dtype)[:, None]
        return mean + out, jnp.asarray(weights / weights.sum(), mean.dtype)


def likelihood_of(value: Any) -> AbstractLikelihood:
    """A likelihood; Gaussian where there is none.

    Raises:
        RitzError: for anything else.
    """
    if value is None:
        from ritz.gp._noise import gaussian

        return gaussian()
    if not isinstance(value, AbstractLikelihood):
        raise RitzError(
            f"likelihood arrived as {type(value).__name__}, expected one of ritz.gp such as "
            "bernoulli()"
        )
    return value
