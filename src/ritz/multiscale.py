"""Energies of a field's details given its coarser half: fitted by score matching, log-concave."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.optimize import nnls

from ritz._errors import RitzError
from ritz.wavelets import merge

KNOTS = 8
FLOOR = 0.05
SHIFTS = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
# Each hat function, as a square and a cubic from each knot whose second derivatives sum to it.
_RISES = np.pad(np.diff(np.eye(KNOTS)), ((0, 0), (1, 1)))
HATS = np.float32(np.c_[np.eye(KNOTS)[:, :1], np.diff(_RISES)])


class FieldEnergy(eqx.Module):
    r"""A quadratic form and a scalar potential, of fields given coarser ones.

    .. math:: E(y \mid c) = \sum_{a, b, s, u} \theta_{abs}\, y_a(u)\, (y, c)_b(u + s)
              + \sum_i v(x_i), \qquad v'' = \sum_k \theta_k \Lambda_k(|x_i|),

    over bands a of y and b of both, shifts s of at most one site along each axis, and sites u, with
    periodic edges. x is the field at the finer resolution, `merge((c, y))`, and the hat functions
    :math:`\Lambda_k` have evenly spaced knots from 0 to `top`; beyond, the last stays 1.

    Attributes:
        weights: theta.
        top: the last knot.
    """

    weights: Float[Array, " features"]
    top: Float[Array, ""]

    def features(
        self, own: Float[Array, "bands m m"], given: Float[Array, "coarser m m"]
    ) -> Float[Array, " features"]:
        """What the weights multiply."""
        both = jnp.concatenate([own, given])
        near = jnp.stack([jnp.roll(both, (-i, -j), (-2, -1)) for i, j in SHIFTS], axis=1)
        products = jnp.einsum("aij,bsij->abs", own, near)
        potentials = HATS @ _cubics(pixels(own, given), self.top)[0]
        return jnp.concatenate([products.ravel(), potentials])

    def laplacian(
        self, own: Float[Array, "bands m m"], given: Float[Array, "coarser m m"]
    ) -> Float[Array, " features"]:
        """The trace of each feature's second derivative in `own`."""
        bands, side = own.shape[:2]
        same = [[i % side == 0 and j % side == 0 for i, j in SHIFTS]]
        products = np.zeros((bands, bands + len(given), len(SHIFTS)))
        products[np.arange(bands), np.arange(bands)] = 2.0 * side**2 * np.array(same)
        curved = HATS @ _cubics(pixels(own, given), self.top)[1]
        share = own.size / (own.size + given.size)  # of a pixel's square in the details
        return jnp.concatenate([jnp.asarray(products.ravel()), share * curved])

    def log_density(
        self, own: Float[Array, "bands m m"], given: Float[Array, "coarser m m"]
    ) -> Float[Array, ""]:
        """`-weights @ features`, by a convolution."""
        both = jnp.concatenate([own, given])
        kernel = self.weights[:-KNOTS].reshape(len(own), len(both), 3, 3)
        around = jnp.pad(both, ((0, 0), (1, 1), (1, 1)), mode="wrap")
        products = own * jax.lax.conv(around[None], kernel, (1, 1), "VALID")[0]
        potential = self.weights[-KNOTS:] @ HATS @ _cubics(pixels(own, given), self.top)[0]
        return -products.sum() - potential

    def stiffness(self, bands: int, side: int) -> float:
        """The least eigenvalue of the quadratic form in `own`.

        Where the potential is convex, a lower bound of the energy's curvature.
        """
        return float(_stiffness(np.asarray(self.weights, float)[:-KNOTS], bands, side)[0].min())


