"""Variants of variational autoencoders: exact cases, wrong variants, bad input."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz import latent
from ritz.estimator import pathwise
from ritz.latent import VAE, gaussian, mlp
from ritz.objective import Problem

RNG = np.random.default_rng(0)


def rows_of_a_line(n: int = 200) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 1)) @ np.ones((1, 4)) + 0.5 * rng.normal(size=(n, 4))


# -- closed-form reconstruction -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaussian", "poisson"])
def test_the_mean_of_a_log_density_is_that_of_quadrature(name: str) -> None:
    x = RNG.poisson(3.0, size=(50, 4)).astype(np.float32)
    law = {"gaussian": gaussian(), "poisson": latent.poisson()}[name]
    law = paramax.unwrap(law.for_data(x))
    mean, variance = jnp.array([0.3, -0.4, 1.0, 0.0]), jnp.array([0.5, 0.1, 0.3, 0.02])
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    at = lambda node: law.log_prob(mean + jnp.sqrt(variance) * node, jnp.asarray(x[0]))
    values = np.array([float(at(node)) for node in nodes])
    exact = float(weights @ values / weights.sum())
    found = law.expected_log_prob(mean, variance, jnp.asarray(x[0]))
    assert float(found) == pytest.approx(exact, abs=1e-4)
    assert abs(float(law.log_prob(mean, jnp.asarray(x[0]))) - exact) > 0.1  # at the mean


def parts_of(vae: VAE, x: np.ndarray) -> tuple[Any, Any]:
    """A model and an encoder, not trained."""
    return vae._parts({"x": x})


def of_encoder(problem: Any, batch: Any) -> Any:
    """From keys and a step to gradients in the encoder's parameters."""

    @eqx.filter_jit
    def program(problem: Any, keys: Any, step: Any) -> Any:
        def one(key: Any) -> Any:
            leaves = jax.tree.leaves(problem.at(step).grad(problem.params, key, batch)[0].family)
            return jnp.concatenate([v.ravel() for v in leaves])

        return jax.vmap(one)(keys)

    return lambda keys, step=0: program(problem, keys, jnp.asarray(step))


def test_closed_forms_have_the_gradient_of_many_draws_and_no_noise() -> None:
    x, loss = rows_of_a_line(), latent.guided_elbo(10)
    target, q = parts_of(VAE(2, encoder=mlp(4), decoder=latent.guided(mlp())), x)
    batch = {"x": jnp.asarray(x[:3], jnp.float32)}
    side = lambda loss, target: of_encoder(Problem(target, q, loss, pathwise()), batch)
    # The affine decoder as the model's, and as its own guide.
    decoder, law = target.decoder.network, target.likelihood
    alone = dataclasses.replace(target, decoder=decoder)
    guide = latent.Guided(decoder, decoder, law.log_sd)
    both = dataclasses.replace(target, decoder=guide)
    keys = jax.random.split(jax.random.key(2), 1000)
    exact = side(latent.analytic_elbo(), alone)(keys[:2])
    np.testing.assert_array_equal(exact[0], exact[1])
    spreads = []
    program = side(loss, both)
    for step in (10, 5, 0):
        drawn = program(keys, step)
        spread = drawn.std(axis=0)
        off = (drawn.mean(axis=0) - exact[0]) / (spread / 1000**0.5 + 1e-5)
        assert float(jnp.abs(off).max()) < 4.5
        spreads.append(float(spread.mean()))
    assert spreads[1] == pytest.approx(0.5 * spreads[0], rel=0.08)
    assert spreads[2] < 1e-5
    # Without the variances it is off.
    known = paramax.unwrap(law)
    flat = type("Flat", (type(known),), {"expected_log_prob": lambda s, m, v, x: s.log_prob(m, x)})
    wrong = dataclasses.replace(alone, likelihood=flat(**vars(known)))
    found = side(latent.analytic_elbo(), wrong)(keys[:1])[0]
    drawn = program(keys, 10)
    off = (drawn.mean(axis=0) - found) / (drawn.std(axis=0) / 1000**0.5)
    assert float(jnp.abs(off).max()) > 10


# -- graphs ---------------------------------------------------------------------------------------

RING = np.stack([np.arange(6), np.roll(np.arange(6), 1)], axis=1)


