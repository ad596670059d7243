"""Chains of latents against dense Gaussians; mixtures of posteriors as priors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from scipy.stats import multivariate_normal

import ritz
from ritz.latent import (
    VAE,
    LatentModel,
    elbo,
    forecast,
    gaussian,
    gaussian_mixture,
    gaussian_process,
    interpolation,
    linear_dynamics,
    masked_elbo,
    mlp,
    potentials,
    stepwise,
    traversal,
    vamp,
)
from ritz.latent._bound import log_weights
from ritz.latent._dynamics import LinearDynamics
from ritz.latent._potentials import Potentials
from ritz.latent._small import along, prefixes, product

T, D = 7, 2


@pytest.fixture
def chain():
    with jax.enable_x64(True):
        yield some_chain()


def some_chain():
    rng = np.random.default_rng(0)
    fields = (rng.normal(size=D), 0.3 * rng.normal(size=D), 0.6 * rng.normal(size=(D, D)))
    rest = (rng.normal(size=D), 0.3 * rng.normal(size=D) - 0.5)
    return LinearDynamics(*map(jnp.asarray, (*fields, *rest)), T)


def dense(prior):
    """Mean and covariance of all steps, from the recursion."""
    A, Q = np.asarray(prior.matrix), np.diag(np.exp(2 * np.asarray(prior.log_sd)))
    mean, cov = [np.asarray(prior.first)], np.zeros((T, D, T, D))
    cov[0, :, 0] = np.diag(np.exp(2 * np.asarray(prior.first_log_sd)))
    for t in range(1, T):
        mean.append(A @ mean[-1] + np.asarray(prior.push))
        for s in range(t):
            cov[t, :, s] = A @ cov[t - 1, :, s]
            cov[s, :, t] = cov[t, :, s].T
        cov[t, :, t] = A @ cov[t - 1, :, t - 1] @ A.T + Q
    return np.concatenate(mean), cov.reshape(T * D, T * D)


def said(rng):
    precision = np.exp(rng.normal(size=(T, D)))
    precision[2:4] = 0.0  # nothing is said of two steps, nor of the last
    precision[-1] = 0.0
    h = precision * rng.normal(size=(T, D))
    return Potentials(jnp.asarray(h.reshape(-1)), jnp.asarray(precision.reshape(-1)))


def test_the_chain_is_its_dense_gaussian(chain):
    mean, cov = dense(chain)
    x = np.random.default_rng(1).normal(size=T * D)
    np.testing.assert_allclose(
        chain.log_prob(jnp.asarray(x)), multivariate_normal(mean, cov).logpdf(x)
    )
    draws = jax.vmap(chain.sample)(jax.random.split(jax.random.key(0), 40_000))
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=5 * np.sqrt(cov.max() / 40_000))
    np.testing.assert_allclose(np.cov(draws.T), cov, atol=0.06 * cov.max())


def test_posteriors_given_potentials_are_exact(chain):
    mean, cov = dense(chain)
    for seed in range(3):
        given = said(np.random.default_rng(seed))
        post = chain.given(given)
        exact = np.linalg.inv(np.linalg.inv(cov) + np.diag(given.precision))
        centre = exact @ (np.linalg.solve(cov, mean) + np.asarray(given.h))
        np.testing.assert_allclose(post.loc, centre, rtol=1e-8, atol=1e-8)
        means, covs = post.moments()
        np.testing.assert_allclose(np.ravel(means), centre, rtol=1e-8, atol=1e-8)
        blocks = exact.reshape(T, D, T, D)[np.arange(T), :, np.arange(T)]
        np.testing.assert_allclose(covs, blocks, atol=1e-8)
        x = np.random.default_rng(9).normal(size=T * D)
        np.testing.assert_allclose(
            post.log_prob(jnp.asarray(x)), multivariate_normal(centre, exact).logpdf(x)
        )
        ratio = np.linalg.solve(cov, exact)
        off = centre - mean
        kl = np.trace(ratio) + off @ np.linalg.solve(cov, off) - T * D
        kl = 0.5 * (kl - np.linalg.slogdet(ratio)[1])
        np.testing.assert_allclose(post.divergences(chain).sum(), kl, rtol=1e-8)
        draws = jax.vmap(post.sample)(jax.random.split(jax.random.key(seed), 20_000))
        np.testing.assert_allclose(np.cov(draws.T), exact, atol=0.06 * exact.max())


def test_without_potentials_the_posterior_is_the_prior(chain):
    post = chain.given(Potentials(jnp.zeros(T * D), jnp.zeros(T * D)))
    np.testing.assert_allclose(post.divergences(chain).sum(), 0.0, atol=1e-8)


def test_curves_are_dense_gaussians():
    with jax.enable_x64(True):
        prior = gaussian_process(D, 1.5)(T * D, jax.random.key(0))
        prior = dataclasses.replace(prior, log_length=jnp.log(jnp.asarray([1.0, 3.0])))
        t = np.arange(T)
        each = [np.exp(-0.5 * ((t[:, None] - t) / w) ** 2) for w in (1.0, 3.0)]
        cov = np.zeros((T, D, T, D))
        for i in range(D):
            cov[:, i, :, i] = 0.999 * each[i] + 0.001 * np.eye(T)
        cov = cov.reshape(T * D, T * D)
        x = np.random.default_rng(1).normal(size=T * D)
        law = multivariate_normal(np.zeros(T * D), cov)
        np.testing.assert_allclose(prior.log_prob(jnp.asarray(x)), law.logpdf(x), rtol=1e-8)
        given = said(np.random.default_rng(0))
        post = prior.given(given)
        exact = np.linalg.inv(np.linalg.inv(cov) + np.diag(given.precision))
        centre = exact @ np.asarray(given.h)
        np.testing.assert_allclose(post.loc, centre, rtol=1e-8, atol=1e-8)
        law = multivariate_normal(centre, exact)
        np.testing.assert_allclose(post.log_prob(jnp.asarray(x)), law.logpdf(x), rtol=1e-8)
        ratio = np.linalg.solve(cov, exact)
        kl = np.trace(ratio) + centre @ np.linalg.solve(cov, centre) - T * D
        kl = 0.5 * (kl - np.linalg.slogdet(ratio)[1])
        np.testing.assert_allclose(post.divergences(prior).sum(), kl, rtol=1e-8)
        draws = jax.vmap(post.sample)(jax.random.split(jax.random.key(1), 20_000))
        np.testing.assert_allclose(np.cov(draws.T), exact, atol=0.06 * exact.max())


def test_curves_hold_in_float32_where_they_are_long():
    prior = gaussian_process(1, 60.0)(200, jax.random.key(0))
    given = Potentials(jnp.full(200, 1e4), jnp.full(200, 3e3))
    assert np.isfinite(float(prior.given(given).divergences(prior).sum()))
    np.testing.assert_allclose(prior.given(given).loc, 1e4 / 3e3, rtol=1e-2)


def test_curves_of_which_nothing_is_said_have_gradients():
    prior = gaussian_process(D, 2.0)(T * D, jax.random.key(0))
    h, keep = jnp.ones(T * D), jnp.ones(T).at[2:5].set(0.0)

    def far(precision):
        return prior.given(Potentials(h, precision).kept(keep)).divergences(prior).sum()

    slope, step = jax.grad(far)(jnp.full(T * D, 2.0)), 1e-2
    kept = np.repeat(np.asarray(keep), D) > 0
    np.testing.assert_array_equal(np.asarray(slope) != 0.0, kept)
    moved = jnp.full(T * D, 2.0).at[0].add(step), jnp.full(T * D, 2.0).at[0].add(-step)
    np.testing.assert_allclose(slope[0], (far(moved[0]) - far(moved[1])) / (2 * step), rtol=2e-2)


def test_curves_find_what_a_network_says():
    x = circles(200)
    parts = {"prior": gaussian_process(2), "posterior": potentials()}
    nets = {"encoder": stepwise(mlp(16)), "decoder": stepwise(mlp(16))}
    vae = VAE(24, **parts, **nets, epochs=40, batch=50, lr=1e-2, validation=0.0, progress=False)
    vae.fit(x)
    assert ((vae.decode(vae.encode(x)) - x) ** 2).mean() < 0.05  # of a variance of 0.5
    assert forecast(vae, x[:3, :6]).shape == (3, 12, 2)
    with pytest.raises(ritz.RitzError, match="length=0 arrived"):
        gaussian_process(2, 0)
    with pytest.raises(ritz.RitzError, match="2 times the number of steps"):
        VAE(25, **parts, progress=False).fit(x)


@pytest.mark.parametrize("reverse", [False, True])
def test_joins_one_by_one_are_those_side_by_side(reverse):
    rng = np.random.default_rng(0)
    maps = (jnp.asarray(rng.normal(size=(6, 2, 2)), float), jnp.asarray(rng.normal(size=(6, 2))))
    join = lambda a, b: (product(b[0], a[0]), along(b[0], a[1]) + b[1])
    wanted = jax.lax.associative_scan(join, maps, reverse=reverse)
    found = prefixes(join, maps, reverse=reverse)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, wanted)


class Exact(ritz.family.AbstractAmortised):
    """The potentials of a linear Gaussian model's likelihood."""

    matrix: jax.Array
    precision: jax.Array

    @property
    def dim(self):
        return T * D

    def condition(self, data):
        h = self.precision * (data["x"] @ self.matrix)  # columns of the matrix are orthogonal
        each = jnp.broadcast_to(self.precision * (self.matrix**2).sum(0), h.shape)
        return Potentials(h.reshape(-1), each.reshape(-1))


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_weights_of_a_linear_model_are_its_likelihood(chain, factor):
    matrix, sd = jnp.asarray([[1.0, 0.5], [0.5, -1.0], [0.0, 0.0]]), 0.4
    x = np.random.default_rng(2).normal(size=(4, T, 3))
    law = gaussian(sd, each=False).for_data(x)
    law = dataclasses.replace(law, shift=jnp.zeros(()), scale=jnp.ones(()), log_sd=jnp.log(sd))
    decoder = lambda z: z.reshape(T, D) @ matrix.T
    target = LatentModel((), (), (), decoder, law, chain, {"x": x})
    weights = log_weights(
        Exact(matrix, factor / sd**2 * jnp.ones(())), target, {"x": jnp.asarray(x[0])},
        jax.random.split(jax.random.key(0), 20),
    )  # fmt: skip
    mean, cov = dense(chain)
    up = np.kron(np.eye(T), np.asarray(matrix))
    whole = multivariate_normal(up @ mean, up @ cov @ up.T + sd**2 * np.eye(3 * T))
    right = np.allclose(weights, whole.logpdf(x[0].ravel()), rtol=1e-8)
    assert right == (factor == 1.0)  # of potentials twice as sure they vary


