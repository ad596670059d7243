r"""Brownian motion on a manifold as the posterior of latents."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.latent._encoder import AbstractLaw, AbstractPosterior
from ritz.latent._manifold import Manifold, Uniform, manifold_of


class Brownian(AbstractLaw):
    r"""Where Brownian motion on a manifold is after some time.

    Attributes:
        loc: where it starts, on the manifold.
        time: t.
        manifold: the manifold.
        steps: of the random walk that stands for it.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "reparameterised"})
    loc: Float[Array, " n"]
    time: Float[Array, ""]
    manifold: Manifold
    steps: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.manifold.ambient

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        noise = jax.random.normal(key, (self.steps, self.dim), self.loc.dtype)
        push = jnp.sqrt(self.time / self.steps) * noise
        step = lambda x, push: (self.manifold.project(x + push), None)
        return jax.lax.scan(step, self.loc, push)[0]

    def log_prob(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        raise RitzError(
            "the density of Brownian motion has no closed form, only its divergence from the "
            f"uniform law; use prior=uniform({self.manifold.name}) and objective=elbo()"
        )

    def divergences(self, prior: Any) -> Float[Array, " 1"] | None:
        if not (isinstance(prior, Uniform) and prior.manifold == self.manifold):
            return None
        return kernel_divergence(self.manifold, self.time)[None]


class BrownianPosterior(AbstractPosterior):
    """See `brownian`.

    Attributes:
        manifold: the manifold.
        steps: of the random walk.
    """

    manifold: Manifold
    steps: int = eqx.field(static=True)

    def numbers(self, latent: int) -> int:
        if latent != self.manifold.ambient:
            raise RitzError(
                f"latent={latent} arrived, but a point of {self.manifold.name} has "
                f"{self.manifold.ambient} numbers; use latent={self.manifold.ambient}"
            )
        return latent + 1

    def __call__(self, numbers: Float[Array, " n"]) -> Brownian:
        *_, last = numbers
        # Longer times would leave the expansion of the divergence.
        time = self.manifold.longest * jax.nn.sigmoid(last)
        return Brownian(self.manifold.project(numbers[:-1]), time, self.manifold, self.steps)


def kernel_divergence(manifold: Any, time: Any) -> Float[Array, "..."]:
    r"""The divergence of Brownian motion's transition kernel from the uniform law, at short times.

    .. math:: \mathrm{KL}\big(q_t(x, \cdot)\,\|\,\mathrm{Vol}^{-1}\big) = \log\mathrm{Vol}
        - \frac d2 \log(2\pi e\,t) + \frac{\mathrm{Sc}}{4}\,t + O(t^2),

    with the scalar curvature Sc, of motion whose generator is half the Laplacian. Pérez Rey,
    Menkovski and Portegies, "Diffusion variational autoencoders", 2020, proposition 1.

    Args:
        manifold: such as `sphere(2)`; the error is below half a percent for times up to its
            `longest`.
        time: t, or several.

    Raises:
        RitzError: for anything but a manifold.

    >>> from ritz.latent import sphere
    >>> round(float(kernel_divergence(sphere(2), 0.1)), 3)  # the sum over harmonics: 2.046
    2.046
    """
    manifold = manifold_of("kernel_divergence", manifold)
    spread = 0.5 * manifold.dim * jnp.log(2.0 * math.pi * math.e * jnp.asarray(time))
    return manifold.log_volume - spread + 0.25 * manifold.curvature * time


def brownian(manifold: Any, steps: Any = 10) -> BrownianPosterior:
    r"""A posterior on a manifold: Brownian motion from a point, after a time.

    The network gives a point around the manifold, whose projection P onto it is the mean, then the
    logit of the time as a share of the longest that `kernel_divergence` serves. A draw is the end
    of a walk,

    .. math:: x_{k+1} = P\big(x_k + \sqrt{t / K}\,\varepsilon_k\big), \qquad
        \varepsilon_k \sim \mathcal{N}(0, I),

    differentiable in both. With `prior=uniform(manifold)` and `elbo()` in a `VAE` whose `latent` is
    the number of dimensions around the manifold. Pérez Rey, Menkovski and Portegies, "Diffusion
    variational autoencoders", 2020, sections 3.2 and 3.3.

    Args:
        manifold: `sphere(d)`, `torus(d)`, `projective(d)` or `rotations()`.
        steps: K.

    Raises:
        RitzError: for another manifold or fewer steps than one; from the fit, for another number
            of latent dimensions, prior or objective.

    >>> import numpy as np
    >>> from ritz.latent import VAE, torus, uniform
    >>> angle = np.random.default_rng(0).uniform(0.0, 2.0 * np.pi, 300)
    >>> x = np.stack([np.cos(angle), np.sin(angle), np.cos(angle) ** 2], axis=1)
    >>> options = {"posterior": brownian(torus(1)), "prior": uniform(torus(1)), "epochs": 5}
    >>> VAE(2, **options, progress=False).fit(x).encode(x).shape
    (300, 2)
    """
    whole_number("steps", steps, 1)
    return BrownianPosterior(manifold_of("brownian", manifold), int(steps))
