"""Steps in the Bures–Wasserstein space, and the matrix roots, against exact answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import ritz
from ritz import linalg
from ritz.solver import (
    AbstractBuresWasserstein,
    bures_wasserstein_gradient,
    cubature,
    forward_backward,
)
from ritz.target import from_log_density

SEEDS = (0, 1, 2)


def gaussian(seed, condition, d=4, scale=1.0):
    """A Gaussian target whose largest curvature is 1 / scale^2: target, mean, covariance."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    cov = axes * np.geomspace(1.0, condition, d) @ axes.T * scale**2
    mean = 3.0 * scale * rng.normal(size=d)
    precision, m = jnp.asarray(np.linalg.inv(cov)), jnp.asarray(mean)
    target = from_log_density(lambda x: -0.5 * (x - m) @ precision @ (x - m), jnp.zeros(d))
    return target, mean, cov


def narrow(scale):
    return lambda target, start: ritz.family.full_rank(target, start, scale)


def covariance(q):
    """By NumPy, as float64 is off again where a test asks."""
    lower = np.tril(np.asarray(q.lower), -1) + np.eye(q.dim)
    factor = np.exp(np.asarray(q.log_scale))[:, None] * lower
    return factor @ factor.T


def kl_by_step(history, cov):
    return history.loss + 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]


class OneSided(AbstractBuresWasserstein):
    """M Sigma instead of M Sigma M: the forward step on one side only."""

    def factor(self, step_size, curvature, tril):
        moved = jnp.eye(len(tril)) - step_size * curvature
        values, vectors = jnp.linalg.eigh(moved @ tril @ tril.T)
        half = jnp.maximum(values, 0.0)
        after = 0.5 * (half + 2 * step_size + jnp.sqrt(half * (half + 4 * step_size)))
        return vectors * jnp.sqrt(after)


class WithoutFourH(AbstractBuresWasserstein):
    """The root without its 4hI."""

    def factor(self, step_size, curvature, tril):
        vectors, sigma, _ = jnp.linalg.svd(tril - step_size * curvature @ tril)
        return vectors * jnp.sqrt(sigma**2 + step_size)


def reaches(solver_of, seed, condition, scale=1.0):
    """Whether KL < 1e-8 within 20 kappa steps of h = 1 / beta, falling all the way."""
    with jax.enable_x64(True):
        target, mean, cov = gaussian(seed, condition, scale=scale)
        solver = solver_of(scale**2)
        steps = 20 * condition + 1
        fit = ritz.fit(target, family=narrow(scale), solver=solver, steps=steps, progress=False)
    kl = kl_by_step(fit.history, cov)
    return bool(kl[-1] < 1e-8) and bool(np.diff(kl).max() < 1e-12), fit, mean, cov


def exact(h):
    return forward_backward(h, expectation=cubature())


@pytest.mark.parametrize("condition", [10, 100])
@pytest.mark.parametrize("seed", SEEDS)
def test_gaussian_targets_are_reached(seed, condition):
    held, fit, mean, cov = reaches(exact, seed, condition)
    assert held
    np.testing.assert_allclose(fit.q.loc, mean, rtol=0, atol=1e-7)
    np.testing.assert_allclose(covariance(fit.q), cov, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "condition"), [(2, 100_000), (20, 1_000), (100, 100)])
def test_gaussian_targets_are_reached_at_any_size(d, condition):
    with jax.enable_x64(True):
        target, mean, cov = gaussian(0, condition, d)
        q = ritz.family.FullRank(jnp.zeros(d), jnp.full(d, -2.3), jnp.zeros((d, d)))
        steps = 20 * condition
        fit = ritz.fit(target, family=q, solver=exact(1.0), steps=steps, progress=False)
    errors = np.linalg.solve(cov, covariance(fit.q)) - np.eye(d)
    away = np.asarray(fit.q.loc) - mean
    assert away @ np.linalg.solve(cov, away) < 1e-8
    assert np.abs(errors).max() < 1e-6