def circles(n, seed=0):
    t = np.arange(12) / 2.0 + np.random.default_rng(seed).uniform(0, 6, (n, 1))
    return np.stack([np.sin(t), np.cos(t)], axis=2) + 0.01


def trained(**how):
    parts = {"prior": linear_dynamics(2), "posterior": potentials()}
    nets = {"encoder": stepwise(mlp(16)), "decoder": stepwise(mlp(16))}
    settings = {"epochs": 150, "batch": 50, "lr": 1e-2, "validation": 0.0, "progress": False}
    return VAE(24, **(parts | nets | settings | how)).fit(circles(300))


@pytest.mark.slow
def test_forecasts_go_round_and_masks_help():
    x = circles(50, seed=1)
    error = lambda vae: ((forecast(vae, x[:, :6])[:, 6:] - x[:, 6:]) ** 2).mean()
    masked, seen = trained(objective=masked_elbo(0.5)), trained(objective=elbo())
    assert error(masked) < 0.05  # of a variance of 0.5
    assert error(masked) < 1.1 * error(seen)
    np.testing.assert_allclose(forecast(seen, x), seen.decode(seen.encode(x)), atol=1e-4)


def test_what_does_not_fit_is_told_in_a_line(tmp_path):
    x = circles(60)
    short = {"epochs": 1, "batch": 50, "validation": 0.0, "progress": False}
    nets = {"encoder": stepwise(mlp(8)), "decoder": stepwise(mlp(8))}
    with pytest.raises(ritz.RitzError, match="2 times the number of steps"):
        VAE(25, prior=linear_dynamics(2), posterior=potentials(), **short).fit(x)
    with pytest.raises(ritz.RitzError, match="are a law with a prior of sequences"):
        VAE(24, posterior=potentials(), **nets, **short).fit(x)
    with pytest.raises(ritz.RitzError, match="masked_elbo leaves out potentials"):
        VAE(24, objective=masked_elbo(0.5), **nets, **short).fit(x)
    with pytest.raises(ritz.RitzError, match="multiple of T latent dimensions"):
        VAE(23, **nets, **short).fit(x)
    with pytest.raises(ritz.RitzError, match=r"share=1.0 arrived"):
        masked_elbo(1.0)
    means = {"prior": linear_dynamics(2), "objective": masked_elbo(0.5)}
    with pytest.raises(ritz.RitzError, match="no potentials of steps"):
        VAE(24, **means, **nets, **short).fit(x)
    with pytest.raises(ritz.RitzError, match=r"a hierarchy's prior is levels\(\)"):
        VAE((16, 8), prior=gaussian_mixture(3), **short).fit(x)
    with pytest.raises(ritz.RitzError, match="expected a builder"):
        stepwise(3)
    vae = VAE(24, **nets, **short).fit(x)
    with pytest.raises(ritz.RitzError, match="a prior of type MeanField"):
        forecast(vae, x)


