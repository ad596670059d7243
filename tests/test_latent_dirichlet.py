"""Shares as latents against SciPy; flows as priors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ritz
from ritz.latent import VAE, Dirichlet, dirichlet, gaussian, mlp, multinomial, shares

A, B = np.array([0.6, 2.0, 4.0]), np.array([1.5, 1.5, 1.5])


def test_densities_and_divergences_are_exact():
    with jax.enable_x64(True):
        q, p = Dirichlet(jnp.asarray(A)), Dirichlet(jnp.asarray(B))
        x = np.random.default_rng(0).dirichlet(A, 100_000)
        found = jax.vmap(q.log_prob)(jnp.asarray(x[:5]))
        np.testing.assert_allclose(found, stats.dirichlet(A).logpdf(x[:5].T), rtol=1e-8)
        ratio = stats.dirichlet(A).logpdf(x.T) - stats.dirichlet(B).logpdf(x.T)
        error = 4 * ratio.std() / len(x) ** 0.5
        assert abs(float(q.divergences(p).sum()) - ratio.mean()) < error
        assert abs(float(p.divergences(q).sum()) - ratio.mean()) > error  # the other way round
        np.testing.assert_allclose(q.divergences(q), 0.0, atol=1e-12)


def test_gradients_pass_through_draws():
    keys = jax.random.split(jax.random.key(0), 40_000)

    def first(a):
        return jax.vmap(lambda key: Dirichlet(a).sample(key)[0])(keys).mean()

    a = jnp.asarray(A, float)
    slope = jax.grad(first)(a)
    total = A.sum()
    exact = np.array([total - A[0], -A[0], -A[0]]) / total**2  # of the mean, A_0 / total
    np.testing.assert_allclose(slope, exact, atol=0.004)
    assert np.abs(exact).min() > 3 * 0.004


def topics(n=400, words=12):
    """Rows of counts from three topics that share no word, and their shares."""
    rng = np.random.default_rng(0)
    z = rng.dirichlet(np.full(3, 0.3), n)
    law = np.kron(np.eye(3), np.full(words // 3, 3.0 / words))
    return np.stack([rng.multinomial(60, p) for p in z @ law]).astype(float), z


def test_shares_of_topics_are_found():
    x, z = topics()
    vae = VAE(
        3,
        likelihood=multinomial(),
        prior=dirichlet(0.3),
        posterior=shares(),
        encoder=mlp(32),
        decoder=mlp(32),
        epochs=100,
        batch=50,
        lr=1e-2,
        validation=0.0,
        progress=False,
    ).fit(x)
    found = vae.encode(x)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    pairs = np.abs(np.corrcoef(found.T, z.T)[:3, 3:])
    assert (pairs.max(axis=0) > 0.7).all()
    assert (np.sort(pairs.argmax(axis=0)) == np.arange(3)).all()
    assert np.isfinite(vae.log_likelihood(x[:5], draws=20)).all()
    assert vae.sample(3).shape == (3, 12)


def test_a_flow_as_prior_is_trained():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, (600, 1))
    ring = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    x = ring @ rng.normal(size=(2, 4)) + 0.02 * rng.normal(size=(600, 4))
    nets = {"encoder": mlp(32), "decoder": mlp(), "likelihood": gaussian(each=False)}
    how = {"epochs": 100, "batch": 50, "lr": 5e-3, "validation": 0.0, "progress": False}
    prior = ritz.family.maf(None, jnp.zeros(2), scale=1.0, layers=4, width=32)
    learned, normal = VAE(2, prior=prior, **nets, **how).fit(x), VAE(2, **nets, **how).fit(x)
    gain = learned.log_likelihood(x) - normal.log_likelihood(x)
    assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5  # of a ring no normal is the law
    assert learned.sample(5).shape == (5, 4)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda x: dirichlet(0.0), "concentration=0.0 arrived"),
        (lambda x: VAE(1, prior=dirichlet(), posterior=shares()).fit(x), "two dimensions"),
        (lambda x: VAE(3, prior=dirichlet()).fit(x), "posterior=shares"),
        (lambda x: VAE(3, posterior=shares()).fit(x), "posterior=shares"),
        (lambda x: VAE((3, 2), prior=dirichlet()).fit(x), "two dimensions"),
    ],
)
def test_what_is_no_share_is_refused(make, told):
    with pytest.raises(ritz.RitzError, match=told):
        make(topics(200)[0])
