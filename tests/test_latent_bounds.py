"""Losses of autoencoders beyond the bound, and what their latents are measured by."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from scipy import linalg, stats

import ritz
from ritz import latent
from ritz.family import FullRank, MeanField, Mixture
from ritz.latent import VAE, elbo, gaussian, mlp

RNG = np.random.default_rng(0)


def rows(n: int = 300) -> np.ndarray:
    """Two factors in five columns."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(n, 5))


@pytest.fixture(scope="module")
def linear() -> tuple[VAE, np.ndarray]:
    """One with a linear decoder and a linear encoder."""
    law = gaussian(0.5, each=False)
    x = rows()
    parts = {"likelihood": law, "encoder": mlp(), "decoder": mlp()}
    return VAE(2, epochs=3, lr=0.02, batch=50, validation=0.0, progress=False, **parts).fit(x), x


def loss_of(vae: VAE, objective: Any, x: np.ndarray, key: int = 0) -> tuple[float, Any]:
    q, target = paramax.unwrap(vae.fit_.q), vae.fit_.target
    batch = {"x": jnp.asarray(x, jnp.float32)}
    # Compiled, as each operation by itself takes long to start.
    loss, figures = eqx.filter_jit(objective.loss)(q, target, jax.random.key(key), batch)
    return float(loss), figures


def posteriors(vae: VAE, x: np.ndarray) -> Any:
    q = paramax.unwrap(vae.fit_.q)
    return jax.vmap(lambda row: q.condition({"x": row}))(jnp.asarray(x, jnp.float32))


TRIL = np.array([[0.7, 0.0, 0.0], [0.3, 1.2, 0.0], [-0.4, 0.1, 0.5]])


def full() -> FullRank:
    scale = np.diag(TRIL)
    parts = (np.array([0.2, -1.0, 0.5]), np.log(scale), TRIL / scale[:, None])
    return FullRank(*(jnp.asarray(v, jnp.float32) for v in parts))


# -- sigma points -----------------------------------------------------------------------------


def test_sigma_points_have_the_mean_and_the_covariance() -> None:
    q = full()
    points = np.asarray(latent.sigma_points(q), np.float64)
    np.testing.assert_allclose(points.mean(axis=0), q.loc, atol=1e-6)
    np.testing.assert_allclose(np.cov(points.T, bias=True), TRIL @ TRIL.T, atol=1e-5)
    # By the rows of the factor they have another covariance.
    off = 3**0.5 * TRIL
    assert np.abs(np.cov(np.concatenate([off, -off]).T, bias=True) - TRIL @ TRIL.T).max() > 0.1


def test_the_wasserstein_distance_is_that_of_gaussians() -> None:
    q = full()
    root = linalg.sqrtm(TRIL @ TRIL.T)
    exact = float(q.loc @ q.loc) + ((root - np.eye(3)) ** 2).sum()
    assert float(latent.squared_wasserstein(q)) == pytest.approx(exact, rel=1e-5)
    # The factor is not the root.
    assert abs(float(q.loc @ q.loc) + ((TRIL - np.eye(3)) ** 2).sum() - exact) > 0.05
    own = MeanField(jnp.array([1.0, -2.0]), jnp.log(jnp.array([0.5, 3.0])))
    assert float(latent.squared_wasserstein(own)) == pytest.approx(5.0 + 0.25 + 4.0, rel=1e-6)


def test_a_linear_decoder_is_averaged_exactly(linear: tuple[VAE, np.ndarray]) -> None:
    vae, x = linear
    target, some = vae.fit_.target, x[:20]
    loss, figures = loss_of(vae, latent.unscented(0.25), some)
    q = paramax.unwrap(vae.fit_.q)

    def one(row: Any) -> Any:
        post = q.condition({"x": row})
        fit = lambda z: target.log_likelihood(z, {"x": row})
        curve = jnp.diagonal(jax.hessian(fit)(post.loc)) @ jnp.exp(2 * post.log_scale)
        far = (post.loc**2).sum() + ((jnp.exp(post.log_scale) - 1.0) ** 2).sum()
        return fit(post.loc) + 0.5 * curve, far

    each = jax.jit(jax.vmap(one))(jnp.asarray(some, jnp.float32))
    exact, far = (float(v.mean()) for v in each)
    assert float(figures["reconstruction"]) == pytest.approx(exact, rel=1e-4)
    assert loss == pytest.approx(0.25 * far - exact, rel=1e-4)
    assert loss == loss_of(vae, latent.unscented(0.25), some, key=1)[0]
    assert loss_of(vae, elbo(4), some)[0] != loss_of(vae, elbo(4), some, key=1)[0]


