"""Gaussian paths of least kinetic energy for a data set."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ritz._errors import RitzError, described, whole_number
from ritz.transport._paths import Path

# Ratios of data to noise at which the separation is estimated, and zero and infinity.
_RATIOS = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 160)])
# The least speed, relative to that of points far apart: where data look Gaussian it vanishes.
_FLOOR = 1e-3


class _Turning(eqx.Module):
    """A coordinate of the geodesic: of the noise, or of the data."""

    end: Array
    lengths: Array
    angles: Array
    noise: bool = eqx.field(static=True)

    def __call__(self, t: Any) -> Any:
        x, y = 1.0 - t + t * jnp.cos(self.end), t * jnp.sin(self.end)
        angle = jnp.interp(jnp.arctan2(y, x), self.lengths, self.angles)
        turn = jnp.cos(angle) if self.noise else jnp.sin(angle)
        return jnp.sqrt(x**2 + y**2) * turn


def normalised(x: Any) -> Float[Array, "n d"]:
    r"""Points moved and scaled to mean zero and :math:`\frac1n\sum_i |x_i|^2 = d`.

    Args:
        x: shape (n, d).

    Raises:
        RitzError: for fewer than two points, or all the same.

    >>> normalised([[0.0], [4.0]]).ravel().tolist()
    [-1.0, 1.0]
    """
    values = np.asarray(x)
    if values.ndim != 2 or len(values) < 2 or values.dtype.kind not in "fiu":
        raise RitzError(f"{described(x)} arrived, expected two or more points of shape (n, d)")
    values = values - values.mean(axis=0, dtype=np.float64)
    size = np.sqrt((values**2).sum() / values.size)
    if not (np.isfinite(size) and size > 0.0):
        raise RitzError("the points are all the same, or not finite; there is no path to choose")
    return jnp.asarray(values / size, jnp.result_type(float))


def data_separation(
    x: Float[Array, "n d"], ratios: Any = _RATIOS, draws: int = 1024, seed: int = 0
) -> Float[Array, " s"]:
    r"""How far noisy points tell where they come from, by the ratio s of data to noise.

    .. math:: \lambda(s) = \tfrac1d\,\mathbb{E}\big|\mathbb{E}[x_1 \mid s x_1 + x_0]\big|^2
        = 1 - \tfrac1d\,\mathbb{E}\,\mathrm{tr}\,\mathrm{Cov}[x_1 \mid s x_1 + x_0],

    for :math:`x_1` uniform on the points and :math:`x_0` standard normal: 0 where noise hides all,
    1 where each point stands alone. Shaul, Chen, Nickel, Le and Lipman 2023, "On kinetic optimal
    probability paths for generative models", arXiv:2306.06626.

    Args:
        x: normalised points.
        ratios: s, where it is wanted.
        draws: of the noise, at each s the same.
        seed: of the draws.

    >>> x = normalised([[-1.0], [1.0]])
    >>> [round(float(v), 2) for v in data_separation(x, [0.0, 10.0])]
    [0.0, 1.0]
    """
    s, inside = jnp.asarray(ratios, x.dtype), _span(x)
    spread = _spread(inside, s, *_draws(inside, draws, jax.random.key(seed)))
    return 1.0 - spread / x.shape[1]


@jax.jit
def _spread(x: Array, ratios: Array, x1: Array, x0: Array) -> Array:
    squares = (x**2).sum(-1)

    def one(s: Array) -> Array:
        share = _shares(x, s * x1 + x0, s, jnp.ones_like(s))
        return (share @ squares - ((share @ x) ** 2).sum(-1)).mean()

    return jax.lax.map(one, ratios)


def kinetic_optimal(x: Any, draws: Any = 1024, seed: int = 0) -> Path:
    r"""The path :math:`\alpha x_0 + \beta x_1` of least kinetic energy, from a standard normal.

    With :math:`\alpha = r\cos\theta, \beta = r\sin\theta`, the energy of the marginal velocity is

    .. math:: \tfrac1d\int\mathbb{E}|u_t|^2 dt = \int \dot r^2 + r^2 g(\theta)\,\dot\theta^2\,dt,
        \qquad g = 1 - \frac{1 - \lambda(\tan\theta)}{\cos^2\theta},

    so that, in the angle :math:`\varphi = \int\sqrt g\,d\theta`, the best path is a straight line
    travelled at constant speed: its ODE is :math:`\dot\theta = \dot\varphi/\sqrt{g(\theta)}`. For
    points far apart :math:`\lambda = 1`, and it is `linear`. Shaul et al. 2023 (sections 3 and 4).

    Args:
        x: the data, shape (n, d). The path is that of `normalised(x)`, with which it is to be used.
        draws: of the noise, for the separation.
        seed: of the draws.

    Returns:
        the path, a table of 162 angles.

    Raises:
        RitzError: for fewer than two points, all the same, or a number of draws below one.

    >>> import numpy as np
    >>> path = kinetic_optimal(np.random.default_rng(0).normal(size=(4, 2000)), draws=64)
    >>> alpha, beta, _ = path.at(jnp.array(0.5))
    >>> bool(abs(alpha - 0.5) < 0.02), bool(abs(beta - 0.5) < 0.02)
    (True, True)
    """
    return geodesic(squared_speed, x, draws, seed)


def squared_speed(ratios: Any, separation: Any) -> Any:
    r""":math:`g(\theta)`, at :math:`\theta = \arctan s`; see `kinetic_optimal`."""
    return 1.0 - (1.0 - separation) * (1.0 + ratios**2)


def geodesic(speed: Callable[..., Any], x: Any, draws: Any, seed: int) -> Path:
    r"""The straight line in :math:`(r, \varphi)`, of any squared speed g in the angle.

    Args:
        speed: g, of s and the separation there; it is cut to [0, 1], and 1 at the data.
        x: the data.
        draws: of the noise, for the separation.
        seed: of the draws.

    Raises:
        RitzError: as `kinetic_optimal`.
    """
    count = whole_number("draws", draws, 1)
    separation = np.asarray(data_separation(normalised(x), draws=count, seed=seed), np.float64)
    g = np.append(np.clip(speed(_RATIOS, separation), 0.0, 1.0), 1.0)
    return _path_of(g)


def _path_of(g: np.ndarray) -> Path:
    angles = np.append(np.arctan(_RATIOS), 0.5 * np.pi)
    root = np.sqrt(np.maximum(g, _FLOOR**2))
    steps = np.diff(angles) * 0.5 * (root[1:] + root[:-1])
    lengths = np.concatenate([[0.0], np.cumsum(steps)])
    end, seen, turned = (
        jnp.asarray(v, jnp.result_type(float)) for v in (lengths[-1], lengths, angles)
    )
    return Path(_Turning(end, seen, turned, True), _Turning(end, seen, turned, False))


def empirical_velocity(
    path: Path, x: Float[Array, "n d"], t: Float[Array, ""], at: Float[Array, "m d"]
) -> Float[Array, "m d"]:
    r"""The exact marginal velocity of a path to points.

    .. math:: u_t(x) = \mathbb{E}[\dot x_t \mid x_t = x].

    Args:
        path: without noise, from a standard normal.
        x: the points.
        t: inside (0, 1).
        at: where it is wanted.

    >>> from ritz.transport import linear
    >>> x = normalised([[-1.0], [1.0]])
    >>> empirical_velocity(linear(), x, jnp.array(0.5), jnp.zeros((1, 1))).tolist()
    [[0.0]]
    """
    (a, b, _), (da, db, _) = path.at(t), path.rates(t)
    mean = _shares(x, at, b, a) @ x
    return db * mean + da * (at - b * mean) / a


def kinetic_energy(
    path: Path, x: Float[Array, "n d"], times: int = 100, draws: int = 512, seed: int = 0
) -> float:
    r""":math:`\frac1d\int_0^1 \mathbb{E}|u_t(x_t)|^2\,dt` of the exact marginal velocity.

    By the midpoint rule in t, and draws of :math:`x_t` that are the same for each path.

    Args:
        path: without noise, from a standard normal.
        x: normalised points.
        times: how many.
        draws: at each.
        seed: of the draws.

    >>> import numpy as np
    >>> from ritz.transport import linear
    >>> x = normalised(np.random.default_rng(0).normal(size=(4, 2000)))
    >>> round(kinetic_energy(linear(), x, draws=16), 1)  # of points far apart
    2.0
    """
    return float(_energy(path, _span(x), x.shape[1], jax.random.key(seed), times, draws))


@eqx.filter_jit
def _energy(path: Path, x: Array, d: int, key: Array, times: int, draws: int) -> Array:
    def one(at: Any) -> Array:
        t, key = at
        x1, x0 = _draws(x, draws, key)
        a, b, _ = path.at(t)
        u = empirical_velocity(path, x, t, a * x0 + b * x1)
        outside = (d - x.shape[1]) * path.rates(t)[0] ** 2
        return ((u**2).sum(-1).mean() + outside) / d

    middle = (jnp.arange(times, dtype=x.dtype) + 0.5) / times
    return jax.lax.map(one, (middle, jax.random.split(key, times))).mean()


def _span(x: Array) -> Array:
    """The points in the space that they span, outside of which there is noise alone."""
    if x.shape[0] >= x.shape[1]:
        return x
    return jnp.asarray(np.linalg.qr(np.asarray(x, np.float64).T)[1].T, x.dtype)


def _draws(x: Array, draws: int, key: Array) -> tuple[Array, Array]:
    """Points, each as often as any other but for one, and noise."""
    order, noise = jax.random.split(key)
    which = jax.random.permutation(order, len(x))[jnp.arange(draws) % len(x)]
    return x[which], jax.random.normal(noise, (draws, x.shape[1]), x.dtype)


def _shares(x: Array, at: Array, b: Array, a: Array) -> Float[Array, "m n"]:
    """The probabilities of the points, given b x1 + a x0."""
    fit = (b * (at @ x.T) - 0.5 * b**2 * (x**2).sum(-1)) / a**2
    return jax.nn.softmax(fit, axis=-1)
