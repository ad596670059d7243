r"""Closed manifolds as spaces of latents, and the uniform law on each."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ritz._errors import RitzError, whole_number
from ritz.family import AbstractFamily


class Manifold(eqx.Module):
    """A closed manifold of constant scalar curvature in Euclidean space, with the metric of that.

    Attributes:
        name: as it was asked for.
        dim: d, of the manifold.
        ambient: n, of the space around it; a latent vector has so many numbers.
        log_volume: log of its volume.
        curvature: its scalar curvature.
        longest: the time up to which `kernel_divergence` is within half a percent.
        project: from a point of that space to the nearest one of the manifold.
    """

    name: str = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    ambient: int = eqx.field(static=True)
    log_volume: float = eqx.field(static=True)
    curvature: float = eqx.field(static=True)
    longest: float = eqx.field(static=True)
    project: Callable[[Array], Array] = eqx.field(static=True)


class Uniform(AbstractFamily):
    """See `uniform`.

    Attributes:
        manifold: where it is uniform.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"sample", "log_prob", "reparameterised"})
    manifold: Manifold

    @property
    def dim(self) -> int:
        return self.manifold.ambient

    def sample(self, key: Key[Array, ""]) -> Float[Array, " n"]:
        return self.manifold.project(jax.random.normal(key, (self.dim,)))

    def log_prob(self, x: Float[Array, " n"]) -> Float[Array, ""]:
        return jnp.full((), -self.manifold.log_volume, x.dtype)


def sphere(d: Any) -> Manifold:
    r"""The unit sphere in d + 1 dimensions.

    Args:
        d: of the sphere; 1 for a circle.

    Raises:
        RitzError: for a dimension below one.

    >>> sphere(2).curvature
    2.0
    """
    d = whole_number("sphere", d, 1)
    longest = 0.4 / max(d - 1, 1)
    return Manifold(f"sphere({d})", d, d + 1, _log_area(d), _curvature(d, 1.0), longest, _unit)


def torus(d: Any) -> Manifold:
    r"""The flat torus: a product of d unit circles, each in two dimensions.

    Args:
        d: how many circles.

    Raises:
        RitzError: for fewer than one.

    >>> torus(2).ambient
    4
    """
    d = whole_number("torus", d, 1)
    return Manifold(f"torus({d})", d, 2 * d, d * math.log(2.0 * math.pi), 0.0, 0.4, _circles)


def projective(d: Any) -> Manifold:
    r"""Real projective space: lines u through the origin of d + 1 dimensions, as :math:`uu^\top`.

    Args:
        d: of the space.

    Raises:
        RitzError: for a dimension below two; of dimension one it is `sphere(1)`.

    >>> projective(2).ambient
    9
    """
    d = whole_number("projective", d, 2)
    volume = _log_area(d) + 0.5 * d * math.log(2.0) - math.log(2.0)  # half a sphere of radius √2
    longest = 2.0 * min(0.15, 0.4 / (d - 1))
    curvature = _curvature(d, 2.0)
    return Manifold(f"projective({d})", d, (d + 1) ** 2, volume, curvature, longest, _line)


def rotations() -> Manifold:
    r"""The rotations of three dimensions, SO(3), as matrices.

    >>> rotations().ambient
    9
    """
    # Half a sphere of radius √8: turning by θ moves a unit quaternion by θ/2, the matrix by √2 θ.
    volume = _log_area(3) + 1.5 * math.log(8.0) - math.log(2.0)
    return Manifold("rotations()", 3, 9, volume, _curvature(3, 8.0), 8.0 * 0.15, _rotation)


def uniform(manifold: Any) -> Uniform:
    """The uniform law on a manifold, as the prior of a `VAE`; see `brownian`.

    Args:
        manifold: such as `sphere(2)`.

    Raises:
        RitzError: for anything else.

    >>> uniform(torus(1)).sample(jax.random.key(0)).shape
    (2,)
    """
    return Uniform(manifold_of("uniform", manifold))


