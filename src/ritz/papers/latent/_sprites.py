"""Images of a shape whose factors are known, as in dSprites."""

import numpy as np

SIZE = 32
CLASSES = (0,)  # which factors have no order: the shape
_LEVELS = (3, 6, 40, 32, 32)


def sprites(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images and their factors: shape, scale, rotation, x and y.

    Args:
        n: how many.
        seed: of the factors.

    Returns:
        pixels of 0 or 1, (n, 1024), and factors' levels, (n, 5): 3 shapes (square, ellipse, heart),
        6 scales, 40 rotations, 32 places along either axis.
    """
    rng = np.random.default_rng(seed)
    levels = np.stack([rng.integers(k, size=n) for k in _LEVELS], axis=1)
    shape, scale, turn, x, y = levels.T
    radius = (4.0 + 3.0 * scale / 5.0)[:, None, None]
    angle = (2.0 * np.pi * turn / 40.0)[:, None, None]
    low, high = 9.0, SIZE - 10.0  # so that every shape is whole
    across, down = (low + (high - low) * v[:, None, None] / 31.0 for v in (x, y))
    rows, columns = np.mgrid[:SIZE, :SIZE]
    u, v = (columns - across) / radius, (rows - down) / radius
    u, v = np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u
    square = np.maximum(np.abs(u), np.abs(v)) <= 0.8
    ellipse = u**2 + (v / 0.55) ** 2 <= 1.0
    a, b = 1.3 * u, 0.2 - 1.3 * v
    heart = (a**2 + b**2 - 1.0) ** 3 <= a**2 * b**3
    images = np.choose(shape[:, None, None], [square, ellipse, heart])
    return images.reshape(n, -1).astype(np.float32), levels
