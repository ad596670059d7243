"""Variational autoencoders and their parts: likelihoods, bounds, diagnoses, bad input."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest
from scipy import integrate, stats

import ritz
from ritz import latent
from ritz.family import MeanField
from ritz.latent import VAE, elbo, gaussian, importance, mlp
from ritz.latent._bound import divergences, log_weights

RNG = np.random.default_rng(0)


def linear(n: int = 2000, noise: float = 0.5) -> np.ndarray:
    """Rows of three factors in ten columns, far from zero."""
    rng = np.random.default_rng(1)
    loads = rng.normal(size=(3, 10))
    return rng.normal(size=(n, 3)) @ loads + noise * rng.normal(size=(n, 10)) + 5.0


def of_factors(x: np.ndarray, k: int) -> Any:
    """Probabilistic PCA's law of most likelihood (Tipping and Bishop 1999, section 3.2)."""
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    values, axes = values[::-1], axes[:, ::-1]
    rest = values[k:].mean()
    cov = axes[:, :k] * (values[:k] - rest) @ axes[:, :k].T + rest * np.eye(len(values))
    return stats.multivariate_normal(x.mean(axis=0), cov)


def trained(objective: Any = None) -> VAE:
    return VAE(
        3,
        likelihood=gaussian(each=False),
        encoder=mlp(),
        decoder=mlp(),
        objective=objective,
        epochs=150,
        lr=0.02,
        validation=0.0,
        progress=False,
    )


@pytest.fixture(scope="module")
def pca() -> tuple[VAE, np.ndarray]:
    x = linear()
    return trained().fit(x), x


def test_a_linear_one_is_probabilistic_pca(pca: tuple[VAE, np.ndarray]) -> None:
    vae, x = pca
    exact = of_factors(x, 3).logpdf(x).mean()
    assert abs(vae.score(x) - exact) < 0.03
    # The linear encoder is the exact posterior's, so that the bound is tight.
    assert abs(vae.diagnose(x).elbo - exact) < 0.06
    assert vae.fit_.status == "ok"


def test_twice_the_divergence_is_not(pca: tuple[VAE, np.ndarray]) -> None:
    x = pca[1]
    wrong = trained(elbo(beta=2.0)).fit(x)
    assert of_factors(x, 3).logpdf(x).mean() - wrong.diagnose(x).elbo > 0.2


def exact_of(vae: VAE) -> Any:
    """The law of rows of a linear decoder, in closed form."""
    target = vae.fit_.target
    decoder, law = target.decoder, paramax.unwrap(target.likelihood)
    scale = float(law.scale)
    weight = scale * np.asarray(decoder.layers[0].weight, np.float64)
    mean = float(law.shift) + scale * np.asarray(decoder.layers[0].bias, np.float64)
    cov = weight @ weight.T + (scale * np.exp(float(law.log_sd))) ** 2 * np.eye(len(mean))
    return stats.multivariate_normal(mean, cov)


def test_the_weighted_bound_rises_to_the_log_likelihood(pca: tuple[VAE, np.ndarray]) -> None:
    vae, x = pca
    some = x[:500]
    # An encoder that is off, so that one draw leaves a gap to close.
    q = vae.fit_.q
    vae = VAE(3, progress=False)
    off = lambda v: 1.1 * v
    layer = q.network.layers[0]
    worse = jax.tree.map(lambda v: off(v) if v is layer.weight else v, q)
    vae.fit_ = ritz.Fit(**{**vars_of(pca[0].fit_), "q": worse})
    exact = exact_of(vae).logpdf(some).mean()
    found = [vae.log_likelihood(some, k).mean() for k in (1, 5, 25, 2000)]
    assert all(a < b for a, b in itertools.pairwise(found))
    assert found[0] < exact - 0.1
    assert abs(found[-1] - exact) < 0.02


def vars_of(fit: Any) -> dict[str, Any]:
    names = ("q", "target", "history", "stop_reason", "message", "key", "info")
    return {name: getattr(fit, name) for name in names}


