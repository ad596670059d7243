"""Families whose draws come with a path's probability ratio: their weights are proper."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz import RitzError
from ritz.family import (
    Annealed,
    MixFlow,
    StochasticFlow,
    annealed,
    mean_field,
    mixflow,
    stochastic_flow,
)
from ritz.target import from_log_density

LOG_Z = np.log(2 * np.pi * (0.5**2 + 0.7**2))


def two_hills():
    hill = lambda x, m, s: -0.5 * (((x - m) / s) ** 2).sum()
    return from_log_density(
        lambda x: jnp.logaddexp(hill(x, 1.0, 0.5), hill(x, -1.0, 0.7)), jnp.zeros(2)
    )


def gaussian(dim=2):
    """Mean 1, standard deviation 2, log Z of 3."""
    log_z = 3.0 - 0.5 * dim * np.log(2 * np.pi * 4.0)
    return from_log_density(lambda x: log_z - 0.125 * ((x - 1.0) ** 2).sum(), jnp.zeros(dim))


def exact_reference(dim=2):
    return mean_field(None, jnp.ones(dim), scale=2.0)


def log_weights(q, target, n=4000, seed=0):
    """Of n draws, in double precision."""

    def one(key):
        x, log_q = paramax.unwrap(q).sample_and_log_prob(key)
        return target.log_density(x) - log_q

    keys = jax.random.split(jax.random.key(seed), n)
    return np.asarray(eqx.filter_jit(jax.vmap(one))(keys), np.float64)


def off(log_w, log_z):
    """By how many standard errors the mean weight is off."""
    w = np.exp(log_w - log_z)
    return abs(w.mean() - 1.0) / (w.std() / len(w) ** 0.5)


class NoBackwardMomentum(Annealed):
    """The momentum's density before the leapfrog steps is left out."""

    def transition(self, path, beta, noise):
        new = super().transition(path, beta, noise)
        return new._replace(log_ratio=path.log_ratio - 0.5 * (new.momentum @ new.momentum) + 1.0)


class NoBackwardStep(StochasticFlow):
    """Langevin steps count as if they were volume preserving."""

    def markov(self, path, weight, step, key):
        new, ratio, log_prob = super().markov(path, weight, step, key)
        return new, jnp.zeros_like(ratio), log_prob


class NoJacobian(StochasticFlow):
    """The coupling layers' Jacobian is left out."""

    def flow(self, layer, path):
        return super().flow(layer, path)._replace(log_q=path.log_q)


class NotInverse(MixFlow):
    """The way back turns the momenta forward again."""

    def backward(self, at):
        return self.forward(at)


class NoRefreshJacobian(MixFlow):
    """The refreshment's Jacobian is left out."""

    def forward(self, at):
        return super().forward(at)._replace(log_det=at.log_det)

    def backward(self, at):
        return super().backward(at)._replace(log_det=at.log_det)


def remade(kind, q):
    """The same family in a wrong variant."""
    return kind(**{f.name: getattr(q, f.name) for f in dataclasses.fields(q)})


def families(target):
    start = jnp.zeros(2)
    wide = mean_field(target, start, scale=1.2)
    path = annealed(target, start, reference=wide)
    return {
        "annealed": (
            eqx.tree_at(lambda q: q.log_step, path, jnp.full(2, -1.0)),
            (NoBackwardMomentum,),
        ),
        "stochastic_flow": (
            stochastic_flow(target, start, scale=1.2),
            (NoBackwardStep,),
        ),
        "stochastic_flow metropolis": (
            stochastic_flow(target, start, kernel="metropolis", scale=1.2),
            (NoBackwardStep,),
        ),
        "mixflow": (
            mixflow(target, start, length=20, leapfrog=5, reference=wide),
            (NotInverse, NoRefreshJacobian),
        ),
    }


@pytest.mark.parametrize(
    "name",
    [
        "annealed",
        "stochastic_flow",
        "mixflow",
        pytest.param("stochastic_flow metropolis", marks=pytest.mark.slow),
    ],
)
def test_the_mean_weight_is_the_evidence(name):
    target = two_hills()
    q, wrong = families(target)[name]
    right = log_weights(q, target)
    assert np.isfinite(right).all()
    assert off(right, LOG_Z) < 4.0
    assert np.exp(right - LOG_Z).std() < 5.0  # so that the standard error means something
    for kind in wrong:
        assert not off(log_weights(remade(kind, q), target), LOG_Z) < 5.0, kind.__name__


