"""Energy models: rules with known minima, weights with known normalisers, chains."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest

import ritz
from ritz import RitzError
from ritz.particle import (
    PersistentChains,
    contrastive_divergence,
    denoising_score_matching,
    energy_model,
    hmc,
    mala,
    noise_contrastive,
    persistent_chains,
    score_matching,
    ula,
)


class Quadratic(eqx.Module):
    """f = a z^2 / 2 + b z, summed: the model is Gaussian, with precision 1 + a."""

    a: jax.Array
    b: jax.Array

    def __call__(self, z):
        return (0.5 * self.a * z**2 + self.b * z).sum()


def quadratic(a=0.0, b=0.0, d=1):
    return energy_model(Quadratic(jnp.full(d, a), jnp.full(d, b)), length=20)


def exact_normaliser(a, b):
    return 0.5 * b**2 / (1.0 + a) - 0.5 * np.log1p(a)


def samples(n=2000, seed=0):
    return np.random.default_rng(seed).normal(3.0, 2.0, (n, 1))


def fitted(target, steps=1500, **parts):
    return ritz.fit(target, family=quadratic(1.5, 1.0), steps=steps, progress=False, **parts)


def precision(fit):
    return float(1.0 + fit.q.energy.a[0])


def test_score_matching_of_a_gaussian_is_its_moments():
    fit = fitted(ritz.target.from_samples(samples()), objective=score_matching(None))
    np.testing.assert_allclose(precision(fit), 1.0, atol=1e-3)
    np.testing.assert_allclose(fit.q.energy.b, 0.0, atol=1e-3)


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_denoising_blurs_by_its_noise(noise):
    fit = fitted(
        ritz.target.from_samples(samples()),
        objective=denoising_score_matching(noise, 1024),
        steps=3000,
    )
    np.testing.assert_allclose(precision(fit), 1.0 / (1.0 + noise**2), rtol=0.05)


def test_score_matching_without_its_trace_is_found_out():
    """The wrong variant: the square alone is least for a flat density."""

    class Square(type(score_matching())):
        def loss(self, q, target, key, batch=None):
            z = self.seen(q, target, key)
            return 0.5 * (jax.vmap(jax.grad(q.log_tilted))(z) ** 2).sum(axis=1).mean()

    fit = fitted(ritz.target.from_samples(samples()), objective=Square(None))
    assert precision(fit) < 0.1


def test_noise_contrast_finds_the_normaliser():
    """Samples are of another law than the reference: bimodal ones, in a Gaussian of a family."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 1)) * 0.5 + np.sign(rng.random((4000, 1)) - 0.5) * 1.0
    target = ritz.target.from_samples(x)
    fit = ritz.fit(
        target,
        family=energy_model(width=16),
        objective=noise_contrastive(1024),
        steps=1500,
        lr=0.01,
        progress=False,
    )
    q = paramax.unwrap(fit.q)
    grid = jnp.linspace(-6.0, 6.0, 2001)[:, None]
    log_z = jax.nn.logsumexp(jax.vmap(q.log_density)(grid)) + jnp.log(grid[1, 0] - grid[0, 0])
    assert abs(float(q.log_normaliser - log_z)) < 0.05


def along(moves, solver=PersistentChains, chains=4000, steps=60):
    """Weights at the end of a path from (0, 0) to a = 3, b = 1, at a constant speed."""
    move = optax.stateless(
        lambda grads, params: eqx.tree_at(
            lambda q: (q.energy.a, q.energy.b),
            jax.tree.map(jnp.zeros_like, grads),
            (jnp.full(1, 3.0 / steps), jnp.full(1, 1.0 / steps)),
        )
    )
    made = persistent_chains(move, moves=moves, chains=chains, resample=0.0)
    fit = ritz.fit(
        ritz.target.from_samples(samples()),
        family=quadratic(),
        solver=solver(**vars(made)),
        steps=steps,
        progress=False,
    )
    return fit, float(fit.q.log_normaliser)


def normaliser_and_se(fit):
    a = np.asarray(paramax.unwrap(fit.q.log_weights), float)
    w = np.exp(a - a.max())
    return np.log(w.mean()) + a.max(), w.std() / w.mean() / np.sqrt(len(w))


@pytest.mark.parametrize("moves", [ula(0.3), ula(0.8), mala(0.6), hmc(0.4, 3)])
def test_weights_give_the_exact_ratio_of_normalisers(moves):
    fit, told = along(moves)
    found, se = normaliser_and_se(fit)
    np.testing.assert_allclose(told, found, atol=1e-4)
    assert abs(found - exact_normaliser(3.0, 1.0)) < 4.0 * se < 0.2


class Backwards(PersistentChains):
    """The sign of the work is wrong."""

    def work(self, old, new, z):
        return -super().work(old, new, z)


