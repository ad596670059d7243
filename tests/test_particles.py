"""Clouds of particles: directions, fixed points, stationary laws, verdicts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.distributions import constraints
from scipy import linalg

import ritz
from ritz import RitzError
from ritz._groups import _by_neighbours, in_groups
from ritz._verdict import _by_scores
from ritz.objective import stein_discrepancy
from ritz.particle import (
    adaptive,
    coin,
    functional,
    imq,
    langevin,
    mean_discrepancy,
    mean_field_langevin,
    mirrored_svgd,
    natural_svgd,
    particles,
    rbf,
    structured_langevin,
    svgd,
    wasserstein_flow,
)
from ritz.particle._interactions import stein_step
from ritz.particle._kernels import median
from ritz.particle._langevin import kinetic
from ritz.particle._mirrored import Local, metric_direction, plain_direction
from ritz.particle._mirrors import Blocks, Box, Entropy, Positive, Whole
from ritz.particle._wasserstein import log_density_slope


def normal(d=2, mean=0.0, sd=1.0):
    log_density = lambda x: -0.5 * (((x - mean) / sd) ** 2).sum()
    return ritz.target.from_log_density(log_density, jnp.zeros(d))


def cloud(n, d, seed=0):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(n, d)) + 0.3)
    return x, jnp.asarray(rng.normal(size=(n, d)))


# -- directions, against their definitions by automatic differentiation ---------------------------


def of_pair(kernel, h2):
    def k(x, y):
        return kernel.of(((x - y) ** 2).sum() / h2)[0]

    return k


def by_definition(x, s, kernel):
    """Stein's direction and discrepancy, a pair at a time."""
    k = of_pair(kernel, kernel.squared_scale(x))
    slope = jax.grad(k)

    def phi(y, x=x, s=s):
        return jax.vmap(lambda x, s: k(x, y) * s + slope(x, y))(x, s).mean(0)

    def stein(x, s, y, t):
        cross = jnp.trace(jax.jacfwd(jax.grad(k, 1), 0)(x, y))
        return k(x, y) * s @ t + s @ jax.grad(k, 1)(x, y) + t @ slope(x, y) + cross

    each = jax.vmap(lambda x, s, y, t: stein(x, s, y, t), (None, None, 0, 0))
    total = jax.vmap(lambda a, b: each(a, b, x, s))(x, s).mean()
    return jax.vmap(phi)(x), total


@pytest.mark.parametrize("kernel", [rbf(), rbf("median/log n"), rbf(1.3), imq(), imq(0.7, -0.2)])
def test_steins_direction_is_its_definition(kernel):
    x, s = cloud(7, 3)
    phi, value = stein_step(x, s, kernel)
    exact, total = by_definition(x, s, kernel)
    np.testing.assert_allclose(phi, exact, atol=2e-6)
    np.testing.assert_allclose(value, total, rtol=2e-5)


def test_a_direction_that_attracts_is_found():
    """The wrong variant of the test above: the kernel's slope with the other sign."""
    x, s = cloud(7, 3)
    exact, _ = by_definition(x, s, rbf(1.3))
    repulsion = stein_step(x, jnp.zeros_like(s), rbf(1.3))[0]
    wrong = stein_step(x, s, rbf(1.3))[0] - 2.0 * repulsion
    assert np.abs(np.asarray(wrong - exact)).max() > 1e-2


def test_rows_in_pieces_are_the_whole(monkeypatch):
    x, s = cloud(101, 3)
    whole = stein_step(x, s, imq())
    slope = log_density_slope(x, rbf(), "blob")
    monkeypatch.setattr("ritz.particle._interactions._AT_ONCE", 1500)
    pieces = stein_step(x, s, imq())
    np.testing.assert_allclose(pieces[0], whole[0], atol=1e-6)
    np.testing.assert_allclose(pieces[1], whole[1], rtol=1e-5)
    np.testing.assert_allclose(log_density_slope(x, rbf(), "blob"), slope, atol=1e-5)


def test_the_discrepancy_as_a_loss_is_that_of_its_kernel():
    x, _ = cloud(9, 2)
    target = normal(2, 0.5, 2.0)
    s = -(x - 0.5) / 4.0
    q = particles(9, 1.0)(target, jnp.zeros(2))
    q = ritz.family.Particles(x, True)
    loss = stein_discrepancy(1.7).loss(q, target, jax.random.key(0))
    np.testing.assert_allclose(loss, by_definition(x, s, imq(1.7))[1], rtol=1e-5)


