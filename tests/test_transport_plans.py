"""Plans: two points in closed form, Sinkhorn against Newton, energies, conditional transport."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz import RitzError
from ritz.target import from_samples
from ritz.transport import (
    ConditionalTransport,
    EnergyPlan,
    EnergyPlanLoss,
    conditional_transport,
    energy_plan,
    gaussian_plan,
    sinkhorn,
    sinkhorn_newton,
)

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
        np.testing.assert_allclose(found.plan, again, rtol=1e-6, atol=1e-15)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_where_no_newton_step_climbs_a_sweep_goes_on(seed):
    """Uneven weights on a grid and little entropy: without sweeps seeds 0, 2 and 3 end far off."""
    at = np.stack(np.meshgrid(np.arange(7), np.arange(7)), -1).reshape(-1, 2) / 6.0
    a, b = np.random.default_rng(seed).gamma(0.3, size=(2, 49)) + 1e-4
    given = {"a": a / a.sum(), "b": b / b.sum(), "tolerance": 1e-9, "steps": 5000}
    cost = ((at[:, None] - at) ** 2).sum(-1)
    for epsilon, most in ((1e-3, 300), (3e-4, 5000)):
        found = sinkhorn_newton(cost, epsilon=epsilon, **given)
        assert found.converged
        assert found.iterations < most


@pytest.mark.usefixtures("double")
def test_without_coupling_newton_is_no_better_than_sweeps():
    """The wrong variant: a Hessian whose blocks off the diagonal are left out."""
    cost = np.random.default_rng(1).uniform(size=(60, 60))
    given = {"epsilon": 0.002, "tolerance": 1e-8, "steps": 200}
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


def energy(epsilon=0.5, slope=0.0, kind=EnergyPlan, **options):
    """A plan in one dimension whose potential is a straight line."""
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(500, 1)), rng.normal(size=(500, 1))
    q = energy_plan(x0, epsilon, depth=0, **options)(from_samples(x1), jnp.zeros(1))
    layer = lambda q: (q.potential.layers[0].weight, q.potential.layers[0].bias)
    linear = (jnp.full((1, 1), slope), jnp.zeros(1))
    q = eqx.tree_at(layer, q, linear)
    return eqx.tree_at(lambda q: q.epsilon, kind(**vars(q)), jnp.asarray(epsilon))


class Hot(EnergyPlan):
    """Chains whose noise is that of twice the temperature."""

    @property
    def temperature(self):
        return 2.0 * self.epsilon


@pytest.mark.parametrize(("kind", "right"), [(EnergyPlan, True), (Hot, False)])
def test_chains_of_a_straight_potential_end_in_a_normal_distribution(kind, right):
    """Its mean is z + slope, its variance epsilon: no share of the step's size is left."""
    epsilon, slope, z = 0.5, 0.7, 1.2
    q = energy(epsilon, slope, kind, length=40, step=0.3)
    keys = jax.random.split(jax.random.key(0), 10_000)
    ends = np.asarray(jax.vmap(lambda key: q.walk(jnp.asarray([z]), key))(keys))[:, 0]
    assert abs(ends.mean() - z - slope) < 4 * ends.std() / len(ends) ** 0.5
    # Without Metropolis' rule the variance would be larger by 1 / (1 - 0.15).
    assert (abs(ends.var() / epsilon - 1) < 4 * (2 / len(ends)) ** 0.5) == right


def test_the_gradient_is_the_difference_of_means():
    """Of a straight potential: mean of the chains' ends less that of the data."""
    target = from_samples(np.random.default_rng(1).normal(size=(500, 1)) + 2.0)
    q = energy(rows=64)
    key = jax.random.key(3)
    grad = jax.grad(
        lambda s: EnergyPlanLoss().loss(
            eqx.tree_at(lambda q: q.potential.layers[0].weight, paramax.unwrap(q), s), target, key
        )
    )(jnp.zeros((1, 1)))
    start, other, walks = jax.random.split(key, 3)
    _, m1, scale = paramax.unwrap(q.frame)
    source = paramax.unwrap(q.source)
    x = source[jax.random.randint(start, (64,), 0, len(source))]
    ends = jax.vmap(q.walk)(x, jax.random.split(walks, 64))
    data = (target.draw(other, 64) - m1) / scale
    np.testing.assert_allclose(float(grad[0, 0]), float(ends.mean() - data.mean()), rtol=1e-4)


