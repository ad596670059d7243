"""Targets known by samples, and families fitted to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import ritz
from ritz import RitzError
from ritz.diagnose import energy_test
from ritz.objective import maximum_likelihood
from ritz.target import from_samples


def correlated(n=2000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) @ np.array([[1.0, 0.0], [0.9, 0.4]]).T + [1.0, -2.0]


def test_a_gaussian_is_that_of_the_samples_moments():
    target = from_samples(correlated())
    fit = ritz.fit(
        target, family="full_rank", objective=maximum_likelihood(None), steps=20_000, progress=False
    )
    seen = np.asarray(target.samples, np.float64)
    np.testing.assert_allclose(fit.q.loc, seen.mean(0), atol=2e-3)
    root = np.asarray(fit.q.scale_tril, np.float64)
    np.testing.assert_allclose(root @ root.T, np.cov(seen.T, ddof=0), rtol=1e-2)
    assert fit.status == "ok", fit.reasons
    assert fit.sample(5000).shape == (5000, 2)


def test_one_that_does_not_fit_is_told():
    """Independent coordinates for correlated samples: the wrong variant of the test above."""
    fit = ritz.fit(from_samples(correlated()), family="mean_field", steps=1500, progress=False)
    assert fit.status == "doubtful"
    assert "kept aside" in fit.reasons[0]


def test_constrained_samples_keep_their_structure():
    rng = np.random.default_rng(1)
    values = {"rate": rng.gamma(3.0, size=400), "p": rng.dirichlet(np.ones(3), 400)}
    target = from_samples(values, {"rate": constraints.positive, "p": constraints.simplex})
    assert target.dim == 3
    fit = ritz.fit(target, family="full_rank", steps=1000, progress=False)
    drawn = fit.sample(100)
    assert (drawn["rate"] > 0).all()
    np.testing.assert_allclose(drawn["p"].sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.zeros((1, 2)), "two or more"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, "one N"),
        (np.array([[1.0], [np.nan]]), "not finite"),
        (3.0, "one N"),
    ],
)
def test_bad_samples_are_refused_in_a_line(values, said):
    with pytest.raises(RitzError, match=said) as caught:
        from_samples(values)
    assert "\n" not in str(caught.value)


def test_what_has_no_density_says_what_to_use():
    samples = from_samples(correlated(100))
    with pytest.raises(RitzError, match="maximum_likelihood"):
        ritz.fit(samples, family="full_rank", objective=ritz.objective.iwae(2))
    target = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.zeros(2))
    with pytest.raises(RitzError, match="from_samples"):
        ritz.fit(target, family="full_rank", objective=maximum_likelihood())


def test_the_energy_distance_is_that_of_its_definition():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(30, 3)) + 0.3
    sd = np.concatenate([x, y]).std(axis=0)
    apart = lambda a, b: np.linalg.norm((a[:, None] - b) / sd, axis=-1).mean()
    exact = 2 * apart(x, y) - apart(x, x) - apart(y, y)
    np.testing.assert_allclose(energy_test(x, y).squared, exact, rtol=1e-9)


def test_its_level_is_what_it_says():
    p = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        p.append(energy_test(rng.normal(size=(60, 2)), rng.normal(size=(50, 2)), 99).p_value)
    assert 0.0 < np.mean(np.asarray(p) <= 0.1) < 0.22  # 10%, with four standard errors


def test_draws_are_of_the_samples_themselves():
    target = from_samples(np.arange(10.0)[:, None])
    drawn = np.asarray(target.draw(jax.random.key(0), 1000))
    assert set(drawn.ravel()) == set(range(10))
