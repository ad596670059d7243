"""Orthogonal wavelet packets on periodic square lattices."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from ritz._errors import RitzError

HAAR = (0.5**0.5, 0.5**0.5)
"""The low-pass filter of Haar's wavelet."""

DAUBECHIES4 = tuple(
    (np.array([1.0, 3.0, 3.0, 1.0]) + 3**0.5 * np.array([1.0, 1.0, -1.0, -1.0])) / 2**2.5
)
"""The low-pass filter of Daubechies' wavelet with two vanishing moments."""


def split(x: ArrayLike, low_pass: Any = HAAR) -> Float[Array, "*batch 4 half half"]:
    r"""One level of the transform: four fields of half the side.

    With the high-pass filter :math:`g_k = (-1)^k h_{K-1-k}`, each axis is filtered and every
    second value kept,

    .. math:: (Hx)_i = \sum_k h_k\,x_{2i + k}, \qquad (Gx)_i = \sum_k g_k\,x_{2i + k},

    with indices modulo the side. The map is orthogonal: norms are kept, and `merge` inverts it.
    To split the first field again and again is the wavelet transform; to split the others too is
    a packet transform, whose fields have narrower frequency bands.

    Args:
        x: fields, in the last two axes, of one even side.
        low_pass: h, orthogonal to its own even shifts, of unit norm.

    Returns:
        bands low-low, low-high, high-low and high-high; the first letter is that of the rows' axis.

    Raises:
        RitzError: for a field that is not square, or of odd side, and a filter of odd length.

    Coifman, Meyer and Wickerhauser, "Wavelet analysis and signal processing", 1992; Mallat, "A
    wavelet tour of signal processing", 2009 (sections 7.5 and 8.1).

    >>> import jax.numpy as jnp
    >>> split(jnp.ones((4, 4)))[:, 0, 0].round(3).tolist()
    [2.0, 0.0, 0.0, 0.0]
    """
    x = jnp.asarray(x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] % 2 or not x.shape[-1]:
        raise RitzError(
            f"wavelets.split: an array of shape {x.shape} arrived, expected square fields of even "
            "side in the last two axes"
        )
    rows = [_filtered(x, filter, -2) for filter in _filters(low_pass)]
    both = [_filtered(y, filter, -1) for y in rows for filter in _filters(low_pass)]
    return jnp.stack(both, axis=-3)


def merge(bands: ArrayLike, low_pass: Any = HAAR) -> Float[Array, "*batch side side"]:
    """The inverse, and the transpose, of `split`.

    Args:
        bands: what `split` returned.
        low_pass: the same filter.

    Returns:
        the fields.

    Raises:
        RitzError: where there are not four square bands, and for a filter of odd length.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(16.0).reshape(4, 4)
    >>> bool(abs(merge(split(x, DAUBECHIES4), DAUBECHIES4) - x).max() < 1e-4)
    True
    """
    bands = jnp.asarray(bands)
    if bands.ndim < 3 or bands.shape[-3] != 4 or bands.shape[-1] != bands.shape[-2]:
        raise RitzError(
            f"wavelets.merge: an array of shape {bands.shape} arrived, expected four square bands "
            "in the last three axes, as split returns them"
        )
    low, high = _filters(low_pass)
    both = lambda a, b, axis: _spread(a, low, axis) + _spread(b, high, axis)
    rows = [both(bands[..., i, :, :], bands[..., i + 1, :, :], -1) for i in (0, 2)]
    return both(rows[0], rows[1], -2)


def packets(
    x: ArrayLike, levels: int, low_pass: Any = HAAR
) -> Float[Array, "*batch bands side side"]:
    """The whole packet tree: every band of a level is split again.

    Args:
        x: fields, in the last two axes.
        levels: how often; the side must be a multiple of 2 to this power.
        low_pass: as for `split`.

    Returns:
        4 ** levels bands; the four that came from one are neighbours.

    Raises:
        RitzError: as `split`, and where the side is too short.

    >>> import jax.numpy as jnp
    >>> packets(jnp.ones((8, 8)), 2).shape
    (16, 2, 2)
    """
    bands = jnp.asarray(x)[..., None, :, :]
    for _ in range(levels):
        bands = split(bands, low_pass)
        bands = bands.reshape(*bands.shape[:-4], -1, *bands.shape[-2:])
    return bands


def unpack(bands: ArrayLike, levels: int, low_pass: Any = HAAR) -> Float[Array, "*batch side side"]:
    """The inverse, and the transpose, of `packets`.

    Args:
        bands: what `packets` returned.
        levels: the same.
        low_pass: the same.

    Returns:
        the fields.

    Raises:
        RitzError: where there are not 4 ** levels square bands.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(64.0).reshape(8, 8)
    >>> bool(abs(unpack(packets(x, 2), 2) - x).max() < 1e-4)
    True
    """
    bands = jnp.asarray(bands)
    if bands.ndim < 3 or bands.shape[-3] != 4**levels:
        raise RitzError(
            f"wavelets.unpack: an array of shape {bands.shape} arrived, expected {4**levels} bands "
            f"for {levels} levels in the axis before the last two"
        )
    for _ in range(levels):
        bands = bands.reshape(*bands.shape[:-3], -1, 4, *bands.shape[-2:])
        bands = merge(bands, low_pass)
    return bands[..., 0, :, :]


def _filters(low_pass: Any) -> tuple[np.ndarray, np.ndarray]:
    h = np.asarray(low_pass, float)
    if h.ndim != 1 or len(h) % 2 or not len(h):
        raise RitzError(
            f"wavelets: a low-pass filter of shape {h.shape} arrived, expected an even number of "
            "values, such as ritz.wavelets.HAAR"
        )
    return h, h[::-1] * (-1.0) ** np.arange(len(h))


def _filtered(x: Array, filter: np.ndarray, axis: int) -> Array:
    terms = [float(f) * jnp.roll(x, -k, axis) for k, f in enumerate(filter)]
    return sum(terms[1:], terms[0]).take(np.arange(0, x.shape[axis], 2), axis)


def _spread(y: Array, filter: np.ndarray, axis: int) -> Array:
    apart = jnp.stack([y, jnp.zeros_like(y)], axis=axis % y.ndim + 1)
    shape = list(y.shape)
    shape[axis] *= 2
    x = apart.reshape(shape)
    terms = [float(f) * jnp.roll(x, k, axis) for k, f in enumerate(filter)]
    return sum(terms[1:], terms[0])
