"""Latents by a gradient against linear algebra; networks of places."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz.latent import (
    VAE,
    codebook,
    gaussian,
    gradient_origin,
    mlp,
    places,
    reconstruction,
    siren,
    vector_quantised,
)


def rows(n=300, d=6):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, d))


def trained(**how):
    parts = {"encoder": gradient_origin(), "decoder": mlp(), "objective": reconstruction()}
    settings = {"epochs": 2, "batch": 50, "lr": 1e-2, "validation": 0.0, "progress": False}
    return VAE(2, **(parts | settings | how)).fit(rows())


def test_of_an_affine_decoder_it_is_the_transposed_map():
    vae = trained(likelihood=gaussian(0.5, each=False))
    decoder = vae.fit_.target.decoder
    (layer,) = decoder.layers
    x = rows(5)
    ends = vae.decode(np.zeros((1, 2)))[0]
    scale = np.asarray(paramax.unwrap(vae.fit_.target.likelihood).scale)
    map_ = np.asarray(layer.weight) * (scale if scale.ndim == 0 else scale[:, None])
    expected = ((x - ends) / 0.5**2) @ map_
    found = vae.encode(x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert not np.allclose(found, -expected, rtol=1e-3)


def test_of_means_and_sds_the_gradient_is_at_the_mean():
    step, sd = 0.3, 0.5
    parts = {"objective": None, "encoder": gradient_origin(step)}
    vae = trained(**parts, likelihood=gaussian(sd, each=False))
    head, (layer,) = vae.fit_.q.network.head, vae.fit_.target.decoder.layers
    scale = np.asarray(paramax.unwrap(vae.fit_.target.likelihood).scale)
    map_ = scale * np.asarray(layer.weight) @ np.asarray(head.weight)[:2]
    x, at = rows(5), vae.decode(np.asarray(head.bias)[None, :2])[0]
    z = step * ((x - at) / sd**2) @ map_
    means = z @ np.asarray(head.weight)[:2].T + np.asarray(head.bias)[:2]
    np.testing.assert_allclose(vae.encode(x), means, rtol=1e-3, atol=1e-4)
    assert not np.allclose(means, z @ np.asarray(head.weight)[:2].T, rtol=1e-2)


def test_training_passes_through_the_gradient():
    vae = trained(epochs=40)
    x = rows()
    error = ((vae.decode(vae.encode(x)) - x) ** 2).sum() / (x**2).sum()
    assert error < 1e-3  # of rows of two dimensions

    class Detached(type(vae.fit_.q.network)):
        def read(self, fits):
            return jax.lax.stop_gradient(super().read(fits))

    q, target = paramax.unwrap((vae.fit_.q, vae.fit_.target))
    cut = eqx.tree_at(lambda q: q.network, q, Detached(None, 2, 1.0))
    batch, key = {"x": jnp.asarray(x[:20])}, jax.random.key(0)
    slope = lambda q: eqx.filter_grad(
        lambda decoder: reconstruction().loss(
            q, eqx.tree_at(lambda t: t.decoder, target, decoder), key, batch
        )[0]
    )(mlp()((2,), (6,), key))
    whole, part = slope(q).layers[0].weight, slope(cut).layers[0].weight
    assert np.abs(np.asarray(whole - part)).max() > 0.1 * np.abs(np.asarray(whole)).max()


def test_the_bound_is_trained_and_latents_are_kept(tmp_path):
    parts = {"objective": None, "epochs": 100, "likelihood": gaussian(1.0, each=False)}
    vae = trained(**parts, encoder=gradient_origin(0.3))
    plain = trained(**parts, encoder=mlp())
    x = rows()
    # Of an affine decoder the posterior's mean is affine in the row, as is this encoder.
    assert abs(vae.diagnose(x).elbo - plain.diagnose(x).elbo) < 0.3
    assert vae.sample(3).shape == (3, 6)
    file = vae.save(tmp_path / "vae")
    same = VAE(**vae.get_params()).restore(file)
    np.testing.assert_array_equal(same.encode(x[:5]), vae.encode(x[:5]))


def test_a_network_of_places_is_the_same_at_any_size():
    net = siren(16, 16, frequency=5.0)((3,), (2, 4, 6), jax.random.key(0))
    z = jax.random.normal(jax.random.key(1), (3,))
    image = net(z)
    assert image.shape == (2, 4, 6)
    np.testing.assert_allclose(net.at(places((4, 6)), z).reshape(2, 4, 6), image, rtol=1e-5)
    # By hand at one pixel, whose place is row 1 of 4 and column 4 of 6.
    where = np.array([2 * 1.5 / 4 - 1, 2 * 4.5 / 6 - 1])
    h = np.concatenate([where, z])
    for i, layer in enumerate(net.layers):
        h = np.asarray(layer.weight) @ (np.sin(5.0 * h) if i else h) + np.asarray(layer.bias)
    np.testing.assert_allclose(image[:, 1, 4], h, rtol=1e-3, atol=1e-5)
    # Three times as fine, every third pixel has the same middle.
    fine = net.at(places((12, 18)), z).reshape(2, 12, 18)
    np.testing.assert_allclose(fine[:, 1::3, 1::3], image, rtol=1e-3, atol=1e-5)
    assert not np.allclose(fine[:, ::3, ::3], image, rtol=1e-2)


def test_an_image_of_many_sines_has_the_spread_that_it_starts_with():
    net = siren(256, 256, 256)((8,), (16, 16), jax.random.key(0))
    z = 0.1 * jax.random.normal(jax.random.key(1), (8,))
    first, *rest = net.layers
    h = jax.vmap(lambda u: first(jnp.concatenate([u, z])))(places((16, 16)))
    for layer in rest[:-1]:
        h = jax.vmap(layer)(jnp.sin(30.0 * h))
        # Sitzmann and others, section 3.2: before each sine, times the frequency, sd 1.
        assert 0.8 < float(30.0 * h.std()) < 1.25


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"objective": vector_quantised(), "prior": codebook(8, 1)}, "reads a row by means of"),
        ({"decoder": siren(8)}, "siren: output of shape"),
    ],
)
def test_what_it_cannot_read_is_refused(how, told):
    with pytest.raises(ritz.RitzError, match=told):
        trained(**how)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: gradient_origin(0.0), "step=0.0 arrived"),
        (lambda: siren(), "no width arrived"),
        (lambda: siren(0), "siren"),
        (lambda: siren(8, frequency=0.0), "frequency=0.0 arrived"),
    ],
)
def test_what_has_no_size_is_refused(make, told):
    with pytest.raises(ritz.RitzError, match=told):
        make()
