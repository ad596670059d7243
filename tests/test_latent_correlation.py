"""Parts of the divergence against sums over a mixture; networks in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from scipy.stats import norm

import ritz
from ritz.family import MeanField
from ritz.latent import (
    VAE,
    density_gap,
    elbo,
    gaussian,
    gaussian_mixture,
    half,
    mlp,
    point,
    total_correlation,
)
from ritz.latent._correlation import parts_of_divergence
from ritz.latent._half import Half


def some(n=5, d=3):
    rng = np.random.default_rng(0)
    loc, log_scale, z = (jnp.asarray(rng.normal(size=(n, d))) for _ in range(3))
    return jax.vmap(MeanField)(loc, log_scale), z


def test_parts_are_those_of_the_mixture_and_add_up():
    posts, z = some()
    loc, scale = np.asarray(posts.loc), np.exp(np.asarray(posts.log_scale))
    prior = MeanField(jnp.asarray([0.5, 0.0, -1.0]), jnp.asarray([0.1, 0.0, 0.3]))
    found = [float(v) for v in parts_of_divergence(posts, z, prior)]
    own, joint, alone, wanted = [], [], [], []
    for i, at in enumerate(np.asarray(z)):
        density = norm(loc, scale).pdf(at)
        own.append(np.log(density[i].prod()))
        joint.append(np.log(density.prod(axis=1).mean()))
        alone.append(np.log(density.mean(axis=0)).sum())
        wanted.append(norm(prior.loc, np.exp(prior.log_scale)).logpdf(at).sum())
    mean = lambda a, b: np.mean(np.subtract(a, b))
    expected = [mean(own, joint), mean(joint, alone), mean(alone, wanted)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(sum(found), mean(own, wanted), rtol=1e-4)
    # Each draw's own posterior must be on the diagonal: of shuffled posteriors it is another sum.
    turned = jax.tree.map(lambda v: v[::-1], posts)
    assert not np.isclose(sum(map(float, parts_of_divergence(turned, z, prior))), sum(found))


def test_latents_that_are_copies_have_correlation_and_others_none():
    prior, key = MeanField(jnp.zeros(2), jnp.zeros(2)), jax.random.key(0)
    one, two = jax.random.normal(key, (2, 600, 1))
    narrow = lambda loc: jax.vmap(MeanField)(loc, jnp.full(loc.shape, -2.0))
    for loc, low, high in (
        (jnp.concatenate([one, one], axis=1), 1.0, 2.5),
        (jnp.concatenate([one, two], axis=1), -0.1, 0.4),
    ):
        z = loc + jnp.exp(-2.0) * jax.random.normal(jax.random.key(1), loc.shape)
        assert low < float(parts_of_divergence(narrow(loc), z, prior)[1]) < high


def rows(n=400):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 2)) @ np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])


def trained(objective, **how):
    parts = {"encoder": mlp(16), "decoder": mlp(16), "likelihood": gaussian(0.1, each=False)}
    settings = {"epochs": 3, "batch": 50, "validation": 0.0, "progress": False}
    return VAE(2, objective=objective, **(parts | settings | how)).fit(rows())


def test_with_a_weight_of_one_it_is_the_bound():
    vae = trained(elbo(), likelihood=gaussian(0.5, each=False), epochs=60, lr=1e-2)
    q, target = paramax.unwrap((vae.fit_.q, vae.fit_.target))
    batch, keys = {"x": jnp.asarray(rows(100))}, jax.random.split(jax.random.key(0), 20)
    of = lambda objective: jax.vmap(lambda k: objective.loss(q, target, k, batch)[0])(keys)
    exact, found = of(elbo(8)), of(total_correlation(1.0))
    error = np.hypot(np.std(exact), np.std(found)) / 20**0.5
    assert abs(np.mean(found) - np.mean(exact)) < 4 * error
    assert abs(np.mean(of(density_gap())) - np.mean(exact)) > 4 * error


def test_the_density_gap_keeps_latents_that_the_bound_gives_up():
    loud = {"likelihood": gaussian(3.0, each=False), "epochs": 60, "lr": 1e-2}
    told = lambda vae: vae.encode(rows()).var(axis=0).sum()
    kept, lost = trained(density_gap(), **loud), trained(elbo(), **loud)
    assert told(lost) < 0.5 < told(kept)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (
            {"prior": gaussian_mixture(3)},
            "a prior of type Mixture arrived",
        ),
        ({"posterior": point()}, "needs a posterior with a density"),
    ],
)
def test_models_without_the_parts_are_refused(how, told):
    with pytest.raises(ritz.RitzError, match=told):
        trained(density_gap(), **how)
    with pytest.raises(ritz.RitzError, match="beta=-1 arrived, expected a number of at least 0"):
        total_correlation(-1)


def test_half_precision_is_near_and_leaves_parameters_as_they_are(monkeypatch):
    full = half(mlp(64))((8,), (4,), jax.random.key(0))
    with monkeypatch.context() as there:
        there.setattr(jax, "default_backend", lambda: "gpu")
        low = half(mlp(64))((8,), (4,), jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (8,))
    far = np.abs(np.asarray(low(x) - full(x))).max()
    assert 0.0 < far < 0.05
    assert low(x).dtype == full(x).dtype
    assert all(v.dtype == full(x).dtype for v in jax.tree.leaves(low) if hasattr(v, "dtype"))
    assert type(full) is type(mlp(64)((8,), (4,), jax.random.key(0)))  # nothing on a CPU
    lowered = lambda *shapes: Half(mlp(16)(*shapes))
    nets = {"encoder": lowered, "decoder": lowered, "epochs": 60}
    vae, plain = trained(elbo(), lr=1e-2, **nets), trained(elbo(), lr=1e-2, epochs=60)
    bounds = [v.diagnose(rows()).elbo for v in (vae, plain)]
    assert abs(bounds[0] - bounds[1]) < 0.3
    with pytest.raises(ritz.RitzError, match="expected a builder"):
        half(full)