def test_frechet_distance_of_gaussians() -> None:
    x = RNG.normal(size=(500, 3)) @ TRIL.T
    y = RNG.normal(size=(400, 3)) @ TRIL + 1.0
    c_x, c_y = np.cov(x.T), np.cov(y.T)
    off = x.mean(axis=0) - y.mean(axis=0)
    exact = off @ off + np.trace(c_x + c_y - 2 * np.real(linalg.sqrtm(c_x @ c_y)))
    assert latent.frechet_distance(x, y) == pytest.approx(exact, rel=1e-6)
    apart = off @ off + np.trace(c_x + c_y - 2 * linalg.sqrtm(c_x) @ linalg.sqrtm(c_y))
    assert abs(apart - exact) > 1e-3  # the roots' product is not the product's root
    assert latent.frechet_distance(x, x) < 1e-9
    assert latent.frechet_distance(x, y, lambda v: 2 * v) == pytest.approx(4 * exact, rel=1e-6)


def test_a_density_of_encodings() -> None:
    z = RNG.normal(size=(400, 3)) @ TRIL.T
    q = latent.ex_post(z, components=1)
    exact = stats.multivariate_normal(z.mean(axis=0), np.cov(z.T, bias=True))
    found = np.asarray(jax.jit(jax.vmap(q.log_prob))(jnp.asarray(z[:50])))
    np.testing.assert_allclose(found, exact.logpdf(z[:50]), atol=1e-3)
    alone = stats.multivariate_normal(z.mean(axis=0), np.diag(z.var(axis=0)))
    assert np.abs(found - alone.logpdf(z[:50])).max() > 0.1
    two = np.concatenate([z - 10.0, z[:200] + 10.0])
    q = latent.ex_post(two, components=2)
    assert isinstance(q, Mixture)
    assert sorted(np.round(np.asarray(q.weights), 3)) == [0.333, 0.667]
    draws = jax.jit(jax.vmap(q.sample))(jax.random.split(jax.random.key(0), 4000))
    share = float((draws[:, 0] > 0).mean())
    assert abs(share - 1 / 3) < 4 * (2 / 9 / 4000) ** 0.5


# -- posteriors together ----------------------------------------------------------------------


def test_the_discrepancy_of_gaussians() -> None:
    """Against its value for N(0, I) and N(m, I), in closed form."""
    d, m = 2, jnp.array([0.8, -0.3])

    def kernel(far: float) -> float:  # of normal draws whose means are so far apart
        return (d / (d + 2.0)) ** (d / 2) * float(np.exp(-0.5 * far / (d + 2.0)))

    exact = 2.0 * kernel(0.0) - 2.0 * kernel(float(m @ m))
    x, y = jax.random.normal(jax.random.key(0), (2, 50, 40, d))
    found = np.asarray(jax.vmap(latent.mmd)(x, y + m), np.float64)
    assert abs(found.mean() - exact) < 4 * found.std() / 50**0.5
    same = np.asarray(jax.vmap(latent.mmd)(x, y), np.float64)
    assert abs(same.mean()) < 4 * same.std() / 50**0.5
    biased = same + 2.0 * (1.0 - kernel(0.0)) / 40  # with each draw's own kernel
    assert abs(biased.mean()) > 4 * biased.std() / 50**0.5


def test_infovae_is_the_bound_without_its_two_options(linear: tuple[VAE, np.ndarray]) -> None:
    vae, x = linear
    loss, figures = loss_of(vae, latent.infovae(0.0, 1.0), x[:50])
    assert loss == pytest.approx(-float(figures["elbo"]), rel=1e-5)
    more, _ = loss_of(vae, latent.infovae(0.5, 11.0), x[:50])
    rest = 0.5 * float(figures["kl"]) + 10.5 * float(figures["mmd"])
    assert more == pytest.approx(rest - float(figures["reconstruction"]), rel=1e-4)