def test_the_adaptive_scale_is_that_of_the_largest_discrepancy_of_others():
    x, s = cloud(30, 2)
    factors = (0.3, 1.0, 3.0)
    told = []
    h = float(rbf().squared_scale(x - x.mean(0))) ** 0.5
    for c in factors:
        kernel = rbf(c * h)
        value = float(stein_step(x, s, kernel)[1])
        own = float((s**2).sum(1).mean() + 2 * 2 / (c * h) ** 2)
        told.append(value - own / 30)
    best = rbf(factors[int(np.argmax(told))] * h)
    found = stein_step(x, s, adaptive(rbf(), factors))
    np.testing.assert_allclose(found[0], stein_step(x, s, best)[0], atol=1e-6)


def test_the_median_is_the_median():
    x, _ = cloud(60, 3)
    apart = np.asarray(((x[:, None] - x[None]) ** 2).sum(-1))[np.triu_indices(60, 1)]
    np.testing.assert_allclose(median(x), np.median(apart), rtol=0.02)


@pytest.mark.parametrize("smoothing", ["blob", "density", "function"])
def test_slopes_of_smoothed_densities_are_their_definitions(smoothing):
    x, _ = cloud(8, 2)
    kernel = rbf(1.1)
    k = of_pair(kernel, kernel.squared_scale(x))
    matrix = jax.vmap(lambda a: jax.vmap(lambda b: k(a, b))(x))(x)
    slopes = jax.vmap(lambda a: jax.vmap(lambda b: jax.grad(k)(a, b))(x))(x)  # ∇_i k(x_i, x_j)
    mass = matrix.sum(1)
    if smoothing == "function":
        inverse = jnp.linalg.inv(matrix + 1e-2 * jnp.eye(8))
        exact = inverse @ slopes.sum(1)  # ∇_j k = -∇_i k
    else:
        weights = 1.0 / mass[:, None] + (smoothing == "blob") / mass[None]
        exact = (slopes * weights[..., None]).sum(1)
    np.testing.assert_allclose(log_density_slope(x, kernel, smoothing), exact, atol=1e-4)


def test_blobs_fall_along_the_gradient_of_their_energy():
    """The direction is minus n times the gradient of the smoothed divergence, which is a number."""
    x, _ = cloud(12, 2)
    kernel = rbf(0.9)
    k = of_pair(kernel, kernel.squared_scale(x))

    def energy(x):
        matrix = jax.vmap(lambda a: jax.vmap(lambda b: k(a, b))(x))(x)
        return jnp.log(matrix.mean(1)).mean()

    exact = 12 * jax.grad(energy)(x)
    np.testing.assert_allclose(log_density_slope(x, kernel, "blob"), exact, atol=1e-5)
    assert np.abs(np.asarray(log_density_slope(x, kernel, "density") - exact)).max() > 1e-2


# -- fixed points and stationary laws -------------------------------------------------------------


