"""Interpolants: Gaussian and mixture fields in closed form, likelihoods, schedules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz import RitzError
from ritz.family import full_rank
from ritz.target import from_samples
from ritz.transport import (
    Interpolant,
    Path,
    brownian,
    data_separation,
    empirical_velocity,
    interpolant,
    kinetic_energy,
    kinetic_optimal,
    linear,
    normalised,
    trigonometric,
    variance_preserving,
)

MEAN, SD = 3.0, 0.5
NOISY = linear(gamma=brownian())


def between_gaussians(path, kind=Interpolant):
    """An interpolant from N(0, 1) to N(3, 0.5^2) whose fields are the exact ones."""

    class Exact(kind):
        def moments(self, t):
            t = jnp.clip(t, 1e-5, 1.0 - 1e-5)  # the rate of the noise is infinite at the ends
            (a, b, c), (da, db, dc) = path.at(t), path.rates(t)
            spread = a**2 + b**2 * SD**2 + c**2
            noise = c * dc if path.gamma is not None else 0.0
            return b * MEAN, db * MEAN, spread, a * da + b * db * SD**2 + noise

        def flow(self, t, x):
            mean, rate, spread, moving = self.moments(t)
            return rate + moving / spread * (x - mean)

        def noise(self, t, x):
            if self.denoiser is None:
                return super().noise(t, x)
            mean, _, spread, _ = self.moments(t)
            return path.at(t)[2] * (x - mean) / spread

    target = from_samples(np.random.default_rng(0).normal(MEAN, SD, (500, 2)))
    q = interpolant(path=path, width=4, depth=1)(target, jnp.zeros(2))
    return Exact(**{f.name: getattr(q, f.name) for f in dataclasses.fields(q)})


@pytest.mark.parametrize("path", [linear(), NOISY])
def test_the_exact_fields_give_draws_and_density(path):
    q = between_gaussians(path)
    x = jnp.array([[2.5, 3.1], [3.0, 4.5]])
    exact = jax.scipy.stats.norm.logpdf(x, MEAN, SD).sum(-1)
    np.testing.assert_allclose(jax.jit(jax.vmap(q.log_prob))(x), exact, atol=3e-3)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(q.log_prob_estimate, (0, None)))(x, jax.random.key(0)),
        exact,
        atol=3e-3,
    )
    keys = jax.random.split(jax.random.key(1), 4000)
    for draw in (q.sample, lambda key: q.sample_sde(key, 1.0, 60)):
        drawn = np.asarray(jax.jit(jax.vmap(draw))(keys))
        np.testing.assert_allclose(drawn.mean(0), MEAN, atol=4.0 * SD / 4000**0.5)
        np.testing.assert_allclose(drawn.std(0), SD, rtol=4.0 / 8000**0.5)
    back = jax.jit(jax.vmap(lambda x, key: q.walk(x, key, 1.0, 60, backward=True)))(drawn, keys)
    np.testing.assert_allclose(back.mean(0), 0.0, atol=6.0 / 4000**0.5)
    np.testing.assert_allclose(back.std(0), 1.0, rtol=4.0 / 8000**0.5)


def test_the_wrong_sign_of_the_score_is_seen():
    class Mirrored(type(between_gaussians(NOISY))):
        def noise(self, t, x):
            return -super().noise(t, x)

    q = between_gaussians(NOISY)
    q = Mirrored(**{f.name: getattr(q, f.name) for f in dataclasses.fields(q)})
    drawn = jax.jit(jax.vmap(lambda key: q.sample_sde(key, 1.0, 60)))(
        jax.random.split(jax.random.key(1), 1000)
    )
    assert abs(float(drawn.std()) / SD - 1.0) > 0.5


def test_the_score_of_a_noisy_path_is_that_of_its_density():
    q = between_gaussians(NOISY)
    t, x = jnp.array(0.3), jnp.array([0.2, 1.0])
    mean, _, spread, _ = q.moments(t)
    np.testing.assert_allclose(q.score(t, x), -(x - mean) / spread, rtol=1e-5)


def test_without_noise_the_velocity_tells_the_score():
    q = between_gaussians(linear())
    t, x = jnp.array(0.4), jnp.array([0.2, 1.0])
    mean, _, spread, _ = q.moments(t)
    np.testing.assert_allclose(q.score(t, x), -(x - mean) / spread, rtol=1e-4)


def test_the_regressions_are_least_at_the_exact_fields():
    """The loss of exact fields is minus half their mean square; of others it is larger."""
    target = from_samples(np.random.default_rng(0).normal(MEAN, SD, (4000, 2)))
    q = between_gaussians(NOISY)
    loss = lambda q: float(
        dataclasses.replace(q.objective, rows=4000).loss(q, target, jax.random.key(0))[0]
    )

    class Off(type(q)):
        def flow(self, t, x):
            return 1.1 * super().flow(t, x)

    class Without(type(q)):
        def flow(self, t, x):
            (a, b, _), (da, db, _) = NOISY.at(t), NOISY.rates(t)
            mean, rate, spread, _ = self.moments(t)
            return rate + (a * da + b * db * SD**2) / spread * (x - mean)

    fields = {f.name: getattr(q, f.name) for f in dataclasses.fields(q)}
    assert loss(q) < loss(Off(**fields)) - 0.02
    assert loss(q) < loss(Without(**fields)) - 0.02


def test_a_fit_between_samples_draws_and_a_family_base_has_a_density():
    rng = np.random.default_rng(0)
    x1 = rng.normal(MEAN, SD, (2000, 1))
    base = rng.normal(-1.0, 1.0, (2000, 1))
    family = interpolant(base=base, path=NOISY, width=16, depth=2)
    fit = ritz.fit(from_samples(x1), family=family, steps=400, lr=0.01, progress=False)
    assert abs(fit.mean()[0] - MEAN) < 0.15
    assert fit.q.capabilities == {"sample"}
    with pytest.raises(RitzError, match="known by samples"):
        fit.q.log_prob(jnp.zeros(1))
    given = full_rank(None, jnp.array([-1.0]), 1.0)
    q = interpolant(base=given, path=NOISY, width=4, depth=1)(from_samples(x1), jnp.zeros(1))
    assert q.capabilities == {"sample", "log_prob"}
    assert np.isfinite(float(q.log_prob(jnp.ones(1))))


def test_the_base_and_the_path_are_not_trained():
    x1 = np.random.default_rng(0).normal(MEAN, SD, (500, 2))
    path = kinetic_optimal(x1, draws=32)
    base = full_rank(None, jnp.zeros(2), 1.0)
    family = interpolant(base=base, path=path, width=4, depth=1, rows=16)
    fit = ritz.fit(from_samples(x1), family=family, steps=20, progress=False)
    np.testing.assert_array_equal(paramax.unwrap(fit.q.base).log_scale, base.log_scale)
    np.testing.assert_array_equal(paramax.unwrap(fit.q.path).alpha.angles, path.alpha.angles)


@pytest.mark.slow
def test_flow_matching_along_the_kinetic_optimal_path():
    rng = np.random.default_rng(0)
    x1 = np.asarray(
        normalised(rng.choice([-1.0, 1.0], (2000, 2)) + 0.3 * rng.normal(size=(2000, 2)))
    )
    family = interpolant(path=kinetic_optimal(x1, draws=256), width=32, depth=2)
    fit = ritz.fit(from_samples(x1), family=family, steps=1500, lr=0.005, progress=False)
    drawn, at = np.asarray(fit.sample(2000)), [0.1, 0.3, 0.7, 0.9]
    np.testing.assert_allclose(
        np.quantile(drawn, at, axis=0), np.quantile(x1, at, axis=0), atol=0.15
    )


@pytest.mark.parametrize("path", [linear(), trigonometric(), variance_preserving(), NOISY])
def test_paths_end_where_they_should(path):
    ends = [[float(v) for v in path.at(jnp.array(t))] for t in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], atol=0.01)


# -- kinetic-optimal paths ------------------------------------------------------------------------


def test_the_separation_of_two_points_is_a_gaussian_integral():
    """At -1 and 1 the posterior mean is tanh(s x)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    exact = [weights @ np.tanh(s * (s + nodes)) ** 2 / weights.sum() for s in (0.5, 1.0, 2.0)]
    x = normalised(np.array([[-2.0], [2.0]]))
    found = data_separation(x, [0.5, 1.0, 2.0], draws=100_000)
    np.testing.assert_allclose(found, exact, atol=0.01)


