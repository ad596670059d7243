"""The full covariance that a mean-field optimum knows of: how it answers to perturbations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import paramax

from ritz._compile import compile
from ritz._errors import RitzError, whole_number
from ritz.family import MeanField
from ritz.solver._fixed_draws import matched_noise, moved, points, product, size_of

_DENSE_UP_TO = 1024
_COLUMNS = 16


class LinearResponse(NamedTuple):
    """Posterior moments by linear response.

    Attributes:
        mean: under q, of each quantity.
        cov: between the quantities.
    """

    mean: np.ndarray
    cov: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """Standard deviations."""
        return np.sqrt(np.diag(self.cov))


def linear_response(
    fit: Any, quantities: Callable[[Any], Any] | None = None, *, draws: Any = 100
) -> LinearResponse:
    r"""The posterior covariance by the linear response of a mean-field fit.

    If the log density is tilted by :math:`t^\top g(\theta)`, the posterior mean of g moves by its
    covariance times t. So does the variational one, where the approximation is good in the mean:

    .. math:: \widehat{\mathrm{Cov}}(g) =
        \frac{\partial\,\mathbb{E}_q g}{\partial\eta}\,
        \Bigl(\frac{\partial^2 \mathcal L}{\partial\eta^2}\Bigr)^{-1}
        \frac{\partial\,\mathbb{E}_q g}{\partial\eta}^{\!\top},

    with the parameters :math:`\eta` of q and the negative ELBO :math:`\mathcal L` at its optimum.
    On a Gaussian target it is exact, while the variances of q are too small. Expectations are
    over fixed draws in pairs; up to 512 dimensions the Hessian is factorised, above it each
    quantity costs a solve by conjugate gradients.

    Args:
        fit: one of the family "mean_field", by any solver, at its optimum.
        quantities: from the model's parameters, in the structure of `fit.sample`, to an array or
            a pytree of them, flattened here; by default all latent scalars, ordered as
            `fit.labels`.
        draws: for the expectations, an even number.

    Returns:
        means and covariances.

    Raises:
        RitzError: for another family, a fit loaded without its model, an odd number of draws, and
            a fit that is not at a minimum of the loss.

    Giordano, Broderick and Jordan, "Covariances, robustness, and variational Bayes", 2018.

    >>> import jax.numpy as jnp, ritz
    >>> precision = jnp.array([[2.0, -1.0], [-1.0, 1.0]])  # the variances are 1 and 2
    >>> target = ritz.target.from_log_density(lambda x: -0.5 * x @ precision @ x, jnp.zeros(2))
    >>> fit = ritz.fit(target, family="mean_field", solver="dadvi")
    >>> bool(abs(linear_response(fit).cov - jnp.linalg.inv(precision)).max() < 1e-3)
    True
    """
    if whole_number("draws", draws, 2) % 2:
        raise RitzError(f"linear_response: draws={draws} arrived, expected an even number: pairs")
    q, target = fit.q, fit.target
    if not isinstance(q, MeanField):
        raise RitzError(
            f"linear_response corrects a mean-field fit, but this one's family is "
            f"{type(q).__name__}; fit with family='mean_field', or use fit.cov()"
        )
    if not target.has_full_density:
        raise RitzError(
            "linear_response needs the log density of all the data; load the fit with its model, "
            "or fit without batches"
        )
    noise = matched_noise(fit.key, draws, q.dim, q.loc.dtype)
    args = (paramax.unwrap(q), target, noise)
    run = lambda q, target, noise: _respond(q, target, noise, quantities)
    mean, cov, least = map(np.asarray, compile(run, *args)(*args))
    if not (np.isfinite(cov).all() and least > 0):
        raise RitzError(
            "linear_response: the loss has no minimum at this fit, so that it does not answer "
            "linearly; fit to convergence with solver='dadvi'"
        )
    return LinearResponse(mean.astype(np.float64), cov.astype(np.float64))


def _respond(q: Any, target: Any, noise: Any, quantities: Any) -> Any:
    origin = jnp.zeros(size_of(q), q.loc.dtype)

    def expected(v: Any) -> Any:
        """Means of the quantities where the parameters are moved by v."""

        def at(x: Any) -> Any:
            values = target.constrain(x)
            if quantities is None:
                return jnp.concatenate([jnp.ravel(values[s.name]) for s in target.sites])
            return jax.flatten_util.ravel_pytree(quantities(target.pack(values)))[0]

        return jax.vmap(at)(points(moved(q, v), noise)).mean(axis=0)

    mean = expected(origin)
    derivative = jax.jacrev if mean.size < origin.size else jax.jacfwd
    slopes = derivative(expected)(origin)
    image = lambda v: product(target, q, noise, v)
    if origin.size <= _DENSE_UP_TO:
        eye = jnp.eye(origin.size, dtype=origin.dtype)
        hessian = jax.lax.map(image, eye, batch_size=_COLUMNS)
        hessian = 0.5 * (hessian + hessian.T)
        values, vectors = jnp.linalg.eigh(hessian)
        half = (slopes @ vectors) / jnp.sqrt(jnp.abs(values))
        return mean, half @ half.T, values[0]
    solve = lambda row: jax.scipy.sparse.linalg.cg(image, row, tol=1e-6, maxiter=2000)[0]
    solved = jax.lax.map(solve, slopes)
    cov = slopes @ solved.T
    return mean, 0.5 * (cov + cov.T), jnp.diagonal(cov).min()
