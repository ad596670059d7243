"""IVON: the mean-field posterior of conjugate models, in an Optax loop and in Ritz's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussians import gaussian

import ritz
from ritz import RitzError
from ritz.data import batches
from ritz.objective import iwae
from ritz.solver import _ivon, ivon, optax_solver, run

ROWS, NOISE, PRIOR = 200, 0.5, 4.0


def regression(features=8, seed=0):
    """Correlated rows of a linear model, and the exact posterior's precision and mean."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, features)) @ (np.eye(features) + 0.2 * rng.normal(size=(features,)))
    y = x @ rng.normal(size=features) + NOISE * rng.normal(size=ROWS)
    precision = x.T @ x / NOISE**2 + PRIOR * np.eye(features)
    return x, y, precision, np.linalg.solve(precision, x.T @ y / NOISE**2)


def loss(w, x, y):
    return 0.5 * ((y - x @ (w["a"] if isinstance(w, dict) else w)) ** 2).mean() / NOISE**2


def optimiser(steps=6000, **settings):
    settings = {"ess": ROWS, "weight_decay": PRIOR / ROWS, "hess_init": 1.0, "b2": 0.995} | settings
    return ivon(optax.cosine_decay_schedule(0.1, steps), **settings)


def optax_loop(optimiser, x, y, steps=6000, at_mean=False, rows=None):
    """The plain loop of a user, with a minibatch of some rows a step."""

    def step(carry, key):
        params, state = carry
        weights = optimiser.sample(key, params, state)
        take = slice(None) if rows is None else jax.random.choice(key, ROWS, (rows,))
        grads = jax.grad(loss)(params if at_mean else weights, x[take], y[take])
        updates, state = optimiser.update(grads, state, params, sampled=weights)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state.curvature)

    params = {"a": jnp.full(x.shape[1], 5.0)}
    start = (params, optimiser.init(params))
    _, (means, curvature) = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), steps))
    tail = lambda tree: tree["a"][steps // 2 :].mean(axis=0)
    return tail(means), tail(curvature)


def off(mean, curvature, exact, precision, ess=ROWS):
    """Errors of the mean, in mean-field sds, and of variances, as shares."""
    variance = 1.0 / np.diag(precision)
    wrong = np.abs(1.0 / (ess * np.asarray(curvature, float)) / variance - 1.0)
    return np.abs((np.asarray(mean, float) - exact) / variance**0.5).max(), wrong.mean()


def holds(mean, curvature, exact, precision, ess=ROWS):
    in_sds, share = off(mean, curvature, exact, precision, ess)
    return in_sds < 0.3 and share < 0.1  # standard errors: 0.06 and 0.02; bias of h: 0.01


@pytest.mark.parametrize("x64", [False, True])
def test_a_conjugate_posterior_is_found(x64):
    with jax.enable_x64(x64):
        x, y, precision, exact = regression()
        found = optax_loop(optimiser(), jnp.asarray(x, float), jnp.asarray(y, float))
        assert holds(*found, exact, precision)


def test_with_the_gradient_at_the_mean_it_is_not():
    x, y, precision, exact = regression()
    found = optax_loop(optimiser(), jnp.asarray(x), jnp.asarray(y), at_mean=True)
    assert not holds(*found, exact, precision)


def test_without_the_correction_it_is_not(monkeypatch):
    """Far from the optimum a single estimate of h is large and negative."""
    x, y, precision, exact = regression()
    monkeypatch.setattr(_ivon, "_growth", lambda r: 1.0 + r)
    found = optax_loop(optimiser(), jnp.asarray(x), jnp.asarray(y))
    assert not holds(*found, exact, precision)


def test_minibatches():
    x, y, precision, exact = regression()
    settings = optimiser(12_000, b2=0.999)
    found = optax_loop(settings, jnp.asarray(x), jnp.asarray(y), 12_000, rows=50)
    in_sds, share = off(*found, exact, precision)
    assert in_sds < 0.5
    # Rows differ, so that h is estimated with more noise, and its bias is larger.
    assert share < 0.15


def test_temperature_is_a_smaller_sample():
    x, y, precision, exact = regression()
    prior = PRIOR * np.eye(len(precision))
    warm = (precision - prior) / 4.0 + prior
    settings = optimiser(ess=ROWS / 4.0, weight_decay=PRIOR / (ROWS / 4.0))
    mean, curvature = optax_loop(settings, jnp.asarray(x), jnp.asarray(y))
    at = np.linalg.solve(
        warm, (precision - prior) / 4.0 @ np.linalg.solve(precision - prior, x.T @ y / NOISE**2)
    )
    assert holds(mean, curvature, at, warm, ROWS / 4.0)
    assert not holds(mean, curvature, exact, precision, ROWS / 4.0)


class Mean(eqx.Module):
    """A problem with weights for parameters: what `run` needs for a network."""

    x: jax.Array
    y: jax.Array
    params: dict

    def grad(self, params, key, batch=None):
        x, y = (self.x, self.y) if batch is None else batch
        value, grad = jax.value_and_grad(loss)(params, x, y)
        return grad, {"loss": value}


def test_in_the_loop_on_a_problem_with_batches():
    x, y, precision, exact = regression()
    x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
    problem = Mean(jnp.asarray(x), jnp.asarray(y), {"a": jnp.full(x.shape[1], 5.0)})
    solver = optax_solver(optimiser(8000, draws=4, b2=0.998))
    source = batches((x, y), 100)
    result = run(problem, solver, 8000, jax.random.key(0), batches=source, progress=False)
    state = result.state
    assert holds(state.params["a"], state.opt.curvature["a"], exact, precision)
    assert np.isfinite(result.history.loss).all()


@pytest.mark.parametrize("known", [0.0, PRIOR])
def test_a_fit_has_the_mean_field_optimum(known):
    """Whether its Gaussian prior is told or found; the ELBO is that of the exact optimum."""
    x, y, precision, exact = regression()
    x, y = jnp.asarray(x), jnp.asarray(y)
    energy = lambda w: ROWS * loss(w, x, y) + 0.5 * PRIOR * (w @ w)
    target = ritz.target.from_log_density(lambda w: -energy(w), jnp.zeros(len(exact)))
    solver = ivon(
        optax.cosine_decay_schedule(0.1, 6000),
        ess=ROWS,
        weight_decay=known / ROWS,
        b2=0.998,
        draws=8,
    )
    fit = ritz.fit(target, family="mean_field", solver=solver, steps=6000)
    assert holds(fit.q.loc, jnp.exp(-2.0 * fit.q.log_scale) / ROWS, exact, precision)
    assert fit.info["solver"] == "IVONSolver"
    best = -float(energy(jnp.asarray(exact))) + 0.5 * np.log(2 * np.pi / np.diag(precision)).sum()
    assert abs(-np.mean(fit.history.loss[-1000:]) - best) < 0.3


def test_equal_parts_compile_once():
    target, _, _ = gaussian(3, 2.0)
    fits = [
        ritz.fit(target, family="mean_field", solver=ivon(lr, b2=b2), steps=1000)
        for lr, b2 in ((0.1, 0.99), (0.2, 0.98))
    ]
    assert not fits[1].info["compiled"]


def test_a_jitted_step_is_traced_once():
    optimiser, traces = ivon(0.1, 10.0), []

    @jax.jit
    def step(params, state, key):
        traces.append(1)
        weights = optimiser.sample(key, params, state)
        grads = jax.grad(lambda w: (w**2).sum())(weights)
        updates, state = optimiser.update(grads, state, params, sampled=weights)
        return optax.apply_updates(params, updates), state

    params = jnp.ones(3)
    state = optimiser.init(params)
    for i in range(3):
        params, state = step(params, state, jax.random.key(i))
    assert len(traces) == 1


def test_a_network_of_equinox_and_a_chain():
    """Leaves that are no arrays are let through, and a chain hands on where the weights were."""
    network = eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))
    params, static = eqx.partition(network, eqx.is_inexact_array)
    inner = ivon(0.1, 100.0, hess_init=0.1, rescale_lr=True)
    chained = optax.chain(inner, optax.clip(1e-3))

    @jax.jit
    def step(params):
        state = chained.init(params)
        weights = inner.sample(jax.random.key(1), params, state[0])
        out = lambda w: (jax.vmap(eqx.combine(w, static))(jnp.ones((4, 3))) ** 2).sum()
        updates, state = chained.update(jax.grad(out)(weights), state, params, sampled=weights)
        return updates, inner.sd(state[0])

    updates, sd = step(params)
    sizes = [float(abs(leaf).max()) for leaf in jax.tree.leaves(updates)]
    assert max(sizes) == pytest.approx(1e-3)
    assert jax.tree.structure(sd) == jax.tree.structure(params)