def test_the_energy_is_that_of_the_separation():
    """Of a path of its own angle and radius, by the formula and by the velocity itself."""
    x = normalised(np.random.default_rng(0).normal(size=(20, 3)))
    t = (np.arange(400) + 0.5) / 400
    ratio = t / (1.0 - t)
    known = np.asarray(data_separation(x, ratio, draws=4000))
    formula = np.mean(2.0 - (1.0 - known) * (1.0 - t) ** 2 / (1.0 - t) ** 4)
    assert kinetic_energy(linear(), x, 400, 4000) == pytest.approx(formula, rel=0.02)
    without = np.mean(1.0 + known)  # what a formula without the cross term gives
    assert abs(kinetic_energy(linear(), x, 400, 4000) / without - 1.0) > 0.05


def test_no_schedule_near_the_geodesic_has_less_energy():
    x = normalised(np.random.default_rng(1).normal(size=(50, 3)))
    path = kinetic_optimal(x, draws=2000)
    least = kinetic_energy(path, x)
    bent = lambda by: Path(
        lambda t: path.alpha(t + by * t * (1.0 - t)), lambda t: path.beta(t + by * t * (1.0 - t))
    )
    assert least < min(kinetic_energy(bent(by), x) for by in (-0.2, 0.2))
    assert least == pytest.approx(4.0 * float(jnp.sin(path.alpha.end / 2.0)) ** 2, rel=0.03)
    others = (linear(), trigonometric(), variance_preserving())
    assert least < min(kinetic_energy(other, x) for other in others)


