"""What the claims of papers on information and causes rest on: exact identities."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from ritz.papers.information import (
    cs_ib,
    group_divergence,
    irm_v2,
    loci,
    smile_mi,
    vib_half_bayes,
)


def test_the_penalty_is_the_suboptimality_of_the_shared_head():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, y = rng.normal(size=(50, 4)), rng.normal(size=50)
        moments = irm_v2._moments(x, y)
        features, head = jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(rng.normal(size=3))
        seen = x @ np.asarray(features).T
        risk = lambda h: float(((seen @ np.asarray(h) - y) ** 2).mean())
        gap = risk(head) - risk(np.linalg.lstsq(seen, y, rcond=None)[0])
        at = irm_v2.at_head(features, head, moments)
        assert float(irm_v2.irmv2(*at)) == pytest.approx(gap, rel=1e-10)
        assert float(irm_v2.adaptive(*at)) >= gap
        assert float(irm_v2.coloured(*at)) != pytest.approx(gap, rel=0.1)


def test_newton_finds_the_mode_of_a_concave_likelihood():
    with jax.enable_x64(True):
        pairs = np.stack([loci._pair(0, i, 1.0) for i in range(3)])
        features, y = jnp.asarray(loci._splines(pairs[:, 0])), jnp.asarray(pairs[:, 1])
        start = jnp.ones((3, 2, loci.FEATURES))
        problem = loci.LocationScale(start, features, y)
        dense = jax.jacobian(lambda p: problem.grad(p))(start)
        own = problem.hessian(start)
        for r in range(3):
            np.testing.assert_allclose(own[r], dense[r, :, :, r], rtol=1e-8, atol=1e-8)
            assert np.linalg.eigvalsh(own[r].reshape(start[0].size, -1)).min() > 0.0
        state = loci.NewtonState(start)
        for _ in range(loci.STEPS):
            state, _ = loci.Newton().step(problem, state, None)
        assert float(jnp.abs(problem.grad(state.params)).max()) < 1e-6


def test_standardised_residuals_of_the_true_natural_parameters():
    f, g, n = np.array([1.0, -2.0]), np.array([0.5, 3.0]), np.array([0.3, -0.7])
    found = loci.residuals(f / g**2, 1.0 / g**2, f + g * n)
    np.testing.assert_allclose(found, n, rtol=1e-6)


@pytest.mark.parametrize("d", [1, 2])
def test_invariant_critics_see_the_divergence_of_orbit_averages(d):
    x, y = np.random.default_rng(0).random((2, 7, d))
    shifts = np.stack(np.meshgrid(*[np.arange(3) / 3] * d), axis=-1).reshape(-1, 1, d)
    a, b = (((points + shifts) % 1.0).reshape(-1, d) for points in (x, y))
    w1, kernel = group_divergence.wasserstein, group_divergence.averaged_kernel
    assert w1(x, y, 1.0 / 3.0) == pytest.approx(w1(a, b, 1.0), rel=1e-10)
    mmd = group_divergence.squared_mmd(x, y, kernel(0.1, 3))
    assert mmd == pytest.approx(group_divergence.squared_mmd(a, b, kernel(0.1, 1)), rel=1e-3)


def test_transport_on_a_circle_is_an_assignment():
    x, y = np.random.default_rng(0).random((2, 20, 1))
    flat = np.zeros_like(x)
    line = group_divergence.wasserstein(np.c_[x, flat], np.c_[y, flat], 0.5)
    assert group_divergence.wasserstein(x, y, 0.5) == pytest.approx(line, rel=1e-10)


def test_share_of_the_spectrum_is_the_ratio_of_variances():
    for sd, size in ((0.05, 4), (0.002, 8)):
        top = [group_divergence.averaged_kernel(sd, s)[0] for s in (size, 1)]
        mean = sd * (2.0 * np.pi) ** 0.5
        found = (top[0] ** 2 - mean**2) / (top[1] ** 2 - mean**2)
        assert group_divergence.spectral_ratio(sd, size, 2) == pytest.approx(found, rel=1e-4)


def test_bounds_at_scores_that_do_not_tell_pairs_apart():
    scores = jnp.full((8, 8), 2.0)
    for value in (smile_mi.smile, smile_mi.donsker_varadhan, smile_mi.info_nce):
        assert float(value(scores)) == pytest.approx(0.0, abs=1e-6)
    assert float(smile_mi.nwj(scores)) == pytest.approx(2.0 - np.e, rel=1e-6)
    assert float(smile_mi.jensen_shannon(0.0 * scores)) == pytest.approx(-2.0 * np.log(2.0))


def test_smile_clips_unpaired_scores_only():
    scores = 9.0 * jnp.eye(8)  # unpaired ratios are 1
    assert float(smile_mi.smile(scores)) == pytest.approx(9.0, rel=1e-6)
    assert float(smile_mi.clipped_everywhere(scores)) == pytest.approx(smile_mi.TAU, rel=1e-6)
    narrow = jnp.asarray(np.random.default_rng(0).uniform(-4.0, 4.0, (8, 8)))
    same = float(smile_mi.donsker_varadhan(narrow))
    assert float(smile_mi.smile(narrow)) == pytest.approx(same, rel=1e-6)


def test_the_affine_flow_knows_gaussians():
    found = smile_mi.affine_flow(4.0, (0,), 200)
    assert found.mean() == pytest.approx(4.0, abs=0.1)


def test_the_charge_is_a_divergence_of_normals():
    mean, log_sd = jnp.asarray([[0.3, -1.0]]), jnp.asarray([[-0.5, 0.2]])
    q = dist.Normal(mean, jnp.exp(log_sd))
    exact = dist.kl_divergence(q, dist.Normal(0.0, 1.0)).sum(-1)
    np.testing.assert_allclose(vib_half_bayes.charge(mean, log_sd), exact, rtol=1e-5)
    np.testing.assert_allclose(vib_half_bayes.charge(0.0 * mean, 0.0 * mean), 0.0, atol=1e-7)


def test_expected_likelihood_over_labels_is_least_at_the_truth():
    p = np.array([[0.2, 0.7]])
    entropy = -(p * np.log(p) + (1 - p) * np.log1p(-p)).mean()
    assert vib_half_bayes._nll(p, p) == pytest.approx(entropy)
    assert vib_half_bayes._nll(p, p + 0.1) > entropy


def test_mutual_information_is_the_integral_over_kernel_densities():
    x, t = np.random.default_rng(0).normal(size=(2, 6))
    grid = np.linspace(-8.0, 8.0, 401)
    # A Gram matrix of width s is that of densities whose kernels have the sd s / sqrt(2).
    kernels = lambda a, width: np.exp(-(((grid[:, None] - a) / width) ** 2))
    at_x, at_t = kernels(x, 0.7), kernels(t, 1.2)
    joint, product = at_x @ at_t.T / 6, np.outer(at_x.mean(1), at_t.mean(1))
    overlap = lambda p, q: np.log((p * q).sum())
    exact = overlap(joint, joint) + overlap(product, product) - 2.0 * overlap(joint, product)
    a, b = (jnp.asarray(v)[:, None] for v in (x, t))
    found = cs_ib.mutual_information(cs_ib.gram(a, a, 0.7), cs_ib.gram(b, b, 1.2))
    assert float(found) == pytest.approx(exact, rel=1e-4)


def test_conditional_divergence_in_its_limits():
    x, y, guess = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)))
    near = cs_ib.gram(x[:, None], x[:, None], 0.5)
    assert float(cs_ib.conditional_divergence(near, y, y)) == pytest.approx(0.0, abs=1e-5)
    assert float(cs_ib.conditional_divergence(near, y, guess)) > 0.01
    # Inputs far apart: each guess is compared with its own label only.
    alone = float(cs_ib.conditional_divergence(jnp.eye(8), y, guess))
    kernel = jnp.exp(-0.5 * ((y - guess) / cs_ib.Y_WIDTH) ** 2)
    assert alone == pytest.approx(-2.0 * float(jnp.log(kernel.mean())), rel=1e-4)
    # Inputs all alike: the order of the guesses does not matter.
    alike = [cs_ib.marginal_divergence(near, y, v) for v in (y, y[::-1])]
    np.testing.assert_allclose(alike, 0.0, atol=1e-5)
