"""Posteriors that see a part of each row: the bound is the same where nothing is dropped."""

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz.family import AbstractAmortised, MeanField
from ritz.latent import VAE, denoising_elbo, elbo, gaussian, mlp, vamp


def rows(n=400):
    """Two factors, each seen in three columns."""
    z = np.random.default_rng(0).normal(size=(n, 2))
    return np.repeat(z, 3, axis=1) + 0.1 * np.random.default_rng(1).normal(size=(n, 6))


def trained(objective, **how):
    parts = {"encoder": mlp(32), "decoder": mlp(), "likelihood": gaussian(0.3, each=False)}
    settings = {"epochs": 60, "batch": 50, "lr": 1e-2, "validation": 0.0, "progress": False}
    return VAE(2, objective=objective, **(parts | settings | how)).fit(rows())


def losses(vae, objective):
    """Of a batch, by key."""
    q, target = paramax.unwrap((vae.fit_.q, vae.fit_.target))
    batch, keys = {"x": jnp.asarray(rows(100))}, jax.random.split(jax.random.key(0), 30)
    return jax.jit(jax.vmap(lambda k: objective.loss(q, target, k, batch)[0]))(keys)


def test_where_nothing_is_dropped_it_is_the_bound():
    vae = trained(elbo(), epochs=5)
    of = lambda objective: losses(vae, objective)
    exact, found, dropped = of(elbo(4)), of(denoising_elbo(0.0)), of(denoising_elbo(0.5))
    error = 4 * np.hypot(exact.std(), found.std()) / 30**0.5
    assert abs(found.mean() - exact.mean()) < error
    assert dropped.mean() - exact.mean() > error  # an encoder that was not trained for it
    rising = denoising_elbo(0.3, beta=2.0, warmup=10)
    assert rising.changes
    assert of(rising.at(0)).mean() < of(rising.at(9)).mean()


class Seen(AbstractAmortised):
    """Posteriors whose means are the row as it arrives."""

    @property
    def dim(self):
        return 6

    def condition(self, data):
        return MeanField(data["x"], jnp.zeros(6))


def test_entries_are_dropped_and_the_others_are_larger():
    target = VAE(6, decoder=mlp(), epochs=1, validation=0.0, progress=False).fit(rows()).fit_.target
    x = jnp.asarray(rows(50))
    keys = jax.random.split(jax.random.key(0), 400)
    for share in (0.0, 0.4):
        one = lambda k, s=share: denoising_elbo(s).loss(Seen(), target, k, {"x": x})[1]["kl"]
        kl = np.asarray(jax.jit(lambda keys, one=one: jax.lax.map(one, keys))(keys))
        # Of means of variance one the divergence is half their square, E (x b / (1 - s))^2.
        wanted = 0.5 * float((x**2).sum(axis=1).mean()) / (1.0 - share)
        error = 4 * kl.std() / len(kl) ** 0.5 + 1e-4 * wanted
        assert abs(kl.mean() - wanted) < error
        assert share == 0.0 or abs(kl.mean() - wanted * (1.0 - share) ** 2) > error  # not larger


def test_pseudo_inputs_are_whole():
    vae = trained(denoising_elbo(0.5), prior=vamp(rows()[:5]), epochs=2)
    assert vae.sample(2).shape == (2, 6)


def test_latents_tell_of_entries_that_were_not_seen():
    whole, part = trained(elbo()), trained(denoising_elbo(0.5))
    lost, least = (losses(vae, denoising_elbo(0.5)) for vae in (whole, part))
    assert lost.mean() - least.mean() > 4 * np.hypot(lost.std(), least.std()) / 30**0.5
    kept = [losses(vae, elbo()).mean() for vae in (whole, part)]
    assert kept[0] < kept[1]  # and that costs where all are seen


@pytest.mark.parametrize("share", [1.0, -0.1, True, "half"])
def test_no_share_is_refused(share):
    with pytest.raises(ritz.RitzError, match=r"denoising_elbo: share=.* arrived"):
        denoising_elbo(share)
