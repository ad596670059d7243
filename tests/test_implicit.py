"""Implicit samplers: exact where the generator is affine, and proper weights everywhere."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ritz
from ritz import RitzError
from ritz.family import _marginal, implicit
from ritz.family._singular import log_det_one_plus, smallest_singular_value
from ritz.objective import Density, linearised_elbo, negative_elbo

TARGET = ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(5))
NOISE = np.linspace(-2.0, 0.0, 5)


def affine(d=5, m=3, **options):
    """A sampler whose network is zero, and the covariance of its draws."""
    q = implicit(None, jnp.zeros(d), latent=m, **options)
    linear = jax.random.normal(jax.random.key(0), (d, m))
    last = lambda q: (q.generator.network.layers[-1].weight, q.generator.network.layers[-1].bias)
    q = eqx.tree_at(last, q, replace_fn=jnp.zeros_like)
    noise = jnp.linspace(-2.0, 0.0, d)
    q = eqx.tree_at(lambda q: (q.generator.linear, q.log_noise), q, (linear, noise))
    root = np.asarray(linear, float)
    return q, root @ root.T + np.diag(np.exp(2.0 * np.linspace(-2.0, 0.0, d)))


def curved(d=2, **options):
    """A sampler whose network matters, and folds, with noise of sd 0.5."""
    q = implicit(None, jnp.zeros(d), width=8, depth=1, **options)
    moved = lambda v: v + 0.5 * jax.random.normal(jax.random.key(v.size), v.shape)
    q = jax.tree.map(lambda v: moved(v) if eqx.is_array(v) else v, q)
    return eqx.tree_at(lambda q: q.log_noise, q, jnp.full(d, jnp.log(0.5)))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_the_entropy_is_exact_for_an_affine_generator(shape):
    q, covariance = affine(*shape)
    exact = 0.5 * np.linalg.slogdet(2.0 * np.pi * np.e * covariance)[1]
    z, key = jnp.ones(shape[1]), jax.random.key(0)
    found = float(q.linearised_entropy(z, key))
    assert abs(found - exact) < 1e-3
    without_noise = eqx.tree_at(lambda q: q.log_noise, q, q.log_noise - 0.01)
    assert abs(float(without_noise.linearised_entropy(z, key)) - exact) > 1e-3
    assert float(q.linearised_entropy(z, key, "smallest_singular_value")) < exact


def test_the_loss_is_exact_for_an_affine_generator():
    """KL to a standard normal, less log Z."""
    q, covariance = affine()
    exact = -0.5 * np.linalg.slogdet(2.0 * np.pi * np.e * covariance)[1] + 0.5 * covariance.trace()
    seen = Density(TARGET, jax.random.key(0), None)
    run = lambda key: ritz.objective.expectation(
        lambda: linearised_elbo().program(q, seen, ritz.estimator.pathwise())
    ).value(key)
    values = np.asarray(jax.vmap(run)(jax.random.split(jax.random.key(1), 40_000)))
    assert abs(values.mean() - exact) < 4 * values.std() / 200
    assert abs(values.mean() - exact - 0.5 * np.log(2)) > 4 * values.std() / 200


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (300, 40)])
def test_the_smallest_singular_value_and_its_derivative(shape):
    d, m = shape
    matrix = jax.random.normal(jax.random.key(d), (d, m))
    of = lambda a: lambda z: jnp.sin(a @ z)
    z = 0.1 * jnp.ones(m)
    exact = lambda a: jnp.linalg.svd(jax.jacfwd(of(a))(z), compute_uv=False)[-1]
    found = lambda a: smallest_singular_value(of, a, z, d, jax.random.key(1))
    assert exact(matrix) * (1 - 1e-4) <= found(matrix) <= exact(matrix) * 1.05
    if min(d, m) <= 16:
        np.testing.assert_allclose(jax.grad(found)(matrix), jax.grad(exact)(matrix), atol=1e-3)


def test_orthonormal_columns_do_not_stop_the_iteration():
    eye = jnp.eye(8, 5)
    found = smallest_singular_value(
        lambda a: lambda z: a @ z, eye, jnp.ones(5), 8, jax.random.key(0)
    )
    assert abs(float(found) - 1.0) < 1e-5


def test_the_volume_in_single_precision():
    """Columns whose lengths differ by 1e4 lose no digits, and a condition number of 1e3 few."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (6, 3))
    for a in (rng.normal(size=(6, 3)) * [1e4, 1.0, 1e2], u[:, :3] @ np.diag([1e3, 1e2, 1.0]) @ v):
        exact = np.linalg.slogdet(np.eye(3) + a.T @ a)[1]
        single = jnp.asarray(a, jnp.float32)
        assert abs(float(log_det_one_plus(lambda z, a=single: a @ z, jnp.ones(3), 6)) - exact) < 0.1


def test_the_bound_is_below_at_every_draw():
    q = curved(6, latent=4)
    keys = jax.random.split(jax.random.key(0), 200)
    x, exact = jax.vmap(q.sample_and_linearised_entropy)(keys)
    same, below = jax.vmap(lambda k: q.sample_and_linearised_entropy(k, "smallest_singular_value"))(
        keys
    )
    np.testing.assert_array_equal(x, same)
    assert (np.asarray(below) < np.asarray(exact)).all()


