"""Entropic plans: two points in closed form, Sinkhorn against Newton, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ritz import RitzError
from ritz.transport import gaussian_plan, sinkhorn, sinkhorn_newton

SOLVERS = (sinkhorn, sinkhorn_newton)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("solver", SOLVERS)
def test_two_points_are_known_in_closed_form(solver):
    """The plan of two equal pairs has the logit (C12 + C21 - C11 - C22) / 2 epsilon."""
    cost = np.array([[0.1, 0.9], [0.7, 0.3]])
    found = solver(cost, epsilon=0.5, tolerance=1e-12)
    share = 1.0 / (1.0 + np.exp(-(0.9 + 0.7 - 0.1 - 0.3) / (2 * 0.5)))
    exact = 0.5 * np.array([[share, 1 - share], [1 - share, share]])
    np.testing.assert_allclose(found.plan, exact, atol=1e-12)
    np.testing.assert_allclose(found.cost, (exact * cost).sum(), rtol=1e-10)
    # The convention matters: with half the weight of the entropy it is another plan.
    assert np.abs(solver(cost, epsilon=0.25, tolerance=1e-12).plan - exact).max() > 0.01


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("epsilon", [0.05, 0.005])
def test_newton_and_sinkhorn_find_one_plan(epsilon):
    rng = np.random.default_rng(0)
    x, y, a = rng.normal(size=(40, 2)), rng.normal(size=(30, 2)), rng.dirichlet(np.ones(40))
    given = {"epsilon": epsilon, "tolerance": 1e-9}
    slow = sinkhorn(x, y, a, steps=50_000, **given)
    fast = sinkhorn_newton(x, y, a, **given)
    np.testing.assert_allclose(fast.plan, slow.plan, atol=1e-9)
    assert fast.iterations < 60
    assert fast.iterations < 0.3 * slow.iterations
    for found in (slow, fast):
        off = np.abs(found.plan.sum(1) - a).sum() + np.abs(found.plan.sum(0) - 1 / 30).sum()
        np.testing.assert_allclose(found.marginal_error, off, atol=1e-14)
        cost = 0.5 * ((x[:, None] - y) ** 2).sum(-1)
        again = np.exp((found.f[:, None] + found.g - cost) / epsilon)
        np.testing.assert_allclose(found.plan, again, rtol=1e-6)


@pytest.mark.usefixtures("double")
def test_without_coupling_newton_is_no_better_than_sweeps():
    """The wrong variant: a Hessian whose blocks off the diagonal are left out."""
    cost = np.random.default_rng(1).uniform(size=(60, 60))
    given = {"epsilon": 0.002, "tolerance": 1e-9, "steps": 200}
    assert sinkhorn_newton(cost, **given).iterations < 60
    with pytest.warns(RuntimeWarning, match="marginals are off"):
        assert not sinkhorn_newton(cost, neighbours=0, **given).converged


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("solver", SOLVERS)
def test_points_without_weight_take_no_part(solver):
    rng = np.random.default_rng(2)
    cost, a = rng.uniform(size=(6, 5)), np.array([0.5, 0.0, 0.2, 0.0, 0.2, 0.1])
    whole = solver(cost, None, a, epsilon=0.1, tolerance=1e-9)
    rest = solver(cost[a > 0], None, a[a > 0], epsilon=0.1, tolerance=1e-9)
    np.testing.assert_allclose(np.asarray(whole.plan)[a > 0], rest.plan, atol=1e-9)
    assert not np.asarray(whole.plan)[a == 0].any()
    assert np.isneginf(np.asarray(whole.f)[a == 0]).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_large_sample_has_the_plan_between_gaussians(solver):
    """The cross-covariance of 1,000 pairs, with an epsilon at which that is enough of them."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(1000, 1)), 2.0 * rng.normal(size=(1000, 1))
    found = solver(x, y, epsilon=1.0, tolerance=1e-4)
    exact = gaussian_plan([0.0], x.T @ x / 1000, [0.0], y.T @ y / 1000, 1.0).covariance[0, 1]
    np.testing.assert_allclose(float(x[:, 0] @ np.asarray(found.plan) @ y[:, 0]), exact, atol=0.05)


@pytest.mark.parametrize("solver", SOLVERS)
def test_too_few_steps_are_told(solver):
    with pytest.warns(RuntimeWarning, match="tolerance 0.0001"):
        found = solver(np.random.default_rng(4).uniform(size=(50, 50)), epsilon=2e-3, steps=10)
    assert not found.converged
    assert found.iterations == 10


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a": [0.5, 0.6]}, "a sums to 1.1"),
        ({"b": [1.5, -0.5]}, "b holds -0.5 at 1"),
        ({"a": [np.nan, 1.0]}, "not finite"),
        ({"a": [1.0]}, r"a of shape \(1,\)"),
        ({"a": "even"}, "a arrived as 'even'"),
        ({"x": [[0.0, np.nan], [1.0, 0.0]]}, r"nan at \(0, 1\)"),
        ({"x": np.zeros(3)}, r"a cost of shape \(3,\)"),
        ({"x": "cost"}, "a cost arrived as 'cost'"),
        ({"y": np.zeros((3, 1))}, "2 and 1 coordinates"),
        ({"y": np.zeros(3)}, "y of shape"),
        ({"epsilon": 0.0}, "epsilon=0.0"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"tolerance": 1e-10}, "float32"),
        ({"steps": 0}, "steps=0"),
    ],
)
def test_bad_input_is_refused_in_a_line(solver, change, said):
    given = {"x": [[0.0, 1.0], [1.0, 0.0]], "epsilon": 0.1} | change
    with pytest.raises(RitzError, match=said) as caught:
        solver(**given)
    assert "\n" not in str(caught.value)


def test_counts_of_newton_are_checked():
    with pytest.raises(RitzError, match="neighbours=-1"):
        sinkhorn_newton(jnp.zeros((2, 2)), epsilon=0.1, neighbours=-1)
    with pytest.raises(RitzError, match=r"sweeps=0\.5"):
        sinkhorn_newton(jnp.zeros((2, 2)), epsilon=0.1, sweeps=0.5)