def test_work_of_the_other_sign_is_found_out():
    found, se = normaliser_and_se(along(mala(0.6), Backwards)[0])
    assert abs(found - exact_normaliser(3.0, 1.0)) > 10.0 * se


def test_unadjusted_moves_without_their_ratio_are_found_out():
    """Long steps have another law; the right variant passes with the same in the test above."""
    fit, _ = along(ula(0.8))
    z = np.asarray(paramax.unwrap(fit.q.chains), float)[:, 0]
    a = np.asarray(paramax.unwrap(fit.q.log_weights), float)
    w = np.exp(a - a.max())
    w /= w.sum()
    exact = 0.25  # the variance at a = 3
    se = exact * np.sqrt(2.0 * (w**2).sum())
    assert abs(w @ (z + 0.25) ** 2 - exact) < 4.0 * se
    assert abs(np.mean((z + 0.25) ** 2) - exact) > 4.0 * se


def test_resampling_keeps_the_normaliser():
    from ritz.particle._persistent import _systematic

    share = jnp.asarray([0.1, 0.0, 0.6, 0.3])
    keys = jax.random.split(jax.random.key(0), 4000)
    rows = np.asarray(jax.vmap(lambda k: _systematic(k, share))(keys))
    counts = (rows[..., None] == np.arange(4)).sum(1)
    assert (np.abs(counts - 4 * np.asarray(share)) < 1.0).all()
    np.testing.assert_allclose(counts.mean(0), 4 * np.asarray(share), atol=0.05)


@pytest.mark.parametrize("moves", [mala(0.9), hmc(0.5, 3)])
def test_tested_moves_leave_a_gaussian_as_it_is(moves):
    log_density = lambda x: -0.5 * ((x / jnp.asarray([1.0, 0.5])) ** 2).sum()
    keys = jax.random.split(jax.random.key(1), 8000)
    start = jax.random.normal(jax.random.key(2), (8000, 2)) * jnp.asarray([1.0, 0.5])
    ends = np.asarray(jax.vmap(lambda x, k: moves(log_density, x, k, 5).x)(start, keys), float)
    np.testing.assert_allclose(ends.std(0) / [1.0, 0.5], 1.0, atol=4.0 / np.sqrt(2 * 8000))


@pytest.mark.parametrize(
    "parts",
    [
        {"objective": contrastive_divergence(mala(0.8), 10)},
        {"solver": persistent_chains(optax.adam(3e-3), moves=hmc(0.4, 3))},
        {"solver": persistent_chains(optax.adam(3e-3), moves=hmc(0.4, 3), reweighted=False)},
    ],
)
def test_chains_find_the_maximum_of_the_likelihood(parts):
    """From a model that is far off, back to the samples' moments; draws pass the verdict."""
    fit = ritz.fit(
        ritz.target.from_samples(samples()),
        family=quadratic(1.5, 1.0),
        steps=1500,
        progress=False,
        **parts,
    )
    assert abs(precision(fit) - 1.0) < 0.25
    assert abs(float(fit.q.energy.b[0])) < 0.25
    assert abs(fit.mean()[0] - 3.0) < 0.4


def test_drawing_is_from_the_density():
    fit = fitted(ritz.target.from_samples(samples()), objective=score_matching(None))
    assert fit.status == "ok", fit.reasons
    assert fit.sample(10).shape == (10, 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ula(-1.0), "step=-1.0"),
        (lambda: hmc(0.1, 0), "leapfrogs=0"),
        (lambda: energy_model(width=0), "width=0"),
        (lambda: energy_model(lambda z: z), "Equinox module"),
        (lambda: energy_model(moves=3), "mala"),
        (lambda: denoising_score_matching(0.0), "noise=0.0"),
        (lambda: contrastive_divergence(length=0), "length=0"),
        (lambda: noise_contrastive(rows=0), "rows=0"),
        (lambda: persistent_chains(3), "Optax"),
        (lambda: persistent_chains(resample=2.0), "resample=2.0"),
        (lambda: fit_of(family="full_rank", solver=persistent_chains()), "energy_model"),
        (lambda: fit_of(family="full_rank", objective=score_matching()), "energy_model"),
        (lambda: fit_of(ritz.target.from_samples(np.zeros((9, 1)))), "one value only"),
        (lambda: fit_of(ritz.target.from_log_density(lambda x: -x @ x, jnp.zeros(2))), "samples"),
    ],
)
def test_bad_input_is_refused_in_a_line(make, said):
    with pytest.raises(RitzError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def fit_of(target=None, family=None, **parts):
    target = ritz.target.from_samples(samples(100)) if target is None else target
    return ritz.fit(target, family=family or energy_model(), steps=1, progress=False, **parts)
