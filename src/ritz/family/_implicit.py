"""Implicit samplers: noise through a network, whose entropy is known of its linearisation only."""

import math
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family._base import AbstractFamily
from ritz.family._generators import MatrixGenerator, NetworkGenerator
from ritz.family._marginal import log_marginal
from ritz.family._mean_field import LOG_2PI
from ritz.family._singular import log_det_one_plus, smallest_singular_value

Bound = Literal["log_det", "smallest_singular_value"]
# Beyond so many coordinates a network's last layer would hold most parameters; see `implicit`.
NETWORK_UP_TO = 2000


class Implicit(AbstractFamily):
    r"""A neural sampler with noise: :math:`x = g(z) + \sigma \odot \varepsilon`.

    .. math:: z \sim \mathcal N(0, I_m), \quad \varepsilon \sim \mathcal N(0, I_d), \qquad
        q(x) = \mathbb{E}_z\, \mathcal N(x \mid g(z), \mathrm{diag}(\sigma^2)).

    The integral has no closed form, so there is no `log_prob`. Two things stand in its place:

    * `sample_and_linearised_entropy`: the entropy of the Gaussian that q would be if g were equal
      to its linearisation at z. It trains: `ritz.objective.linearised_elbo`. It is right for affine
      g and only then, and so is no log density for importance weights.
    * `sample_and_log_prob`: an estimate of q(x) from K other latents that explain x, such that
      p(x) over it has the mean Z for every target. So the ELBO of a fit is a bound and its k-hat is
      honest. They judge q, and the harsher the worse the estimate is: in many dimensions, or where
      far-away z lead to the same place.

    Attributes:
        generator: g, from (m,) to (d,).
        log_noise: the logarithm of sigma.
        latents: K, in `sample_and_log_prob`.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"sample", "sample_and_log_prob", "linearised_entropy", "reparameterised"}
    )
    registered_as: ClassVar[str | None] = "implicit"
    generator: NetworkGenerator | MatrixGenerator
    log_noise: Float[Array, " d"]
    latents: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.log_noise.shape[0]

    @property
    def options(self) -> dict[str, Any]:
        g = self.generator
        kind = "matrix" if isinstance(g, MatrixGenerator) else "network"
        shape = {"latent": g.latent, "width": g.width, "depth": g.depth}
        return {"generator": kind, "latents": self.latents} | shape

    def _noise(self, key: Key[Array, ""]) -> tuple[Float[Array, " m"], Float[Array, " d"]]:
        latent, noise = jax.random.split(jax.random.fold_in(key, 0))
        dtype = self.log_noise.dtype
        z = jax.random.normal(latent, (self.generator.latent,), dtype)
        return z, jnp.exp(self.log_noise) * jax.random.normal(noise, (self.dim,), dtype)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        z, noise = self._noise(key)
        return self.generator(z) + noise

    def sample_and_log_prob(
        self, key: Key[Array, ""]
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        z, noise = self._noise(key)
        x = self.generator(z) + noise
        of = lambda z: self.generator(z) * jnp.exp(-self.log_noise)
        scaled = x * jnp.exp(-self.log_noise)
        log_q = log_marginal(of, scaled, z, self.latents, jax.random.fold_in(key, 1))
        return x, log_q - self.log_noise.sum()

    def sample_and_linearised_entropy(
        self, key: Key[Array, ""], bound: Bound = "log_det"
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        z, noise = self._noise(key)
        return self.generator(z) + noise, self.linearised_entropy(z, key, bound)

    def linearised_entropy(
        self, z: Float[Array, " m"], key: Key[Array, ""], bound: Bound = "log_det"
    ) -> Float[Array, ""]:
        r"""The entropy that q would have if g were its linearisation at z.

        With J the derivative of :math:`g / \sigma` at z, and its n = min(m, d) singular values,

        .. math:: \tfrac d2 \log 2\pi e + \sum_i \log\sigma_i + \tfrac12 \log\det(I + JJ^\top)
            \;\ge\; \tfrac d2 \log 2\pi e + \sum_i \log\sigma_i + \tfrac n2 \log(1 + s_{\min}^2).

        Args:
            z: where.
            key: of the iteration's start.
            bound: "log_det", from all of J, or the cheaper "smallest_singular_value", from
                products of J with a few vectors.
        """
        of = lambda q: lambda z: q.generator(z) * jnp.exp(-q.log_noise)
        if bound == "log_det":
            volume = log_det_one_plus(of(self), z, self.dim)
        else:
            s = smallest_singular_value(of, self, z, self.dim, jax.random.fold_in(key, 2))
            volume = min(z.shape[0], self.dim) * jnp.log1p(s**2)
        return 0.5 * volume + self.log_noise.sum() + 0.5 * self.dim * (1.0 + LOG_2PI)


def implicit(
    target: Any,
    start: Float[Array, " d"],
    latent: int | None = None,
    width: int = 64,
    depth: int = 2,
    latents: int = 32,
    generator: str | None = None,
    scale: float = 0.1,
) -> Implicit:
    r"""A neural sampler around a point: noise through a network, plus noise.

    Two generators. "network" is a multilayer perceptron beside an affine map,
    :math:`g(z) = a + Wz + h(z)`, with about `width` · d parameters. "matrix" is made of products of
    matrices, :math:`H_{l+1} = \tanh(A_l H_l B_l + C_l)` from z as a matrix to x as a matrix, with
    d + 2 `width` :math:`\sqrt d` parameters, as for the weights of large networks. Uppal et al.
    2023, "Implicit variational inference for high-dimensional posteriors" (where sigma is one
    number, and fixed).

    Args:
        target: the target that it is for.
        start: unconstrained point, the initial mean.
        latent: m; by default the smaller of d and 32.
        width: of the hidden layers.
        depth: how many there are.
        latents: K, how many other latents tell the density of a draw; see `Implicit`.
        generator: "network" or "matrix"; by default a network up to 2,000 coordinates.
        scale: initial standard deviation; a large one lets the sampler see several modes.

    Returns:
        an `Implicit`.

    Raises:
        RitzError: for sizes below one, or another generator.

    >>> import jax.numpy as jnp
    >>> implicit(None, jnp.zeros(2), width=8).generator(jnp.zeros(2)).shape
    (2,)
    """
    d = start.shape[0]
    latent = min(d, 32) if latent is None else latent
    sizes = {"latent": latent, "width": width, "depth": depth, "latents": latents}
    for name, size in sizes.items():
        whole_number(name, size, 1)
    kinds = {"network": NetworkGenerator, "matrix": MatrixGenerator}
    chosen = ("network" if d <= NETWORK_UP_TO else "matrix") if generator is None else generator
    if chosen not in kinds:
        raise RitzError(f"generator={generator!r} arrived, expected 'network' or 'matrix'")
    return Implicit(
        generator=kinds[chosen].around(start, latent, width, depth, scale),
        log_noise=jnp.full_like(start, math.log(0.5 * scale)),
        latents=latents,
    )
