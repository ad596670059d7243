"""Autoencoders whose encodings are led to a prior that can be drawn from."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, not_negative, whole_number
from ritz.family import AbstractFamily
from ritz.latent._bound import AbstractRowLoss
from ritz.latent._sliced import squared_sliced_wasserstein


class Samplable(AbstractFamily):
    """See `samplable`.

    Attributes:
        draw: from a key to a vector.
        latent: d.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample"})
    draw: Callable[[Array], Array] = eqx.field(static=True)
    latent: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.latent

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.draw(key)


class LatentSliced(AbstractRowLoss):
    """See `swae`.

    Attributes:
        weight: of the distance.
        projections: that it is the mean over.
    """

    density: ClassVar[bool] = False
    weight: Any
    projections: int = eqx.field(static=True)

    def suits(self, target: Any) -> None:
        prior = paramax.unwrap(target.prior)
        if "sample" not in prior.capabilities:
            raise RitzError(
                f"swae draws from the prior, which a {type(prior).__name__} cannot; use "
                "prior=samplable(draw)"
            )

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        (posterior, prior), n = target.joined(q), len(jax.tree.leaves(batch)[0])
        one, two, three = jax.random.split(key, 3)
        encode = lambda row, key: posterior(row).sample(key)
        z = jax.vmap(encode)(batch, jax.random.split(one, n))
        fits = jax.vmap(target.log_likelihood)(z, batch).mean()
        wanted = jax.vmap(prior.sample)(jax.random.split(two, n))
        far = squared_sliced_wasserstein(z, wanted, three, self.projections)
        return self.weight * far - fits, {"reconstruction": fits, "wasserstein": far}


def samplable(draw: Any) -> Any:
    r"""A prior that draws are all that is known of, for `swae`.

    Args:
        draw: from a key to a vector, (latent,).

    Returns:
        a builder, from latent dimensions and a key to a family.

    Raises:
        RitzError: for no function; from the builder, for draws of another shape.

    >>> square = samplable(lambda key: jax.random.uniform(key, (2,)))
    >>> square(2, jax.random.key(0)).sample(jax.random.key(1)).shape
    (2,)
    """
    if not callable(draw):
        raise RitzError(
            f"samplable: draw={draw!r} arrived, expected a function from a key to a vector"
        )
    drawn: Any = draw

    def build(latent: int, key: Key[Array, ""]) -> Samplable:
        found = jax.eval_shape(drawn, key).shape
        if found != (latent,):
            raise RitzError(
                f"samplable: draws of shape {found} arrived, expected {(latent,)}, as the VAE has "
                f"latent={latent}"
            )
        return Samplable(drawn, latent)

    return build


def swae(weight: Any = 10.0, projections: Any = 50) -> LatentSliced:
    r"""The loss of the sliced-Wasserstein autoencoder, whose encoder draws nothing.

    .. math:: -\frac1n \sum_{i=1}^n \log p\big(x_i \mid z(x_i)\big)
        + \lambda\,\mathrm{SW}_2^2\big(\{z(x_i)\},\ \{\tilde z_i\}\big), \qquad
        \tilde z_i \sim p(z),

    with `squared_sliced_wasserstein`. The prior is any that can be drawn from, such as
    `samplable(draw)`; nobody asks for its density. Kolouri, Pope, Martin and Rohde,
    "Sliced-Wasserstein autoencoder: an embarrassingly simple generative model", 2018, equation 13
    and algorithm 1.

    Args:
        weight: λ; at 0 it is a plain autoencoder.
        projections: directions that the distance is the mean over, drawn anew at each step.

    Raises:
        RitzError: for a number that is out of range; before training, for a prior without draws.

    >>> swae(5.0).density
    False
    """
    not_negative("swae: weight", weight)
    whole_number("projections", projections, 1)
    return LatentSliced(jnp.asarray(float(weight)), int(projections))
