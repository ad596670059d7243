"""Pathfinder: its memory, its search, one path, several, and bad starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import gaussian, moments, off

import ritz
from ritz import RitzError
from ritz.solver import pathfinder
from ritz.solver._lbfgs import Memory, descend, empty, line_search, remember, root
from ritz.target import from_log_density


def filled(d, pairs, seed=0):
    """A memory of more pairs than it holds, from a quadratic."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, d))
    hessian = jnp.asarray(factor @ factor.T + np.eye(d))
    memory = empty(jnp.asarray(rng.normal(size=d)), pairs)
    steps = [jnp.asarray(rng.normal(size=d)) for _ in range(pairs + 2)]
    for s in steps:
        memory = remember(memory, s, hessian @ s)
    return memory, hessian, steps


def updated(memory):
    """The inverse Hessian by the formula as it is printed."""
    h = np.diag(np.asarray(memory.diagonal))
    for s, y, rho in zip(*map(np.asarray, (memory.s, memory.y, memory.rho)), strict=True):
        v = np.eye(len(s)) - rho * np.outer(y, s)
        h = v.T @ h @ v + rho * np.outer(s, s)
    return h


def test_the_memory_is_that_of_bfgs():
    with jax.enable_x64(True):
        memory, hessian, steps = filled(5, 3)
        h, f = updated(memory), np.asarray(root(memory))
        np.testing.assert_allclose(f @ f.T, h, rtol=1e-9)
        g = jnp.asarray(np.random.default_rng(1).normal(size=5))
        np.testing.assert_allclose(descend(memory, g), -h @ np.asarray(g), rtol=1e-9)
        # The secant equation, of the newest pair; and what cannot be a curvature is left out.
        newest = hessian @ steps[-1]
        np.testing.assert_allclose(h @ np.asarray(newest), steps[-1], rtol=1e-9)
        same = remember(memory, steps[0], -newest)
        assert all(np.array_equal(a, b) for a, b in zip(memory, same, strict=True))


def test_an_empty_memory_is_a_short_step():
    memory = empty(jnp.array([1e6, -0.1]), 4)
    assert isinstance(memory, Memory)
    np.testing.assert_allclose(descend(memory, jnp.array([1e6, -0.1])), [-1.0, 0.1], rtol=1e-6)


SEARCHES = {
    # name: f along the step, its derivative.
    "too short": (lambda t: (t - 100.0) ** 2, lambda t: 2.0 * (t - 100.0)),
    "too long": (lambda t: (t - 1e-3) ** 2, lambda t: 2.0 * (t - 1e-3)),
    "nan": (
        lambda t: jnp.where(t < 0.1, (t - 0.05) ** 2, jnp.nan),
        lambda t: jnp.where(t < 0.1, 2.0 * (t - 0.05), jnp.nan),
    ),
    "infinite": (lambda t: -jnp.log(t + 0.1) - jnp.log(0.5 - t), None),
}


@pytest.mark.parametrize(("f", "slope"), SEARCHES.values(), ids=SEARCHES)
def test_the_search_meets_wolfes_conditions(f, slope):
    with jax.enable_x64(True):
        slope = jax.grad(f) if slope is None else slope
        at = lambda t: (f(t), slope(t)[None])
        zero = jnp.zeros(())
        found = line_search(at, *at(zero), jnp.ones(1))
        assert float(found.share) > 0.0
        assert float(found.value) <= float(f(zero) + 1e-4 * found.share * slope(zero))
        assert float(found.grad[0]) >= 0.9 * float(slope(zero))
        assert int(found.tried) < 30


def test_where_nothing_is_lower_it_stays():
    at = lambda t: (jnp.where(t > 0, jnp.nan, 1.0), -jnp.ones(1))
    found = line_search(at, jnp.ones(()), -jnp.ones(1), jnp.ones(1))
    assert float(found.share) == 0.0
    assert float(found.value) == 1.0


