"""Targets that solvers of Gaussian families are tested on, and how far a fit is off."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ritz.target import from_log_density


def gaussian(d, condition, seed=0):
    """A Gaussian target with its mean and covariance, and a start ten units away."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    precision = (axes * np.logspace(0.0, np.log10(condition), d)) @ axes.T
    mean = 3.0 * rng.normal(size=d)
    p, m = jnp.asarray(precision, float), jnp.asarray(mean, float)
    target = from_log_density(lambda x: -0.5 * (x - m) @ p @ (x - m), jnp.zeros(d))
    return target, mean, np.linalg.inv(precision)


def moments(q):
    """Mean and covariance of a Gaussian family."""
    if hasattr(q, "factor"):
        scale, factor = np.exp(np.asarray(q.log_scale, float)), np.asarray(q.factor, float)
        inner = np.eye(len(scale)) + factor @ factor.T
        return np.asarray(q.loc, float), np.outer(scale, scale) * inner
    tril = q.scale_tril if hasattr(q, "scale_tril") else jnp.diag(jnp.exp(q.log_scale))
    tril = np.asarray(tril, float)
    return np.asarray(q.loc, float), tril @ tril.T


def off(fit, mean, covariance):
    """Errors of the mean, in sds, and of the covariance, in products of sds."""
    sd = np.sqrt(np.diag(covariance))
    tril = np.asarray(fit.q.scale_tril, float)
    wrong = (tril @ tril.T - covariance) / np.outer(sd, sd)
    return np.abs((np.asarray(fit.q.loc, float) - mean) / sd).max(), np.abs(wrong).max()


def banana(scale):
    unit = jnp.array([1.0, scale])
    density = lambda x: -0.5 * (x[0] ** 2 + (x[1] - 0.3 * (x[0] ** 2 - 1.0)) ** 2)
    return from_log_density(lambda x: density(x / unit), jnp.zeros(2))


class Quadratic(eqx.Module):
    """Not a posterior: |p - centre|² / 2 with noise in its gradient."""

    centre: jax.Array
    noise: float = 0.1

    @property
    def oracles(self):
        return frozenset({"grad"})

    @property
    def params(self):
        return jnp.zeros_like(self.centre)

    def grad(self, params, key, batch=None):
        centre = self.centre if batch is None else batch[0].mean(axis=0)
        off = params - centre + self.noise * jax.random.normal(key, params.shape)
        return off, {"loss": 0.5 * (off @ off)}