def test_the_span_of_few_points_is_enough():
    x = normalised(np.random.default_rng(2).normal(size=(4, 40)))
    t = 0.5
    x0 = jax.random.normal(jax.random.key(0), (4000, 40))
    x1 = x[jnp.arange(4000) % 4]
    u = empirical_velocity(linear(), x, jnp.array(t), t * x1 + (1 - t) * x0)
    inside = kinetic_energy(linear(), x, times=1, draws=4000)  # at the middle
    assert float((u**2).mean()) == pytest.approx(inside, rel=0.01)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: interpolant(path="linear"), "expected a ritz.transport.Path"),
        (lambda: interpolant(width=0), "whole number"),
        (lambda: interpolant(base=3.0), "samples of shape"),
        (lambda: interpolant(base=np.array([[1.0], [np.inf]])), "not finite"),
        (lambda: linear(gamma=0.3), "function of time"),
        (lambda: brownian(-1.0), "positive"),
        (lambda: variance_preserving(0.0), "rate > 0"),
        (lambda: normalised(np.zeros((3, 2))), "all the same"),
        (lambda: normalised(np.zeros(3)), "shape (n, d)"),
        (lambda: kinetic_optimal(np.eye(3), draws=0), "whole number"),
        (lambda: between_gaussians(NOISY).sample_sde(jax.random.key(0), -1.0), "from 0 up"),
    ],
)
def test_bad_input_in_one_line(call, said):
    with pytest.raises(RitzError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_target_with_a_density_and_a_score_that_nobody_knows_are_refused():
    target = ritz.target.from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(2))
    with pytest.raises(RitzError, match="from_samples"):
        ritz.fit(target, family=interpolant(), steps=1, progress=False)
    data = from_samples(np.random.default_rng(0).normal(size=(100, 2)))
    with pytest.raises(RitzError, match="1 dimensions, the samples 2"):
        interpolant(base=np.zeros((5, 1)))(data, jnp.zeros(2))
    q = interpolant(base=np.random.default_rng(0).normal(size=(9, 2)))(data, jnp.zeros(2))
    with pytest.raises(RitzError, match="has no score"):
        q.sample_sde(jax.random.key(0), 1.0)
