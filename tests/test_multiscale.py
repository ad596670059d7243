"""Wavelets, energies of details, and the lattice field that they are tried on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ritz import RitzError, wavelets
from ritz.multiscale import FieldEnergy, constrained_least_squares, match_scores, pixels
from ritz.target import from_numpyro
from ritz.target.library import get, lattice_phi4

FILTERS = {"Haar": wavelets.HAAR, "Daubechies": wavelets.DAUBECHIES4}


def orthogonal(low_pass):
    """Whether norms are kept and `merge` inverts."""
    x = jax.random.normal(jax.random.key(0), (3, 8, 8))
    bands = wavelets.split(x, low_pass)
    same = np.allclose(wavelets.merge(bands, low_pass), x, atol=1e-5)
    return same and np.allclose((bands**2).sum(), (x**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("low_pass", FILTERS.values(), ids=FILTERS)
def test_a_split_is_orthogonal(low_pass):
    assert orthogonal(low_pass)
    assert not orthogonal(np.abs(low_pass) + 0.1)


@pytest.mark.parametrize("low_pass", FILTERS.values(), ids=FILTERS)
def test_packets_invert_and_merge_is_the_transpose(low_pass):
    x = jax.random.normal(jax.random.key(0), (16, 16))
    bands = wavelets.packets(x, 3, low_pass)
    assert bands.shape == (64, 2, 2)
    np.testing.assert_allclose(wavelets.unpack(bands, 3, low_pass), x, atol=1e-5)
    back = jax.vjp(lambda x: wavelets.packets(x, 3, low_pass), x)[1](bands)[0]
    np.testing.assert_allclose(back, x, atol=1e-5)


def test_bands_separate_frequencies():
    """A constant is in the first band alone; the finest checkerboard in the last alone."""
    checkerboard = (-1.0) ** np.add.outer(np.arange(8), np.arange(8))
    for field, band in ((np.ones((8, 8)), 0), (checkerboard, 3)):
        power = (wavelets.split(field, wavelets.DAUBECHIES4) ** 2).sum((-2, -1))
        np.testing.assert_allclose(power, np.eye(4)[band] * 64.0, atol=1e-4)


def random_energy(bands, coarser, side, seed=0):
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(rng.normal(size=bands * (bands + coarser) * 9 + 8))
    own, given = (jnp.asarray(rng.normal(size=(b, side, side))) for b in (bands, coarser))
    return FieldEnergy(weights, jnp.asarray(1.3)), own, given


@pytest.mark.parametrize(("bands", "coarser", "side"), [(3, 1, 4), (3, 1, 1), (1, 0, 2)])
def test_an_energy_is_its_features_and_their_laplacians_are_right(bands, coarser, side):
    with jax.enable_x64(True):
        energy, own, given = random_energy(bands, coarser, side)
        linear = energy.weights @ energy.features(own, given)
        np.testing.assert_allclose(energy.log_density(own, given), -linear, rtol=1e-10)
        flat = lambda own_: energy.features(own_.reshape(own.shape), given)
        traces = jnp.trace(jax.hessian(flat)(own.ravel()), axis1=1, axis2=2)
        np.testing.assert_allclose(energy.laplacian(own, given), traces, atol=1e-10)


def test_stiffness_is_the_least_eigenvalue():
    with jax.enable_x64(True):
        energy, own, given = random_energy(3, 1, 4)
        quadratic = FieldEnergy(energy.weights.at[-8:].set(0.0), energy.top)
        flat = lambda y: -quadratic.log_density(y.reshape(own.shape), given)
        least = np.linalg.eigvalsh(jax.hessian(flat)(own.ravel()))[0]
        assert quadratic.stiffness(3, 4) == pytest.approx(least, abs=1e-9)


def gaussian_details(n):
    """A free field's details and averages, and the exact score of the details given averages."""
    rng = np.random.default_rng(0)
    side, mass = 4, 0.5
    k = 2.0 - 2.0 * np.cos(2.0 * np.pi * np.fft.fftfreq(side))
    root = (k[:, None] + k + mass) ** -0.5
    noise = rng.normal(size=(n, side, side))
    field = np.fft.ifft2(root * np.fft.fft2(noise)).real
    bands = np.asarray(wavelets.split(field))
    action = lambda own, given: lattice_phi4.action(pixels(own, given), mass, 0.0)
    return bands[:, 1:], bands[:, :1], lambda own, given: -jax.grad(action)(own, given)


def score_error(energy, own, given, exact):
    """The mean square of the score's error, over the mean square of the score."""

    @jax.jit
    def both(own, given):
        return jax.vmap(jax.grad(energy.log_density))(own, given), jax.vmap(exact)(own, given)

    ours, theirs = both(jnp.asarray(own[:500]), jnp.asarray(given[:500]))
    return float(((ours - theirs) ** 2).mean() / (theirs**2).mean())


def test_a_free_field_is_learned(monkeypatch):
    """Its conditional is in the family; with half of the laplacian the score is half as large."""
    own, given, exact = gaussian_details(4000)
    energy, cost = match_scores(own, given)
    assert score_error(energy, own, given, exact) < 0.02  # from 4,000 fields, 0.002 expected
    assert energy.stiffness(3, 2) >= 0.05 - 1e-4
    assert cost < 1e-3
    right = FieldEnergy.laplacian
    monkeypatch.setattr(FieldEnergy, "laplacian", lambda *args: 0.5 * right(*args))
    wrong, _ = match_scores(own[1:], given[1:])
    assert score_error(wrong, own, given, exact) > 0.1


