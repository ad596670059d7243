"""Bounds whose weights follow the run: balanced variance, a rate that is held, random codes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz import latent
from ritz.latent import VAE, gaussian, mlp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 4)) @ RNG.normal(size=(4, 8)) + 0.3 * RNG.normal(size=(400, 8))


def trained(objective: Any, **kwargs: Any) -> VAE:
    options: dict[str, Any] = {"likelihood": gaussian(each=False), "epochs": 100}
    options |= {"encoder": mlp(), "decoder": mlp(), "batch": 100, "lr": 0.02}
    options |= {"validation": 0.0, "progress": False}
    return VAE(4, objective=objective, **{**options, **kwargs}).fit(X)


@pytest.fixture(scope="module")
def balanced() -> VAE:
    return trained(latent.balanced(decay=0.9))


def test_the_balanced_variance_is_the_error_that_has_been_reached(balanced: VAE) -> None:
    law, q = balanced.fit_.target.likelihood, paramax.unwrap(balanced.fit_.q)
    draw = jax.vmap(lambda x, key: q.condition({"x": x}).sample(key))
    errors = []
    for seed in range(20):
        z = draw(jnp.asarray(X), jax.random.split(jax.random.key(seed), len(X)))
        errors.append(float(((balanced.decode(np.asarray(z)) - X) ** 2).mean()))
    reached = float(jnp.exp(law.log_sd)) * float(paramax.unwrap(law).scale)
    assert reached == pytest.approx(np.mean(errors) ** 0.5, rel=0.05)


def test_a_balanced_step_sets_the_variance_by_its_formula(balanced: VAE) -> None:
    target, q = balanced.fit_.target, balanced.fit_.q
    wide = eqx.tree_at(lambda t: t.likelihood.log_sd, target, jnp.asarray(1.0))
    key, batch = jax.random.key(3), {"x": jnp.asarray(X[:50])}
    objective = latent.balanced(decay=0.9)
    new = objective.revise(q, wide, key, batch)[1].likelihood
    encoder, seen = paramax.unwrap((q, wide))

    def one(x: Any, key: Any) -> Any:
        z = objective.drawn(encoder.condition({"x": x}), key)
        return ((x - seen.likelihood.mean(seen.decoder(z[0]))) / seen.likelihood.scale) ** 2

    error = float(jax.vmap(one)(batch["x"], jax.random.split(key, 50)).mean())
    exact = 0.5 * np.log(0.9 * np.exp(2.0) + 0.1 * error)
    assert float(new.log_sd) == pytest.approx(exact, rel=1e-4)
    # It never rises.
    narrow = eqx.tree_at(lambda t: t.likelihood.log_sd, target, jnp.asarray(-5.0))
    assert float(objective.revise(q, narrow, key, batch)[1].likelihood.log_sd) == -5.0


def test_the_balanced_variance_has_no_gradient_and_a_learned_one_has(balanced: VAE) -> None:
    target, q = balanced.fit_.target, balanced.fit_.q
    key, batch = jax.random.key(3), {"x": jnp.asarray(X[:50])}

    def slope(objective: Any) -> float:
        def loss(log_sd: Any) -> Any:
            moved = eqx.tree_at(lambda t: t.likelihood.log_sd, target, log_sd)
            return objective.loss(*paramax.unwrap((q, moved)), key, batch)[0]

        return float(jax.grad(loss)(jnp.asarray(0.5)))

    assert slope(latent.balanced()) == 0.0
    assert slope(latent.elbo()) != 0.0


def test_groups_hold_the_bits_that_were_asked_for() -> None:
    held = trained(latent.target_divergence(3, 2), encoder=mlp(64), epochs=300, lr=5e-3)
    groups = held.diagnose(X).kl.reshape(2, 2).sum(axis=1) / np.log(2.0)
    np.testing.assert_allclose(groups, 3.0, rtol=0.15)
    free = trained(latent.elbo())
    assert np.abs(free.diagnose(X).kl.reshape(2, 2).sum(axis=1) / np.log(2.0) - 3.0).max() > 1.0


def test_random_codes_are_near_to_means_where_there_are_many(balanced: VAE) -> None:
    q = paramax.unwrap(balanced.fit_.q)
    posts = [q.condition({"x": jnp.asarray(x)}) for x in X[:20]]
    means, sds = np.stack([p.loc for p in posts]), np.exp(np.stack([p.log_scale for p in posts]))
    off = []
    for bits in (2, 6, 12):
        new = latent.gaussian_quantised(balanced, bits)
        off.append(np.abs(new.encode(X[:20]) - means).mean())
        assert new.codes(X[:20]).max() < 2**bits
        book = np.asarray(new.fit_.target.prior.codes)[:, 0]
        nearest = (np.abs(means[:, :, None] - book) / sds[:, :, None]).argmin(axis=2)
        np.testing.assert_array_equal(new.codes(X[:20]), nearest)
    assert off[0] > 3 * off[1] > 9 * off[2]
    assert balanced.fit_.target.prior is not new.fit_.target.prior  # the old one is as it was


BAD = {
    "sd": (lambda: trained(latent.balanced(), likelihood=gaussian(0.1)), "with a fixed sd"),
    "law": (
        lambda: VAE(2, likelihood=latent.bernoulli(), objective=latent.balanced()).fit(X > 0),
        "the likelihood is a Bernoulli",
    ),
    "decay": (lambda: latent.balanced(decay=1.0), "decay=1.0"),
    "bits": (lambda: latent.target_divergence(0), "bits=0"),
    "groups": (lambda: trained(latent.target_divergence(3, 3)), "groups of 3 do not make up 4"),
    "many": (lambda: latent.gaussian_quantised(VAE(2), 21), "20 at most"),
    "prior": (
        lambda: latent.gaussian_quantised(trained(None, prior=latent.ard(), epochs=1), 4),
        "draws from the standard normal",
    ),
    "book": (lambda: trained(latent.elbo(), prior=latent.codebook(8, 2)), "no use for a codebook"),
    "untrained": (lambda: latent.gaussian_quantised(VAE(2), 4), "call fit(x) first"),
    "codes": (lambda: trained(latent.vector_quantised()), "use prior=codebook"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(name: str) -> None:
    call, told = BAD[name]
    with pytest.raises(ritz.RitzError) as caught:
        call()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