def test_two_particles_come_to_rest_where_they_must():
    """On a standard normal with a Gaussian kernel, ±a with a² = h²/4 log(1 + 4/h² · 1)... by root.

    At x = ±a the direction at a is [-a + e^{-4a²/h²} (a + 4a/h²)] / 2, zero where
    e^{4a²/h²} = 1 + 4/h².
    """
    h = 2.0
    fit = ritz.fit(
        normal(1),
        family=particles(2, 1.0),
        solver=svgd(rbf(h), optimiser=optax.sgd(0.3)),
        steps=3000,
        progress=False,
    )
    a = 0.5 * h * np.log1p(4.0 / h**2) ** 0.5
    np.testing.assert_allclose(np.sort(np.asarray(fit.q.points).ravel()), [-a, a], atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_langevin_has_the_variance_of_its_step(seed):
    h = 0.5
    solver = langevin(h, metric=None, keep=50, every=20)
    fit = ritz.fit(
        normal(2), family=particles(200, 1.0), solver=solver, steps=1100, seed=seed, progress=False
    )
    x = np.asarray(fit.q.points, np.float64)
    assert len(x) == 10_000
    exact = 1.0 / (1.0 - h / 2)
    se = exact * (2.0 / x.size) ** 0.5
    assert abs(x.var() - exact) < 4 * se
    assert abs(x.var() - 1.0) > 8 * se  # that of the target, which an exact step would have


def test_kinetic_dynamics_have_the_variance_of_their_step():
    """The discrete Lyapunov equation of a linear force tells it exactly."""
    h, friction = 0.4, 1.5
    decay = np.exp(-friction * h)
    reach = (1 - decay) / friction
    move = np.array([[1 - (h - reach) / friction, reach], [-reach, decay]])
    noise_x = (2 / friction) * (h - 2 * reach + (1 - decay**2) / (2 * friction))
    noise = np.array([[noise_x, (1 - decay) ** 2 / friction]] * 2)
    noise[1] = [(1 - decay) ** 2 / friction, 1 - decay**2]
    exact = linalg.solve_discrete_lyapunov(move, noise)
    solver = langevin(h, friction=friction, metric=None, keep=50, every=20)
    fit = ritz.fit(normal(2), family=particles(200, 1.0), solver=solver, steps=1100, progress=False)
    x = np.asarray(fit.q.points, np.float64)
    se = exact[0, 0] * (2.0 / x.size) ** 0.5
    assert abs(x.var() - exact[0, 0]) < 4 * se
    assert abs(exact[0, 0] - 1.0) > 4 * se


@pytest.mark.parametrize("h", [1e-4, 1e-2, 0.0999, 0.1001, 1.0])
def test_kinetic_noise_is_exact_for_short_steps_in_single_precision(h):
    n = 200_000
    zero = jnp.zeros((n, 1))
    args = (jnp.asarray(h), jnp.asarray(1.0), jnp.asarray(1.0), jax.random.key(0))
    x, v = (np.asarray(a, np.float64).ravel() for a in kinetic(zero, zero, zero, *args))
    decay = np.exp(-h)
    exact_v = -np.expm1(-2 * h)
    exact_x = (
        2 * (h**3 / 3 - h**4 / 4 + 7 * h**5 / 60)
        if h < 0.05
        else (2 * (h - 2 * (1 - decay) + (1 - decay**2) / 2))
    )
    exact_both = (1 - decay) ** 2
    np.testing.assert_allclose(x.var(), exact_x, rtol=0.02)
    np.testing.assert_allclose(v.var(), exact_v, rtol=0.02)
    np.testing.assert_allclose((x * v).mean(), exact_both, rtol=0.03)


def test_a_functional_of_the_law_has_its_gibbs_law():
    """F linear in the law: particles of temperature λ have the law exp(-V/λ)."""
    heat = 0.3
    potential = functional(lambda x: (0.5 * (x**2).sum(axis=1)).mean())
    flat = ritz.target.from_log_density(lambda x: 0.0 * x.sum(), jnp.zeros(1))
    solver = mean_field_langevin(0.05, heat)
    fit = ritz.fit(
        flat,
        family=particles(4000, 1.0),
        objective=potential,
        solver=solver,
        steps=400,
        progress=False,
    )
    exact = heat / (1 - 0.025)
    assert abs(np.asarray(fit.q.points).var() - exact) < 4 * exact * (2 / 4000) ** 0.5


def test_discrepancies_of_samples_vanish_at_the_samples():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(60, 2))
    target = ritz.target.from_samples(y)
    at = lambda x: float(
        mean_discrepancy(rbf(1.0)).loss(
            ritz.family.Particles(jnp.asarray(x), True), target, jax.random.key(0)
        )
    )
    assert abs(at(target.samples)) < 1e-6 < 1e-2 < at(target.samples + 0.5)


# -- fits -----------------------------------------------------------------------------------------


def regression(n=60, seed=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)) * [1e3, 1e-2]  # unscaled columns
    y = x @ [2e-3, 50.0] + 1.0 + rng.normal(size=n)

    def model(x, y):
        b = numpyro.sample("b", dist.Normal(0.0, 1e3).expand([2]).to_event(1))
        a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(x @ b + a, 1.0), obs=y)

    design = np.column_stack([x, np.ones(n)])
    precision = design.T @ design + np.diag([1e-6, 1e-6, 1e-2])
    covariance = np.linalg.inv(precision)
    return model, (x, y), covariance @ design.T @ y, np.sqrt(np.diag(covariance))