def clusters(n):
    rng = np.random.default_rng(0)
    return (4.0 * rng.choice([-1.0, 1.0], (n, 1)) + 0.3 * rng.normal(size=(n, 1))) * np.ones(3)


@pytest.mark.parametrize("which", ["mixture", "vamp"])
def test_mixtures_as_priors(which, tmp_path):
    x = clusters(300)
    prior = gaussian_mixture(4) if which == "mixture" else vamp(x[:8])
    how = {"likelihood": gaussian(0.3), "epochs": 300, "batch": 100, "lr": 1e-2}
    nets = {"encoder": mlp(16), "decoder": mlp(16), "validation": 0.0, "progress": False}
    vae = VAE(1, prior=prior, **how, **nets).fit(x)
    middle = np.mean(np.abs(vae.sample(2000).mean(axis=1)) < 2.0)
    assert middle < 0.05  # a normal of latents leaves a bridge between the clusters
    kl = float(vae.diagnose(x).kl.sum())
    assert np.isfinite(kl)
    path = vae.save(tmp_path / "vae")
    again = VAE(1, prior=prior, **how, **nets).restore(path)
    np.testing.assert_array_equal(again.sample(5), vae.sample(5))


def test_vamp_prior_is_the_mixture_of_posteriors():
    x = clusters(60)
    vae = VAE(2, prior=vamp(x[:5]), epochs=1, batch=50, progress=False).fit(x)
    q, target = paramax.unwrap((vae.fit_.q, vae.fit_.target))
    posterior, prior = target.joined(q)
    pseudo = np.asarray(target.prior.inputs * target.prior.scale)
    each = [posterior({"x": jnp.asarray(u)}).log_prob(jnp.ones(2)) for u in pseudo]
    exact = np.logaddexp.reduce(np.asarray(each)) - np.log(5)
    np.testing.assert_allclose(prior.log_prob(jnp.ones(2)), exact, rtol=1e-5)
    for bad in (x[0], [["a"]], np.full((2, 3), np.nan)):
        with pytest.raises(ritz.RitzError, match="vamp"):
            vamp(bad)
    with pytest.raises(ritz.RitzError, match="conditional model"):
        VAE(2, prior=vamp(x[:5]), epochs=1, batch=50, progress=False).fit(x, given=x[:, :1])


