"""Autoencoders whose latents are codes of a book."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest

import ritz
from ritz import latent
from ritz.latent import VAE, gaussian, mlp
from ritz.objective._problem import Problem

RNG = np.random.default_rng(0)


def quantised(objective: Any, **kwargs: Any) -> VAE:
    options = {"likelihood": gaussian(0.1), "encoder": mlp(32), "decoder": mlp(32)}
    options |= {"epochs": 100, "batch": 50, "lr": 3e-3, "progress": False, "validation": 0.0}
    options |= {"prior": latent.codebook(32, 2)}
    return VAE(4, objective=objective, **{**options, **kwargs})


def test_a_rotation_carries_an_encoding_onto_its_code_and_turns_its_gradient() -> None:
    e, q = jax.random.normal(jax.random.key(0), (2, 5, 4))
    np.testing.assert_allclose(latent.rotated(e, q), q, atol=1e-5)
    np.testing.assert_allclose(latent.straight_through(e, q), q, atol=1e-6)
    for one, two in zip(e, q, strict=True):
        layer = lambda e, two=two: latent.rotated(e[None], two[None])[0]
        slope = np.asarray(jax.jacobian(layer)(one), np.float64)
        size = float(jnp.linalg.norm(two) / jnp.linalg.norm(one))
        turn = slope / size
        np.testing.assert_allclose(turn @ turn.T, np.eye(4), atol=1e-5)  # a rotation
        assert np.linalg.det(turn) > 0
        np.testing.assert_allclose(slope @ one, two, atol=1e-5)
        other = jnp.linalg.svd(jnp.stack([one, two]))[2][2:]  # what is off their plane stays
        np.testing.assert_allclose(turn @ other.T, other.T, atol=1e-5)
        # The identity is what the usual layer has, and is no such rotation.
        plain = jax.jacobian(lambda e, two=two: latent.straight_through(e[None], two[None])[0])
        assert np.abs(np.asarray(plain(one)) @ one - two).max() > 0.1


def test_an_encoding_of_zero_has_a_finite_rotation() -> None:
    value, slope = jax.value_and_grad(lambda e: latent.rotated(e, jnp.ones((1, 2))).sum())(
        jnp.zeros((1, 2))
    )
    assert np.isfinite(value)
    assert np.isfinite(slope).all()


def test_codes_follow_the_mean_of_what_is_nearest_to_them() -> None:
    x = np.repeat([[0.0, 0.0], [4.0, 4.0], [-4.0, 4.0]], 20, axis=0)
    x = x + 0.01 * RNG.normal(size=x.shape)

    class Same(eqx.Module):
        weight: Any

        def __call__(self, v: Any) -> Any:
            return v + 0.0 * self.weight

    book = lambda latent_, key: latent.Codebook(
        jnp.array([[0.0, -1.5], [1.0, 1.0], [-1.0, 1.0]]), jnp.ones(3), jnp.zeros((3, 2)), None, 1
    )
    vae = quantised(latent.vector_quantised(decay=0.0), prior=book, epochs=1, batch=60)
    vae.latent, vae.encoder, vae.decoder = 2, Same(jnp.zeros(())), Same(jnp.zeros(()))
    vae.fit(x)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    exact = standard.reshape(3, 20, 2).mean(axis=1)
    np.testing.assert_allclose(vae.fit_.target.prior.codes, exact, atol=1e-3)


def test_a_book_with_a_code_for_each_row_gives_the_rows_back() -> None:
    x = RNG.normal(size=(16, 3))
    vae = quantised(
        latent.vector_quantised(decay=0.9, restart=0.1),
        prior=latent.codebook(16, 3),
        encoder=mlp(),
        decoder=mlp(),
        batch=16,
        epochs=1500,
    )
    vae.latent = 3
    vae.fit(x)
    assert len(np.unique(vae.codes(x))) == 16
    np.testing.assert_allclose(vae.decode(vae.encode(x)), x, atol=0.05)
    # With half as many codes it cannot.
    vae.prior = latent.codebook(8, 3)
    vae.fit(x)
    assert np.abs(vae.decode(vae.encode(x)) - x).max() > 0.3


def test_a_quantised_one_says_how_many_codes_are_in_use() -> None:
    x = RNG.normal(size=(300, 2)) @ RNG.normal(size=(2, 6))
    vae = quantised(latent.vector_quantised()).fit(x)
    assert vae.fit_.status == "ok"
    assert "codes are used as" in str(vae.diagnose(x))
    found = vae.diagnose(x)
    assert found.kl.sum() == pytest.approx(2 * np.log(32), rel=1e-5)
    book = vae.fit_.target.prior
    z = vae.encode(x)[0]
    np.testing.assert_array_equal(book.vector(jnp.asarray(vae.codes(x)[0])), z)
    few = quantised(latent.vector_quantised(), prior=latent.codebook(32, 2), lr=1e-6, epochs=1)
    few.prior = lambda n, key: latent.Codebook(
        100.0 + jnp.arange(64.0).reshape(32, 2), jnp.ones(32), jnp.zeros((32, 2)), None, 2
    )
    few.objective = latent.vector_quantised(decay=None)
    assert "codes are in use" in few.fit(x).fit_.reasons[-1]


def test_a_prior_of_codes_without_a_bound_of_points_says_so() -> None:
    x = RNG.normal(size=(100, 3))
    vae = quantised(latent.vector_quantised(), epochs=2).fit(x)
    with pytest.raises(ritz.RitzError, match="encodes rows as points or codes"):
        vae.log_likelihood(x)
    with pytest.raises(ritz.RitzError, match="has no codes"):
        VAE(2, epochs=1, progress=False, batch=50).fit(x).codes(x)
    with pytest.raises(ritz.RitzError, match="needs a posterior with a density"):
        VAE(2, posterior=latent.point(), batch=50).fit(x)
    with pytest.raises(ritz.RitzError, match="do not make up 3 latent"):
        VAE(3, prior=latent.codebook(8, 2), objective=latent.vector_quantised(), batch=50).fit(x)
    with pytest.raises(ritz.RitzError, match="commitment=-1"):
        latent.vector_quantised(-1)
    with pytest.raises(ritz.RitzError, match="restart needs a decay"):
        latent.vector_quantised(decay=None, restart=0.1)


def test_a_solver_that_leaves_parameters_to_gradients_alone_is_refused() -> None:
    x = RNG.normal(size=(100, 3))
    vae = quantised(latent.vector_quantised(), epochs=1).fit(x)
    data = ritz.data.batches({"x": x}, 50)
    with pytest.raises(ritz.RitzError, match="sets its own parameters"):
        ritz.fit(
            vae.fit_.target,
            data,
            family=vae.fit_.q,
            objective=latent.vector_quantised(),
            solver=ritz.solver.ivon(1e-3, ess=100.0),
            steps=2,
            progress=False,
        )


class Counted(ritz.objective.AbstractDirect):
    """A loss that is flat in the place of a Gaussian, which each step moves on by one."""

    def revise(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        return eqx.tree_at(lambda q: q.loc, q, q.loc + 1.0), target

    def loss(self, q: Any, target: Any, key: Any, batch: Any = None) -> Any:
        return (jax.lax.stop_gradient(q.loc) * 0.0).sum() + (q.log_scale**2).sum()


SOLVERS = {
    "a number of steps": lambda: ritz.solver.adam(0.01, 7),
    "stages": lambda: ritz.solver.adam(0.01, None),
    "watched": lambda: ritz.solver.early_stopping(optax.sgd(0.01), {"x": jnp.zeros(1)}, every=100),
}


def counted(solver: Any) -> Any:
    target = ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    q = ritz.family.MeanField(jnp.zeros(2), jnp.ones(2))
    problem = Problem(target, q, Counted(), ritz.estimator.pathwise())
    return ritz.solver.run(problem, solver, 7, jax.random.key(0), progress=False)


@pytest.mark.parametrize("name", SOLVERS)
def test_each_step_sets_what_the_objective_sets_once(name: str) -> None:
    assert counted(SOLVERS[name]()).state.params.loc == pytest.approx(7.0)


def test_one_that_is_watched_does_no_more_than_it_can() -> None:
    inner = ritz.solver.ivon(1e-3, ess=10.0).solver()
    with pytest.raises(ritz.RitzError, match="sets its own parameters"):
        counted(ritz.solver.early_stopping(inner, {"x": jnp.zeros(1)}))


def test_an_autoregressive_law_of_classes_has_mass_one_and_its_draws() -> None:
    law = latent.autoregressive(latent.categorical(3), 9, 8).for_data(np.zeros((2, 3)))
    out = jnp.asarray(np.random.default_rng(0).normal(size=9), jnp.float32)
    every = jnp.asarray(np.indices((3,) * 3).reshape(3, -1).T, jnp.float32)
    mass = np.exp(np.asarray(jax.jit(jax.vmap(lambda x: law.log_prob(out, x)))(every), np.float64))
    assert abs(mass.sum() - 1.0) < 1e-5
    draws = jax.jit(jax.vmap(lambda k: law.sample(out, k)))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    number = (np.asarray(draws) @ [9, 3, 1]).astype(int)
    share = np.bincount(number, minlength=27) / 20_000
    assert (np.abs(share - mass) < 4.5 * np.sqrt(mass * (1 - mass) / 20_000)).all()
    # Logits of a value change with those before it alone.
    logits = jax.jit(lambda x: law.logits(out, x))
    one, two = logits(jnp.array([0.0, 1.0, 2.0])), logits(jnp.array([0.0, 2.0, 2.0]))
    changed = np.abs(np.asarray(one - two)).max(axis=0) > 0
    assert changed.tolist() == [False, False, True]
    assert jax.jit(lambda out: law.mean(out))(out).shape == (3, 3)


def test_codes_that_go_together_are_drawn_together() -> None:
    """Two codes that are always equal: all mass is on pairs of equal ones."""
    rng = np.random.default_rng(0)
    x = rng.choice([-2.0, 0.0, 2.0], size=(300, 1)) + 0.05 * rng.normal(size=(300, 4))
    vae = VAE(
        2,
        likelihood=gaussian(0.2, each=False),
        encoder=mlp(),
        decoder=mlp(),
        prior=latent.codebook(3, 1),
        objective=latent.vector_quantised(decay=0.8, restart=0.1),
        epochs=30,
        lr=0.02,
        batch=50,
        validation=0.0,
        progress=False,
    ).fit(x)
    pairs = {tuple(row) for row in vae.codes(x).astype(int).tolist()}
    assert len(pairs) == 3
    learned = latent.fit_codes(vae, x, 16, steps=300, lr=0.02)
    assert learned.fit_codes_.reasons == ()
    keys = jax.random.split(jax.random.key(0), 200)

    def strange(prior: Any) -> float:
        """The share of drawn pairs that no row has."""
        drawn = jax.vmap(lambda key: prior.nearest(prior.sample(key)))(keys)
        return sum(tuple(row) not in pairs for row in drawn.tolist()) / 200

    assert strange(paramax.unwrap(learned.fit_.target.prior)) < 0.05
    assert strange(vae.fit_.target.prior) > 0.4
    assert vae.fit_.target.prior.law is None