def test_training_by_the_weighted_bound_reaches_it_too(pca: tuple[VAE, np.ndarray]) -> None:
    x = pca[1]
    found = trained(importance(5)).fit(x)
    assert abs(found.score(x) - of_factors(x, 3).logpdf(x).mean()) < 0.03


def test_divergences_of_gaussians() -> None:
    q = MeanField(jnp.array([0.3, -1.0]), jnp.array([0.2, -0.5]))
    p = MeanField(jnp.array([0.0, 0.5]), jnp.array([0.1, 0.7]))
    each = divergences(q, p)
    assert each is not None
    draws = jax.vmap(q.sample)(jax.random.split(jax.random.key(0), 100_000))
    ratio = np.asarray(jax.vmap(q.log_prob)(draws) - jax.vmap(p.log_prob)(draws))
    assert abs(ratio.mean() - float(each.sum())) < 4 * ratio.std() / len(ratio) ** 0.5
    assert divergences(q, ritz.family.build("full_rank", flat(), jnp.zeros(2))) is None


def flat() -> Any:
    return ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))


LAWS = {
    "bernoulli": (latent.bernoulli(), lambda m: stats.bernoulli(1 / (1 + np.exp(-m)))),
    "poisson": (latent.poisson(), lambda m: stats.poisson(np.exp(m))),
    "negative_binomial": (
        latent.NegativeBinomial(jnp.log(3.0)),
        lambda m: stats.nbinom(3.0, 3.0 / (3.0 + np.exp(m))),
    ),
}


@pytest.mark.parametrize("name", LAWS)
def test_counts_and_bits_have_their_densities_means_and_draws(name: str) -> None:
    law, known = LAWS[name]
    out = jnp.asarray(0.7)
    exact = known(0.7)
    values = np.arange(2 if name == "bernoulli" else 12)
    found = [float(law.log_prob(out, jnp.asarray(float(v)))) for v in values]
    np.testing.assert_allclose(found, exact.logpmf(values), atol=2e-5)
    assert abs(float(law.mean(out)) - exact.mean()) < 1e-5
    draws = jax.vmap(lambda k: law.sample(out, k))(jax.random.split(jax.random.key(0), 20_000))
    assert abs(float(draws.mean()) - exact.mean()) < 4 * exact.std() / 20_000**0.5


@pytest.mark.parametrize("logit", [-30.0, -2.0, -0.05, 0.0, 0.01, 0.1, 3.0, 40.0])
def test_the_continuous_bernoulli_has_mass_one(logit: float) -> None:
    law, out = latent.continuous_bernoulli(), jnp.asarray(logit)
    x = np.linspace(0.0, 1.0, 20_001)
    density = np.exp(np.asarray(jax.vmap(lambda x: law.log_prob(out, x))(jnp.asarray(x)), float))
    mass = integrate.simpson(density, x=x)
    mean = integrate.simpson(x * density, x=x)
    assert abs(mass - 1.0) < 2e-4
    assert abs(float(law.mean(out)) - mean) < 2e-4
    draws = jax.vmap(lambda k: law.sample(out, k))(jax.random.split(jax.random.key(0), 20_000))
    assert abs(float(draws.mean()) - mean) < 4 * float(draws.std()) / 20_000**0.5
    slope = jax.grad(lambda v: law.log_prob(v, jnp.asarray(0.3)))(out)
    assert abs(float(slope) - (0.3 - mean)) < 1e-3


def test_classes_levels_and_shares_have_mass_one() -> None:
    out = jnp.asarray(RNG.normal(size=(3, 1)))
    classes = latent.categorical(3)
    logs = [float(classes.log_prob(out, jnp.array([float(c)]))) for c in range(3)]
    assert abs(np.exp(logs).sum() - 1.0) < 1e-5
    levels = latent.discretised_logistic(8)
    for middle, width in ((0.3, -1.0), (4.0, -6.0), (-2.0, 2.0)):
        out = jnp.array([[middle], [width]])
        logs = [float(levels.log_prob(out, jnp.array([v / 7.0]))) for v in range(8)]
        assert np.isfinite(logs).all()
        assert abs(np.exp(logs).sum() - 1.0) < 1e-4
    shares = latent.multinomial()
    logits = jnp.array([0.2, -1.0, 0.5])
    p = np.exp(np.asarray(logits, np.float64))
    exact = stats.multinomial(4, p / p.sum())
    found = float(shares.log_prob(logits, jnp.array([1.0, 1.0, 2.0])))
    assert abs(found - exact.logpmf([1, 1, 2])) < 1e-5