def test_details_with_two_modes_get_a_log_concave_law():
    rng = np.random.default_rng(1)
    own = rng.choice([-1.0, 1.0], (2000, 3, 1, 1)) + 0.2 * rng.normal(size=(2000, 3, 1, 1))
    energy, cost = match_scores(own, np.zeros((2000, 1, 1, 1)))
    assert energy.stiffness(3, 1) >= 0.05 - 1e-4
    assert (np.asarray(energy.weights[-8:]) >= -1e-6).all()
    assert cost > 0.1


def test_constraints_that_bind_and_that_do_not():
    gram, slope = np.diag([1.0, 4.0]), np.array([1.0, 4.0])
    free = constrained_least_squares(gram, slope, np.eye(2), np.array([-1.0, -1.0]))
    np.testing.assert_allclose(free, [1.0, 1.0], atol=1e-10)
    bound = constrained_least_squares(gram, slope, np.eye(2), np.array([2.0, -1.0]))
    np.testing.assert_allclose(bound, [2.0, 1.0], atol=1e-10)


def chains(mass, coupling, side=6, n=1500, sweeps=100, bonds=1.0):
    """Independent chains from noise; `bonds` scales the field that bonds are made with."""

    def step(i, fields):
        fields = lattice_phi4.sweep(jax.random.key(2 * i), fields, mass, coupling)
        keys = jax.random.split(jax.random.key(2 * i + 1), n)
        return jax.vmap(lattice_phi4.flip_clusters)(keys, bonds * fields) / bonds

    start = jax.random.normal(jax.random.key(99), (n, side, side))
    return np.asarray(jax.jit(lambda x: jax.lax.fori_loop(0, sweeps, step, x))(start))


def off_free_spectrum(fields, mass):
    """The largest error of a mode's power, in standard errors."""
    k = 2.0 - 2.0 * np.cos(2.0 * np.pi * np.fft.fftfreq(fields.shape[-1]))
    power = np.abs(np.fft.fft2(fields)) ** 2 / fields[0].size * (k[:, None] + k + mass)
    error = power.std(0, ddof=1) / len(fields) ** 0.5
    return float(np.abs((power.mean(0) - 1.0) / error).max())


def test_chains_have_the_spectrum_of_a_free_field():
    assert off_free_spectrum(chains(0.5, 0.0), 0.5) < 4.5
    assert off_free_spectrum(chains(0.5, 0.0, bonds=1.5), 0.5) > 6.0


def test_the_action_is_the_formula():
    x = np.random.default_rng(0).normal(size=(2, 4, 4))
    slopes = sum(0.5 * (np.roll(x, -1, axis) - x) ** 2 for axis in (1, 2))
    exact = (slopes - 0.6 * x**2 + 0.25 * 2.0 * x**4).sum((1, 2))
    np.testing.assert_allclose(lattice_phi4.action(jnp.asarray(x), -1.2, 2.0), exact, rtol=1e-5)


def test_chains_of_two_by_two_have_the_exact_moment():
    """The mean square on a lattice of four sites, with each pair of neighbours joined twice."""
    grid = np.linspace(-3.0, 3.0, 41)
    fields = np.stack(np.meshgrid(*[grid] * 4, indexing="ij"), -1).reshape(-1, 2, 2)
    slopes = sum(0.5 * (np.roll(fields, -1, axis) - fields) ** 2 for axis in (1, 2))
    action = (slopes - 0.6 * fields**2 + 0.25 * fields**4).sum((1, 2))
    weight = np.exp(-action)
    exact = (fields**2).mean((1, 2)) @ weight / weight.sum()
    found = (chains(-1.2, 1.0, side=2, n=4000) ** 2).mean((1, 2))
    assert abs(found.mean() - exact) < 4.0 * found.std() / 4000**0.5
    wrong = (chains(-1.2, 1.0, side=2, n=4000, bonds=0.5) ** 2).mean((1, 2))
    assert abs(wrong.mean() - exact) > 6.0 * found.std() / 4000**0.5


def test_the_packaged_target_has_the_action():
    packaged = get("lattice_phi4")
    target = from_numpyro(packaged.model, (), packaged.data())
    assert target.dim == 256
    x = jax.random.normal(jax.random.key(0), (256,))
    action = lattice_phi4.action(x.reshape(16, 16), -1.2725, 1.0)
    np.testing.assert_allclose(target.log_density(x), -action, rtol=1e-5)
    turned = jnp.roll(-x.reshape(16, 16), 3, 0).ravel()
    np.testing.assert_allclose(target.log_density(turned), -action, rtol=1e-5)


BAD = {
    "odd side": (lambda: wavelets.split(np.ones((3, 3))), "even side"),
    "not square": (lambda: wavelets.split(np.ones((4, 6))), "square"),
    "filter": (lambda: wavelets.split(np.ones((4, 4)), (1.0, 0.0, 0.0)), "even number of values"),
    "bands": (lambda: wavelets.merge(np.ones((3, 4, 4))), "four square bands"),
    "levels": (lambda: wavelets.unpack(np.ones((4, 4, 4)), 2), "16 bands for 2 levels"),
    "shapes": (lambda: match_scores(np.ones((5, 2, 2, 2)), np.ones((5, 1, 2, 2))), "averages"),
    "nan": (lambda: match_scores(np.full((5, 3, 1, 1), np.nan), np.ones((5, 1, 1, 1))), "finite"),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