SOLVERS = {
    "svgd": svgd(),
    "imq": svgd(imq()),
    "coin": svgd(optimiser=coin()),
    "function": wasserstein_flow("function"),
    "langevin": langevin(),
    "kinetic": langevin(0.3, friction=2.0),
    "natural": natural_svgd(),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_each_solver_is_right_in_any_units_and_says_so(name):
    model, data, mean, sd = regression()
    n = 50 if name == "natural" else 200  # its steps take n³ operations
    fit = ritz.fit(model, data, family=particles(n), solver=SOLVERS[name], progress=False)
    assert fit.status == "ok", fit.reasons
    found = np.concatenate([fit.mean()["b"], [fit.mean()["a"]]])
    spread = np.concatenate([fit.sd()["b"], [fit.sd()["a"]]])
    assert np.abs((found - mean) / sd).max() < 0.1
    assert np.abs(np.log(spread / sd)).max() < 0.2


@pytest.mark.parametrize(
    ("kernel", "d", "share"),
    [("median", 10, 0.94), ("median/log n", 10, 0.53), ("median/log n", 30, 0.15)],
)
def test_how_much_of_a_variance_is_left_is_as_the_docs_say(kernel, d, share):
    fit = ritz.fit(normal(d), family=particles(200), solver=svgd(rbf(kernel)), progress=False)
    assert abs(np.asarray(fit.q.points).var(0).mean() - share) < 0.03


@pytest.mark.parametrize("share", [None, 0.5])
def test_structured_groups_have_the_inverse_of_their_precision_and_no_correlation(share):
    """By dropout part of the dependence stays; without groups all of it: the wrong variant."""
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    precision = jnp.asarray(np.linalg.inv(covariance))
    target = ritz.target.from_log_density(lambda x: -0.5 * x @ precision @ x, jnp.zeros(2))
    h, made = 0.02, {}
    common = {"keep": 50, "every": 20}
    solvers = {
        "structured": structured_langevin([0, 1], h, dropout=share, **common),
        "one group": structured_langevin([0, 0], h, **common),
    }
    for name, solver in solvers.items():
        family = particles(200, 1.0)
        fit = ritz.fit(target, family=family, solver=solver, steps=1200, progress=False)
        made[name] = np.cov(np.asarray(fit.q.points, np.float64).T)
    exact = 1.0 / np.asarray(precision)[0, 0]
    correlation = {k: c[0, 1] / (c[0, 0] * c[1, 1]) ** 0.5 for k, c in made.items()}
    assert abs(correlation["one group"] - 0.8) < 0.05
    if share is None:
        assert abs(correlation["structured"]) < 0.05
        # The noise of others' values adds as much as its share of the step.
        np.testing.assert_allclose(np.diag(made["structured"]), exact, rtol=0.15)
    else:
        assert 0.1 < correlation["structured"] < 0.75


def test_what_is_too_narrow_says_so():
    fit = ritz.fit(
        normal(10),
        family=particles(200),
        solver=svgd(rbf("median/log n")),
        progress=False,
    )
    assert np.asarray(fit.q.points).var(0).mean() < 0.7
    assert fit.status == "doubtful"
    assert "Stein's identity for the variance" in fit.reasons[0]


def test_all_directions_together_are_in_the_verdict():
    right = np.random.default_rng(0).normal(size=(1000, 7))
    assert _by_scores(normal(7), right) == []
    (told,) = _by_scores(normal(7), 0.83 * right)
    assert "over all directions" in told


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_scale_of_particles_at_one_place_is_a_number(dtype):
    with jax.enable_x64(dtype is np.float64):
        assert float(median(jnp.ones((5, 3), dtype))) > 0
        x = np.random.default_rng(0).normal(size=(30, 3)).astype(dtype)
        for unit in (1e-12, 1.0, 1e12):
            far = ((unit * x[:, None] - unit * x) ** 2).sum(-1)
            exact = np.median(far[np.triu_indices(30, 1)])
            assert float(median(jnp.asarray(unit * x))) == pytest.approx(exact, rel=0.02)


def two_modes(x):
    return jnp.logaddexp(-0.5 * ((x + 4.0) ** 2).sum(), -0.5 * ((x - 4.0) ** 2).sum() - 1.0)


def bent(x):
    return -0.5 * (x[0] ** 2 / 4.0 + (x[1] - x[0] ** 2) ** 2 / 0.25)


def test_groups_whose_shares_nothing_tells_are_doubted():
    """And a banana, which straight lines leave, is not."""
    of = ritz.target.from_log_density
    cloud = particles(100, 3.0)
    fit = ritz.fit(of(two_modes, jnp.zeros(2)), family=cloud, solver=langevin(), progress=False)
    assert fit.status == "doubtful"
    assert "groups" in fit.reasons[0]
    solver, cloud = langevin(0.003, keep=10, every=100), particles(100, 0.5)
    fit = ritz.fit(of(bent, jnp.zeros(2)), family=cloud, solver=solver, steps=3000, progress=False)
    assert not any("groups" in reason for reason in fit.reasons)


def test_discrepancy_descent_lets_the_discrepancy_fall():
    fit = ritz.fit(normal(2), family=particles(30, 1.0), solver=coin(), steps=300, progress=False)
    loss = fit.history.loss
    assert loss[-1] < 0.05 * loss[0]


@pytest.mark.parametrize(("step", "friction"), [(1e-5, None), (1e-3, 200.0)])
def test_particles_follow_batches(step, friction):
    """From 4.5 sds away. Batches alone make variances 9% and 5% larger."""
    rng = np.random.default_rng(0)
    y = 2.0 + rng.normal(size=2000)

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        with numpyro.plate("rows", 2000, subsample_size=len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    data = ritz.data.batches({"y": y}, size=200, seed=0)
    solver = langevin(step, friction=friction, keep=10, every=100)
    fit = ritz.fit(
        model, data, family=particles(50, 0.1), solver=solver, steps=1500, progress=False,
        init={"mu": 2.1},
    )  # fmt: skip
    sd = 2000**-0.5
    assert abs(fit.mean()["mu"] - y.mean()) < 0.5 * sd
    assert 0.85 < fit.sd()["mu"] / sd < 1.2


def test_it_is_saved_and_goes_on(tmp_path):
    fit = ritz.fit(normal(3), family=particles(20), steps=20, progress=False)
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit")
    np.testing.assert_array_equal(again.q.points, fit.q.points)
    more = ritz.fit(normal(3), family="particles", init=fit, steps=10, progress=False)
    assert more.q.points.shape == (20, 3)
    assert more.info["start"] == "an earlier fit"


# -- mirrors --------------------------------------------------------------------------------------

MIRRORS = {
    "entropy": (Entropy(), jnp.array([0.2, 0.3, 0.1])),
    "positive": (Positive(), jnp.array([0.2, 3.0])),
    "box": (Box(jnp.array([-1.0, 0.0]), jnp.array([2.0, 5.0])), jnp.array([0.5, 1.0])),
    "blocks": (
        Blocks((Entropy(), Whole(), Positive()), (2, 1, 1)),
        jnp.array([0.2, 0.5, -3.0, 2.0]),
    ),
}


@pytest.mark.parametrize("name", MIRRORS)
def test_a_mirror_is_what_it_says(name):
    mirror, theta = MIRRORS[name]
    np.testing.assert_allclose(mirror.primal(mirror.dual(theta)), theta, rtol=1e-5)
    np.testing.assert_allclose(mirror.metric(theta), jax.jacfwd(mirror.dual)(theta), rtol=1e-4)
    inverse = jax.jacfwd(mirror.primal)(mirror.dual(theta))
    np.testing.assert_allclose(mirror.inverse_metric(theta), inverse, rtol=1e-4, atol=1e-6)
    columns = jnp.einsum("aba->b", jax.jacfwd(mirror.inverse_metric)(theta))
    np.testing.assert_allclose(mirror.divergence(theta), columns, rtol=1e-4, atol=1e-5)


def local_at(theta, mirror, scores):
    inverse = jax.vmap(mirror.inverse_metric)(theta)
    drift = jnp.einsum("nab,nb->na", inverse, scores) + jax.vmap(mirror.divergence)(theta)
    return Local(jax.vmap(mirror.metric)(theta), inverse, drift)


def inside(n=6):
    theta = jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(3) * 2, n)[:, :2])
    return theta, jnp.asarray(np.random.default_rng(1).normal(size=(n, 2)))