def test_draws_in_front_are_averaged():
    optimiser, params = ivon(0.1, 10.0), jnp.array([1.0, 2.0])
    state = optimiser.init(params)
    keys = jax.random.split(jax.random.key(0), 3)
    weights = jax.vmap(lambda key: optimiser.sample(key, params, state))(keys)
    grads = 2.0 * weights
    together = optimiser.update(grads, state, params, sampled=weights)[1]
    each = [
        optimiser.update(g, state, params, sampled=w)[1]
        for g, w in zip(grads, weights, strict=True)
    ]
    average = np.mean([s.momentum for s in each], axis=0)
    np.testing.assert_allclose(together.momentum, average, rtol=1e-5)


def test_one_step_is_algorithm_1():
    """Against the formulas as they are printed, with h in place of h + delta."""
    lr, ess, h, delta, b1, b2 = 0.3, 50.0, 0.2, 0.1, 0.9, 0.97
    optimiser = ivon(lr, ess, hess_init=h, weight_decay=delta, b1=b1, b2=b2, rescale_lr=True)
    m, g = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    state = optimiser.init(jnp.asarray(m))
    for t in (1, 2, 3):
        theta = np.asarray(optimiser.sample(jax.random.key(t), jnp.asarray(m), state), float)
        grad = np.sin(theta) + theta
        sigma2 = 1.0 / (ess * (h + delta))
        h_hat = grad * (theta - m) / sigma2
        g = b1 * g + (1 - b1) * grad
        new = b2 * h + (1 - b2) * h_hat + 0.5 * (1 - b2) ** 2 * (h - h_hat) ** 2 / (h + delta)
        step = -lr * (0.2 + delta) * (g / (1 - b1**t) + delta * m) / (new + delta)
        updates, state = optimiser.update(jnp.asarray(grad), state, jnp.asarray(m), sampled=theta)
        np.testing.assert_allclose(updates, step, rtol=2e-4)
        np.testing.assert_allclose(state.curvature, new + delta, rtol=2e-4)
        m, h = m + step, new