def test_a_gaussian_of_few_dimensions():
    with jax.enable_x64(True):
        target, mean, covariance = gaussian(5, 1e4)
        fit = ritz.fit(target, solver=pathfinder())
        assert fit.stop_reason == "converged"
        wrong_mean, wrong_cov = off(fit, mean, covariance)
        assert wrong_mean < 1e-2
        assert wrong_cov < 0.2
        assert fit.correction is None
        assert fit.info["evaluations"] < 400


def test_several_paths_find_several_modes(tmp_path):
    """Two modes of equal weight; one path sees one."""
    modes = jnp.array([[1.5, 1.5], [-1.5, -1.5]])
    density = lambda x: jax.nn.logsumexp(-0.5 * ((x - modes) ** 2).sum(1) / 0.16)
    target = from_log_density(density, jnp.array([0.3, 0.3]))
    one = ritz.fit(target, solver=pathfinder(1))
    assert abs(float(jnp.abs(one.q.loc).min()) - 1.5) < 0.1
    many = ritz.fit(target, solver=pathfinder(8))
    share = float((many.draws["theta"][:, 0] > 0).mean())
    assert abs(share - 0.5) < 0.05
    assert many.correction == "importance"
    assert many.khat < 0.7
    assert many.distinct > 3000
    np.testing.assert_allclose(many.sd(), np.sqrt(1.5**2 + 0.16), rtol=0.03)
    spread = np.std(np.asarray(many.sample(2000)), axis=0)
    np.testing.assert_allclose(spread, np.sqrt(1.5**2 + 0.16), rtol=0.06)
    assert many.status == "ok"
    many.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit", target)
    assert again.q.components == 8
    np.testing.assert_array_equal(again.sample(5), many.sample(5))


def test_paths_that_fail_have_no_share():
    """From half of the starts the density falls into a hole; the others still make a fit."""

    def density(x):
        hole = jnp.where(x[0] < -0.5, jnp.nan, 0.0)
        return -0.5 * ((x - 6.0) ** 2).sum() + hole

    target = from_log_density(density, jnp.array([0.0, 0.0]))
    fit = ritz.fit(target, solver=pathfinder(6))
    np.testing.assert_allclose(fit.mean(), 6.0, atol=0.1)
    np.testing.assert_allclose(fit.sd(), 1.0, rtol=0.05)
    assert fit.status == "ok"


def test_a_path_without_any_gaussian_says_so():
    spike = lambda x: jnp.where(jnp.abs(x).max() < 1e-3, -x @ x, -jnp.inf)
    fit = ritz.fit(from_log_density(spike, jnp.zeros(2)), solver=pathfinder(2))
    assert fit.status != "ok"


def test_units_far_apart():
    with jax.enable_x64(True):
        mean, sd = jnp.array([1e4, -2e4, 1.0]), jnp.array([1e-3, 10.0, 1e3])
        density = lambda x: -0.5 * (((x - mean) / sd) ** 2).sum()
        fit = ritz.fit(from_log_density(density, jnp.zeros(3)), solver=pathfinder())
        found, covariance = moments(fit.q)
        assert np.abs((found - mean) / sd).max() < 1e-2
        np.testing.assert_allclose(np.sqrt(np.diag(covariance)), sd, rtol=0.1)


BAD = {
    "paths": (lambda: pathfinder(0), "paths"),
    "pairs": (lambda: pathfinder(pairs=0), "pairs"),
    "draws": (lambda: pathfinder(draws=5), "draws=5 arrived, expected an even number"),
    "family": (
        lambda: ritz.fit(gaussian(2, 2.0)[0], family="mean_field", solver="pathfinder", steps=1),
        "Pathfinder does not move a MeanField; use family='full_rank'",
    ),
    "family of several": (
        lambda: ritz.fit(gaussian(2, 2.0)[0], family="mean_field", solver=pathfinder(2), steps=1),
        "Pathfinder does not move a MeanField; use family='full_rank'",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