def test_columns_of_any_units_are_alike() -> None:
    x = linear()
    units = 10.0 ** np.linspace(-3, 4, 10)
    one, two = (
        VAE(2, encoder=mlp(16), decoder=mlp(16), epochs=5, progress=False).fit(v)
        for v in (x, (x - 5.0) * units + 1e3 * units)
    )
    a, b = one.log_likelihood(x), two.log_likelihood((x - 5.0) * units + 1e3 * units)
    np.testing.assert_allclose(a - np.log(units).sum(), b, atol=0.1)


@pytest.mark.parametrize("each", [True, False])
def test_a_fixed_sd_is_in_the_units_of_the_data(each: bool) -> None:
    x = 1e3 * linear(200)
    law = gaussian(70.0, each=each)
    law.check(x)
    law = paramax.unwrap(law.for_data(x))
    shift, scale = law.standard(x)
    out = jnp.asarray(((x[0] - shift) / scale + 0.1).astype(np.float32))
    mean = x[0] + 0.1 * scale
    np.testing.assert_allclose(law.mean(out), mean, rtol=1e-4)
    exact = stats.norm(mean, 70.0).logpdf(x[0]).sum()
    assert float(law.log_prob(out, jnp.asarray(x[0]))) == pytest.approx(exact, rel=1e-3)


def test_latents_that_hold_nothing_are_told() -> None:
    noise = np.random.default_rng(2).normal(size=(1000, 6))
    found = VAE(2, encoder=mlp(32), decoder=mlp(32), epochs=30, progress=False).fit(noise)
    assert found.fit_.status == "doubtful"
    assert "collapsed" in found.fit_.reasons[-1]


def test_early_stopping_keeps_the_best_and_ends() -> None:
    # So few rows that a wide network learns them by heart.
    x = np.random.default_rng(3).normal(size=(60, 8))
    options = {"encoder": mlp(128), "decoder": mlp(128), "batch": 16, "lr": 3e-3, "seed": 1}
    stopped = VAE(4, epochs=1500, validation=0.4, patience=10, progress=False, **options).fit(x)
    assert stopped.fit_.stop_reason == "converged"
    assert stopped.fit_.info["steps"] < 1500
    to_the_end = VAE(4, epochs=1500, validation=0.0, progress=False, **options).fit(x[:36])
    fresh = np.random.default_rng(4).normal(size=(500, 8))
    assert stopped.score(fresh) > to_the_end.score(fresh) + 1.0


def test_it_is_a_step_of_a_pipeline() -> None:
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    x = linear(400)
    y = ((x - x.mean(axis=0)) @ np.linalg.svd(x - x.mean(axis=0))[2][0] > 0).astype(int)
    vae = VAE(3, encoder=mlp(32), decoder=mlp(32), epochs=60, batch=32, lr=3e-3, progress=False)
    pipeline = make_pipeline(clone(vae), LogisticRegression()).fit(x, y)
    assert pipeline.score(x, y) > 0.8
    assert vae.get_params()["latent"] == 3
    assert not hasattr(vae, "fit_")


def test_images_by_convolutions() -> None:
    x = np.random.default_rng(0).uniform(size=(64, 12, 10))
    vae = VAE(
        2,
        likelihood=latent.continuous_bernoulli(),
        encoder=latent.convolutional(4, 8),
        decoder=latent.convolutional(4, 8),
        epochs=2,
        batch=16,
        progress=False,
    ).fit(x)
    assert vae.decode(vae.encode(x)).shape == x.shape
    assert vae.sample(3).shape == (3, 12, 10)