def test_intervals_cover_the_truth_in_a_gap():
    """Local features: where there are no data the posterior is as wide as the prior."""
    rng = np.random.default_rng(0)
    centres = np.linspace(-1.0, 1.0, 15)
    features = lambda x: jnp.exp(-0.5 * ((x[:, None] - centres) / 0.1) ** 2)
    x = np.concatenate([rng.uniform(-1.0, -0.4, 100), rng.uniform(0.4, 1.0, 100)])
    grid = np.linspace(-0.9, 0.9, 60)
    phi, at = features(x), features(grid)
    gap, seen = np.abs(grid) < 0.2, np.abs(grid) > 0.5

    def fitted(seed):
        rng = np.random.default_rng(seed)
        w = rng.normal(size=15)
        y = phi @ w + 0.1 * rng.normal(size=200)
        energy = lambda v: 0.5 * ((y - phi @ v) ** 2).sum() / 0.01 + 0.5 * (v @ v)
        target = ritz.target.from_log_density(lambda v: -energy(v), jnp.zeros(15))
        solver = ivon(optax.cosine_decay_schedule(0.1, 3000), weight_decay=1.0, b2=0.995, draws=4)
        q = ritz.fit(target, family="mean_field", solver=solver, steps=3000, seed=seed).q
        sd = np.sqrt(at**2 @ np.exp(2.0 * q.log_scale))
        return (np.abs(at @ (q.loc - w)) < 1.96 * sd)[gap], sd[gap].mean() / sd[seen].mean()

    covered, wide = zip(*map(fitted, range(10)), strict=True)
    assert np.mean(covered) > 0.85
    assert min(wide) > 3.0


def test_a_variance_that_is_not_learned_is_told():
    target, _, _ = gaussian(3, 2.0)
    short = ritz.fit(target, family="mean_field", solver=ivon(0.1, b2=0.99999), steps=200)
    assert "100% of the curvature is still its initial value" in short.message
    assert short.status == "doubtful"
    assert not ritz.fit(target, family="mean_field", solver=ivon(0.1, b2=0.98), steps=1000).message
    optimiser = ivon(0.1, 10.0)
    assert optimiser.caution(optimiser.init(jnp.ones(2))) is None  # nothing was asked of it yet


def _update(**given):
    optimiser, params = ivon(0.1, 10.0), jnp.ones(2)
    return optimiser.update(params, optimiser.init(params), **given)


def _fit(**given):
    given = {"family": "mean_field", "solver": ivon(0.1), "steps": 1} | given
    return ritz.fit(gaussian(2, 1.0)[0], **given)


BAD = {
    "lr": (lambda: ivon(0.0), "lr=0.0 arrived, expected a number above 0"),
    "lr nan": (lambda: ivon(float("nan")), "lr=nan arrived"),
    "ess": (lambda: ivon(0.1, -1.0), "ess=-1.0 arrived, expected a number above 0"),
    "b1": (lambda: ivon(0.1, b1=1.0), "b1=1.0 arrived, expected a number at least 0 and below 1"),
    "b2": (lambda: ivon(0.1, b2=1.0), "b2=1.0 arrived"),
    "hess_init": (lambda: ivon(0.1, hess_init=-1.0), "hess_init=-1.0 arrived"),
    "weight_decay": (lambda: ivon(0.1, weight_decay=-0.1), "weight_decay=-0.1 arrived"),
    "draws": (lambda: ivon(0.1, draws=0), "draws"),
    "integers": (lambda: ivon(0.1).init({"n": jnp.arange(3)}), "eqx.is_inexact_array"),
    "sampled": (lambda: _update(params=jnp.ones(2)), "lacks sampled"),
    "params": (lambda: _update(sampled=jnp.ones(2)), "lacks params"),
    "family": (lambda: _fit(family="full_rank"), "use family='mean_field'"),
    "objective": (lambda: _fit(objective=iwae(3)), "the objective is"),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