def manifold_of(name: str, given: Any) -> Manifold:
    """What was asked for, if it is a manifold.

    Raises:
        RitzError: if it is not.
    """
    if not isinstance(given, Manifold):
        raise RitzError(
            f"{name}: a manifold arrived as {type(given).__name__}, expected sphere(d), torus(d), "
            "projective(d) or rotations()"
        )
    return given


def winding_numbers(path: Any) -> np.ndarray:
    r"""How often a closed path on a torus goes round each of its circles.

    .. math:: w_i = \frac1{2\pi}\sum_t \angle\big(z_{t+1, i} / z_{t, i}\big),

    where the first point follows the last. They are whole numbers, and right where no step turns a
    circle by half or more. For paths along the factors of data on a torus, an encoder has their
    topology if its matrix of winding numbers has determinant 1 or -1.

    Args:
        path: points of `torus(d)` in order, shape (n, 2d).

    Raises:
        RitzError: for another shape.

    >>> angle = np.linspace(0.0, 4.0 * np.pi, 20, endpoint=False)
    >>> winding_numbers(np.stack([np.cos(angle), np.sin(angle)], axis=1)).tolist()
    [2]
    """
    points = np.asarray(path, np.float64)
    if points.ndim != 2 or points.shape[1] % 2 or not points.size:
        raise RitzError(f"winding_numbers: shape {points.shape} arrived, expected (n, 2d)")
    z = points[:, ::2] + 1j * points[:, 1::2]
    turned = np.angle(np.roll(z, -1, axis=0) * z.conj()).sum(axis=0)
    return np.rint(turned / (2.0 * np.pi)).astype(int)


def _log_area(d: int) -> float:
    """Log of the area of the unit sphere of d dimensions."""
    half = 0.5 * (d + 1)
    return math.log(2.0) + half * math.log(math.pi) - math.lgamma(half)


def _curvature(d: int, squared_radius: float) -> float:
    return d * (d - 1) / squared_radius


def _unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return x / jnp.linalg.norm(x)


def _circles(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return jax.vmap(_unit)(x.reshape(-1, 2)).reshape(-1)


def _line(x: Float[Array, " n"]) -> Float[Array, " n"]:
    side = math.isqrt(len(x))
    square = x.reshape(side, side)
    return _leading(0.5 * (square + square.T)).reshape(-1)


def _rotation(x: Float[Array, " 9"]) -> Float[Array, " 9"]:
    # The trace of R(u) against x is a quadratic form in the unit quaternion u, largest at the
    # rotation nearest to x (Horn 1987), and R(u) is linear in u uᵀ.
    forms = jnp.asarray(_FORMS, x.dtype)
    square = jnp.einsum("i,iab->ab", x, forms)
    return jnp.einsum("ab,iab->i", _leading(square), forms)


@jax.custom_jvp
def _leading(square: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """The projector onto a symmetric matrix's eigenvector of largest eigenvalue."""
    return jnp.outer(*2 * (jnp.linalg.eigh(square)[1][:, -1],))


@_leading.defjvp
def _leading_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    # That of eigh divides by gaps between the other eigenvalues, which are equal at the manifold.
    (square,), (change,) = primals, tangents
    values, vectors = jnp.linalg.eigh(square)
    top, others = vectors[:, -1], vectors[:, :-1]
    turn = others @ ((others.T @ change @ top) / (values[-1] - values[:-1]))
    return jnp.outer(top, top), jnp.outer(turn, top) + jnp.outer(top, turn)


def _quaternion_forms() -> np.ndarray:
    """The entries of the rotation by a unit quaternion (w, x, y, z), as quadratic forms of it."""
    forms = np.zeros((3, 3, 4, 4))
    cross = np.zeros((3, 3, 3))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cross[i, k, j], cross[k, i, j] = 1.0, -1.0
    for i in range(3):
        forms[i, i] += np.diag([1.0, -1.0, -1.0, -1.0])
        for j in range(3):
            forms[i, j, 1 + i, 1 + j] += 1.0
            forms[i, j, 1 + j, 1 + i] += 1.0
            forms[i, j, 0, 1:] += cross[i, j]
            forms[i, j, 1:, 0] += cross[i, j]
    return forms.reshape(9, 4, 4)


_FORMS = _quaternion_forms()