def test_an_energy_learns_the_plan_between_gaussians():
    rng = np.random.default_rng(5)
    x0, x1 = rng.normal(size=(3000, 1)), 5.0 + 1.5 * rng.normal(size=(3000, 1))
    family = energy_plan(x0, epsilon=0.5, width=32)
    fit = ritz.fit(from_samples(x1), family=family, steps=1500, lr=0.01, progress=False)
    q: Any = fit.q
    x, y = jax.jit(jax.vmap(q.pair))(jax.random.split(jax.random.key(0), 20_000))
    found = np.cov(np.asarray(x)[:, 0], np.asarray(y)[:, 0])
    exact = gaussian_plan([0.0], [[1.0]], [5.0], [[2.25]], 0.5).covariance
    np.testing.assert_allclose(found, exact, atol=0.15)
    # At another epsilon, or with nothing to do with each other, they would be further away.
    assert (
        abs(gaussian_plan([0.0], [[1.0]], [5.0], [[2.25]], 1.5).covariance[0, 1] - exact[0, 1])
        > 0.3
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: energy_plan(np.zeros(3)), "x0 of shape"),
        (lambda: energy_plan(np.zeros((3, 1)), -0.1), "epsilon=-0.1"),
        (lambda: energy_plan(np.zeros((3, 1)), width=0), "width=0"),
        (lambda: energy_plan(np.zeros((3, 1)), step=0.0), "step=0.0"),
        (lambda: conditional_transport(weight=1.5), "weight=1.5"),
        (lambda: conditional_transport(critic="yes"), "critic='yes'"),
        (lambda: conditional_transport(rows=0), "rows=0"),
    ],
)
def test_bad_options_are_refused_in_a_line(given, said):
    with pytest.raises(RitzError, match=said) as caught:
        given()
    assert "\n" not in str(caught.value)


def test_conditional_transport_of_two_samples_is_known():
    """With distances of its own: each coupling is a softmax along its own axis."""
    apart = jnp.asarray([[0.0, 1.0], [2.0, 0.5], [1.0, 0.0]])
    there, back = ConditionalTransport().couplings(apart)
    np.testing.assert_allclose(there.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(back.sum(0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(there[0, 0] / there[0, 1], np.e, rtol=1e-5)
    np.testing.assert_allclose(back[0, 0] / back[1, 0], np.e**2, rtol=1e-5)


def test_a_critic_climbs_where_the_rest_descends():
    x = np.random.default_rng(0).normal(size=(300, 2)) + 1.0
    target = from_samples(x)
    q = conditional_transport("full_rank", rows=32, width=8)(target, jnp.zeros(2))
    loss = lambda q: ConditionalTransport().loss(paramax.unwrap(q), target, jax.random.key(0))[0]
    grad = eqx.filter_grad(loss)(q)
    for name, sign in (("critic", 1.0), ("navigator", -1.0), ("base", -1.0)):
        part, slope = getattr(q, name), getattr(grad, name)
        moved = eqx.apply_updates(part, jax.tree.map(lambda g: -1e-3 * g, slope))
        change = loss(eqx.tree_at(lambda q, name=name: getattr(q, name), q, moved)) - loss(q)
        assert sign * float(change) > 0, name


def test_what_cannot_be_moved_is_refused():
    samples = from_samples(np.random.default_rng(0).normal(size=(100, 1)))
    density = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.zeros(1))
    for family in (conditional_transport(), energy_plan(np.zeros((5, 1)))):
        with pytest.raises(RitzError, match="from_samples"):
            ritz.fit(density, family=family, progress=False)
    with pytest.raises(RitzError, match="2 coordinates"):
        ritz.fit(samples, family=energy_plan(np.zeros((5, 2))), progress=False)