@pytest.mark.slow
def test_weights_are_proper_in_double_precision_too():
    with jax.enable_x64(True):
        target = two_hills()
        for q, _ in families(target).values():
            found = log_weights(q, target, 500)
            assert found.dtype == np.float64
            assert off(found, LOG_Z) < 4.0


def test_weights_are_constant_where_the_kernels_are_exact():
    target = gaussian()
    metropolis = stochastic_flow(target, jnp.ones(2), kernel="metropolis", width=0, scale=2.0)
    assert np.abs(log_weights(metropolis, target, 200) - 3.0).max() < 1e-4
    still = annealed(target, jnp.ones(2), reference=exact_reference())
    still = eqx.tree_at(lambda q: q.log_step, still, jnp.full(2, -30.0))
    assert np.abs(log_weights(still, target, 200) - 3.0).max() < 1e-4
    flow = mixflow(target, jnp.ones(2), length=1, reference=exact_reference())
    assert np.abs(log_weights(flow, target, 200) - 3.0).max() < 1e-4


@pytest.mark.slow
def test_errors_of_the_hamiltonian_fall_with_the_square_of_the_step():
    target = gaussian()
    spread = {}
    for step in (0.4, 0.2):
        path = annealed(
            target, jnp.ones(2), leapfrog=round(0.8 / step), reference=exact_reference()
        )
        path = eqx.tree_at(lambda q: q.log_step, path, jnp.full(2, np.log(2.0 * step)))
        flow = mixflow(
            target,
            jnp.ones(2),
            10,
            leapfrog=round(0.8 / step),
            reference=exact_reference(),
            step=step,
        )
        spread[step] = [log_weights(q, target, 1000).std() for q in (path, flow)]
    assert all(3.0 < a / b < 5.0 for a, b in zip(spread[0.4], spread[0.2], strict=True))


@pytest.mark.slow
def test_the_elbo_rises_with_the_bridges():
    target = two_hills()
    found = []
    for bridges in (1, 4, 16):
        q = annealed(target, jnp.zeros(2), bridges, reference=mean_field(target, jnp.zeros(2), 1.0))
        q = eqx.tree_at(lambda q: q.log_step, q, jnp.full(2, np.log(0.3)))
        found.append(log_weights(q, target).mean())
    assert found[0] + 0.1 < found[1] < found[2] - 0.1
    assert found[2] < LOG_Z


@pytest.mark.slow
def test_training_an_annealed_path_beats_its_reference():
    bent = lambda x: -0.5 * (x[0] ** 2 + ((x[1] - x[0] ** 2) / 0.5) ** 2)
    target = from_log_density(bent, jnp.zeros(2))
    plain = ritz.fit(target, family="mean_field", steps=1000, draws=16)
    fit = ritz.fit(target, family="annealed", steps=1000, draws=16)
    assert fit.elbo.value > plain.elbo.value + 0.05
    assert fit.info["family"] == "annealed"
    again = ritz.fit(from_log_density(bent, jnp.zeros(2)), family="annealed", steps=9, draws=16)
    assert not again.info["compiled"]


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_gradient_of_metropolis_steps_counts_what_was_accepted(monkeypatch):
    target = from_log_density(lambda x: -0.5 * ((x - 1.0) ** 2).sum() / 0.1, jnp.zeros(1))
    n = 100_000
    keys = jax.random.split(jax.random.key(0), n)

    def loss(step, key):
        q = stochastic_flow(target, jnp.zeros(1), 2, 3, "metropolis", width=0, scale=1.0)
        x, log_q = eqx.tree_at(lambda q: q.log_step, q, q.log_step + step).sample_and_log_prob(key)
        return log_q - target.log_density(x)

    def each(f, step):
        return np.asarray(jax.jit(jax.vmap(f, (None, 0)))(step, keys), np.float64)

    def off(grads):
        return abs(grads.mean() - slope.mean()) / (np.hypot(slope.std(), grads.std()) / n**0.5)

    slope = (each(loss, 0.1) - each(loss, -0.1)) / 0.2  # of the same random numbers
    assert off(each(jax.grad(loss), 0.0)) < 4.0
    monkeypatch.setattr("ritz.family._stochastic_flow._credit", lambda *_: 0.0)
    assert off(each(jax.grad(loss), 0.0)) > 6.0


