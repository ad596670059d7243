"""Decoders and encoders of other kinds: exact cases, wrong variants, bad input."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ritz
from ritz import latent
from ritz.latent import VAE

KEY = jax.random.key(0)


def rows_of_a_line(n: int = 200) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 1)) @ np.ones((1, 4)) + 0.5 * rng.normal(size=(n, 4))


# -- gradients of convex networks -----------------------------------------------------------------


def built(level: float, *hidden: int, shape: Any = (3, 4)) -> latent.Brenier:
    return latent.brenier(*hidden, inverse_lipschitz=level)((5,), shape, KEY)


def test_without_its_networks_it_is_an_isometry_times_the_constant() -> None:
    weights = lambda net: [m.potential.raw for m in (net.inner, net.outer)]
    net = built(2.5, 8, 8)
    net = eqx.tree_at(weights, net, jax.tree.map(lambda v: v - 1e4, weights(net)))
    z = jax.random.normal(KEY, (6, 2, 5))
    run = eqx.filter_jit(lambda net, z: jax.vmap(jax.vmap(net))(z))
    one, two = jnp.swapaxes(run(net, z), 0, 1).reshape(2, 6, -1)
    apart = jnp.linalg.norm(one - two, axis=1)
    wanted = 2.5 * jnp.linalg.norm(z[:, 0] - z[:, 1], axis=1)
    np.testing.assert_allclose(apart, wanted, rtol=1e-5)
    # With networks that curve it is none.
    curved = jnp.swapaxes(run(built(2.5, 8, 8), z), 0, 1).reshape(2, 6, -1)
    assert (jnp.linalg.norm(curved[0] - curved[1], axis=1) > 1.001 * wanted).all()


class Signed(latent.InputConvex):
    """Weights of any sign."""

    def __call__(self, x: Any) -> Any:
        first, second, last = self.affine
        h = jax.nn.softplus(first(x))
        h = jax.nn.softplus(self.raw[0] @ h + second(x))
        return (self.raw[1] @ h + last(x))[0]


@pytest.mark.parametrize("potential", [latent.InputConvex, Signed])
def test_a_map_has_a_symmetric_slope_of_at_least_its_constant(potential: Any) -> None:
    net = built(4.0, 8, 8)
    of = net.inner.potential
    # Any weights: those at the start, and others.
    raw = tuple(3.0 * jax.random.normal(KEY, v.shape) for v in of.raw)
    changed = latent.BrenierMap(potential(of.affine, raw), net.inner.least)
    slopes = jax.jit(jax.vmap(jax.jacfwd(changed)))(3.0 * jax.random.normal(KEY, (20, 5)))
    np.testing.assert_allclose(slopes, jnp.swapaxes(slopes, 1, 2), rtol=1e-5, atol=1e-4)
    lowest = float(jnp.linalg.eigvalsh(slopes).min())
    assert (lowest >= 2.0 - 1e-5) == (potential is latent.InputConvex)


def test_pairs_keep_apart_after_training_where_a_plain_decoder_lets_them_meet() -> None:
    x, level = rows_of_a_line(), 3.0
    z = np.random.default_rng(0).normal(size=(2, 200, 3))

    def least(one: Any, two: Any) -> float:
        apart = lambda v: np.linalg.norm(v[0] - v[1], axis=1)
        return float((apart((one, two)) / apart(z)).min())

    law = latent.gaussian(1.0, each=False)
    decoder = latent.brenier(8, inverse_lipschitz=level / float(x.std()))
    options = {"likelihood": law, "epochs": 5, "validation": 0.0, "progress": False}
    vae = VAE(3, decoder=decoder, encoder=latent.mlp(), **options).fit(x)
    assert least(*(vae.decode(v) for v in z)) >= 0.999 * level
    plain: Any = latent.mlp(8)((3,), (4,), KEY)
    assert least(*np.asarray(jax.vmap(jax.vmap(plain))(z))) < level


# -- sorted projections ---------------------------------------------------------------------------


def test_sliced_distances_are_those_of_sorted_points_and_of_a_shift() -> None:
    rng = np.random.default_rng(0)
    sliced = latent.squared_sliced_wasserstein
    x, y = (jnp.asarray(rng.normal(size=(64, 1)), float) for _ in range(2))
    # On a line every direction is one of two, and the best transport is known.
    exact = float(((np.sort(x, axis=0) - np.sort(y + 1.0, axis=0)) ** 2).mean())
    assert float(sliced(x, y + 1.0, KEY, 3)) == pytest.approx(exact, rel=1e-5)
    assert float(((x - y - 1.0) ** 2).mean()) > 2.0 * exact  # not sorted
    # A shift by c is |c|^2 / d on average: along each direction its projection, squared.
    z = jnp.asarray(rng.normal(size=(50, 4)), float)
    shift = jnp.array([1.0, -2.0, 0.5, 0.0])
    each = jax.vmap(lambda k: sliced(z, z[::-1] + shift, k, 1))(jax.random.split(KEY, 4000))
    off = float(each.mean() - (shift**2).sum() / 4.0)
    assert abs(off) < 4.0 * float(each.std()) / 4000**0.5


def on_a_ring(key: Any) -> Any:
    angle = 2.0 * jnp.pi * jax.random.uniform(key)
    return jnp.array([jnp.cos(angle), jnp.sin(angle)])


def test_encodings_are_led_to_a_prior_without_a_density() -> None:
    x = np.random.default_rng(0).normal(size=(400, 3))

    def off(objective: Any) -> float:
        vae = VAE(
            2,
            encoder=latent.mlp(16),
            decoder=latent.mlp(),
            prior=latent.samplable(on_a_ring),
            objective=objective,
            epochs=60,
            batch=100,
            lr=1e-2,
            validation=0.0,
            progress=False,
        ).fit(x)
        assert vae.sample(5).shape == (5, 3)
        drawn = jax.vmap(on_a_ring)(jax.random.split(KEY, 400))
        z = jnp.asarray(vae.encode(x), float)
        return float(latent.squared_sliced_wasserstein(z, drawn, KEY, 200))

    assert off(latent.swae(20.0)) < 0.05
    assert off(latent.reconstruction()) > 0.1  # nothing leads them


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "no width": (lambda x: latent.brenier(), "brenier: no width"),
    "a width": (lambda x: latent.brenier(0), "brenier=0"),
    "a constant": (lambda x: latent.brenier(8, inverse_lipschitz=-1.0), "inverse_lipschitz=-1.0"),
    "more latents than values": (lambda x: VAE(5, decoder=latent.brenier(8)).fit(x), "do not fit"),
    "no function": (lambda x: latent.samplable(3), "draw=3"),
    "draws of another shape": (
        lambda x: VAE(3, prior=latent.samplable(on_a_ring), objective=latent.swae()).fit(x),
        "draws of shape (2,)",
    ),
    "a weight": (lambda x: latent.swae(-1.0), "weight=-1.0"),
    "no projection": (lambda x: latent.swae(projections=0), "projections=0"),
    "numbers of points": (
        lambda x: latent.squared_sliced_wasserstein(jnp.ones((3, 2)), jnp.ones((4, 2)), KEY),
        "3 and 4 points",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name: str) -> None:
    call, told = BAD[name]
    with pytest.raises(ritz.RitzError) as caught:
        call(rows_of_a_line())
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