def test_a_warmup_ends_where_the_bound_is() -> None:
    loss = elbo(warmup=10)
    assert float(loss.at(jnp.asarray(4)).beta) == 1.0
    x = linear(200)
    vae = VAE(2, encoder=mlp(8), decoder=mlp(8), epochs=1, progress=False).fit(x)
    q, target = paramax.unwrap(vae.fit_.q), vae.fit_.target
    batch, key = {"x": jnp.asarray(x[:50], jnp.float32)}, jax.random.key(0)
    at = lambda step: loss.at(jnp.asarray(step)).loss(q, target, key, batch)
    first, figures = at(0)
    assert abs(float(first + figures["reconstruction"] - 0.1 * figures["kl"])) < 1e-4
    assert abs(float(at(1000)[0] + figures["elbo"])) < 1e-4


def test_one_draw_weighs_as_the_bound_says(pca: tuple[VAE, np.ndarray]) -> None:
    vae, x = pca
    q, target = paramax.unwrap(vae.fit_.q), vae.fit_.target
    row = {"x": jnp.asarray(x[0], jnp.float32)}
    weights = log_weights(q, target, row, jax.random.split(jax.random.key(0), 4000))
    post = q.condition(row)
    kl = divergences(post, paramax.unwrap(target.prior))
    assert kl is not None
    zs = jax.vmap(post.sample)(jax.random.split(jax.random.key(1), 4000))
    fits = jax.vmap(lambda z: target.log_likelihood(z, row))(zs)
    se = (weights.var() + fits.var()) ** 0.5 / 4000**0.5
    assert abs(float(weights.mean() - (fits.mean() - kl.sum()))) < 4 * float(se)


def arrays_of(vae: VAE) -> Any:
    return eqx.filter((vae.fit_.target, vae.fit_.q), eqx.is_array)


def test_a_saved_one_answers_the_same(pca: tuple[VAE, np.ndarray], tmp_path: Any) -> None:
    vae, x = pca
    file = vae.save(tmp_path / "vae.npz")
    same = {"likelihood": gaussian(each=False), "decoder": mlp()}
    again = VAE(3, encoder=mlp(), **same).restore(file)
    np.testing.assert_array_equal(again.encode(x), vae.encode(x))
    np.testing.assert_array_equal(again.log_likelihood(x[:9]), vae.log_likelihood(x[:9]))
    assert again.fit_.status == "ok"
    with pytest.raises(ritz.RitzError, match="other parts"):
        VAE(3, encoder=mlp(5), **same).restore(file)
    with pytest.raises(ritz.RitzError, match="this VAE has 2"):
        VAE(2, encoder=mlp(), **same).restore(file)
    with pytest.raises(ritz.RitzError, match="cannot read"):
        VAE(3).restore(tmp_path / "none.npz")
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for i in range(50):
        broken = bytearray(content)
        if i % 2:
            del broken[rng.integers(len(content)) :]
        else:
            broken[rng.integers(len(content))] ^= 255
        file.write_bytes(bytes(broken))
        told = ""
        try:
            read = VAE(3, encoder=mlp(), **same).restore(file)
        except ritz.RitzError as error:
            told = str(error)
        else:  # a byte of the archive that says nothing, as a date
            assert jax.tree.all(jax.tree.map(np.array_equal, arrays_of(read), arrays_of(vae)))
        assert "\n" not in told


def test_a_table_is_rows_of_its_columns() -> None:
    from ritz.latent._assembled import rows_of

    table = ritz.data.Table({"a": np.arange(3.0), "b": np.ones(3)})
    assert rows_of(table).tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]
    with pytest.raises(ritz.RitzError, match="column 'c'"):
        rows_of(ritz.data.Table({"a": np.arange(2.0), "c": np.array(["x", "y"])}))


