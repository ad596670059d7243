"""Bounds of the log likelihood of rows, as losses."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, not_negative, whole_number
from ritz.family import AbstractFamily, MeanField
from ritz.latent._codebook import Codebook
from ritz.latent._encoder import AbstractLaw
from ritz.latent._hierarchy import Levels
from ritz.objective import AbstractDirect


class AbstractRowLoss(AbstractDirect):
    """A loss of rows: the mean over a batch, and figures beside it, each in nats a row.

    Attributes:
        density: whether it needs the density of a row's posterior.
    """

    density: ClassVar[bool] = True

    def suits(self, target: Any) -> None:
        """Refuse a model that it cannot train.

        Raises:
            RitzError: saying what it needs.
        """
        if self.density and isinstance(target.prior, Codebook):
            raise RitzError(
                f"a {type(self).__name__} has no use for a codebook; use "
                "objective=vector_quantised()"
            )

    @property
    def trains_target(self) -> bool:
        return True


class LatentELBO(AbstractRowLoss):
    r"""See `elbo`.

    Attributes:
        draws: of z, a row.
        analytic: whether the divergence is taken in closed form where there is one.
        beta: what the divergence is multiplied by, or that of each level of a hierarchy.
        warmup: over how many steps beta rises from zero.
        free: nats of each latent dimension that cost nothing.
        step: where the run is.
    """

    draws: int = eqx.field(static=True)
    analytic: bool = eqx.field(static=True)
    beta: Any
    warmup: int = eqx.field(static=True)
    free: float = eqx.field(static=True)
    step: Any = None

    def suits(self, target: Any) -> None:
        super().suits(target)
        many = len(target.prior.widths) if isinstance(target.prior, Levels) else 1
        if self.beta.ndim and len(self.beta) != many:
            raise RitzError(
                f"elbo: {len(self.beta)} numbers beta arrived for {many} level"
                f"{'s' * (many > 1)}; use one, or one for each level"
            )

    @property
    def changes(self) -> bool:
        return self.warmup > 0

    def at(self, step: Any) -> "LatentELBO":
        if not self.warmup:
            return self
        return dataclasses.replace(self, step=step)

    def drawn(self, post: Any, key: Key[Array, ""]) -> Array:
        """Draws of a row's latents."""
        return jax.vmap(post.sample)(jax.random.split(key, self.draws))

    def means(self, q: Any, target: Any, key: Key[Array, ""], batch: Any) -> tuple[Array, Array]:
        """Over a batch: of the log likelihood, and of the divergence in parts that add up."""
        posterior, prior = target.joined(q)

        def one(row: Any, key: Array) -> tuple[Array, Array]:
            post, keys = posterior(row), jax.random.split(key, self.draws)
            z, each = with_divergence(post, prior, keys, self.analytic)
            return jax.vmap(lambda z: target.log_likelihood(z, row))(z).mean(), each

        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        fits, each = jax.vmap(one)(batch, keys)
        return fits.mean(), each.mean(axis=0)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        fits, each = self.means(q, target, key, batch)
        kl = each.sum()
        paid = jnp.maximum(each, self.free) if self.free else each
        beta = self.beta
        if self.step is not None:
            beta = beta * jnp.minimum(1.0, (self.step + 1.0) / self.warmup)
        return (beta * paid).sum() - fits, {"elbo": fits - kl, "reconstruction": fits, "kl": kl}


class LatentIWAE(AbstractRowLoss):
    r"""See `importance`.

    Attributes:
        draws: K.
    """

    draws: int = eqx.field(static=True)

    def loss(self, q: Any, target: Any, key: Key[Array, ""], batch: Any = None) -> Any:
        def one(row: Any, key: Array) -> tuple[Array, Array]:
            weights = log_weights(q, target, row, jax.random.split(key, self.draws))
            return jax.nn.logsumexp(weights) - jnp.log(self.draws), weights.mean()

        keys = jax.random.split(key, len(jax.tree.leaves(batch)[0]))
        bound, single = (v.mean() for v in jax.vmap(one)(batch, keys))
        return -bound, {"elbo": single, "bound": bound}


def log_weights(q: Any, target: Any, row: Any, keys: Key[Array, " K"]) -> Float[Array, " K"]:
    r""":math:`\log p(x, z_k) - \log q(z_k \mid x)` of draws from a row's posterior."""
    posterior, prior = target.joined(q)
    post = posterior(row)

    def one(key: Array) -> Array:
        z, log_q = post.sample_and_log_prob(key)
        return target.log_likelihood(z, row) + prior.log_prob(z) - log_q

    return jax.vmap(one)(keys)