def pixels(
    own: Float[Array, "bands m m"], given: Float[Array, "coarser m m"]
) -> Float[Array, "side side"]:
    """The field at the finer resolution: of Haar's details and averages, or of one band itself.

    >>> pixels(jnp.zeros((3, 1, 1)), jnp.ones((1, 1, 1))).round(3).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    return merge(jnp.concatenate([given, own])) if len(given) else own[0]


def match_scores(own: Any, given: Any) -> tuple[FieldEnergy, float]:
    r"""The energy whose score is nearest to that of the data.

    .. math:: \min_\theta\; \mathbb{E}\bigl[\tfrac12 |\nabla_y E_\theta|^2
              - \Delta_y E_\theta\bigr],

    which is quadratic in theta and needs no normalising constant (Hyvärinen 2005). Of details,
    `own` of three bands given one, the energy is made strongly convex: the potential convex, and
    the quadratic form's eigenvalues at least 0.05. That asks no more than it says: a quadratic part
    of the potential is, up to what is given, a multiple
    of :math:`|y|^2`. The constraints are
    linear for each frequency and direction; planes are added until all hold.

    Args:
        own: fields (n, bands, m, m): details, the last three bands of `ritz.wavelets.split`; or
            fields themselves, with one band, whose energy is not constrained.
        given: (n, 1, m, m), the first band; for fields themselves (n, 0, m, m).

    Returns:
        the energy, and the share of the loss that the constraints cost.

    Raises:
        RitzError: for other shapes, or values that are not finite.

    Guth, Lempereur, Bruna and Mallat, "Conditionally strongly log-concave generative models", 2023.

    >>> x = np.random.default_rng(0).normal(size=(40_000, 1, 1, 1)) / 2.0
    >>> energy, _ = match_scores(x, np.zeros((40_000, 0, 1, 1)))
    >>> at = jnp.full((1, 1, 1), 0.5)
    >>> bool(abs(jax.grad(energy.log_density)(at, jnp.zeros((0, 1, 1))) + 2.0)[0, 0, 0] < 0.1)
    True
    """
    bands, coarser = _check(own, given)
    with jax.enable_x64(True):
        own, given = jnp.asarray(own, float), jnp.asarray(given, float)
        top = jnp.quantile(jnp.abs(jax.vmap(pixels)(own, given)), 0.999)
        empty = jnp.zeros(bands * (bands + coarser) * len(SHIFTS) + KNOTS)
        gram, slope = map(np.asarray, _moments(FieldEnergy(empty, top), own, given))
    unit = np.sqrt(np.diag(gram))
    unit = np.where(unit > 0.0, unit, 1.0)  # where the given fields are zero
    gram = gram / np.outer(unit, unit) + 1e-7 * np.eye(len(unit))  # some products are equal
    slope = slope / unit
    free = np.linalg.solve(gram, slope)
    weights = _convex(gram, slope, unit, bands, own.shape[-1]) if coarser else free
    loss = lambda w: 0.5 * w @ gram @ w - slope @ w
    found = FieldEnergy(jnp.asarray(weights / unit, jnp.float32), jnp.asarray(top, jnp.float32))
    return found, float(1.0 - loss(weights) / loss(free))


def constrained_least_squares(
    gram: np.ndarray, slope: np.ndarray, rows: np.ndarray, floors: np.ndarray
) -> np.ndarray:
    r"""The least of :math:`\tfrac12 w^\top G w - s^\top w` with :math:`Rw \ge f`.

    By the non-negative least squares of its dual (Lawson and Hanson 1974, chapter 23).

    Args:
        gram: G, positive definite.
        slope: s.
        rows: R.
        floors: f; the constraints must admit a point.

    Returns:
        w.

    >>> constrained_least_squares(np.eye(2), np.zeros(2), np.array([[1.0, 1.0]]), np.ones(1))
    array([0.5, 0.5])
    """
    root = np.linalg.cholesky(gram).T
    middle = np.linalg.solve(root.T, slope)
    turned = np.linalg.solve(root.T, rows.T)
    system = np.vstack([turned, floors - middle @ turned])
    target = np.append(np.zeros(len(gram)), 1.0)
    left = system @ nnls(system, target, maxiter=100 * len(rows))[0] - target
    return np.linalg.solve(root, middle - left[:-1] / left[-1])


def _check(own: Any, given: Any) -> tuple[int, int]:
    shapes = np.shape(own), np.shape(given)
    fit = all(len(s) == 4 and s[2] == s[3] for s in shapes) and shapes[0][0] == shapes[1][0] > 0
    kinds = ((3, 1), (1, 0))
    if not fit or shapes[0][2] != shapes[1][2] or (shapes[0][1], shapes[1][1]) not in kinds:
        raise RitzError(
            f"match_scores: arrays of shapes {shapes[0]} and {shapes[1]} arrived, expected details "
            "(n, 3, m, m) and averages (n, 1, m, m), or fields (n, 1, m, m) and (n, 0, m, m)"
        )
    if not np.isfinite(np.asarray(own)).all() or not np.isfinite(np.asarray(given)).all():
        raise RitzError("match_scores: values that are not finite arrived; drop those fields")
    return shapes[0][1], shapes[1][1]


def _convex(gram: Any, slope: Any, unit: Any, bands: int, side: int) -> np.ndarray:
    """The constrained weights: a plane for each frequency that is too soft, until none is."""
    rows, floors = list(np.eye(len(unit))[-KNOTS:]), [0.0] * KNOTS
    while True:
        weights = constrained_least_squares(gram, slope, np.array(rows), np.array(floors))
        soft, directions = _stiffness((weights / unit)[:-KNOTS], bands, side)
        low = soft < FLOOR - 1e-6
        if not low.any():
            return weights
        for row in np.pad(directions[low], ((0, 0), (0, KNOTS))) / unit:
            size = float(np.linalg.norm(row))
            rows.append(row / size)
            floors.append(FLOOR / size)


def _stiffness(weights: np.ndarray, bands: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The least eigenvalue of the own bands' form at each frequency, and its slope in weights."""
    weights = weights.reshape(bands, -1, len(SHIFTS))
    q = 2.0 * np.pi * np.stack(np.meshgrid(*[np.arange(side)] * 2), -1).reshape(-1, 2) / side
    waves = np.exp(1j * q @ np.array(SHIFTS).T)
    half = np.einsum("abs,qs->qab", weights[:, :bands], waves)
    values, vectors = np.linalg.eigh(half + half.conj().swapaxes(1, 2))
    u = vectors[..., 0]
    slopes = np.zeros((len(q), *weights.shape))
    slopes[:, :, :bands] = 2.0 * np.einsum("qa,qb,qs->qabs", u.conj(), u, waves).real
    return values[:, 0], slopes.reshape(len(q), -1)