def test_draws_have_the_law_of_the_model(pca: tuple[VAE, np.ndarray]) -> None:
    vae = pca[0]
    exact = exact_of(vae)
    draws = vae.sample(40_000).astype(np.float64)
    se = np.sqrt(np.outer(np.diag(exact.cov), np.diag(exact.cov)) + exact.cov**2) / 200.0
    assert (np.abs(np.cov(draws.T) - exact.cov) < 5 * se).all()
    assert (np.abs(draws.mean(axis=0) - exact.mean) < 5 * np.sqrt(np.diag(exact.cov)) / 200).all()
    # Means of rows lack the noise, and the test would tell.
    means = vae.decode(np.random.default_rng(0).normal(size=(40_000, 3))).astype(np.float64)
    assert not (np.abs(np.cov(means.T) - exact.cov) < 5 * se).all()


def test_a_fits_draws_are_those_of_rows_together(pca: tuple[VAE, np.ndarray]) -> None:
    """At the optimum the posteriors of all rows together are the prior (Hoffman, Johnson 2016)."""
    fit = pca[0].fit_
    z = fit.draws["z"]
    assert np.abs(z.mean(axis=0)).max() < 0.08
    assert np.abs(z.std(axis=0) - 1.0).max() < 0.06
    # One row's alone are not.
    one = paramax.unwrap(fit.q).condition({"x": fit.target.seen["x"][0]})
    assert float(np.exp(np.asarray(one.log_scale)).max()) < 0.7


def test_draws_of_levels_and_classes_have_their_masses() -> None:
    keys = jax.random.split(jax.random.key(0), 20_000)
    levels, classes = latent.discretised_logistic(5), latent.categorical(3)
    for law, out, values in (
        (levels, jnp.array([[0.4], [-1.5]]), np.arange(5) / 4.0),
        (classes, jnp.array([[0.2], [-1.0], [0.9]]), np.arange(3.0)),
    ):
        draws = np.asarray(jax.vmap(lambda k, law=law, out=out: law.sample(out, k))(keys)).ravel()
        for value in values:
            mass = float(np.exp(law.log_prob(out, jnp.array([value]))))
            found = np.isclose(draws, value).mean()
            assert abs(found - mass) < 4.5 * (mass * (1 - mass) / 20_000) ** 0.5 + 1e-9


def test_what_a_fit_tells_of_itself(pca: tuple[VAE, np.ndarray]) -> None:
    fit = pca[0].fit_
    told = fit.diagnose()
    assert "3 of 3 units are active" in str(told)
    assert told.status == "ok"
    cut = VAE(2, encoder=mlp(8), decoder=mlp(8), epochs=2, progress=False).fit(pca[1])
    assert cut.fit_.diagnose().remedies == ()  # refine is not there; the reasons say what to do
    assert "more epochs" in str(cut.fit_.diagnose())
    for call in (lambda: pca[0].sample(2, seed=1.5), lambda: pca[0].score(pca[1][0])):
        with pytest.raises(ritz.RitzError, match=r"seed=1\.5|expected rows"):
            call()


def test_free_nats_cost_nothing(pca: tuple[VAE, np.ndarray]) -> None:
    vae, x = pca
    q, target = paramax.unwrap(vae.fit_.q), vae.fit_.target
    batch, key = {"x": jnp.asarray(x[:50], jnp.float32)}, jax.random.key(0)
    prior = paramax.unwrap(target.prior)
    each = jax.vmap(lambda row: divergences(q.condition({"x": row}), prior))(batch["x"]).mean(0)
    free = float(jnp.sort(each)[1]) + 1e-3  # above two of the three
    loss, figures = elbo(free=free).loss(q, target, key, batch)
    paid = 2 * free + float(each.max())
    assert float(loss + figures["reconstruction"]) == pytest.approx(paid, rel=1e-4)
    assert float(figures["kl"]) == pytest.approx(float(each.sum()), rel=1e-4)


