"""Discrete latent sites that a family draws: by the score function, relaxed, or otherwise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.infer.util import log_density

import ritz
from ritz._errors import RitzError
from ritz.diagnose import check_unbiased
from ritz.estimator import (
    enumerate_support,
    gumbel_softmax,
    measure_valued,
    pathwise,
    per_part,
    rebar,
    score,
)
from ritz.family import Finite, MeanField, Product
from ritz.objective import sample, sample_and_log_prob
from ritz.target import from_numpyro

Y = np.array([-0.4, 0.7, 1.3, 0.2])
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 30))
OUT = X[:, 0] - X[:, 1] + 0.7 * RNG.normal(size=60)


def coins(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("seen", dist.Normal(mu, 1.0), obs=0.5)
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(1.0 * z, 1.0), obs=y)


def counts(y):
    n = numpyro.sample("n", dist.Binomial(3, 0.4))
    with numpyro.plate("rows", len(y)):
        k = numpyro.sample("k", dist.Categorical(probs=jnp.array([0.2, 0.5, 0.3])))
        numpyro.sample("y", dist.Normal(jnp.array([-1.0, 0.0, 2.0])[k], 1.0), obs=y)
    numpyro.sample("total", dist.Normal(n, 1.0), obs=1.4)


def selection(x, y):
    with numpyro.plate("features", x.shape[1]):
        used = numpyro.sample("used", dist.Bernoulli(0.1))
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x @ (used * beta), 0.7), obs=y)


def chain(y):
    mu = numpyro.sample("mu", dist.Normal(jnp.array([-1.0, 1.0]), 1.0).to_event(1))

    def step(z, y_t):
        z = numpyro.sample("z", dist.Categorical(logits=jnp.where(z == 1, 1.0, -1.0) * jnp.ones(2)))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y_t)
        return z, None

    scan(step, 0, y)


def mixed(y):
    p = numpyro.sample("p", dist.Beta(2.0, 2.0))
    with numpyro.plate("rows", len(y)):
        a = numpyro.sample("a", dist.Bernoulli(p))
        b = numpyro.sample("b", dist.Bernoulli(0.2 + 0.5 * a))
        numpyro.sample("y", dist.Normal(a + 2.0 * b, 1.0), obs=y)


def p_of_coin():
    odds = 0.3 / 0.7 * np.exp(-0.5 * (Y - 1.0) ** 2 + 0.5 * Y**2)
    return odds / (1.0 + odds)


CASES = {
    "coins": (coins, (Y,), "score"),
    "counts": (counts, (Y,), "score"),
    "selection": (selection, (X, OUT), "score"),
    "chain": (chain, (Y,), "score"),
    "relaxed": (coins, (Y,), "relaxed"),
}


@pytest.mark.parametrize("name", CASES)
def test_densities_are_those_of_numpyro(name):
    model, args, how = CASES[name]
    target = from_numpyro(model, args, discrete=how)
    rng = np.random.default_rng(1)
    x = rng.normal(size=target.dim)
    for site in target.sites:
        if site.values is not None:
            size = site.stop - site.start
            x[site.start : site.stop] = rng.integers(site.values[0], site.values[1] + 1, size)
    values = target.constrain(jnp.asarray(x))
    assert all(values[s.name].dtype.kind == "i" for s in target.sites if s.values is not None)
    expected, _ = log_density(model, args, {}, values)
    density = jax.jit(lambda x: target.log_density(x))(jnp.asarray(x))
    np.testing.assert_allclose(density, expected, rtol=1e-5)
    np.testing.assert_allclose(target.unconstrain(values), x, rtol=1e-5)


def test_relaxed_masses_are_linear():
    target = from_numpyro(coins, (Y,), discrete="relaxed")
    x = jnp.array([0.2, 0.0, 1.0, 0.25, 1.0])
    ends = [target.terms(x.at[3].set(end))["z"] for end in (0.0, 1.0)]
    np.testing.assert_allclose(target.terms(x)["z"], 0.75 * ends[0] + 0.25 * ends[1], rtol=1e-5)


def test_one_site_is_summed_and_another_drawn():
    whole = from_numpyro(mixed, (Y,))
    part = from_numpyro(mixed, (Y,), discrete={"a": "score"})
    assert part.lines == ("b: summed, 2 values, plate of 4", "a: score, 2 values, 4 elements")
    every = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4), axis=-1).reshape(-1, 4)
    xs = np.concatenate([np.full((16, 1), 0.3), every], axis=1)
    each = jax.vmap(part.log_density)(jnp.asarray(xs, float))
    summed = jax.jit(lambda x: whole.log_density(x))(jnp.array([0.3]))
    np.testing.assert_allclose(jax.nn.logsumexp(each), summed, rtol=1e-5)


@pytest.mark.parametrize(
    "how", ["score", "relaxed", measure_valued(), rebar(0.5)], ids=lambda h: str(h)[:12]
)
def test_independent_choices_are_found(how):
    """Where the posterior is independent the family holds it, and the optimum is exact."""
    fit = ritz.fit(coins, (Y,), discrete=how, steps=4000, lr=0.03)
    p = fit.discrete_posterior()["z"][:, 1]
    allowed = 0.06 if how == "relaxed" else 0.03  # the relaxation is biased
    np.testing.assert_allclose(p, p_of_coin(), atol=allowed)
    assert abs(fit.mean()["mu"] - 0.25) < 0.05
    assert fit.status == "ok" or how == "relaxed", fit.reasons
    assert "z: relaxed" in str(fit.summary()) or how in ("score",) or "z: score" in str(fit)


def test_a_model_of_discrete_sites_only(tmp_path):
    with pytest.raises(RitzError, match="nothing is left to fit; use discrete='score'"):
        ritz.fit(counts, (Y,))
    fit = ritz.fit(counts, (Y,), discrete="score", steps=4000, lr=0.03)
    found = fit.discrete_posterior()
    prior, loc = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.0, 2.0])
    k = prior * np.exp(-0.5 * (Y[:, None] - loc) ** 2)
    np.testing.assert_allclose(found["k"], k / k.sum(1, keepdims=True), atol=0.03)
    n = np.array([1, 3, 3, 1]) * 0.4 ** np.arange(4) * 0.6 ** np.arange(3, -1, -1)
    n = n * np.exp(-0.5 * (1.4 - np.arange(4)) ** 2)
    np.testing.assert_allclose(found["n"], n / n.sum(), atol=0.03)
    assert fit.status == "ok", fit.reasons


def test_a_fit_is_saved_and_loaded(tmp_path):
    fit = ritz.fit(coins, (Y,), discrete="score", steps=200)
    fit.save(tmp_path / "fit")
    alone = ritz.load(tmp_path / "fit")
    np.testing.assert_array_equal(alone.draws["z"], fit.draws["z"])
    np.testing.assert_array_equal(alone.q.parts[1].logits, fit.q.parts[1].logits)  # pyright: ignore
    again = ritz.load(tmp_path / "fit", coins, (Y,))
    assert again.predict(n=5)["y"].shape == (5, 4)
    assert again.target.lines == fit.target.lines  # pyright: ignore


def test_too_many_combinations_are_drawn_and_a_lost_value_is_noticed():
    """With 2^30 subsets nothing can be summed; independent choices lose the unlikely features."""
    fit = ritz.fit(selection, (X, OUT), steps=3000)
    assert fit.info["discrete"] == ["used: score, 2 values, 30 elements"]
    p = fit.discrete_posterior()["used"][:, 1]
    assert p[:2].min() > 0.9
    assert p[2:].mean() < 0.1
    assert fit.status == "doubtful"


def test_a_value_that_q_has_lost_is_named():
    """The draws alone look right: k-hat cannot see a value that q never takes."""
    target = from_numpyro(coins, (Y,), discrete="score")
    x = np.random.default_rng(0).normal(0.25, 0.7, (4000, 5))
    x[:, 1:] = np.random.default_rng(1).random((4000, 4)) < p_of_coin()
    from ritz._probabilities import doubts

    assert doubts(target, x) == []
    x[:, 2] = 0.0
    (line,) = doubts(target, x)
    assert line.startswith("q gives z[1] = 0 the probability 1") or "z[1] = 1" in line


Q = Product((MeanField(jnp.array([0.2]), jnp.array([-0.3])), Finite(jnp.array([[0.1, 0.5]]), 0)))


def loss(estimator):
    def program(q):
        x = sample(q, estimator)
        return jnp.sin(x[0] + 2.0 * x[1]) + x[0] * x[1]

    return program


@pytest.mark.parametrize("how", [score(), score(draws=3), measure_valued(), enumerate_support()])
def test_gradients_of_products(how):
    exact = loss_by_sums
    found = check_unbiased(loss(per_part(pathwise(), how)), Q, exact=exact)
    assert found, str(found)


def loss_by_sums(q):
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    x = q.parts[0].loc + jnp.exp(q.parts[0].log_scale) * nodes
    p = jax.nn.softmax(q.parts[1].logits[0])
    f = lambda z: jnp.asarray(weights / weights.sum()) @ (jnp.sin(x + 2.0 * z) + x * z)
    return p[0] * f(0.0) + p[1] * f(1.0)


def test_a_gradient_without_the_score_is_rejected():
    class Held(type(score())):
        def combine(self, f, notes):
            return f

    found = check_unbiased(loss(per_part(pathwise(), Held(None))), Q, exact=loss_by_sums)
    assert not found


def test_densities_of_products():
    def program(q):
        x, log_q = sample_and_log_prob(q, per_part(pathwise(), score()))
        return log_q - q.log_prob(x)

    values = jax.vmap(lambda k: ritz.objective.expectation(lambda: program(Q)).value(k))(
        jax.random.split(jax.random.key(0), 20)
    )
    np.testing.assert_allclose(values, 0.0, atol=1e-5)
    np.testing.assert_allclose(Q.entropy(), -0.3 + 0.5 * np.log(2 * np.pi * np.e) + 0.6730, 1e-3)


def compares(y):
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    numpyro.sample("y", dist.Normal(jnp.where(z == 1, 1.0, -1.0), 1.0), obs=y)


def indexes(y):
    z = numpyro.sample("z", dist.Bernoulli(0.3))
    numpyro.sample("y", dist.Normal(jnp.array([-1.0, 1.0])[z], 1.0), obs=y)


REFUSED: list[tuple[Any, Any, str]] = [
    (coins, {"zz": "score"}, "no discrete latent site 'zz'; did you mean 'z'"),
    (coins, {"mu": "score"}, "no discrete latent site 'mu'"),
    (coins, "scored", "discrete='scored' arrived, expected 'summed', 'score' or 'relaxed'"),
    (counts, "relaxed", "only choices of 0 or 1 are relaxed: use 'score'"),
    (compares, "relaxed", "between 0 and 1 the density does not follow it"),
    (indexes, "relaxed", "the model fails on a number between 0 and 1"),
    (coins, pathwise(), r"Pathwise cannot estimate Bernoulli\w* of shape \(4,\)"),
]


@pytest.mark.parametrize(("model", "how", "message"), REFUSED)
def test_refusals(model, how, message):
    with pytest.raises(RitzError, match=message) as caught:
        ritz.fit(model, (Y,), discrete=how, steps=10)
    assert "\n" not in str(caught.value)


def test_a_target_has_decided():
    target = from_numpyro(coins, (Y,), discrete="relaxed")
    with pytest.raises(RitzError, match="discrete arrived with a target"):
        ritz.fit(target, discrete="score")
    with pytest.raises(RitzError, match=r"65,536|combinations|2\^30"):
        from_numpyro(selection, (X, OUT), discrete="summed")


def test_per_part_refuses():
    with pytest.raises(RitzError, match="float arrived, expected one of"):
        per_part(pathwise(), 0.5)
    with pytest.raises(RitzError, match="per_part has 1 estimators, but the family is a Product"):
        sample(Q, per_part(pathwise()))
    assert per_part(pathwise(), gumbel_softmax(0.5)).biased
