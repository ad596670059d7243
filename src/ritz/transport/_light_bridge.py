"""The light Schrödinger bridge: a mixture for a potential, and all else in closed form."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily
from ritz.objective import AbstractDirect
from ritz.target import samples_of
from ritz.transport._clouds import cloud, positive, samples_for, units

# Spread of a first component, as a share of epsilon: the plan is then nearly a translation.
_SPREAD = 0.1


class LightBridge(AbstractFamily):
    r"""A Schrödinger bridge from samples; see `light_bridge`.

    Its arrays are in units of the target: positions less the mean, over one scale for all
    coordinates. Neither changes which plan is the best one, with epsilon over the scale's square.

    Attributes:
        height: epsilon times the log of the weights a, shape (K,).
        loc: r.
        root: of S, lower triangular with the logarithm of its diagonal.
        source: samples that draws start from; not trained.
        frame: the means of source and target, and the scale; not trained.
        epsilon: in those units; not trained.
        rows: samples that a step sees, of each side.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample"})
    height: Float[Array, " K"]
    loc: Float[Array, "K d"]
    root: Float[Array, "K d d"]
    source: Any
    frame: Any
    epsilon: Any
    rows: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.loc.shape[1]

    @property
    def objective(self) -> "LightBridgeLoss":
        return LightBridgeLoss()

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.pair(key)[1]

    def pair(self, key: Key[Array, ""]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """A draw (x, y) of the plan, whose x is one of the source's samples."""
        which, push = jax.random.split(key)
        (m0, _, scale), source = paramax.unwrap((self.frame, self.source))
        x = source[jax.random.randint(which, (), 0, len(source))]
        x = m0 + scale * x
        return x, self.push(x, push)

    def push(self, x: Float[Array, " d"], key: Key[Array, ""]) -> Float[Array, " d"]:
        r"""A draw of :math:`\pi(y \mid x)`."""
        z, (_, m1, scale) = self._units(x, 0.0)
        which, noise = jax.random.split(key)
        k = jax.random.categorical(which, self._log_terms(z, 0.0))
        root, eps = self._roots()[k], paramax.unwrap(self.epsilon)
        spread = jnp.sqrt(eps) * root @ jax.random.normal(noise, z.shape, z.dtype)
        return m1 + scale * (self.loc[k] + root @ (root.T @ z) + spread)

    def conditional(
        self, x: Float[Array, " d"]
    ) -> tuple[Float[Array, " K"], Float[Array, "K d"], Float[Array, "K d d"]]:
        r"""Weights, means and covariances of the mixture :math:`\pi(y \mid x)`."""
        z, (_, m1, scale) = self._units(x, 0.0)
        root, eps = self._roots(), paramax.unwrap(self.epsilon)
        means = self.loc + jnp.einsum("kij,klj,l->ki", root, root, z)
        covariances = eps * scale**2 * root @ jnp.swapaxes(root, 1, 2)
        return jax.nn.softmax(self._log_terms(z, 0.0)), m1 + scale * means, covariances

    def drift(self, x: Float[Array, " d"], t: Any) -> Float[Array, " d"]:
        r"""g(x, t) of the bridge :math:`dX = g\,dt + \sqrt\epsilon\,dW`, for t from 0 to 1.

        With :math:`M_k = (1 - t) I + t S_k` it is an average of :math:`M_k^{-1}(r_k + S_k x - x)`,
        equation 10 of the paper rearranged, which has no singularity at either end.
        """
        z, (m0, m1, scale) = self._units(x, t)
        values, vectors, loc, at = self._turned(z)
        middle = (1.0 - t) + t * values
        towards = jnp.einsum("kij,kj->ki", vectors, (loc + (values - 1.0) * at) / middle)
        return m1 - m0 + scale * jax.nn.softmax(self._log_terms(z, t)) @ towards

    def log_normaliser(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        r""":math:`\log c(z)`, in units of the target."""
        square = 0.5 * (z @ z) / paramax.unwrap(self.epsilon)
        return jax.nn.logsumexp(self._log_terms(z, 0.0)) + square

    def log_potential(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        r""":math:`\log v(z)`, in units of the target."""
        eps, root = paramax.unwrap(self.epsilon), self._roots()
        # The inverse does not depend on z: of many points it is made once.
        inverse = jax.vmap(
            lambda r: jax.scipy.linalg.solve_triangular(r, jnp.eye(self.dim), lower=True)
        )(root)
        white = jnp.einsum("kij,kj->ki", inverse, z - self.loc)
        log_det = jnp.einsum("kii->k", self.root)
        terms = (self.height - 0.5 * (white**2).sum(1)) / eps - log_det
        return jax.nn.logsumexp(terms) - 0.5 * self.dim * jnp.log(2.0 * jnp.pi * eps)

    def _roots(self) -> Array:
        diagonal = jnp.eye(self.dim) * jnp.exp(jnp.einsum("kii->ki", self.root))[:, :, None]
        return jnp.tril(self.root, -1) + diagonal

    def _log_terms(self, z: Array, t: Any) -> Array:
        r"""Log of each component of :math:`E\,v(Y) e^{|Y|^2/2\epsilon}` for a Brownian Y from z."""
        root, eps = self._roots(), paramax.unwrap(self.epsilon)
        if isinstance(t, float) and t == 0.0:
            square = (jnp.einsum("kij,i->kj", root, z) ** 2).sum(1)
            return (self.height + 0.5 * square + self.loc @ z - 0.5 * (z @ z)) / eps
        values, _, loc, at = self._turned(z)
        middle = (1.0 - t) + t * values
        square = (2.0 * loc * at - t * loc**2 + (values - 1.0) * at**2) / middle
        return (self.height + 0.5 * square.sum(1)) / eps - 0.5 * jnp.log(middle).sum(1)

    def _turned(self, z: Array) -> tuple[Array, Array, Array, Array]:
        """Eigenvalues and eigenvectors of each S, and r and z in these."""
        root = self._roots()
        values, vectors = jnp.linalg.eigh(root @ jnp.swapaxes(root, 1, 2))
        turn = lambda v: jnp.einsum("kij,ki->kj", vectors, v)
        return values, vectors, turn(self.loc), turn(jnp.broadcast_to(z, self.loc.shape))

    def _units(self, x: Array, t: Any) -> tuple[Array, tuple[Array, Array, Array]]:
        m0, m1, scale = paramax.unwrap(self.frame)
        return (x - (1.0 - t) * m0 - t * m1) / scale, (m0, m1, scale)


class LightBridgeLoss(AbstractDirect):
    r""":math:`\mathbb{E}_{p_0}\log c(x) - \mathbb{E}_{p_1}\log v(y)`.

    Up to a constant the divergence :math:`\mathrm{KL}(\pi^*\,\|\,\pi)` from the best plan,
    proposition 3.1 of the paper.
    """

    def loss(
        self, q: LightBridge, target: Any, key: Key[Array, ""], batch: Any = None
    ) -> Float[Array, ""]:
        one, other = jax.random.split(key)
        _, m1, scale = q.frame
        x = q.source[jax.random.randint(one, (q.rows,), 0, len(q.source))]
        y = (samples_of(target, "light_bridge").draw(other, q.rows) - m1) / scale
        return jax.vmap(q.log_normaliser)(x).mean() - jax.vmap(q.log_potential)(y).mean()


def light_bridge(
    x0: Any, epsilon: Any = 0.1, components: Any = 10, rows: Any = 512
) -> Callable[[Any, Any], LightBridge]:
    r"""A Schrödinger bridge from samples to samples, trained without simulation.

    The plan that minimises :math:`\mathbb{E}\tfrac12\|x-y\|^2 + \epsilon\,\mathrm{KL}(\pi\,\|\,p_0
    \otimes p_1)` has the density :math:`p_0(x)\,e^{\langle x,y\rangle/\epsilon}\,v(y)/c(x)`. With

    .. math:: v(y) = \sum_k a_k\,\mathcal N(y \mid r_k, \epsilon S_k), \qquad
        c(x) = \sum_k a_k \exp\frac{x^\top S_k x + 2 r_k^\top x}{2\epsilon},

    the normaliser is closed-form, :math:`\pi(y \mid x)` is a mixture of
    :math:`\mathcal N(r_k + S_k x, \epsilon S_k)`, and so is the drift of the bridge, a diffusion of
    variance epsilon from :math:`p_0` to :math:`p_1`. The S are full matrices. Its objective is the
    mean of log c less that of log v. A. Korotin, N. Gushchin and E. Burnaev, "Light Schrödinger
    Bridge", ICLR 2024, arXiv:2310.01174, equations 7 to 11.

    Args:
        x0: samples of the source, shape (N, d).
        epsilon: the variance of the reference Brownian motion at time one.
        components: K.
        rows: samples that a step sees, of each side.

    Returns:
        what `ritz.fit` takes as `family`, with a target of `ritz.target.from_samples`. What is
        fitted has `sample` (which pushes a random source sample), `pair`, `push`, `conditional` and
        `drift`.

    Raises:
        RitzError: for samples that are not of one space, an epsilon that is not positive, or fewer
            than one component or row.

    >>> import jax, ritz
    >>> rng = np.random.default_rng(0)
    >>> x0, x1 = rng.normal(size=(500, 1)), 3.0 + rng.normal(size=(500, 1))
    >>> family = light_bridge(x0, epsilon=0.5, components=2)
    >>> fit = ritz.fit(ritz.target.from_samples(x1), family=family, steps=1000, progress=False)
    >>> bool(abs(fit.mean()[0] - 3.0) < 0.3)
    True
    >>> fit.q.drift(jax.numpy.zeros(1), 0.5).shape
    (1,)
    """
    source, eps = cloud("x0", x0), positive("epsilon", epsilon)
    whole_number("components", components, 1)
    whole_number("rows", rows, 1)

    def light_bridge(target: Any, start: Any) -> LightBridge:
        x1 = samples_for(source, target, "light_bridge")
        m0, m1, scale = units(source, x1)
        epsilon = jnp.asarray(eps / float(scale) ** 2)
        if len(x1) < components:
            raise RitzError(
                f"components={components} arrived, but there are {len(x1)} target samples; "
                "use fewer"
            )
        chosen = np.random.default_rng(0).choice(len(x1), components, replace=False)
        loc = (jnp.asarray(x1[chosen]) - m1) / scale
        # With these heights a component takes what lies where it leads.
        height = -0.5 * (loc**2).sum(1) / (1.0 - _SPREAD)
        root = 0.5 * np.log(_SPREAD) * jnp.eye(loc.shape[1])
        return LightBridge(
            height=height,
            loc=loc,
            root=jnp.tile(root, (components, 1, 1)),
            source=paramax.non_trainable((jnp.asarray(source) - m0) / scale),
            frame=paramax.non_trainable((m0, m1, scale)),
            epsilon=paramax.non_trainable(epsilon),
            rows=rows,
        )

    return light_bridge