@eqx.filter_jit
def _moments(energy: FieldEnergy, own: Array, given: Array) -> tuple[Array, Array]:
    """The means over data of products of the features' gradients, and of their laplacians."""

    def one(pair: Any) -> Any:
        slopes = jax.jacrev(energy.features)(*pair).reshape(-1, own[0].size)
        return slopes @ slopes.T, energy.laplacian(*pair)

    def add(total: Any, pairs: Any) -> Any:
        return jax.tree.map(lambda t, a: t + a.sum(0), total, jax.vmap(one)(pairs)), None

    size = 32
    whole = len(own) // size * size
    blocks = (a[:whole].reshape(whole // size, size, *a.shape[1:]) for a in (own, given))
    features = energy.weights.size
    total = (jnp.zeros((features, features)), jnp.zeros(features))
    total, _ = jax.lax.scan(add, total, tuple(blocks))
    if whole < len(own):
        total, _ = add(total, (own[whole:], given[whole:]))
    return jax.tree.map(lambda t: t / len(own), total)


def _cubics(x: Array, top: Array) -> tuple[Array, Array]:
    """Sums over pixels of a square and a cubic from each knot, and of their curvatures."""
    width = top / (KNOTS - 1)
    at = jnp.abs(x).ravel() / width
    beyond = jnp.maximum(at - jnp.arange(KNOTS)[:, None], 0.0)
    values = [0.5 * (at @ at)[None], (beyond * beyond * beyond).sum(1) / 6.0]
    curvatures = [jnp.full(1, x.size), beyond.sum(1)]
    return width**2 * jnp.concatenate(values), jnp.concatenate(curvatures)
