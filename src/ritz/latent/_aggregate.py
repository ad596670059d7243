r"""The posteriors of all rows together."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import paramax

from ritz._draws import at_rows
from ritz._errors import RitzError, whole_number
from ritz.family import MeanField
from ritz.latent._bound import with_divergence
from ritz.latent._vae import VAE


@dataclasses.dataclass(frozen=True)
class Aggregate:
    r"""The mixture of the posteriors of rows, :math:`q(z) = \frac1n \sum_i q(z \mid x_i)`.

    Attributes:
        mean: of z.
        cov: of z.
        information: I(x; z) in nats, where x is one of the rows; log n at most.
        divergence: :math:`\mathrm{KL}(q(z)\,\|\,p(z))`, in nats.
    """

    mean: np.ndarray
    cov: np.ndarray
    information: float
    divergence: float

    @property
    def log_det(self) -> float:
        """The log determinant of the covariance."""
        return float(np.linalg.slogdet(self.cov)[1])


def aggregate(vae: VAE, x: Any, draws: Any = 16, seed: Any = 0) -> Aggregate:
    r"""What the posteriors of rows are together, and what they tell of a row.

    .. math:: \frac1n \sum_i \mathrm{KL}\big(q(z \mid x_i)\,\|\,p(z)\big)
        = \mathrm{I}(x; z) + \mathrm{KL}\big(q(z)\,\|\,p(z)\big), \qquad
        \mathrm{I} = \mathbb{E} \log\frac{q(z \mid x)}{q(z)} .

    Moments are exact; the rest is over draws. Time grows with the square of n. Hoffman and Johnson,
    "ELBO surgery", 2016.

    Args:
        vae: trained.
        x: rows, two at least.
        draws: of z, a row.
        seed: of the draws.

    Raises:
        RitzError: for no trained autoencoder with Gaussian posteriors, or rows of another shape.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 2)) @ np.ones((2, 5))
    >>> found = aggregate(VAE(2, epochs=2, progress=False).fit(x), x)
    >>> found.cov.shape
    (2, 2)
    """
    whole_number("draws", draws, 1)
    whole_number("seed", seed, 0)
    rows = vae._rows(x)  # pyright: ignore[reportPrivateUsage]
    if len(rows["x"]) < 2:
        raise RitzError("aggregate: one row arrived, expected two at least")

    def each(parts: Any, row: Any, _: Any) -> Any:
        q, target = paramax.unwrap(parts)
        posterior, prior = target.joined(q)
        post = posterior(row)
        if not isinstance(post, MeanField):
            raise RitzError(
                f"aggregate: posteriors are of type {type(post).__name__}, expected Gaussians with "
                "independent coordinates"
            )
        keys = jax.random.split(jax.random.key(seed), draws)
        kl = with_divergence(post, prior, keys)[1].sum()
        return {"loc": post.loc, "log_scale": post.log_scale, "kl": kl}

    fit = vae.fit_
    found = at_rows(each, (fit.q, fit.target), rows, ())
    loc, scale = found["loc"].astype(np.float64), np.exp(found["log_scale"].astype(np.float64))
    cov = np.atleast_2d(np.cov(loc.T, bias=True)) + np.diag((scale**2).mean(axis=0))

    def told(parts: Any, i: Any, key: Any) -> Any:
        own = MeanField(parts.loc[i], parts.log_scale[i])
        keys = jax.random.split(jax.random.fold_in(key, i), draws)

        def one(key: Any) -> Any:
            z, log_q = own.sample_and_log_prob(key)
            logs = jax.vmap(lambda part: part.log_prob(z))(parts)
            return log_q - jax.nn.logsumexp(logs) + jnp.log(len(logs))

        return jax.vmap(one)(keys).mean()

    parts = jax.vmap(MeanField)(jnp.asarray(found["loc"]), jnp.asarray(found["log_scale"]))
    info = at_rows(told, parts, np.arange(len(loc)), jax.random.key(seed))
    information = float(info.mean(dtype=np.float64))
    divergence = float(found["kl"].mean(dtype=np.float64)) - information
    return Aggregate(loc.mean(axis=0), cov, information, divergence)
