r"""What latents do to rows: one at a time, and from row to row."""

from typing import Any

import numpy as np

from ritz._errors import RitzError, positive, whole_number
from ritz.latent._codebook import Codebook
from ritz.latent._vae import VAE


def traversal(vae: VAE, x: Any, row: Any = 0, steps: Any = 7, width: Any = 2.0) -> np.ndarray:
    r"""Rows decoded from the latents of one, each moved in turn.

    Latent j goes from :math:`m_j - c\,s_j` to :math:`m_j + c\,s_j`, where m and s are the mean and
    sd over rows of their encodings; the others stay. Where nothing changes along it, the decoder
    does without it. Show images with `ritz.plot.images`.

    Args:
        vae: trained.
        x: rows.
        row: the number of the row whose latents are moved.
        steps: of each latent, two at least.
        width: c.

    Returns:
        shape (latent, steps, ...).

    Raises:
        RitzError: for codes, which cannot be moved, no such row, or numbers out of range.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 2)) @ np.ones((2, 5))
    >>> traversal(VAE(2, epochs=2, progress=False).fit(x), x).shape
    (2, 7, 5)
    """
    whole_number("steps", steps, 2)
    z = _encoded("traversal", vae, x)
    whole_number("row", row, 0)
    if row >= len(z):
        raise RitzError(f"traversal: row={row} arrived, but there are {len(z)} rows")
    positive("traversal: width", width)
    moved = np.tile(z[row], (z.shape[1], steps, 1))
    ends = width * z.std(axis=0)[:, None] * np.linspace(-1.0, 1.0, steps)
    for j, along in enumerate(z.mean(axis=0)[:, None] + ends):
        moved[j, :, j] = along
    rows = vae.decode(moved.reshape(-1, z.shape[1]))
    return rows.reshape(z.shape[1], steps, *rows.shape[1:])


def interpolation(vae: VAE, first: Any, last: Any, steps: Any = 7) -> np.ndarray:
    """Rows decoded along the lines between the encodings of pairs of rows.

    Args:
        vae: trained.
        first: rows, (n, ...).
        last: as many others.
        steps: of each line, both ends among them.

    Returns:
        shape (n, steps, ...).

    Raises:
        RitzError: for codes, unequal numbers of rows, or fewer than two steps.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 2)) @ np.ones((2, 5))
    >>> interpolation(VAE(2, epochs=2, progress=False).fit(x), x[:3], x[3:6]).shape
    (3, 7, 5)
    """
    whole_number("steps", steps, 2)
    one, two = _encoded("interpolation", vae, first), _encoded("interpolation", vae, last)
    if len(one) != len(two):
        raise RitzError(f"interpolation: {len(one)} and {len(two)} rows arrived, expected pairs")
    share = np.linspace(0.0, 1.0, steps)[:, None]
    z = one[:, None] * (1.0 - share) + two[:, None] * share
    rows = vae.decode(z.reshape(-1, z.shape[2]))
    return rows.reshape(len(one), steps, *rows.shape[1:])


def _encoded(name: str, vae: VAE, x: Any) -> np.ndarray:
    if isinstance(vae._fitted.target.prior, Codebook):  # pyright: ignore[reportPrivateUsage]
        raise RitzError(f"{name}: this VAE's latents are codes, between which there is nothing")
    return vae.encode(x)
