"""Kernels against scikit-learn's, formulas and infinite networks; any of them is positive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.gaussian_process import kernels as sk

import ritz
from ritz.gp import (
    arc_cosine,
    linear,
    matern,
    neural_network,
    on,
    periodic,
    polynomial,
    rational_quadratic,
    rbf,
    spectral_mixture,
)

X = np.random.default_rng(0).normal(size=(7, 2))
Z = np.random.default_rng(1).normal(size=(5, 2))
LENGTHS = np.array([0.7, 1.9])

THEIRS = [
    (rbf(LENGTHS, 2.0), 2.0 * sk.RBF(LENGTHS)),
    (matern(0.5, LENGTHS), sk.Matern(LENGTHS, nu=0.5)),
    (matern(1.5, 0.8, 3.0), 3.0 * sk.Matern(0.8, nu=1.5)),
    (matern(2.5, LENGTHS), sk.Matern(LENGTHS, nu=2.5)),
    (rational_quadratic(0.6, 1.3), sk.RationalQuadratic(1.3, 0.6)),
    (linear(2.0), sk.DotProduct(np.sqrt(2.0))),
    (polynomial(3, 2.0), sk.DotProduct(np.sqrt(2.0)) ** 3),
    (rbf(0.9) + 0.5 * matern(1.5), sk.RBF(0.9) + 0.5 * sk.Matern(nu=1.5)),
    (rbf(0.9) * linear(), sk.RBF(0.9) * sk.DotProduct()),
]
ALL = [
    *(mine for mine, _ in THEIRS),
    periodic(1.3, 0.8),
    on(periodic(1.3), 1) * rbf(),
    spectral_mixture([1.0, 0.5], [[0.2, 0.5], [1.0, 0.1]], [[0.1, 0.2], [0.3, 0.1]]),
    arc_cosine(0),
    arc_cosine(1),
    neural_network(),
]


@pytest.mark.parametrize(("mine", "theirs"), THEIRS)
def test_matrices_are_scikit_learns(mine, theirs):
    found = mine.matrix(jnp.asarray(X, float), jnp.asarray(Z, float))
    np.testing.assert_allclose(found, theirs(X, Z), rtol=2e-5, atol=2e-6)


def test_a_periodic_one_is_scikit_learns_for_a_column():
    mine = periodic(1.3, 0.8).matrix(jnp.asarray(X[:, :1], float), jnp.asarray(Z[:, :1], float))
    np.testing.assert_allclose(mine, sk.ExpSineSquared(0.8, 1.3)(X[:, :1], Z[:, :1]), rtol=1e-4)


def test_a_mixture_of_spectra_is_the_fourier_transform_of_them():
    kernel = spectral_mixture([1.5], [[0.4]], [[0.1]])
    lag = 0.7
    found = kernel.matrix(jnp.zeros((1, 1)), jnp.full((1, 1), lag))[0, 0]
    s = np.linspace(-2.0, 2.0, 40_001)
    one = lambda m: np.exp(-0.5 * ((s - m) / 0.1) ** 2) / (0.1 * np.sqrt(2 * np.pi))
    spectrum = 0.5 * (one(0.4) + one(-0.4))
    exact = 1.5 * np.sum(spectrum * np.cos(2 * np.pi * s * lag)) * (s[1] - s[0])
    assert float(found) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("order", [0, 1])
def test_arcs_are_expectations_over_units(order):
    a = np.random.default_rng(2).normal(size=(400_000, 3))
    x, z = np.array([0.5, -1.0]), np.array([1.2, 0.3])
    weight, bias = np.array([0.7, 1.4]), 0.6
    seen = lambda v: a @ np.concatenate([[np.sqrt(bias)], np.sqrt(weight) * v])
    unit = (lambda u: u > 0) if order == 0 else (lambda u: np.maximum(u, 0.0))
    terms = 2.0 * unit(seen(x)) * unit(seen(z))
    kernel = arc_cosine(order, weight, bias)
    found = kernel.matrix(jnp.asarray(x[None], float), jnp.asarray(z[None], float))[0, 0]
    assert abs(float(found) - terms.mean()) < 5.0 * terms.std() / np.sqrt(len(terms))


def test_the_network_of_sigmoids_is_an_expectation():
    from scipy.special import erf

    a = np.random.default_rng(3).normal(size=(400_000, 3))
    x, z = np.array([0.5, -1.0]), np.array([1.2, 0.3])
    seen = lambda v: erf(a @ np.concatenate([[1.0], v]))
    terms = seen(x) * seen(z)
    found = neural_network().matrix(jnp.asarray(x[None], float), jnp.asarray(z[None], float))
    assert abs(float(found[0, 0]) - terms.mean()) < 5.0 * terms.std() / np.sqrt(len(terms))


@pytest.mark.parametrize("kernel", ALL)
def test_any_is_positive_and_its_diagonal_is_that_of_the_matrix(kernel):
    x = jnp.asarray(np.random.default_rng(4).normal(size=(40, 2)), float)
    k = np.asarray(kernel.matrix(x, x), float)
    np.testing.assert_allclose(k, k.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.diag(k), kernel.diagonal(x), rtol=1e-3, atol=1e-4)
    assert np.linalg.eigvalsh(0.5 * (k + k.T)).min() > -2e-5 * np.trace(k)


@pytest.mark.parametrize("kernel", [matern(0.5), matern(2.5), arc_cosine(1), arc_cosine(0)])
def test_slopes_are_finite_where_rows_meet(kernel):
    x = jnp.ones((3, 2))
    slope = jax.grad(lambda x: kernel.matrix(x, x).sum())(x)
    assert bool(jnp.isfinite(slope).all())


def test_slopes_are_differences():
    x, z = jnp.asarray(X[:1], float), jnp.asarray(Z[:1], float)
    for kernel in ALL:
        value = lambda t, kernel=kernel: kernel.matrix(x.at[0, 0].add(t), z)[0, 0]
        slope, h = jax.grad(value)(0.0), 1e-2
        assert float(slope) == pytest.approx(float(value(h) - value(-h)) / (2 * h), abs=5e-3)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rbf(-1.0), "lengthscale=-1.0"),
        (lambda: rbf("long"), "lengthscale='long'"),
        (lambda: matern(2.0), "order 2.0"),
        (lambda: on(rbf()), "columns ()"),
        (lambda: on(rbf(), 3).matrix(jnp.zeros((1, 2)), jnp.zeros((1, 2))), "column 3"),
        (lambda: on(2.0, 1), "a kernel arrived as float"),
        (lambda: rbf() * 0.0, "times 0.0"),
        (lambda: rbf() + 1.0, "a kernel arrived as float"),
        (lambda: rbf([1.0] * 3).matrix(jnp.zeros((1, 2)), jnp.zeros((1, 2))), "of 3 columns"),
        (lambda: spectral_mixture([1.0], [[1.0]], [[1.0, 2.0]]), "(1,), (1, 1) and (1, 2)"),
        (lambda: polynomial(0), "degree=0"),
        (lambda: arc_cosine(2), "order 2"),
    ],
)
def test_bad_kernels_are_told_in_a_line(make, said):
    with pytest.raises(ritz.RitzError) as error:
        make()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