def with_divergence(
    post: Any, prior: Any, keys: Key[Array, " k"], analytic: bool = True
) -> tuple[Float[Array, "k d"], Float[Array, " p"]]:
    """Draws of a row's posterior, and its divergence from the prior in parts that add up.

    The divergence is by level of a hierarchy, in closed form where there is one and it is wanted,
    and by the same draws elsewhere.
    """
    each = divergences(post, prior) if analytic else None
    if isinstance(prior, Levels) and isinstance(post, Levels):
        z = jax.vmap(post.sample)(keys)
        return z, jax.vmap(lambda z: post.by_level(z) - prior.by_level(z))(z).mean(axis=0)
    if each is not None:
        return jax.vmap(post.sample)(keys), each
    z, log_q = jax.vmap(post.sample_and_log_prob)(keys)
    return z, (log_q - jax.vmap(prior.log_prob)(z)).mean()[None]


def divergences(q: AbstractFamily, p: AbstractFamily) -> Float[Array, " d"] | None:
    r""":math:`\mathrm{KL}(q\,\|\,p)` in closed form, in parts that add up; None where it has none.

    Of independent Gaussians by coordinate,

    .. math:: \log\frac{\sigma_p}{\sigma_q} + \frac{\sigma_q^2 + (m_q - m_p)^2}{2\sigma_p^2}
        - \frac12.

    Other laws of `ritz.latent` know their own.
    """
    if isinstance(q, AbstractLaw):
        return q.divergences(p)
    if not (isinstance(q, MeanField) and isinstance(p, MeanField)):
        return None
    ratio = 2.0 * (q.log_scale - p.log_scale)
    off = (q.loc - p.loc) * jnp.exp(-p.log_scale)
    return 0.5 * (jnp.exp(ratio) - ratio - 1.0 + off**2)


def independent(law: Any, name: str, instead: str) -> MeanField:
    """A posterior or prior, where it is of independent Gaussians.

    Raises:
        RitzError: where it is not.
    """
    if isinstance(law, MeanField):
        return law
    raise RitzError(
        f"a {name} of type {type(law).__name__} arrived, expected Gaussians with independent "
        f"coordinates; use {instead}"
    )


class AbstractIndependent(AbstractRowLoss):
    """A loss of models whose prior and posteriors are of independent Gaussians."""

    def suits(self, target: Any) -> None:
        super().suits(target)
        instead = "the standard normal, or infovae() for any prior"
        independent(paramax.unwrap(target.prior), "prior", instead)


def elbo(
    draws: Any = 1,
    *,
    analytic: Any = True,
    beta: Any = 1.0,
    warmup: Any = 0,
    free: Any = 0.0,
) -> LatentELBO:
    r"""The evidence lower bound of rows.

    .. math:: -\mathbb{E}_{q(z \mid x)} \log p(x \mid z)
        + \beta\,\mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big),

    the mean over a batch. Kingma and Welling, "Auto-encoding variational Bayes", 2014, equations 7
    and 10 (`analytic`) and 6 (not).

    Args:
        draws: of z, a row.
        analytic: take the divergence in closed form where there is one.
        beta: its weight, or one for each level of a hierarchy, from the data up; above 1 for
            latents that are independent at the cost of the bound (Higgins et al. 2017), which then
            is a bound no more.
        warmup: steps over which beta rises from zero (Bowman et al. 2016).
        free: nats of each dimension, mean over the batch, that cost nothing (Kingma et al. 2016,
            section C.8).

    Raises:
        RitzError: for a number that is out of range.

    >>> elbo(beta=4.0).changes
    False
    """
    whole_number("draws", draws, 1)
    whole_number("warmup", warmup, 0)
    values = beta if isinstance(beta, list | tuple) else [beta]
    for name, value in [("free", free), *(("beta", v) for v in values)]:
        not_negative(f"elbo: {name}", value)
    weight = jnp.asarray(beta, float)
    return LatentELBO(draws, bool(analytic), weight, int(warmup), float(free))


def importance(draws: Any = 50) -> LatentIWAE:
    r"""The importance-weighted bound of rows.

    .. math:: -\mathbb{E}\log\frac1K\sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)},

    no smaller for more draws, and the log likelihood itself as K grows. Burda, Grosse and
    Salakhutdinov, "Importance weighted autoencoders", 2016, equation 8.

    Args:
        draws: K.

    Raises:
        RitzError: for fewer than one.

    >>> importance(5).draws
    5
    """
    whole_number("draws", draws, 1)
    return LatentIWAE(int(draws))