def of_matrix(kernel_matrix, theta, scores, mirror):
    """The mirrored direction in any matrix-valued kernel, by automatic differentiation."""

    def at(t):
        def one(u, s):
            product = lambda u: mirror.inverse_metric(u) @ kernel_matrix(u, t)
            return product(u).T @ s + jnp.einsum("aba->b", jax.jacfwd(product)(u))

        return jax.vmap(one)(theta, scores).mean(0)

    return jax.vmap(at)(theta)


def test_the_mirrored_direction_is_its_definition():
    theta, scores = inside()
    kernel, mirror = rbf(0.4), Entropy()
    k = of_pair(kernel, kernel.squared_scale(theta))
    exact = of_matrix(lambda u, t: k(u, t) * jnp.eye(2), theta, scores, mirror)
    found = plain_direction(theta, local_at(theta, mirror, scores), kernel)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


def test_the_direction_of_the_adaptive_kernel_is_its_definition():
    theta, scores = inside()
    kernel, mirror = rbf(0.4), Entropy()
    k = of_pair(kernel, kernel.squared_scale(theta))
    n = len(theta)
    matrix = jax.vmap(lambda a: jax.vmap(lambda b: k(a, b))(theta))(theta)
    values, vectors = jnp.linalg.eigh(matrix / n)
    functions = lambda t: n**0.5 * vectors.T @ jax.vmap(lambda b: k(t, b))(theta) / (n * values)
    metric = jax.vmap(mirror.metric)(theta)
    at = n**0.5 * vectors  # eigenfunctions at the particles
    middle = jnp.einsum("ti,tj,tab->ijab", at, at, metric) / n

    def kernel_matrix(u, t):
        one, two = values**0.5 * functions(u), values**0.5 * functions(t)
        return jnp.einsum("i,ijab,j->ab", one, middle, two)

    exact = of_matrix(kernel_matrix, theta, scores, mirror)
    found = metric_direction(theta, local_at(theta, mirror, scores), kernel)
    scale = float(jnp.abs(exact).max())
    np.testing.assert_allclose(found, exact, atol=5e-3 * scale)
    wrong = plain_direction(theta, local_at(theta, mirror, scores), kernel)
    assert np.abs(np.asarray(wrong - exact)).max() > 0.1 * scale