def test_the_answer_is_the_best_that_was_looked_at() -> None:
    from ritz.objective import Problem
    from ritz.solver import early_stopping, run

    x = np.random.default_rng(3).normal(size=(60, 8)).astype(np.float32)
    wide = {"encoder": mlp(128), "decoder": mlp(128), "batch": 16, "validation": 0.0}
    vae = VAE(4, epochs=1, progress=False, **wide).fit(x[:36])
    problem = Problem(vae.fit_.target, vae.fit_.q, elbo(), ritz.estimator.pathwise())
    solver = early_stopping(optax.adam(5e-3), {"x": jnp.asarray(x[36:])}, every=10, patience=5)
    rows = ritz.data.batches({"x": x[:36]}, 16)
    state = run(problem, solver, 5000, jax.random.key(0), batches=rows, progress=False).state
    loss = lambda params: float(problem.loss(params, solver.key, solver.held)[0])
    assert int(state.waited) == 5
    assert loss(solver.answer(state)) == pytest.approx(float(state.lowest), rel=1e-5)
    assert loss(state.params) > float(state.lowest) + 0.05  # the last ones are not


BAD = {
    "range": (lambda x: VAE(2, likelihood=latent.bernoulli()).fit(x), "expected 0 to 1"),
    "nan": (lambda x: VAE(2).fit(np.where(x > 8, np.nan, x)), "not finite"),
    "constant": (lambda x: VAE(2).fit(np.where(np.arange(10) == 3, 1.0, x)), "column 3"),
    "batch": (lambda x: VAE(2, batch=10_000).fit(x), "smaller batch"),
    "wide": (
        lambda x: VAE(2, encoder=mlp()(x.shape[1:], (7,), jax.random.key(0))).fit(x),
        "expected (4,)",
    ),
    "one row": (lambda x: VAE(2).fit(x[0]), "expected rows"),
    "words": (lambda x: VAE(2).fit(np.array([["a", "b"]])), "expected numbers"),
    "counts": (lambda x: VAE(2, likelihood=latent.poisson()).fit(x), "not counts"),
    "untrained": (lambda x: VAE(2).encode(x), "call fit(x) first"),
    "prior": (lambda x: VAE(2, prior=MeanField(jnp.zeros(3), jnp.zeros(3))).fit(x), "3 dimensions"),
    "objective": (
        lambda x: VAE(2, objective=ritz.objective.negative_elbo()).fit(x),
        "one of ritz.latent",
    ),
    "name": (lambda x: VAE(2).set_params(width=3), "no parameter 'width'"),
    "validation": (lambda x: VAE(2, validation=1.0).fit(x), "a share from 0"),
    "seed": (lambda x: VAE(2, seed=1.5).fit(x), "seed=1.5"),
    "beta": (lambda x: elbo(beta=-1.0), "at least 0"),
    "convolutions": (lambda x: VAE(2, encoder=latent.convolutional()).fit(x), "expected one image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name: str) -> None:
    call, told = BAD[name]
    with pytest.raises(ritz.RitzError) as caught:
        call(linear(300))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_another_shape_are_refused(pca: tuple[VAE, np.ndarray]) -> None:
    with pytest.raises(ritz.RitzError, match=r"expected \(10,\)"):
        pca[0].encode(np.zeros((3, 4)))
    with pytest.raises(ritz.RitzError, match=r"expected \(n, 3\)"):
        pca[0].decode(np.zeros((3, 4)))


def test_rows_kept_aside_are_judged_by_the_whole_divergence() -> None:
    objective = elbo(warmup=10)
    vae = VAE(2, encoder=mlp(), decoder=mlp(), epochs=1, batch=100, progress=False)
    target, q = vae._parts({"x": linear(200)})
    given = (*paramax.unwrap((q, target)), jax.random.key(0), {"x": jnp.asarray(linear(50))})
    last = objective.at(jnp.asarray(np.iinfo(np.int32).max))  # where a judge looks
    whole = elbo().loss(*given)[0]
    assert float(last.loss(*given)[0]) == pytest.approx(float(whole), rel=1e-6)
    assert float(objective.at(jnp.asarray(0)).loss(*given)[0]) < float(whole)