def test_what_posteriors_are_together(linear: tuple[VAE, np.ndarray]) -> None:
    vae, x = linear
    found, each = latent.aggregate(vae, x, draws=64), posteriors(vae, x)
    mixture = Mixture(jnp.zeros(len(x)), each, "mean_field")
    z = jax.jit(jax.vmap(mixture.sample))(jax.random.split(jax.random.key(0), 20_000))
    se = found.cov.diagonal() ** 0.5 / 20_000**0.5
    assert (np.abs(np.asarray(z).mean(axis=0) - found.mean) < 4.5 * se).all()
    wide = np.sqrt(np.outer(*2 * [found.cov.diagonal()]) + found.cov**2) / 20_000**0.5
    assert (np.abs(np.cov(np.asarray(z).T) - found.cov) < 6 * wide).all()
    assert np.abs(np.cov(np.asarray(each.loc).T) - found.cov).max() > 0.05  # of means alone
    # The divergence of the mixture, by its own draws.
    ratio = jax.jit(jax.vmap(lambda z: mixture.log_prob(z) - stats_normal(z)))(z[:4000])
    se = float(ratio.std()) / 4000**0.5
    assert abs(float(ratio.mean()) - found.divergence) < 4 * se + 0.02
    kl = vae.diagnose(x).kl.sum()
    assert found.information + found.divergence == pytest.approx(kl, rel=1e-3)


def stats_normal(z: Any) -> Any:
    return jax.scipy.stats.norm.logpdf(z).sum()


def test_an_autoregressive_law_has_mass_one_and_its_draws() -> None:
    law = latent.autoregressive(latent.bernoulli(), 7).for_data(np.zeros((2, 2, 2)))
    out = jnp.asarray(np.random.default_rng(0).normal(size=7), jnp.float32)
    every = jnp.asarray(np.indices((2,) * 4).reshape(4, -1).T.reshape(-1, 2, 2), jnp.float32)
    mass = np.exp(np.asarray(jax.jit(jax.vmap(lambda x: law.log_prob(out, x)))(every), np.float64))
    assert abs(mass.sum() - 1.0) < 1e-5
    draw = jax.jit(jax.vmap(lambda k: law.sample(out, k)))
    draws = draw(jax.random.split(jax.random.key(0), 20_000))
    number = np.asarray(draws).reshape(-1, 4) @ [8, 4, 2, 1]
    share = np.bincount(number.astype(int), minlength=16) / 20_000
    assert (np.abs(share - mass) < 4.5 * np.sqrt(mass * (1 - mass) / 20_000)).all()
    # Logits depend on the values before them, and on no others.
    slope = np.asarray(jax.jit(jax.jacobian(lambda x: law.logits(out, x)))(every[5])).reshape(4, 4)
    assert (slope[np.triu_indices(4)] == 0).all()
    assert (slope[np.tril_indices(4, -1)] != 0).all()
    assert jax.jit(lambda out: law.mean(out))(out).shape == (2, 2)
    # A network without masks is no law.
    into, onto = law.layers
    loose = lambda x: latent.bernoulli().log_prob(
        (onto @ jnp.tanh(into @ x.reshape(-1) + out)).reshape(2, 2), x
    )
    assert abs(float(np.exp(jax.jit(jax.vmap(loose))(every)).sum()) - 1.0) > 1e-3


# -- latents and factors ----------------------------------------------------------------------


