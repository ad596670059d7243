r"""Latents that the decoder itself reads off a row, by one gradient, in place of an encoder."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, positive
from ritz.family import AbstractFamily


class Origin(eqx.Module):
    """See `gradient_origin`.

    Attributes:
        head: from the gradient to the posterior's numbers; None where it is these.
        size: of the gradient.
        step: what it is multiplied by.
    """

    head: Any
    size: int = eqx.field(static=True)
    step: float = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        raise RitzError(
            "gradient_origin() reads a row by means of the decoder, which this objective or prior "
            "does not give it; use an encoder such as mlp(256)"
        )

    def numbers(self, z: Float[Array, " d"]) -> Float[Array, " n"]:
        """Of the posterior."""
        return z if self.head is None else self.head(z)

    def posterior(self, q: Any, target: Any) -> Callable[[Any], AbstractFamily]:
        """Of a row.

        Args:
            q: the encoder that it is the network of.
            target: with the decoder.

        Raises:
            RitzError: for a posterior that does not state its mean.
        """

        def at(z: Array) -> Any:
            post: Any = q.posterior(self.numbers(z))
            if not hasattr(post, "loc"):
                raise RitzError(
                    f"gradient_origin: a posterior of type {type(post).__name__} arrived, expected "
                    "one that states its mean; use posterior=diagonal() or point()"
                )
            return post

        def of(row: Any) -> AbstractFamily:
            fits = lambda z: target.log_likelihood(at(z).loc, row)
            return at(self.read(fits))

        return of

    def read(self, fits: Callable[[Array], Array]) -> Float[Array, " d"]:
        """A step from the origin along the gradient of the log likelihood there."""
        return self.step * jax.grad(fits)(jnp.zeros(self.size))


@dataclasses.dataclass(frozen=True)
class GradientOrigin:
    """See `gradient_origin`: what makes the `Origin`, once its sizes are known.

    Attributes:
        step: what the gradient is multiplied by.
    """

    step: float

    def built(self, numbers: int, latent: int, key: Key[Array, ""]) -> Origin:
        """For a posterior of so many numbers and latent dimensions."""
        head = None if numbers == latent else eqx.nn.Linear(latent, numbers, key=key)
        return Origin(head, latent, self.step)


def gradient_origin(step: Any = 1.0) -> GradientOrigin:
    r"""No encoder: the latent vector is one step of ascent of the log likelihood from the origin.

    .. math:: z(x) = \eta\,\nabla_{z_0} \log p(x \mid z_0)\big|_{z_0 = 0},

    and the decoder is trained at z(x), through the gradient. For `point()` this is the latent
    vector; for `diagonal()` one affine map makes means and log sds of it, and the inner likelihood
    is taken at the means. A row costs about three times the decoder's passes. A step that is too
    short makes training slow. Bond-Taylor and Willcocks, "Gradient origin networks", 2021,
    equations 3 and 6, where the step is 1 and the likelihood's scale sets its length.

    To be given to `VAE` as the encoder.

    Args:
        step: :math:`\eta`.

    Raises:
        RitzError: for a step that is not positive.

    >>> import numpy as np
    >>> from ritz.latent import VAE, reconstruction
    >>> x = np.random.default_rng(0).normal(size=(300, 2)) @ np.ones((2, 5))
    >>> parts = {"encoder": gradient_origin(), "objective": reconstruction()}
    >>> VAE(2, **parts, epochs=2, progress=False).fit(x).encode(x).shape
    (300, 2)
    """
    return GradientOrigin(positive("gradient_origin: step", step))