def test_units_do_not_matter():
    held, fit, mean, cov = reaches(exact, 0, 10, scale=1e-3)
    assert held
    np.testing.assert_allclose(fit.q.loc, mean, rtol=1e-6)
    np.testing.assert_allclose(covariance(fit.q), cov, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("wrong", [WithoutFourH, OneSided])
def test_wrong_variants_miss_gaussian_targets(wrong):
    assert not reaches(lambda h: wrong(jnp.asarray(h), cubature()), 0, 10)[0]


def test_step_matches_the_formula():
    """One step from a known Gaussian, by scipy's matrix square root."""
    with jax.enable_x64(True):
        target, mean, cov = gaussian(1, 10)
        fit = ritz.fit(target, family=narrow(0.7), solver=exact(0.3), steps=1, progress=False)
    h, start, identity = 0.3, 0.49 * np.eye(4), np.eye(4)
    move = identity - h * np.linalg.inv(cov)
    half = move @ start @ move
    after = 0.5 * (half + 2 * h * identity + scipy.linalg.sqrtm(half @ (half + 4 * h * identity)))
    np.testing.assert_allclose(covariance(fit.q), after, atol=1e-12)
    np.testing.assert_allclose(fit.q.loc, h * np.linalg.solve(cov, mean), atol=1e-12)
    descent = bures_wasserstein_gradient(0.3, expectation=cubature())
    with jax.enable_x64(True):
        fit = ritz.fit(target, family=narrow(0.7), solver=descent, steps=1, progress=False)
    move = identity - h * (np.linalg.inv(cov) - np.linalg.inv(start))
    np.testing.assert_allclose(covariance(fit.q), move @ start @ move, atol=1e-12)


@pytest.mark.parametrize("condition", [10, 1000])
def test_float32(condition):
    target, mean, cov = gaussian(0, condition)
    solver = exact(1.0)
    fit = ritz.fit(target, solver=solver, family="full_rank", steps=20 * condition, progress=False)
    sd = np.sqrt(np.diag(cov))
    assert fit.q.loc.dtype == jnp.float32
    assert np.abs((np.asarray(fit.q.loc) - mean) / sd).max() < 1e-3
    assert np.abs((covariance(fit.q) - cov) / np.outer(sd, sd)).max() < 1e-3


def test_float32_from_a_very_narrow_start():
    target, _, cov = gaussian(0, 10)
    fit = ritz.fit(target, family=narrow(1e-12), solver=exact(1.0), steps=200, progress=False)
    assert np.abs(covariance(fit.q) / cov - 1).max() < 1e-2


def test_draws_on_a_model():
    """A conjugate model, by single draws and by several, through the public call."""
    import numpyro
    import numpyro.distributions as dist

    y = np.array([1.0, 2.0, 3.0, 2.5])

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    precision = 4.0 + 0.01
    for draws in (1, 8):
        solver = forward_backward(0.02, draws)
        fit = ritz.fit(model, (y,), solver=solver, steps=2000, progress=False)
        # The Hessian is constant, so the covariance is exact; the mean keeps the noise of its last
        # 1 / (h precision) steps: a standard deviation of sqrt(h precision / 2 K) posterior sds.
        assert abs(float(covariance(fit.q)[0, 0]) * precision - 1) < 1e-3
        noise = (0.02 * precision / (2 * draws)) ** 0.5
        assert abs(float(fit.q.loc[0]) - y.sum() / precision) * precision**0.5 < 4 * noise
        assert ("loss_se" in fit.history.columns) == (draws > 1)
        assert fit.info["solver"] == "ForwardBackward"


def test_same_seed_same_bits_and_nothing_compiled_again():
    target, *_ = gaussian(0, 10)
    fits = [
        ritz.fit(target, solver=forward_backward(h), family="full_rank", steps=50, progress=False)
        for h in (0.1, 0.1, 0.05)
    ]
    assert np.array_equal(fits[0].q.loc, fits[1].q.loc)
    assert not np.array_equal(fits[0].q.loc, fits[2].q.loc)
    assert not fits[1].info["compiled"]
    assert not fits[2].info["compiled"]


def test_a_step_too_long_stops_at_the_last_finite_state():
    target = from_log_density(lambda x: -0.5 * (x**4).sum(), jnp.ones(2))
    with pytest.warns(RuntimeWarning, match="is not finite"):
        fit = ritz.fit(
            target, solver=forward_backward(1e6), family="full_rank", steps=200, progress=False
        )
    assert fit.stop_reason == "not finite"
    assert np.isfinite(np.asarray(fit.q.loc)).all()


@pytest.mark.parametrize("h", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("build", [forward_backward, bures_wasserstein_gradient])
def test_bad_step_size(build, h):
    with pytest.raises(ritz.RitzError, match=r"step_size=.* expected a positive number") as error:
        build(h)
    assert "\n" not in str(error.value)


def test_bad_draws():
    with pytest.raises(ritz.RitzError, match="draws=0 arrived"):
        forward_backward(0.1, 0)


def test_bad_pairings():
    class Other(ritz.objective.AbstractObjective):
        needs = frozenset()

    target, *_ = gaussian(0, 10)
    with pytest.raises(ritz.RitzError, match="does not move a MeanField; use family='full_rank'"):
        ritz.fit(target, family="mean_field", solver=forward_backward(0.1), steps=1)
    solver = forward_backward(0.1)
    with pytest.raises(ritz.RitzError, match=r"the objective is Other; use .*negative_elbo\(\)"):
        ritz.fit(target, family="full_rank", objective=Other(), solver=solver, steps=1)


# -- matrix roots ---------------------------------------------------------------------------------


def covariances(seed, batch=(3,), d=8, draws=40):
    x = np.random.default_rng(seed).normal(size=(*batch, draws, d))
    return np.swapaxes(x, -1, -2) @ x / draws


METHODS = {
    "eigh": (1, 1),
    "pade": (16, 14),
    "taylor": (200, 14),
}
ROOTS = {linalg.sqrtm: 0.5, linalg.inv_sqrtm: -0.5}


def root_of(function, method):
    degree, steps = METHODS[method]
    return lambda a: function(a, method, degree=degree, lyapunov_steps=steps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", ROOTS, ids=lambda f: f.__name__)
def test_root_and_gradient(function, method):
    root = root_of(function, method)
    with jax.enable_x64(True):
        a = covariances(0)
        g = np.random.default_rng(1).normal(size=a.shape)
        exact = np.stack([np.real(scipy.linalg.sqrtm(m)) for m in a])
        exact = exact if function is linalg.sqrtm else np.linalg.inv(exact)
        np.testing.assert_allclose(root(a), exact, rtol=0, atol=1e-6 * np.abs(exact).max())

        def eigen(a):
            values, vectors = jnp.linalg.eigh(a)
            return (vectors * values[..., None, :] ** ROOTS[function]) @ vectors.swapaxes(-1, -2)

        loss = lambda root: jax.grad(lambda a: (root(a) * g).sum())
        found, reference = loss(jax.jit(root))(jnp.asarray(a)), loss(eigen)(jnp.asarray(a))
        np.testing.assert_allclose(found, reference, atol=1e-5 * np.abs(reference).max())
        # Finite differences along a symmetric direction.
        direction = np.random.default_rng(2).normal(size=a.shape)
        direction = direction + np.swapaxes(direction, -1, -2)
        value = lambda t: float((root(a + t * direction) * g).sum())
        slope = (value(1e-5) - value(-1e-5)) / 2e-5
        assert abs(float((found * direction).sum()) - slope) < 1e-5 * abs(slope) + 1e-5


def test_gradient_where_eigenvalues_coincide():
    """There the derivative of an eigendecomposition divides by zero."""
    gradient = jax.grad(lambda a: linalg.sqrtm(a)[0, 1])(4.0 * jnp.eye(3))
    exact = np.zeros((3, 3))
    exact[0, 1] = exact[1, 0] = 0.125  # G / (2 sqrt 4), made symmetric
    np.testing.assert_allclose(gradient, exact, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "degree", "error"), [("eigh", 1, 2e-6), ("pade", 7, 1e-4), ("taylor", 200, 2e-5)]
)
def test_root_in_float32_and_under_vmap(method, degree, error):
    a = covariances(3).astype(np.float32)
    root = lambda a: linalg.sqrtm(a, method, degree=degree)
    found = np.asarray(root(jnp.asarray(a)))
    assert found.dtype == np.float32
    exact = np.stack([np.real(scipy.linalg.sqrtm(m)) for m in a.astype(float)])
    np.testing.assert_allclose(found, exact, rtol=0, atol=error * np.abs(exact).max())
    np.testing.assert_allclose(jax.vmap(root)(jnp.asarray(a)), found, rtol=0, atol=error)
    scaled = 1e3 * np.asarray(root(jnp.asarray(1e-6 * a)))  # other units
    np.testing.assert_allclose(scaled, found, rtol=0, atol=error)


def test_pade_error_is_as_documented():
    with jax.enable_x64(True):
        a = np.diag([1.0, 0.05])
        for degree in (1, 3, 6):
            rho = ((1 - 0.05**0.5) / (1 + 0.05**0.5)) ** (2 * degree + 1)
            found = float(linalg.sqrtm(a, "pade", degree=degree)[1, 1]) / 0.05**0.5 - 1
            assert found == pytest.approx(2 * rho / (1 - rho), rel=1e-6)


BAD = {
    r"shape \(2, 3\) arrived, expected square": np.ones((2, 3)),
    r"shape \(3,\) arrived": np.ones(3),
    "holds nan": np.array([[1.0, np.nan], [np.nan, 1.0]]),
    "differs from its transpose by 1": np.array([[2.0, 1.0], [0.0, 2.0]]),
    "has the eigenvalue -1": np.array([[1.0, 2.0], [2.0, 1.0]]),
    "dtype int.* arrived": np.eye(2, dtype=int),
}


@pytest.mark.parametrize("message", BAD)
@pytest.mark.parametrize("function", ROOTS, ids=lambda f: f.__name__)
def test_bad_matrices(function, message):
    with pytest.raises(ritz.RitzError, match=message) as error:
        function(BAD[message])
    assert "\n" not in str(error.value)


def test_bad_options():
    with pytest.raises(ritz.RitzError, match="degree=0 arrived"):
        linalg.sqrtm(np.eye(2), "pade", degree=0)
    with pytest.raises(ritz.RitzError, match="lyapunov_steps=0 arrived"):
        linalg.sqrtm(np.eye(2), "pade", lyapunov_steps=0)
