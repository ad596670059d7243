"""Moments of latents against NumPy, and what leading them to the prior's does."""

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz.family import MeanField
from ritz.latent import VAE, dip, elbo, gaussian, gaussian_mixture, mlp, point
from ritz.latent._dip import covariance


def test_covariances_are_those_of_latents():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        loc, log_scale = rng.normal(size=(6, 3)) + 2.0, rng.normal(size=(6, 3))
        posts = jax.vmap(MeanField)(jnp.asarray(loc), jnp.asarray(log_scale))
        of_means = np.cov(loc.T, bias=True)
        np.testing.assert_allclose(covariance(posts, False), of_means, rtol=1e-10)
        z = loc[:, None] + np.exp(log_scale)[:, None] * rng.normal(size=(6, 200_000, 3))
        cov = np.cov(z.reshape(-1, 3).T)
        found = np.asarray(covariance(posts, True))
        np.testing.assert_allclose(found, cov, atol=0.03 * np.diag(cov).max())
        assert np.abs(of_means - cov).max() > 0.1 * np.diag(cov).max()


def rows(n=500):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, 5))


def trained(objective, **how):
    parts = {"encoder": mlp(16), "decoder": mlp(16), "likelihood": gaussian(0.5, each=False)}
    settings = {"epochs": 60, "batch": 50, "lr": 1e-2, "validation": 0.0, "progress": False}
    return VAE(2, objective=objective, **(parts | settings | how)).fit(rows())


def test_the_loss_is_the_bound_and_the_squares():
    vae = trained(elbo(), epochs=5)
    q, target = paramax.unwrap((vae.fit_.q, vae.fit_.target))
    batch, key = {"x": jnp.asarray(rows(40))}, jax.random.key(0)
    posts = jax.vmap(q.condition)(batch)
    cov = np.cov(np.asarray(posts.loc).T, bias=True)
    plain, _ = dip(0.0, 0.0).loss(q, target, key, batch)
    loss, figures = dip(3.0, 0.7, draws=False).loss(q, target, key, batch)
    together, scales = 2.0 * cov[0, 1] ** 2, ((np.diag(cov) - 1.0) ** 2).sum()
    np.testing.assert_allclose(loss, plain + 3.0 * together + 0.7 * scales, rtol=1e-4)
    np.testing.assert_allclose(plain, -figures["elbo"], rtol=1e-5)
    keys = jax.random.split(key, 40)
    of = lambda objective: jax.vmap(lambda k: objective.loss(q, target, k, batch)[0])(keys)
    bound, same = of(elbo(4)), of(dip(0.0, 0.0))
    assert abs(bound.mean() - same.mean()) < 4 * np.hypot(bound.std(), same.std()) / 40**0.5
    assert not np.isclose(float(loss), float(plain + 0.7 * together + 3.0 * scales), rtol=1e-3)


def test_moments_come_to_the_prior():
    def off(vae):
        post = jax.vmap(paramax.unwrap(vae.fit_.q).condition)({"x": jnp.asarray(rows())})
        return np.abs(np.asarray(covariance(post, False)) - np.eye(2)).max()

    loud = {"likelihood": gaussian(2.0, each=False)}  # means are near zero
    assert off(trained(dip(50.0, 50.0, draws=False), **loud)) < 0.1
    assert off(trained(dip(50.0, 0.0, draws=False), **loud)) > 0.3


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"prior": gaussian_mixture(3)}, "a prior of type Mixture arrived"),
        ({"posterior": point()}, "needs a posterior with a density"),
        ({"batch": 1}, "batches of one row"),
    ],
)
def test_what_has_no_moments_is_refused(how, told):
    with pytest.raises(ritz.RitzError, match=told):
        trained(dip(), **how)
    with pytest.raises(ritz.RitzError, match="off_diagonal=-1 arrived"):
        dip(-1)