def test_a_flow_without_markov_steps_has_one_density_both_ways():
    q = stochastic_flow(two_hills(), jnp.zeros(2), steps=0, scale=1.2)
    leaves, treedef = jax.tree.flatten(eqx.filter(q.layers, eqx.is_inexact_array))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    moved = [v + 0.2 * jax.random.normal(k, v.shape) for k, v in zip(keys, leaves, strict=True)]
    layers = eqx.combine(jax.tree.unflatten(treedef, moved), q.layers)
    q = eqx.tree_at(lambda q: q.layers, q, layers)

    def worst(q):
        keys = jax.random.split(jax.random.key(1), 100)
        x, log_q = jax.vmap(paramax.unwrap(q).sample_and_log_prob)(keys)
        again = jax.vmap(paramax.unwrap(q).log_prob_estimate)(x, keys)
        return float(jnp.abs(log_q - again).max())

    assert worst(q) < 1e-3
    assert worst(remade(NoJacobian, q)) > 0.1


# -- densities backward ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["langevin", "metropolis"])
def test_paths_backward_estimate_the_density_of_draws(kernel):
    target = from_log_density(lambda x: -2.0 * ((x - 1.0) ** 2).sum(), jnp.zeros(1))
    q = stochastic_flow(target, jnp.zeros(1), 2, 3, kernel, scale=1.0)
    q = paramax.unwrap(eqx.tree_at(lambda q: q.log_step, q, q.log_step + 0.7))
    x = jax.jit(jax.vmap(q.sample))(jax.random.split(jax.random.key(0), 50_000))
    inside = float((jnp.abs(x - 0.6) < 0.1).mean()) / 0.2
    points = jnp.linspace(0.5, 0.7, 21)[:, None]
    keys = jax.random.split(jax.random.key(1), 21 * 1000).reshape(21, 1000)
    each = jax.jit(jax.vmap(lambda p, k: jax.vmap(lambda k: q.log_prob_estimate(p, k))(k)))
    found = np.exp(np.asarray(each(points, keys), np.float64))
    weights = np.r_[0.5, np.ones(19), 0.5] / 20
    mean, se = weights @ found.mean(1), np.sqrt(weights**2 @ found.var(1) / 1000)
    se = np.hypot(se, (inside / 0.2 / 50_000) ** 0.5)
    assert abs(mean - inside) < 4 * se
    assert abs(1.2 * mean - inside) > 4 * se


# -- the orbit of a mixed flow --------------------------------------------------------------------


def test_the_map_is_inverted():
    with jax.enable_x64(True):
        q = mixflow(two_hills(), jnp.zeros(2), reference=mean_field(None, jnp.zeros(2), 1.0))

        def there_and_back(key, times):
            start = q.start(key)
            far = jax.lax.fori_loop(0, times, lambda i, s: q.forward(s), start)
            back = jax.lax.fori_loop(0, times, lambda i, s: q.backward(s), far)
            error = jnp.abs(jnp.concatenate([back.z - start.z, back.momentum - start.momentum]))
            return error.max(), jnp.abs(far.z - start.z).max(), jnp.abs(back.log_det)

        keys = jax.random.split(jax.random.key(0), 100)
        error, moved, log_det = jax.vmap(lambda k: there_and_back(k, 5))(keys)
        assert max(error.max(), log_det.max()) < 1e-9
        assert moved.mean() > 0.5


def test_the_jacobian_is_that_of_the_map():
    with jax.enable_x64(True):
        q = mixflow(
            two_hills(), jnp.zeros(2), leapfrog=3, reference=mean_field(None, jnp.zeros(2), 1.0)
        )
        start = q.start(jax.random.key(3))

        def flat(v):
            s = q.forward(q.state(v[:2], v[2:4], v[4:]))
            return jnp.concatenate([s.z, s.momentum, s.time])

        at = jnp.concatenate([start.z, start.momentum, start.time])
        exact = jnp.linalg.slogdet(jax.jacfwd(flat)(at))[1]
        assert abs(q.forward(start).log_det - exact) < 1e-9
        assert abs(exact) > 0.01