def weights(q, n=20_000):
    """Of a normal target whose Z is 1, narrower than the noise: they have a finite variance."""
    x, log_q = jax.vmap(q.sample_and_log_prob)(jax.random.split(jax.random.key(0), n))
    log_p = stats.norm.logpdf(np.asarray(x), np.asarray(q.generator(jnp.zeros(2))), 0.4).sum(-1)
    return np.exp(log_p - np.asarray(log_q))


@pytest.mark.parametrize("searched", [True, False])
def test_weights_are_proper_where_the_generator_is_curved(searched, monkeypatch):
    if not searched:
        monkeypatch.setattr(_marginal, "_LARGEST", 0)
    w = weights(curved(latents=4))
    assert abs(w.mean() - 1.0) < 4 * w.std() / len(w) ** 0.5


def test_weights_over_a_wrong_count_are_refused(monkeypatch):
    """The wrong variant: a mean over K latents and not over K + 1."""
    monkeypatch.setattr(_marginal, "_LARGEST", 0)
    monkeypatch.setattr(_marginal, "math", SimpleNamespace(log=lambda n: np.log(n - 1)))
    w = weights(curved(latents=4))
    assert abs(w.mean() - 1.0) > 4 * w.std() / len(w) ** 0.5


def test_the_density_is_exact_for_an_affine_generator():
    q, covariance = affine()
    x, log_q = jax.vmap(q.sample_and_log_prob)(jax.random.split(jax.random.key(1), 1000))
    off = np.asarray(log_q) - stats.multivariate_normal(np.zeros(5), covariance).logpdf(x)
    assert abs(off.mean()) < 0.02
    assert off.std() < 0.1


BANANA = ritz.target.from_log_density(
    lambda x: -0.125 * x[0] ** 2 - 2.0 * (x[1] - 0.5 * (x[0] ** 2 - 4.0)) ** 2, jnp.zeros(2)
)
LOG_Z = np.log(2.0 * np.pi)


def test_a_fit_by_name_is_checked_by_its_own_weights(tmp_path):
    fit = ritz.fit(BANANA, family="implicit", steps=4000, lr=0.005)
    assert fit.info["objective"] == "LinearisedELBO"
    assert not hasattr(fit, "log_prob")
    assert LOG_Z - fit.elbo.value < 0.5 * 0.85  # the best Gaussian is 0.85 away
    assert abs(np.log(np.mean(np.exp(fit.log_weights()))) - LOG_Z) < 0.3
    assert ritz.load(fit.save(tmp_path / "fit")).q.options == fit.q.options


@pytest.mark.slow
def test_the_same_family_by_its_proper_bound():
    objective = negative_elbo(4, "mc")
    fit = ritz.fit(BANANA, family="implicit", objective=objective, steps=2000, lr=0.005)
    assert LOG_Z - fit.elbo.value < 0.5 * 0.85


@pytest.mark.slow
def test_a_hundred_thousand_dimensions_by_the_cheap_bound():
    """Scales of a Gaussian that fall over four decades, in single precision."""
    d = 100_000
    scale = jnp.logspace(-2.0, 2.0, d)
    target = ritz.target.from_log_density(lambda x: -0.5 * ((x / scale) ** 2).sum(), jnp.zeros(d))
    family = lambda t, start: implicit(t, start, latent=64, width=16)
    problem = ritz.objective.Problem(
        target,
        family(target, jnp.zeros(d)),
        linearised_elbo(1, "smallest_singular_value"),
        ritz.estimator.pathwise(),
    )
    assert sum(v.size for v in jax.tree.leaves(problem.params)) < 3 * d
    solver = ritz.solver.adam(0.02, 1000)
    result = ritz.solver.run(problem, solver, 1000, jax.random.key(0), progress=False)
    assert result.ok
    q = problem.family_at(result.state.params)
    drawn = jax.vmap(q.sample)(jax.random.split(jax.random.key(1), 100))
    ratio = np.asarray(drawn.std(0) / scale)
    small = np.asarray(scale) < 1.0
    assert abs(np.median(ratio[small]) - 1.0) < 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: implicit(None, jnp.zeros(2), latent=0), "latent=0 arrived"),
        (lambda: implicit(None, jnp.zeros(2), generator="net"), "expected 'network' or 'matrix'"),
        (lambda: linearised_elbo(bound="svd"), "bound='svd' arrived"),
        (
            lambda: ritz.fit(TARGET, family="full_rank", objective=linearised_elbo(), steps=1),
            "LinearisedELBO needs a family with linearised_entropy, .*one that works: implicit",
        ),
        (
            lambda: linearised_elbo().check(ritz.estimator.score()),
            r"Score cannot serve it; use pathwise\(\)",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(RitzError, match=message):
        call()


def test_the_matrix_generator_has_few_parameters():
    q = implicit(None, jnp.zeros(10_000), latent=12, width=5)
    assert q.options == {
        "generator": "matrix", "latents": 32, "latent": 12, "width": 5, "depth": 2,
    }  # fmt: skip
    assert q.sample(jax.random.key(0)).shape == (10_000,)
    n = sum(v.size for v in jax.tree.leaves(eqx.filter(q.generator, eqx.is_array)))
    assert n < 10_000 + 2 * 5 * 100 + 4 * 5 * 5 + 5 * 7 + 1