def test_traversals_move_one_latent_and_interpolations_end_at_rows():
    x = clusters(200)
    vae = VAE(2, epochs=5, batch=50, validation=0.0, progress=False).fit(x)
    z, moved = vae.encode(x), traversal(vae, x, row=3, steps=5, width=1.0)
    at = z[3].copy()
    at[1] = z[:, 1].mean() - z[:, 1].std()
    np.testing.assert_allclose(moved[1, 0], vae.decode(at[None])[0], rtol=1e-5)
    between = interpolation(vae, x[:2], x[2:4], steps=3)
    np.testing.assert_allclose(between[:, 0], vae.decode(z[:2]), rtol=1e-5)
    np.testing.assert_allclose(between[:, 1], vae.decode(0.5 * (z[:2] + z[2:4])), rtol=1e-5)
    with pytest.raises(ritz.RitzError, match="row=200 arrived"):
        traversal(vae, x, row=200)
    with pytest.raises(ritz.RitzError, match="expected pairs"):
        interpolation(vae, x[:2], x[:3])


def test_masks_leave_out_what_they_say():
    x = circles(60)
    q, target = paramax.unwrap(trained_once(x))
    batch, key = {"x": jnp.asarray(x, jnp.float32)}, jax.random.key(3)
    of = lambda share: masked_elbo(share).loss(q, target, key, batch)
    plain = elbo().loss(q, target, jax.random.split(key)[1], batch)
    np.testing.assert_allclose(of(0.0)[0], plain[0], rtol=1e-5)
    # One step of twelve is seen: posteriors are nearly the prior, and the bound is lower.
    assert of(0.9)[1]["kl"] < 0.5 * plain[1]["kl"]
    said = q.condition({"x": batch["x"][0]})
    kept = said.kept(jnp.asarray([1.0] * 4 + [0.0] * 8))
    np.testing.assert_array_equal(kept.precision[:8], said.precision[:8])
    assert not kept.precision[8:].any()
    assert not kept.h[8:].any()


def trained_once(x):
    parts = {"prior": linear_dynamics(2), "posterior": potentials()}
    nets = {"encoder": stepwise(mlp(8)), "decoder": stepwise(mlp(8))}
    vae = VAE(24, **parts, **nets, epochs=20, batch=50, lr=1e-2, validation=0.0, progress=False)
    return vae.fit(x).fit_.q, vae.fit_.target