def test_every_density_of_an_orbit_is_that_of_its_inverse_orbit():
    with jax.enable_x64(True):
        q = mixflow(two_hills(), jnp.zeros(2), 12, 3, mean_field(None, jnp.zeros(2), 1.0))
        states, log_q = q._orbit(q.start(jax.random.key(0)))
        each = jax.vmap(lambda s: q.augmented_log_prob(s.z, s.momentum, s.time))
        np.testing.assert_allclose(each(states), log_q, atol=1e-8)


def test_the_augmented_density_integrates_to_one():
    q = mixflow(two_hills(), jnp.zeros(2), 10, 3, mean_field(None, jnp.zeros(2), 1.0))

    def ratio(key):
        a, b, c = jax.random.split(key, 3)
        z, momentum = 1.5 * jax.random.normal(a, (2,)), 1.3 * jax.random.logistic(b, (2,))
        log_g = jax.scipy.stats.norm.logpdf(z, scale=1.5).sum()
        log_g = log_g + jax.scipy.stats.logistic.logpdf(momentum, scale=1.3).sum()
        return jnp.exp(q.augmented_log_prob(z, momentum, jax.random.uniform(c, (2,))) - log_g)

    w = np.asarray(jax.jit(jax.vmap(ratio))(jax.random.split(jax.random.key(0), 20_000)), float)
    se = w.std() / len(w) ** 0.5
    assert abs(w.mean() - 1.0) < 4 * se < 0.1


def test_a_trajectory_estimates_the_elbo_of_single_draws():
    target = two_hills()
    q = mixflow(target, jnp.zeros(2), 20, 5, mean_field(None, jnp.zeros(2), 1.0))
    orbits = np.asarray(
        jax.jit(jax.vmap(q.trajectory))(jax.random.split(jax.random.key(0), 1000))[1]
    )
    single = log_weights(q, target)
    means = orbits.mean(1)
    se = np.hypot(means.std() / 1000**0.5, single.std() / 4000**0.5)
    assert abs(means.mean() - single.mean()) < 4 * se < 0.2
    assert means.std() < single.std()


@pytest.mark.slow
def test_a_flow_is_tuned_in_one_call_and_saved(tmp_path):
    target = two_hills()
    solver = ritz.solver.mixflow(train=300, candidates=[0.03, 0.1, 0.3, 30.0])
    fit = ritz.fit(target, family="mixflow", solver=solver)
    assert fit.info["steps"] == 304
    assert fit.stop_reason in ("steps", "converged")
    assert 0.02 < float(jnp.exp(fit.q.log_step)) < 1.0
    reference = fit.history.loss[299]
    assert fit.history.loss[-1] < reference - 0.1
    assert fit.khat < 0.7
    assert off(fit.log_weights(), LOG_Z) < 4.0
    fit.save(tmp_path / "fit")
    again = ritz.load(tmp_path / "fit", target)
    np.testing.assert_array_equal(again.log_weights(50), fit.log_weights(50))
    assert ritz.load(tmp_path / "fit").elbo == fit.elbo


def test_what_does_not_fit_is_refused():
    target = two_hills()
    with pytest.raises(RitzError, match=r"StagedAdam needs grad, .*; use solver='mixflow'"):
        ritz.fit(target, family="mixflow", solver="adam")
    with pytest.raises(RitzError, match=r"annealed makes its draws with .*, but no target arrived"):
        annealed(None, jnp.zeros(2))
    with pytest.raises(RitzError, match="no kernel 'mala'"):
        stochastic_flow(target, jnp.zeros(2), kernel="mala")
    with pytest.raises(RitzError, match="the reference arrived as 'flow'; expected 'mean_field'"):
        mixflow(target, jnp.zeros(2), reference="flow")
    with pytest.raises(RitzError, match="the reference Annealed lacks log_prob"):
        annealed(target, jnp.zeros(2), reference=annealed(target, jnp.zeros(2)))
    with pytest.raises(RitzError, match=r"candidates=.* arrived, expected positive numbers"):
        ritz.solver.mixflow(candidates=[0.1, -1.0])
