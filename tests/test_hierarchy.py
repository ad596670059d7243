"""Conditional and hierarchical autoencoders, and priors that find out what is needed."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest
from scipy import stats

import ritz
from ritz import latent
from ritz.latent import VAE, elbo, gaussian, mlp

RNG = np.random.default_rng(0)
C = RNG.normal(size=(1500, 2))
Z = RNG.normal(size=(1500, 2))
X = C @ RNG.normal(size=(2, 6)) + Z @ RNG.normal(size=(2, 6)) + 0.4 * RNG.normal(size=(1500, 6))


def trained(x: Any = X, given: Any = None, size: Any = 2, **kwargs: Any) -> VAE:
    options: dict[str, Any] = {"likelihood": gaussian(each=False), "epochs": 150, "batch": 150}
    options |= {"encoder": mlp(), "decoder": mlp(), "lr": 0.02, "validation": 0.0}
    vae = VAE(size, progress=False, **{**options, **kwargs})
    return vae.fit(x, given=given)


@pytest.fixture(scope="module")
def conditional() -> VAE:
    return trained(given=C)


def exact(x: np.ndarray, left: np.ndarray) -> float:
    """Most likelihood of two factors and equal noise, for what a condition leaves."""
    values, axes = np.linalg.eigh(left.T @ left / len(left))
    rest = values[:-2].mean()
    cov = axes[:, -2:] * (values[-2:] - rest) @ axes[:, -2:].T + rest * np.eye(x.shape[1])
    return float(stats.multivariate_normal(np.zeros(x.shape[1]), cov).logpdf(left).mean())


def test_a_linear_conditional_one_is_pca_of_what_the_condition_leaves(conditional: VAE) -> None:
    design = np.column_stack([np.ones(len(C)), C])
    left = X - design @ np.linalg.lstsq(design, X, rcond=None)[0]
    assert abs(conditional.score(X, given=C) - exact(X, left)) < 0.03
    # With the conditions of other rows it is far worse, and so is one that is given none.
    assert conditional.score(X, given=C[::-1]) < exact(X, left) - 1.0
    assert trained().score(X) < exact(X, left) - 0.5


def test_a_conditional_one_draws_and_decodes_what_it_is_given(conditional: VAE) -> None:
    same = np.repeat(C[:1], 4000, axis=0)
    drawn = conditional.sample(given=same)
    design = np.column_stack([np.ones(len(C)), C])
    mean = np.array([1.0, *C[0]]) @ np.linalg.lstsq(design, X, rcond=None)[0]
    se = drawn.std(axis=0) / 4000**0.5
    assert (np.abs(drawn.mean(axis=0) - mean) < 4 * se + 0.05).all()
    assert conditional.decode(np.zeros((3, 2)), given=C[:3]).shape == (3, 6)
    assert conditional.encode(X[:5], given=C[:5]).shape == (5, 2)
    assert conditional.diagnose(X, given=C).elbo == pytest.approx(
        conditional.log_likelihood(X, 1, given=C).mean(), abs=0.15
    )


def test_a_conditional_one_comes_back_from_its_file(conditional: VAE, tmp_path: Any) -> None:
    conditional.save(tmp_path / "model")
    again = VAE(2, likelihood=gaussian(each=False), encoder=mlp(), decoder=mlp())
    again.restore(tmp_path / "model")
    np.testing.assert_array_equal(again.encode(X, given=C), conditional.encode(X, given=C))


BAD = {
    "missing": (lambda v: v.encode(X), "is conditional: pass given="),
    "short": (lambda v: v.encode(X, given=C[:3]), "expected (1500, 2)"),
    "rows": (lambda v: trained(given=C[:3]), "given holds 3 rows, but there are 1500"),
    "none": (lambda v: trained(epochs=1).encode(X, given=C), "trained without given="),
    "one": (lambda v: trained(size=(3,)), "two widths or more"),
    "zero": (lambda v: trained(size=(3, 0)), "latent"),
    "posterior": (lambda v: trained(size=(3, 2), posterior=latent.diagonal()), "hierarchical()"),
    "beta": (lambda v: trained(objective=elbo(beta=(1.0, 2.0))), "2 numbers beta arrived"),
    "sd": (lambda v: latent.hierarchical(sd=0.0), "sd=0.0"),
    "levels": (lambda v: trained(prior=latent.levels()), "one level arrived"),
    "ard": (lambda v: trained(objective=latent.ard_elbo()), "use prior=ard()"),
    "shape": (lambda v: latent.ard(-1.0), "shape=-1.0"),
    "memory": (lambda v: latent.ard_elbo(memory=0), "memory"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name: str, conditional: VAE) -> None:
    call, told = BAD[name]
    with pytest.raises(ritz.RitzError) as caught:
        call(conditional)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_levels_have_the_density_of_their_joint_law() -> None:
    prior = latent.levels(mlp(), sd=0.5)((2, 1), jax.random.key(0))
    weight = np.asarray(prior.networks[0].layers[0].weight, np.float64)
    shift = np.asarray(prior.networks[0].layers[0].bias, np.float64)
    cov = np.block([[weight @ weight.T + 0.25 * np.eye(2), weight], [weight.T, np.eye(1)]])
    law = stats.multivariate_normal(np.append(shift, 0.0), cov)
    prior = paramax.unwrap(prior)
    z = RNG.normal(size=(5, 3))
    found = jax.vmap(prior.log_prob)(jnp.asarray(z))
    np.testing.assert_allclose(found, law.logpdf(z), rtol=1e-4)
    # The other way round it is another law.
    turned = jax.vmap(lambda v: prior.log_prob(v[::-1]))(jnp.asarray(z))
    assert np.abs(turned - law.logpdf(z)).max() > 0.1
    draws = np.asarray(jax.vmap(prior.sample)(jax.random.split(jax.random.key(1), 20_000)))
    np.testing.assert_allclose(np.cov(draws.T), cov, atol=0.05)
    by_level = jax.vmap(prior.by_level)(jnp.asarray(z))
    np.testing.assert_allclose(by_level[:, 1], stats.norm.logpdf(z[:, 2]), rtol=1e-4)


def test_a_hierarchy_reaches_the_likelihood_of_its_linear_model() -> None:
    prior = latent.levels(mlp(), sd=1.0)
    made = trained(size=(2, 1), posterior=latent.hierarchical(mlp()), prior=prior)
    left = X - X.mean(axis=0)
    # Two linear levels are no richer than one of the lower's width.
    assert made.score(X) == pytest.approx(exact(X, left), abs=0.1)
    assert made.encode(X).shape == (len(X), 3)
    told = str(made.diagnose(X))
    assert "level 1" in told
    assert "level 2" in told


def test_a_level_that_holds_nothing_is_told() -> None:
    made = trained(size=(2, 1), objective=elbo(beta=(1.0, 4.0)), epochs=100)
    assert any("level 2 of the hierarchy has collapsed" in line for line in made.fit_.reasons)


def test_the_automatic_prior_is_students_t() -> None:
    prior = latent.ard(2.0, 3.0)(2, jax.random.key(0))
    z = RNG.normal(size=(4, 2))
    known = stats.t(4.0, scale=1.5**0.5).logpdf(z).sum(axis=1)
    np.testing.assert_allclose(jax.vmap(prior.log_prob)(jnp.asarray(z)), known, rtol=1e-4)
    draws = np.asarray(jax.vmap(prior.sample)(jax.random.split(jax.random.key(1), 20_000)))
    assert stats.kstest(draws[:, 0], stats.t(4.0, scale=1.5**0.5).cdf).pvalue > 0.01
    assert stats.kstest(draws[:, 0], stats.norm(scale=1.5**0.5).cdf).pvalue < 0.01


def test_a_step_of_the_automatic_prior_is_the_conjugate_update() -> None:
    vae = trained(size=4, prior=latent.ard(2.0, 3.0), objective=latent.ard_elbo(), epochs=1)
    objective, target, q = latent.ard_elbo(memory=100), vae.fit_.target, vae.fit_.q
    key, batch = jax.random.key(5), {"x": jnp.asarray(X[:100])}
    new = objective.revise(q, target, key, batch)[1].prior
    encoder = paramax.unwrap(q)
    draw = lambda x, key: objective.drawn(encoder.condition({"x": x}), key)[0]
    z = np.asarray(jax.vmap(draw)(batch["x"], jax.random.split(key, 100)), np.float64)
    np.testing.assert_allclose(new.shape, 2.0 + 50.0, rtol=1e-6)
    np.testing.assert_allclose(new.rate, 3.0 + 0.5 * (z**2).sum(axis=0), rtol=1e-4)
    np.testing.assert_allclose(new.variance, new.rate / 51.0, rtol=1e-6)


def test_relevance_is_the_variance_that_a_dimension_accounts_for() -> None:
    vae = trained(size=3, epochs=1)
    weight = jnp.asarray([[1.0, 0.0, 0.0]] * 3 + [[0.0, 2.0, 0.0]] * 3)
    where = lambda t: t.decoder.layers[0].weight
    vae.fit_.target = eqx.tree_at(where, vae.fit_.target, weight)
    spread = vae.encode(X).var(axis=0, dtype=np.float64)
    known = spread * np.array([3.0, 12.0, 0.0])
    np.testing.assert_allclose(latent.relevance(vae, X), known / known.sum(), rtol=1e-3)


def test_relevance_finds_the_factors_among_more_latents() -> None:
    vae = trained(size=6, prior=latent.ard(), objective=latent.ard_elbo())
    shares = np.sort(latent.relevance(vae, X))[::-1]
    assert shares[:4].sum() > 0.99  # of the condition and of Z, two each
    assert shares[:3].sum() < 0.99
