"""The kernel Stein discrepancy: its formula, its level, and what it finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ritz
from ritz import RitzError
from ritz.diagnose import ksd
from ritz.target import from_log_density


def by_hand(x, scores):
    """The U-statistic by derivatives of the kernel, pair by pair."""
    with jax.enable_x64(True):
        axes = np.linalg.inv(np.linalg.cholesky(np.cov(x.T, bias=True)))
        z, s = x @ axes.T, scores @ np.linalg.inv(axes)
        k = lambda a, b: (1.0 + ((a - b) ** 2).sum() / len(a)) ** -0.5
        cross = jax.jacobian(jax.grad(k, 0), 1)

        def pair(a, sa, b, sb):
            mixed = sa @ jax.grad(k, 1)(a, b) + sb @ jax.grad(k, 0)(a, b)
            return sa @ sb * k(a, b) + mixed + jnp.trace(cross(a, b))

        row = jax.vmap(pair, (None, None, 0, 0))
        u = np.array(jax.vmap(row, (0, 0, None, None))(z, s, z, s))
    np.fill_diagonal(u, 0.0)
    return u.sum() / len(x) ** 2


def test_it_is_its_formula():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 3))
    scores = np.stack([np.sin(x[:, 0]), -x[:, 1], 0.3 - x[:, 2] ** 3], axis=1)
    assert ksd(x, scores).squared == pytest.approx(by_hand(x, scores), rel=1e-9)


@pytest.mark.parametrize("d", [1, 4])
def test_p_values_of_right_draws_are_uniform(d):
    """Of correlated Gaussians, 300 times; and those of slightly wrong ones are not."""
    rng = np.random.default_rng(d)
    root = np.linalg.cholesky(0.1 * np.eye(d) + 0.9)
    precision = np.linalg.inv(root @ root.T)
    draws = [rng.normal(size=(100, d)) @ root.T for _ in range(300)]
    p = lambda move: np.array(
        [ksd(move(x), -move(x) @ precision, i).p_value for i, x in enumerate(draws)]
    )
    right = p(lambda x: x)
    assert stats.kstest(right, "uniform").pvalue > 1e-3
    assert (right < 0.05).mean() < 0.05 + 4 * (0.05 * 0.95 / 300) ** 0.5
    assert stats.kstest(p(lambda x: 0.85 * x), "uniform").pvalue < 1e-4


@pytest.mark.parametrize(
    "wrong", [lambda x: x + 0.25, lambda x: 0.75 * x, lambda x: np.abs(x), lambda x: 1.3 * x]
)
@pytest.mark.parametrize("seed", range(3))
def test_wrong_draws_are_found(wrong, seed):
    x = wrong(np.random.default_rng(seed).normal(size=(1000, 2)))
    assert ksd(x, -x).p_value < 0.005


def test_units_do_not_matter():
    x = np.random.default_rng(0).normal(size=(300, 2)) + 0.2
    turn = np.array([[1e3, 2e2], [0.0, 1e-3]])
    one, other = ksd(x, -x), ksd(x @ turn.T, -x @ np.linalg.inv(turn))
    assert other.squared == pytest.approx(one.squared, rel=1e-5)
    assert other.p_value == one.p_value


@pytest.mark.parametrize("seed", range(3))
def test_repeated_draws_are_heavier_ones(seed):
    """Draws of a wide proposal, resampled by importance weights, are right ones."""
    rng = np.random.default_rng(seed)
    x = 1.5 * rng.normal(size=(2000, 1))
    weights = np.exp(-0.5 * x**2 * (1.0 - 1.0 / 1.5**2)).ravel()
    often = rng.choice(x, 1000, p=weights / weights.sum())
    assert len(np.unique(often)) < 900
    assert ksd(often, -often).p_value > 0.01
    assert ksd(x[:1000], -x[:1000]).p_value < 0.01


def test_memory_is_linear_in_draws():
    import tracemalloc

    def peak(n):
        x = np.random.default_rng(0).normal(size=(n, 2))
        tracemalloc.start()
        ksd(x, -x)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(3000) < 3.5 * peak(1000)  # nine times, were it quadratic


def test_a_fit_that_is_too_narrow_is_told_by_it():
    precision = np.linalg.inv([[1.0, 0.95], [0.95, 1.0]])
    target = from_log_density(lambda x: -0.5 * x @ jnp.asarray(precision) @ x, jnp.zeros(2))
    right = ritz.fit(target, progress=False).diagnose()
    narrow = ritz.fit(target, family="mean_field", steps=2000, progress=False).diagnose()
    assert right.measures["KSD"][0].p_value > 0.01 > narrow.measures["KSD"][0].p_value
    assert "are not told from the posterior's" in str(right)
    assert "draws are told from the posterior's" in str(narrow)


def test_a_score_that_is_not_finite_is_infinitely_wrong():
    x = np.random.default_rng(0).normal(size=(50, 1))
    assert ksd(x, np.where(x > 0.5, np.nan, -x)).squared == np.inf


@pytest.mark.parametrize(
    ("x", "scores", "says"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), r"\(3, 2\) and scores of shape \(3, 1\)"),
        (np.zeros(3), np.zeros(3), "expected two arrays of one shape"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "1 different draws arrived"),
    ],
)
def test_bad_input(x, scores, says):
    with pytest.raises(RitzError, match=says):
        ksd(x, scores)
