"""Latent-variable models of rows of data, as targets."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError
from ritz.family import AbstractFamily
from ritz.latent._encoder import AbstractTied, Given
from ritz.latent._hierarchy import Levels
from ritz.latent._likelihood import AbstractLikelihood
from ritz.latent._origin import Origin
from ritz.target import AbstractTarget, Quantity, Site


class LatentModel(AbstractTarget):
    r"""Rows of data with a latent vector each, :math:`p(z)\,p(x \mid z)`.

    A target whose parameters are the decoder's, the likelihood's and the prior's. Its density is
    that of one row's latent vector, given the row; rows come in batches.

    Attributes:
        sites: one, `z`.
        observed: one, `x`.
        decoder: from z to what the likelihood needs.
        likelihood: of a row, given that.
        prior: a family with `sample` and `log_prob`, over z.
        seen: some of the rows, at which a fit is looked at.
        given: makes what a row is given an input of the decoder; None where nothing is.
    """

    trainable: ClassVar[tuple[str, ...]] = ("decoder", "likelihood", "prior")
    in_batches: ClassVar[bool] = True
    sites: tuple[Site, ...]
    observed: tuple[Quantity, ...]
    deterministic: tuple[Quantity, ...]
    decoder: Any
    likelihood: AbstractLikelihood
    prior: AbstractFamily
    seen: Any
    given: Given | None = None

    @property
    def has_full_density(self) -> bool:
        return False

    def joined(self, q: Any) -> tuple[Callable[[Any], AbstractFamily], AbstractFamily]:
        """The posterior of a row, as a function of it, and the prior, each given the other.

        Args:
            q: the encoder.
        """
        prior = paramax.unwrap(self.prior)
        if isinstance(prior, AbstractTied):
            return prior.joined(q)
        network = getattr(q, "network", None)
        return network.posterior(q, self) if isinstance(network, Origin) else q.condition, prior

    def log_likelihood(self, z: Float[Array, " d"], row: Any) -> Float[Array, ""]:
        r""":math:`\log p(x \mid z)` of a row."""
        return paramax.unwrap(self.likelihood).log_prob(self.decode(z, row), row["x"])

    def decode(self, z: Float[Array, " d"], row: Any = None) -> Float[Array, "..."]:
        """The decoder's output, given what a row is given."""
        if isinstance(self.prior, Levels):
            z = self.prior.parts(z)[0]
        if self.given is not None:
            z = jnp.concatenate([z, paramax.unwrap(self.given)(row["given"])])
        return self.decoder(z)

    def terms(
        self, x: Float[Array, " d"], key: Key[Array, ""] | None = None, batch: Any = None
    ) -> dict[str, Float[Array, ""]]:
        """The prior's and the likelihood's log densities, given one row as the batch.

        Raises:
            RitzError: without a row.
        """
        if batch is None:
            raise RitzError("a latent vector's density is that given a row: pass batch={'x': row}")
        return {
            "z": paramax.unwrap(self.prior).log_prob(x),
            "x": self.log_likelihood(x, batch),
        }

    def at_random(self, q: Any, key: Key[Array, ""]) -> AbstractFamily:
        """The posterior of one of the rows that were seen."""
        i = jax.random.randint(key, (), 0, len(jax.tree.leaves(self.seen)[0]))
        return self.joined(q)[0](jax.tree.map(lambda v: v[i], self.seen))

    def constrain(self, x: Float[Array, " d"]) -> dict[str, Array]:
        return {"z": x}

    def unconstrain(self, values: dict[str, Any]) -> Float[Array, " d"]:
        return jnp.asarray(values["z"])

    def log_det(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.zeros((), x.dtype)

    def start(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], str]:
        return jnp.zeros(self.dim), "networks"

    def describe(self) -> str:
        return f"{self.dim} latent dimensions of rows of shape {self.observed[0].shape}"

    def measures(self, fit: Any) -> dict[str, tuple[Any, str]]:
        """The bound and how many latents are active."""
        from ritz.latent._diagnosis import of_fit

        found = of_fit(self, fit)
        bound, active, *_ = str(found).splitlines()
        return {"bound": (found.elbo, bound.removeprefix("bound ")), "latents": (found, active)}

    def doubts(self, fit: Any) -> list[str]:
        """What speaks against a fit's latents: see `ritz.latent.LatentDiagnosis`."""
        from ritz.latent._diagnosis import doubts

        return doubts(self, fit)


def latent_model(
    decoder: Any,
    likelihood: AbstractLikelihood,
    prior: AbstractFamily,
    seen: Any,
    given: Given | None = None,
) -> LatentModel:
    """A model of rows from its parts.

    Args:
        decoder: an Equinox module from (d,) to the likelihood's output.
        likelihood: of a row.
        prior: over (d,).
        seen: rows by name ("x" among them), some thousand at most.
        given: what makes the rows' "given" an input of the decoder, where they have it.
    """
    d, shape = paramax.unwrap(prior).dim, jnp.shape(seen["x"])[1:]
    axes = tuple(f"x_dim_{i}" for i in range(len(shape)))
    site = Site("z", (d,), (d,), 0, "real", ("real",), ("z_dim_0",))
    return LatentModel(
        (site,), (Quantity("x", shape, axes),), (), decoder, likelihood, prior, seen, given
    )