def test_scores_of_latents_that_are_factors_and_of_others() -> None:
    rng = np.random.default_rng(0)
    factors = rng.integers(5, size=(3000, 3))
    noise = rng.normal(size=(3000, 3))
    gap, sap = latent.mutual_information_gap, latent.separated_attribute_predictability
    for z, low, high in (
        (factors + 0.0, 0.97, 1.001),
        (noise, -1e-9, 0.02),
        (np.concatenate([factors, factors], axis=1), -1e-9, 0.02),  # two latents for each
    ):
        assert low <= gap(z, factors) <= high
        assert low <= sap(z, factors) <= high
    # Of three classes, thresholds on a latent that tells them are right, others by chance.
    shape = rng.integers(3, size=(3000, 1))
    z = np.concatenate([np.array([2.0, -1.0, 0.5])[shape], noise[:, :1]], axis=1)
    assert abs(sap(z, shape, (0,)) - 2 / 3) < 0.05
    # Half of the entropy is told: two of four values are not told apart.
    v = rng.integers(4, size=(4000, 1))
    assert abs(gap(np.concatenate([v // 2, noise[:1000].repeat(4, 0)[:, :1]], 1), v) - 0.5) < 0.02


def test_scores_of_several_latents_have_their_limits() -> None:
    rng = np.random.default_rng(0)
    factors = rng.integers(5, size=(1000, 3))
    noise = rng.normal(size=(1000, 3))
    own = latent.dci(factors + 0.05 * noise, factors)
    assert min(own) > 0.97
    assert latent.factor_vae_score(factors + 0.05 * noise, factors) == 1.0
    # Two latents for each factor: no latent tells of two, but a factor is told by two.
    both = np.concatenate([factors + 0.3 * noise, factors + 0.3 * noise[::-1]], axis=1)
    twice = latent.dci(both, factors)
    assert twice.disentanglement > 0.9 > 0.75 > twice.completeness
    # Mixed by a rotation they tell all, but none of one factor.
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    mixed = latent.dci(factors @ turn, factors)
    assert mixed.informativeness > 0.8
    assert max(mixed[:2]) < 0.6
    # Noise tells nothing: votes are right by chance.
    assert latent.dci(noise, factors).informativeness < 0.1
    assert abs(latent.factor_vae_score(noise, factors) - 1 / 3) < 0.12
    shape = rng.integers(3, size=(1000, 2))
    assert min(latent.dci(np.array([2.0, -1.0, 0.5])[shape], shape, (0, 1))) > 0.9


def test_sprites_are_whole_and_have_their_factors() -> None:
    from ritz.papers.latent._sprites import sprites

    x, factors = sprites(500, 0)
    area = x.sum(axis=1)
    assert set(np.unique(x)) == {0.0, 1.0}
    x = x.reshape(-1, 32, 32)
    assert not x[:, [0, -1]].any()
    assert not x[:, :, [0, -1]].any()
    assert np.corrcoef(area, factors[:, 1])[0, 1] > 0.7
    middle = (x.sum(axis=1) @ np.arange(32)) / area
    assert np.corrcoef(middle, factors[:, 3])[0, 1] > 0.99


def test_the_divergence_is_led(linear: tuple[VAE, np.ndarray]) -> None:
    vae, x = linear
    loss = latent.capacity(6.0, 10, gamma=5.0)
    for step, led in ((0, 0.0), (5, 3.0), (30, 6.0)):
        found, figures = loss_of(vae, loss.at(jnp.asarray(step)), x[:50])
        exact = 5.0 * abs(float(figures["kl"]) - led) - float(figures["reconstruction"])
        assert found == pytest.approx(exact, rel=1e-5)
        assert float(figures["capacity"]) == led


def test_divergences_follow_and_are_recorded() -> None:
    x = rows()
    options: Any = {"encoder": mlp(), "decoder": mlp(), "lr": 0.02, "batch": 50, "epochs": 60}
    options |= {"likelihood": gaussian(0.3, each=False), "validation": 0.0, "progress": False}
    found = {}
    for most in (1.0, 3.0):
        led = VAE(2, objective=latent.capacity(most, 200, gamma=20.0), **options).fit(x)
        found[most] = float(led.diagnose(x).kl.sum())
        past = led.fit_.history
        np.testing.assert_allclose(past["kl 0"] + past["kl 1"], past["kl"], rtol=1e-3)
    assert abs(found[1.0] - 1.0) < 0.25
    assert abs(found[3.0] - 3.0) < 0.25


BAD = {
    "alpha": (lambda: latent.infovae(2.0), "alpha of at most 1"),
    "lambda": (lambda: latent.infovae(0.0, "1"), "weight='1'"),
    "one draw": (lambda: latent.mmd(jnp.zeros((1, 2)), jnp.zeros((3, 2))), "two of each"),
    "law": (lambda: latent.autoregressive(gaussian(), 8), "as Gaussian"),
    "no width": (lambda: latent.autoregressive(latent.bernoulli()), "no width"),
    "untrained": (lambda: latent.aggregate(VAE(2), rows()), "call fit(x) first"),
    "weight": (lambda: latent.unscented(-1.0), "weight=-1.0"),
    "no Gaussian": (lambda: latent.sigma_points(latent.ex_post(rows(), 2)), "as Mixture"),
    "widths": (lambda: latent.frechet_distance(rows(), rows()[:, :2]), "of 5 and of 2"),
    "one row": (lambda: latent.frechet_distance(rows(1), rows()), "n at least 2"),
    "few encodings": (lambda: latent.ex_post(rows(3), 5), "fewer components"),
    "no encodings": (lambda: latent.ex_post(np.full((9, 2), np.nan)), "finite numbers"),
    "gap": (lambda: latent.mutual_information_gap(rows(), rows(9)), "(n, d) and (n, K)"),
    "one factor": (lambda: latent.dci(rows(9), rows(9)[:, :1]), "one factor arrived"),
    "votes": (lambda: latent.factor_vae_score(rows(9), rows(9), votes=1), "votes=1"),
    "one value": (
        lambda: latent.separated_attribute_predictability(rows(9), np.zeros((9, 1))),
        "factor 0 has one value",
    ),
    "most": (lambda: latent.capacity(0.0), "most=0.0"),
    "rise": (lambda: latent.capacity(1.0, 0), "rise=0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name: str) -> None:
    call, told = BAD[name]
    with pytest.raises(ritz.RitzError) as caught:
        call()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
