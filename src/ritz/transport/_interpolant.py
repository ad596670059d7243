"""Stochastic interpolants: velocity and denoiser learnt by regressions, drawn by an ODE or SDE."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, described, whole_number
from ritz.family import AbstractFamily
from ritz.target import samples_of
from ritz.transport import _interpolant_parts as parts
from ritz.transport._interpolant_loss import InterpolantLoss
from ritz.transport._ode import solve
from ritz.transport._paths import Path, linear

_LOOK = 2000  # draws of the base that its mean and sd are known by


class Interpolant(AbstractFamily):
    """See `interpolant`.

    Attributes:
        base: where paths begin; not trained.
        path: its coefficients; not trained.
        velocity: of the probability flow.
        denoiser: of the noise z, in units of gamma: minus the score; None where there is no noise.
        rows: how many pairs a step of the training sees.
    """

    base: AbstractFamily
    path: Path
    velocity: parts.Field
    denoiser: parts.Field | None
    rows: int = eqx.field(static=True)

    @property
    def capabilities(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset({"sample", "log_prob"}) & self.base.capabilities

    @property
    def dim(self) -> int:
        return paramax.unwrap(self.base).dim

    @property
    def objective(self) -> InterpolantLoss:
        return InterpolantLoss(self.rows)

    def place(self, t: Array, x0: Array, x1: Array, z: Array) -> Float[Array, " d"]:
        r""":math:`x_t`."""
        a, b, c = paramax.unwrap(self.path).at(t)
        return a * x0 + b * x1 + c * z

    def rate(self, t: Array, x0: Array, x1: Array, z: Array) -> Float[Array, " d"]:
        r""":math:`\dot x_t`, whose mean at a place is the velocity there."""
        a, b, c = paramax.unwrap(self.path).rates(t)
        moved = a * x0 + b * x1
        return moved if self.denoiser is None else moved + c * z

    def flow(self, t: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
        r"""The velocity :math:`b(t, x)` of the probability flow."""
        q = paramax.unwrap(self)
        return q.velocity(x, parts.times_of(q.path, t))

    def noise(self, t: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
        r""":math:`\eta(t, x) = \mathbb{E}[z \mid x_t = x]`.

        Where the path has no noise, that of the standard normal :math:`x_0`, which the velocity
        tells: :math:`(\beta b - \dot\beta x) / (\beta\dot\alpha - \dot\beta\alpha)`.

        Raises:
            RitzError: without noise and from another base.
        """
        q = paramax.unwrap(self)
        if q.denoiser is not None:
            return q.path.at(t)[2] * q.denoiser(x, parts.times_of(q.path, t))
        if not isinstance(q.base, parts.StandardNormal):
            raise RitzError(
                "an interpolant without noise, from a base that is not standard normal, has no "
                "score; use a path with noise, such as linear(gamma=brownian())"
            )
        (a, b, _), (da, db, _) = q.path.at(t), q.path.rates(t)
        return (b * q.flow(t, x) - db * x) / (b * da - db * a)

    def score(self, t: Float[Array, ""], x: Float[Array, " d"]) -> Float[Array, " d"]:
        r""":math:`\nabla\log p_t(x) = -\eta(t, x)/\gamma(t)`, for t inside (0, 1).

        Raises:
            RitzError: where `noise` does.
        """
        return -self.noise(t, x) / self._noise_scale(t)

    def sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """A draw from the base, moved by the probability flow."""
        return solve(self.flow, self.base_sample(key), 0.0, 1.0)

    def base_sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        r"""A draw :math:`x_0` from the base."""
        return paramax.unwrap(self.base).sample(key)

    def log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        r""":math:`\log p_0(x_0) - \int_0^1 \nabla\cdot b(t, x_t)\,dt`, the divergence exact.

        That takes d derivatives at each place; see `log_prob_estimate`.
        """
        basis = jnp.eye(len(x), dtype=x.dtype)
        return self._log_prob(x, basis)

    def log_prob_estimate(
        self, x: Float[Array, " d"], key: Key[Array, ""], probes: int = 1
    ) -> Float[Array, ""]:
        r"""The same with Hutchinson's estimate :math:`v^\top \nabla b\, v` of the divergence.

        Unbiased, over the signs v, up to the error of the ODE's solver.

        Args:
            x: a point.
            key: of the signs, which are the same all along the way.
            probes: how many vectors of signs are averaged over.
        """
        v = jax.random.rademacher(key, (probes, len(x)), x.dtype)
        return self._log_prob(x, v / jnp.sqrt(jnp.asarray(probes, x.dtype)))

    def _log_prob(self, x: Array, directions: Array) -> Array:
        if "log_prob" not in self.base.capabilities:
            raise RitzError(
                "the base of this interpolant is known by samples, which have no log density; give "
                "a family as its base"
            )

        def both(t: Array, state: Any) -> Any:
            slope = lambda v: jax.jvp(lambda x: self.flow(t, x), (state[0],), (v,))
            values, pushed = jax.vmap(slope, out_axes=(None, 0))(directions)
            return values, (directions * pushed).sum()

        x0, grown = solve(both, (x, jnp.zeros((), x.dtype)), 1.0, 0.0)
        return paramax.unwrap(self.base).log_prob(x0) + grown

    def sample_sde(
        self, key: Key[Array, ""], diffusion: Any = 1.0, steps: int = 100
    ) -> Float[Array, " d"]:
        r"""A draw by the forward SDE :math:`dx = (b + \epsilon s)\,dt + \sqrt{2\epsilon}\,dW`.

        Its law at each time is that of the probability flow, if b and s are exact; where they are
        not, the SDE forgets errors that the flow keeps (Albergo, Boffi and Vanden-Eijnden 2023,
        theorem 2.23). By Heun's method, of weak order 2 since the noise depends on time alone.

        Args:
            key: of the draw.
            diffusion: a number c for :math:`\epsilon(t) = c\,\gamma(t)`, with which the drift stays
                bounded at the ends, or a function of time, :math:`\epsilon(t)`.
            steps: how many.

        Raises:
            RitzError: for a negative diffusion, or where `noise` does.
        """
        first, walk = jax.random.split(key)
        return self.walk(self.base_sample(first), walk, diffusion, steps)

    def walk(
        self,
        x: Float[Array, " d"],
        key: Key[Array, ""],
        diffusion: Any = 1.0,
        steps: int = 100,
        backward: bool = False,
    ) -> Float[Array, " d"]:
        r"""The end of a path of the SDE from a point.

        Backward, from t = 1 to 0: :math:`dx = (b - \epsilon s)\,dt + \sqrt{2\epsilon}\,dW^B`.

        Args:
            x: where it begins.
            key: of the path.
            diffusion: as in `sample_sde`.
            steps: how many.
            backward: from the end to the base.

        Raises:
            RitzError: for a negative diffusion, or where `noise` does.
        """
        parts.check_diffusion(diffusion)
        constant: Any = diffusion
        chosen: Any = diffusion if callable(diffusion) else None
        h, sign = 1.0 / whole_number("steps", steps, 1), -1.0 if backward else 1.0

        def drift(t: Array, x: Array) -> Array:
            width = self._noise_scale(t)
            share = chosen(t) / width if chosen is not None else constant
            return sign * self.flow(t, x) - share * self.noise(t, x)

        def one(x: Array, at: Any) -> tuple[Array, None]:
            t, key = at
            epsilon = constant * self._noise_scale(t) if chosen is None else chosen(t)
            shaken = jnp.sqrt(2.0 * h * epsilon) * jax.random.normal(key, x.shape, x.dtype)
            # Times are kept inside (0, 1), where the score is.
            early, late = t - sign * inner, t + sign * inner
            slope = drift(early, x)
            ahead = x + 2.0 * inner * slope + shaken
            return x + 0.5 * h * (slope + drift(late, ahead)) + shaken, None

        inner = 0.5 * h * (1.0 - 1e-3)
        times = (jnp.arange(steps, dtype=x.dtype) + 0.5) * h
        keys = jax.random.split(key, steps)
        return jax.lax.scan(one, x, (1.0 - times if backward else times, keys))[0]

    def _noise_scale(self, t: Array) -> Array:
        a, _, c = paramax.unwrap(self.path).at(t)
        return a if self.denoiser is None else c


def interpolant(
    base: Any = None,
    path: Any = None,
    width: Any = 64,
    depth: Any = 3,
    rows: Any = 256,
) -> Callable[[Any, Any], Interpolant]:
    r"""A bridge of two distributions, learnt by regressions.

    .. math:: x_t = \alpha(t)\,x_0 + \beta(t)\,x_1 + \gamma(t)\,z, \qquad
        b(t,x) = \mathbb{E}[\dot x_t \mid x_t = x], \quad
        s(t,x) = -\gamma(t)^{-1}\,\mathbb{E}[z \mid x_t = x].

    The ODE :math:`\dot x = b(t,x)` moves the law of :math:`x_0` to that of :math:`x_1`, and gives
    the density; so does an SDE with any diffusion, see `Interpolant.sample_sde`. Without noise and
    from a standard normal it is flow matching with a Gaussian path, whose score the velocity tells.
    Albergo, Boffi and Vanden-Eijnden 2023, "Stochastic interpolants", arXiv:2303.08797 (theorem
    2.6); Lipman et al. 2023, "Flow matching for generative modeling".

    The target is one of `ritz.target.from_samples`. The ODE takes Diffrax.

    Args:
        base: what :math:`x_0` comes from: samples of shape (N, d), a family with `sample` (and
            `log_prob`, for a density), or None for the standard normal. It is not trained.
        path: the coefficients; by default `linear()`.
        width: of the two networks.
        depth: their hidden layers.
        rows: how many pairs a step of the training sees.

    Returns:
        a function `(target, start)` for `ritz.fit(family=...)`, which makes an `Interpolant`.

    Raises:
        RitzError: for a base or a path that is none, or samples of another dimension.

    >>> import numpy as np, ritz
    >>> x1 = np.random.default_rng(0).normal(3.0, 0.5, (2000, 1))
    >>> family = interpolant(path=linear(), width=16, depth=2)
    >>> target = ritz.target.from_samples(x1)
    >>> fit = ritz.fit(target, family=family, steps=500, lr=0.01, progress=False)
    >>> bool(abs(fit.mean()[0] - 3.0) < 0.2)
    True
    """
    path = linear() if path is None else path
    if not isinstance(path, Path):
        raise RitzError(
            f"interpolant: path: {described(path)} arrived, expected a ritz.transport.Path, such "
            "as ritz.transport.linear()"
        )
    for name, value in (("width", width), ("depth", depth), ("rows", rows)):
        whole_number(name, value, 1)
    if base is not None and not isinstance(base, AbstractFamily):
        base = parts.samples_base(base)

    def build(target: Any, start: Any) -> Interpolant:
        known = samples_of(target, "interpolant")
        d = known.dim
        begin = parts.StandardNormal(d) if base is None else base
        if begin.dim != d:
            raise RitzError(
                f"interpolant: the base has {begin.dim} dimensions, the samples {d}; give alike"
            )
        keys = jax.random.split(jax.random.key(0), _LOOK)
        x0 = jax.vmap(paramax.unwrap(begin).sample)(keys)
        centre, scale = 0.5 * (x0.mean(0) + known.samples.mean(0)), x0.std(0) + known.samples.std(0)
        scale = jnp.where(scale > 0.0, scale, 1.0)
        frozen = paramax.NonTrainable
        inputs = d + len(parts.times_of(path, jnp.zeros(())))

        def field(key: Any, unit: Any) -> parts.Field:
            network = eqx.nn.MLP(inputs, d, int(width), int(depth), jax.nn.silu, key=key)
            return parts.Field(network, frozen(centre), frozen(scale), frozen(unit))

        one, two = jax.random.split(jax.random.key(1))
        return Interpolant(
            base=paramax.non_trainable(begin),
            path=paramax.non_trainable(path),
            velocity=field(one, scale),
            denoiser=None if path.gamma is None else field(two, 1.0 / scale),
            rows=int(rows),
        )

    return build