def dirichlet(alpha):
    density = lambda p: ((jnp.asarray(alpha) - 1.0) * jnp.log(p)).sum()
    k = len(alpha)
    return ritz.target.from_log_density(density, jnp.ones(k) / k, constraints.simplex)


@pytest.mark.parametrize("follows", [True, False])
def test_a_dirichlet_on_its_simplex(follows):
    alpha = np.array([2.0, 4.0, 6.0, 3.0])
    fit = ritz.fit(
        dirichlet(alpha),
        family=particles(50),
        solver=mirrored_svgd(adaptive=follows),
        progress=False,
    )
    drawn = fit.sample(4000)
    assert (drawn > 0).all()
    exact = alpha / alpha.sum()
    sd = np.sqrt(exact * (1 - exact) / (alpha.sum() + 1))
    assert np.abs((drawn.mean(0) - exact) / sd).max() < 0.1
    assert np.abs(np.log(drawn.std(0) / sd)).max() < 0.25


# -- coins ----------------------------------------------------------------------------------------


def walk(directions, scale=1.0):
    transformation, x = coin(), jnp.array([0.5, -1.0])
    state, seen = transformation.init(x), []
    for c in directions:
        update, state = transformation.update(-scale * c, state, x)
        x = x + update
        seen.append(np.asarray(x))
    return np.asarray(seen)


def test_coins_do_not_care_for_the_scale_of_directions():
    directions = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_allclose(walk(directions, 100.0), walk(directions), rtol=1e-6, atol=1e-6)


