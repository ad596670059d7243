r"""Values of a few levels: classes, or cells of a grid."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.latent._likelihood import AbstractLikelihood, within


class Categorical(AbstractLikelihood):
    """See `categorical`.

    Attributes:
        classes: how many.
    """

    classes: int = eqx.field(static=True)

    def outputs(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.classes, *shape)

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        logs = jax.nn.log_softmax(out, axis=0)
        return jnp.take_along_axis(logs, x.astype(int)[None], axis=0).sum()

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        """The probability of each class, on the first axis."""
        return jax.nn.softmax(out, axis=0)

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        return jax.random.categorical(key, out, axis=0).astype(out.dtype)

    def check(self, x: np.ndarray) -> None:
        within("categorical", x, 0.0, self.classes - 1.0, "categorical(more classes)")
        if not (x == np.round(x)).all():
            raise RitzError("categorical: data are not whole numbers; expected classes from 0 on")


class DiscretisedLogistic(AbstractLikelihood):
    """See `discretised_logistic`.

    Attributes:
        levels: how many values there are from 0 to 1.
    """

    numbers: ClassVar[int] = 2
    levels: int = eqx.field(static=True)

    def log_prob(self, out: Float[Array, "..."], x: Float[Array, "..."]) -> Float[Array, ""]:
        middle, sharp = jax.nn.sigmoid(out[0]), jnp.exp(-jnp.clip(out[1], -7.0, 3.0))
        half = 0.5 / (self.levels - 1)
        above, below = (x + half - middle) * sharp, (x - half - middle) * sharp
        lowest, highest = x < half, x > 1.0 - half
        # log of σ(a) - σ(b), a > b: by what is common to both, so that far tails stay finite.
        gap = jnp.maximum(above - below, 1e-12)
        between = jax.nn.log_sigmoid(above) + jax.nn.log_sigmoid(-below) + jnp.log(-jnp.expm1(-gap))
        found = jnp.where(lowest, jax.nn.log_sigmoid(above), between)
        return jnp.where(highest, jax.nn.log_sigmoid(-below), found).sum()

    def mean(self, out: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.sigmoid(out[0])

    def sample(self, out: Float[Array, "..."], key: Key[Array, ""]) -> Float[Array, "..."]:
        noise = jax.random.logistic(key, out[0].shape, out.dtype)
        x = jax.nn.sigmoid(out[0]) + jnp.exp(jnp.clip(out[1], -7.0, 3.0)) * noise
        return jnp.clip(jnp.round(x * (self.levels - 1)) / (self.levels - 1), 0.0, 1.0)

    def check(self, x: np.ndarray) -> None:
        within("discretised_logistic", x, 0.0, 1.0, "gaussian() for other numbers")


def categorical(classes: Any) -> Categorical:
    """Values that are classes, 0 to `classes` - 1, with as many logits for each.

    Raises:
        RitzError: for fewer than two.

    >>> import jax.numpy as jnp
    >>> round(float(categorical(2).log_prob(jnp.zeros((2, 1)), jnp.zeros(1))), 4)
    -0.6931
    """
    whole_number("classes", classes, 2)
    return Categorical(int(classes))


def discretised_logistic(levels: Any = 256) -> DiscretisedLogistic:
    r"""Values on a grid of levels from 0 to 1: a logistic law's mass in each cell.

    The end cells have all that lies beyond them. Two numbers for each value: the middle's logit
    and the log of the scale. Salimans, Karpathy, Chen and Kingma, "PixelCNN++", 2017, section 2.1.

    Raises:
        RitzError: for fewer than two levels.

    >>> discretised_logistic(4).outputs((5,))
    (2, 5)
    """
    whole_number("levels", levels, 2)
    return DiscretisedLogistic(int(levels))