def test_a_graphs_density_is_that_of_its_pairs() -> None:
    target = latent.graph_model(6, RING, latent=2, shifts=4)
    z = np.random.default_rng(0).normal(size=(6, 2))
    edges = {tuple(sorted(map(int, e))) for e in RING}
    exact = 0.0
    for i in range(6):
        for j in range(i):
            p = 1.0 / (1.0 + np.exp(-z[i] @ z[j]))
            there = (j, i) in edges
            exact += (15 - 6) / 6 * np.log(p) if there else np.log(1.0 - p)
    x = jnp.asarray(z.reshape(-1), jnp.float32)
    found = target.terms(x)
    assert float(found["edges"]) == pytest.approx(exact, rel=1e-5)
    assert float(found["z"]) == pytest.approx(-0.5 * (z**2).sum() - 6 * np.log(2 * np.pi), rel=1e-5)
    # From random pairs it is the same in the mean, and not if nodes were paired with themselves.
    keys = jax.random.split(jax.random.key(0), 2000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: target.terms(x, key)["edges"]))(keys))
    se = drawn.std() / 2000**0.5
    assert abs(drawn.mean() - exact) < 4 * se
    own = 15 * (np.logaddexp(0, (z**2).sum(axis=1)).mean() - np.logaddexp(0, z @ z.T).mean()) / 5
    assert abs(own) > 10 * se


def test_a_graph_encoder_is_two_convolutions() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4)) * (rng.uniform(size=(6, 4)) < 0.5)
    q = paramax.unwrap(latent.graph_encoder(6, RING, x, latent=2, hidden=3))
    a = np.eye(6)
    a[RING[:, 0], RING[:, 1]] = a[RING[:, 1], RING[:, 0]] = 1.0
    a = a / 3.0  # each node has two neighbours and itself
    numbers = a @ np.maximum(a @ x @ q.first, 0.0) @ q.second
    post = q.posterior()
    np.testing.assert_allclose(post.loc, numbers[:, :2].ravel(), atol=1e-5)
    np.testing.assert_allclose(post.log_scale, 8 * np.tanh(numbers[:, 2:].ravel() / 8), atol=1e-5)
    alone = np.maximum(x @ q.first, 0.0) @ q.second  # without its neighbours
    assert np.abs(alone[:, :2].ravel() - np.asarray(post.loc)).max() > 0.05
    bare = paramax.unwrap(latent.graph_encoder(6, RING, latent=2, hidden=3))
    same = paramax.unwrap(latent.graph_encoder(6, RING, np.eye(6), latent=2, hidden=3))
    np.testing.assert_allclose(bare.posterior().loc, same.posterior().loc, atol=1e-6)


def test_communities_of_a_graph_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    side = np.arange(40) % 2
    likely = np.where(side[:, None] == side, 0.5, 0.02)
    edges = np.argwhere(np.triu(rng.uniform(size=(40, 40)) < likely, 1))
    fit = ritz.fit(
        latent.graph_model(40, edges, latent=2, shifts=4),
        family=latent.graph_encoder(40, edges, latent=2, hidden=8),
        objective=ritz.objective.negative_elbo(),
        steps=200,
        progress=False,
    )
    z = latent.node_means(fit)
    products = z @ z.T
    alike = side[:, None] == side
    assert products[alike].mean() > 1.0 > 0.0 > products[~alike].mean()
    assert fit.status == "ok"


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "deep": (
        lambda x: VAE(2, encoder=mlp(4), objective=latent.analytic_elbo()).fit(x),
        "is not affine",
    ),
    "bits": (
        lambda x: VAE(
            2, likelihood=latent.bernoulli(), decoder=mlp(), objective=latent.analytic_elbo()
        ).fit((x > 0).astype(float)),
        "no mean in closed form",
    ),
    "no guide": (lambda x: VAE(2, objective=latent.guided_elbo(5)).fit(x), "guided(...)"),
    "twice": (lambda x: latent.graph_model(6, [[0, 1], [1, 0]]), "arrived twice"),
    "loop": (lambda x: latent.graph_encoder(6, [[1, 1]]), "two different nodes"),
    "pairs": (lambda x: latent.graph_model(6, [0, 1]), "expected pairs"),
    "nodes": (lambda x: latent.graph_encoder(6, RING, np.ones((5, 2))), "expected (6, f)"),
    "no steps": (lambda x: latent.guided_elbo(0), "steps=0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name: str) -> None:
    call, told = BAD[name]
    with pytest.raises(ritz.RitzError) as caught:
        call(rows_of_a_line())
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