def test_coins_bet_what_their_paper_says():
    directions = np.random.default_rng(1).normal(size=(20, 2))
    start = np.array([0.5, -1.0])
    x, total, absolute, largest, reward = start, 0.0, 0.0, 0.0, 0.0
    seen = []
    for c in directions:
        total, absolute = total + c, absolute + np.abs(c)
        largest = np.maximum(largest, np.abs(c))
        reward = np.maximum(0.0, reward + c * (x - start))
        x = start + total / (largest * (absolute + largest)) * (largest + reward)
        seen.append(x)
    np.testing.assert_allclose(walk(directions), seen, rtol=1e-4, atol=1e-5)


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "one particle": lambda: particles(1),
    "spread": lambda: particles(10, -1.0),
    "kernel": lambda: svgd(kernel="rbf"),
    "scale": lambda: rbf(-1.0),
    "word": lambda: rbf("mean"),
    "power": lambda: imq(power=1.0),
    "factors": lambda: adaptive(factors=(0.0, 1.0)),
    "metric": lambda: svgd(metric="hessian"),
    "covariance": lambda: svgd(metric=[[1.0, 2.0], [2.0, 1.0]]),
    "optimiser": lambda: svgd(optimiser=0.1),
    "smoothing": lambda: wasserstein_flow("blub"),
    "step": lambda: langevin(-0.1),
    "friction": lambda: langevin(friction=0.0),
    "temperature": lambda: mean_field_langevin(temperature=-1.0),
    "functional": lambda: functional(3.0),
    "unbounded": lambda: ritz.fit(normal(), family=particles(5), solver=mirrored_svgd(), steps=1),
    "ball": lambda: ritz.fit(
        ritz.target.from_log_density(
            lambda x: -(x**2).sum(), jnp.array([0.1, 0.1]), constraints.l1_ball
        ),
        family=particles(5),
        solver=mirrored_svgd(),
        steps=1,
    ),
    "other family": lambda: ritz.fit(normal(), family="full_rank", solver="svgd", steps=1),
    "other objective": lambda: ritz.fit(
        normal(), family=particles(5), objective=ritz.objective.negative_elbo(2), steps=1
    ),
    "points": lambda: ritz.fit(
        normal(), family="full_rank", objective=stein_discrepancy(), steps=1
    ),
    "no samples": lambda: ritz.fit(
        normal(), family=particles(5), objective=mean_discrepancy(), solver="adam", steps=1
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name):
    with pytest.raises(RitzError) as caught:
        BAD[name]()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def _bimodal(x):
    middles = jnp.array([[-2.0, 0.0], [2.0, 0.0]])
    return jax.nn.logsumexp(-0.5 * ((x - middles) ** 2).sum(-1) / 0.3)


def _banana(x):
    return -0.5 * x[0] ** 2 / 4.0 - 0.5 * (x[1] - x[0] ** 2) ** 2 / 0.1


def _neck(x):
    return -0.5 * x[0] ** 2 / 9.0 - 0.5 * (x[1:] ** 2).sum() * jnp.exp(-x[0]) - 0.5 * 4 * x[0]


def test_groups_are_told_where_draws_bridge_the_gap_between_them():
    rng = np.random.default_rng(0)
    side = rng.normal([2.0, 0.0], 0.5, (90, 2))
    bridge = np.stack([np.linspace(-2.0, 2.0, 40), np.zeros(40)], 1)
    draws = np.concatenate([side, -side, bridge]).astype(np.float32)
    target = ritz.target.from_log_density(_bimodal, jnp.zeros(2))
    assert len(_by_neighbours(target, draws.astype(np.float64), np.float32)) == 1
    assert "groups (" in in_groups(target, draws)[0]
    assert not in_groups(target, side.astype(np.float32))


def test_curved_ridges_necks_and_many_dimensions_are_one_group():
    rng = np.random.default_rng(1)
    a = 2.0 * rng.normal(size=300)
    banana = np.stack([a, a**2 + 0.3 * rng.normal(size=300)], 1)
    v = 3.0 * rng.normal(size=300)
    neck = np.column_stack([v, np.exp(0.5 * v)[:, None] * rng.normal(size=(300, 4))])
    wide = rng.normal(size=(300, 60))
    normal = lambda x: -0.5 * (x**2).sum()
    for density, draws in ((_banana, banana), (_neck, neck), (normal, wide)):
        target = ritz.target.from_log_density(density, jnp.zeros(draws.shape[1]))
        assert not in_groups(target, draws.astype(np.float32)), density
