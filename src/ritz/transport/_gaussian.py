"""Entropic transport between Gaussians, in closed form."""

import numbers
from typing import Any, NamedTuple

import numpy as np

from ritz._errors import RitzError


class GaussianPlan(NamedTuple):
    """A joint Gaussian of x and y; made by `gaussian_plan`.

    Attributes:
        mean: of (x, y), shape (2d,).
        covariance: shape (2d, 2d).
    """

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def slope(self) -> np.ndarray:
        """A of the conditional mean, m1 + A (x - m0), shape (d, d)."""
        d = len(self.mean) // 2
        return np.linalg.solve(self.covariance[:d, :d], self.covariance[:d, d:]).T

    @property
    def conditional_covariance(self) -> np.ndarray:
        """Of y given x, shape (d, d)."""
        d = len(self.mean) // 2
        return self.covariance[d:, d:] - self.slope @ self.covariance[:d, d:]


def gaussian_plan(mean0: Any, cov0: Any, mean1: Any, cov1: Any, epsilon: Any) -> GaussianPlan:
    r"""The entropic plan between two Gaussians, for the cost :math:`\tfrac12\|x - y\|^2`.

    It minimises :math:`\mathbb{E}_\pi\tfrac12\|x-y\|^2 + \epsilon\,\mathrm{KL}(\pi\,\|\,p_0
    \otimes p_1)` and is Gaussian, with the cross-covariance

    .. math:: C = \Sigma_0^{1/2}\left(\Sigma_0^{1/2}\Sigma_1\Sigma_0^{1/2}
        + \tfrac{\epsilon^2}4 I\right)^{1/2}\Sigma_0^{-1/2} - \tfrac\epsilon2 I.

    The same plan joins the ends of the Schrödinger bridge whose reference is a Brownian motion of
    variance epsilon. Janati, Muzellec, Peyré and Cuturi 2020, "Entropic optimal transport between
    unbalanced Gaussian measures has a closed form", arXiv:2006.02572, theorem 1.

    Args:
        mean0: of x, shape (d,).
        cov0: its covariance, shape (d, d).
        mean1: of y.
        cov1: its covariance.
        epsilon: weight of the entropy; 0 gives the optimal transport itself.

    Raises:
        RitzError: for shapes that do not fit, a covariance that is not symmetric and positive
            definite, or a negative epsilon.

    >>> plan = gaussian_plan([0.0], [[1.0]], [3.0], [[4.0]], epsilon=0.0)
    >>> plan.slope.item()  # y = 3 + 2x
    2.0
    """
    number = isinstance(epsilon, numbers.Real) and not isinstance(epsilon, bool)
    if not number or not float(epsilon) >= 0:
        raise RitzError(f"epsilon={epsilon!r} arrived, expected a number from 0 up, such as 0.1")
    weight = float(epsilon)
    m0, s0, m1, s1 = (np.asarray(v, np.float64) for v in (mean0, cov0, mean1, cov1))
    d = m0.size
    if m0.shape != (d,) or m1.shape != (d,) or s0.shape != (d, d) or s1.shape != (d, d):
        raise RitzError(
            f"means of shapes {m0.shape} and {m1.shape} and covariances of shapes {s0.shape} and "
            f"{s1.shape} arrived, expected (d,) and (d, d) with one d"
        )
    for name, s in (("cov0", s0), ("cov1", s1)):
        if not np.allclose(s, s.T) or not np.linalg.eigvalsh(s).min() > 0:
            raise RitzError(f"{name} is not symmetric and positive definite")
    root, inverse = _power(s0, 0.5), _power(s0, -0.5)
    middle = _power(root @ s1 @ root + 0.25 * weight**2 * np.eye(d), 0.5)
    cross = root @ middle @ inverse - 0.5 * weight * np.eye(d)
    return GaussianPlan(np.concatenate([m0, m1]), np.block([[s0, cross], [cross.T, s1]]))


def _power(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = (np.asarray(v, np.float64) for v in np.linalg.eigh(matrix))
    return (vectors * np.maximum(values, 0.0) ** power) @ vectors.T
