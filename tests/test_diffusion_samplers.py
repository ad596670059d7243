"""Samplers of controlled diffusions: closed forms, and wrong variants that these tests reject."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import ritz
from ritz import RitzError
from ritz.objective import log_variance, negative_elbo
from ritz.target import from_log_density
from ritz.transport import CMCD, DIS, PIS, bridge, cmcd, dis, pis

KINDS = {"pis": pis, "dis": dis, "bridge": bridge, "cmcd": cmcd}
MEAN, SD, LOG_Z = 0.7, 0.6, 1.3


def gaussian(d=2, mean=MEAN, sd=SD):
    """With log Z = 1.3."""
    constant = LOG_Z - d * (math.log(sd) + 0.5 * math.log(2.0 * math.pi))
    return from_log_density(lambda x: constant - 0.5 * (((x - mean) / sd) ** 2).sum(), jnp.zeros(d))


def log_weights(q, target, n, seed=0):
    """Ends and log-weights in double precision."""

    def one(key):
        x, log_q = q.sample_and_log_prob(key)
        return x, target.log_density(x) - log_q

    x, log_w = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed), n))
    return np.asarray(x), np.asarray(log_w)


def perturbed(q, size=0.3, seed=0):
    """With a control that is not zero, and all else moved."""
    params, rest = eqx.partition(
        q, eqx.is_inexact_array, is_leaf=lambda v: isinstance(v, paramax.NonTrainable)
    )
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    new = [v + size * jax.random.normal(k, v.shape) for k, v in zip(keys, leaves, strict=True)]
    return paramax.unwrap(eqx.combine(jax.tree.unflatten(treedef, new), rest))


# -- the optimal controls of a Gaussian target ----------------------------------------------------


def after(reached, noise):
    r"""The slope of log E[N(m, sd²)/N(0, 1) at the end | z] where the end is N(reached z, noise).

    The ratio is a Gaussian in the end with precision 1/sd² - 1.
    """
    precision = 1.0 / SD**2 - 1.0
    peak = MEAN / SD**2 / precision
    return lambda z: -reached * (reached * z - peak) / (1.0 / precision + noise)


class BestPIS(eqx.Module):
    """Of Brownian motion until time 1."""

    def __call__(self, t, z, score):
        return after(1.0, 1.0 - t)(z)


class BestDIS(eqx.Module):
    """Of noise that is undone: what is left of it decides."""

    def __call__(self, t, z, score):
        keep = jnp.exp(-4.0 * (1.0 - t) ** 2)
        return keep_slope(keep)(z)


def keep_slope(keep):
    """A drift of 2 alpha / s² = 1 in units of alpha: the same slope as of Brownian motion."""
    return after(keep, 1.0 - keep**2)


class BestCMCD(eqx.Module):
    """The velocity of the path of Gaussians, for one step size h and unit scales."""

    h: float
    steps: int

    def __call__(self, t, z, score):
        mean = lambda t: t * MEAN / SD**2 / (1.0 - t + t / SD**2)
        log_sd = lambda t: -0.5 * jnp.log(1.0 - t + t / SD**2)
        speed = jax.grad(mean)(t) + jax.grad(log_sd)(t) * (z - mean(t))
        return speed / (self.h * self.steps)


def best(kind, steps, target):
    """A sampler with the optimal control of continuous time; CMCD's takes unit time in all."""
    start = jnp.zeros(target.dim)
    q = KINDS[kind](target, start, steps=steps)
    if kind == "cmcd":
        step = jnp.full(steps, math.log(1.0 / steps))
        q = dataclasses.replace(q, log_step=step, control=BestCMCD(1.0 / steps, steps))
    else:
        q = dataclasses.replace(q, control={"pis": BestPIS, "dis": BestDIS}[kind]())
    return paramax.unwrap(q)


@pytest.mark.parametrize("kind", ["pis", "dis", "cmcd"])
def test_with_the_optimal_control_weights_are_constant_as_steps_get_short(kind):
    """Their sd falls as the square root of the step, Euler's strong order."""
    with jax.enable_x64(True):
        target, sds = gaussian(), []
        # An annealed path needs more of them before the order shows.
        for steps in (32, 128, 512) if kind == "cmcd" else (16, 64, 256):
            q = best(kind, steps, target)
            _, log_w = log_weights(q, target, 1000)
            assert abs(log_w.mean() - LOG_Z) < log_w.std() ** 2 + 4.0 * log_w.std() / 1000**0.5
            sds.append(log_w.std())
        rates = np.log2(np.array(sds[:-1]) / sds[1:]) / 2.0
        np.testing.assert_allclose(rates, 0.5, atol=0.12)
        off = dataclasses.replace(q, control=lambda *at: 1.1 * q.control(*at))
        assert log_weights(off, target, 1000)[1].std() > 1.5 * sds[-1]


# -- Z is unbiased whatever the control -----------------------------------------------------------


class WithoutNoise(PIS):
    """The stochastic integral is left out, whose mean is zero."""

    def log_ratio(self, at, x, seen, new, then):
        push = at.sd * seen
        return 0.5 * (push @ push)


class WithoutReference(CMCD):
    """The density of where the path begins is left out."""

    def ends(self, first, last):
        return jnp.zeros(())


def off(q, target, log_z, n=20_000):
    """The distance of mean weights from Z, in standard errors."""
    w = np.exp(log_weights(q, target, n)[1] - log_z)
    return abs(w.mean() - 1.0) / (w.std() / n**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_weights_are_z_for_any_control(kind):
    target = gaussian(2, 0.3, 0.8)
    assert off(perturbed(KINDS[kind](target, jnp.zeros(2), steps=8), 0.15), target, LOG_Z) < 4.0


@pytest.mark.parametrize(("kind", "wrong"), [("pis", WithoutNoise), ("cmcd", WithoutReference)])
def test_a_ratio_with_a_term_too_few_is_told(kind, wrong):
    target = gaussian(2, 0.3, 0.8)
    q = perturbed(KINDS[kind](target, jnp.zeros(2), steps=8), 0.15)
    broken = wrong(**{f.name: getattr(q, f.name) for f in dataclasses.fields(q)})
    assert off(broken, target, LOG_Z) > 8.0


# -- special cases --------------------------------------------------------------------------------


def annealed_langevin(q, target, path):
    """log q-hat of unadjusted annealed Langevin steps, by NumPy."""
    loc, sd = np.asarray(q.reference.loc), np.exp(np.asarray(q.reference.log_scale))
    betas, h = np.asarray(q.betas), np.exp(np.asarray(q.log_step))
    unit = np.asarray(q.scale) * np.exp(np.asarray(q.log_sd))
    slope = jax.vmap(jax.grad(target.log_density))
    scores = np.asarray(slope(jnp.asarray(path)))
    total = (-0.5 * ((path[0] - loc) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)).sum()

    def step(k, here, there, size):
        force = (1 - betas[k]) * (loc - here) / sd**2 + betas[k] * scores[k]
        mean, width = here + 0.5 * size * unit**2 * force, size**0.5 * unit
        return (-0.5 * ((there - mean) / width) ** 2 - np.log(width)).sum()

    for k in range(len(h)):
        total += step(k, path[k], path[k + 1], h[k])
        total -= step(k + 1, path[k + 1], path[k], h[k])
    return total


def test_without_control_cmcd_is_annealed_langevin():
    with jax.enable_x64(True):
        target = gaussian(3)
        q = perturbed(cmcd(target, jnp.zeros(3), steps=5, control="none"))
        zero = paramax.unwrap(cmcd(target, jnp.zeros(3), steps=5))
        for name in ("reference", "bridges", "log_step", "log_sd"):
            zero = dataclasses.replace(zero, **{name: getattr(q, name)})
        for key in jax.random.split(jax.random.key(3), 5):
            path = np.asarray(q.sample_path(key))
            by_hand = annealed_langevin(q, target, path)
            for one in (q, zero):
                np.testing.assert_allclose(one.sample_and_log_prob(key)[1], by_hand, rtol=1e-9)
        moved = dataclasses.replace(zero, control=lambda t, z, score: 0.1 + 0.0 * z)
        assert abs(float(moved.path_log_prob(jnp.asarray(path))[1]) - by_hand) > 1e-3


def test_backward_only_draws_the_paths_of_annealed_langevin():
    target = gaussian(3)
    q = perturbed(cmcd(target, jnp.zeros(3), steps=5, control="backward"))
    alone = dataclasses.replace(q, kind="none", control=None)
    paths = [one.sample_path(jax.random.key(0)) for one in (q, alone)]
    np.testing.assert_allclose(*paths)
    assert abs(float(q.path_log_prob(paths[0])[1] - alone.path_log_prob(paths[0])[1])) > 1e-2


@pytest.mark.parametrize("kind", ["pis", "dis"])
def test_without_control_it_is_the_reference(kind):
    """A standard normal around the start: the weights are those of importance sampling from it."""
    target = gaussian(2)
    q = paramax.unwrap(KINDS[kind](target, jnp.array([1.0, -2.0]), steps=16, scale=2.0))
    x, log_w = log_weights(q, target, 4000)
    z = (x - np.array([1.0, -2.0])) / 2.0
    by_hand = -0.5 * (z**2).sum(1) - 2 * np.log(2.0) - np.log(2 * np.pi)
    expected = np.asarray(jax.vmap(target.log_density)(jnp.asarray(x))) - by_hand
    np.testing.assert_allclose(log_w, expected, atol=1e-4)
    np.testing.assert_allclose(z.mean(0), 0.0, atol=4 / 4000**0.5)
    np.testing.assert_allclose(z.std(0), 1.0, atol=4 / 8000**0.5)


def test_without_a_control_backward_a_bridge_is_the_time_reversed_diffusion():
    target = gaussian(2)
    one = perturbed(dis(target, jnp.zeros(2), steps=6))
    two = paramax.unwrap(bridge(target, jnp.zeros(2), steps=6))
    two = dataclasses.replace(two, control=one.control)
    key = jax.random.key(4)
    np.testing.assert_allclose(two.sample_and_log_prob(key)[1], one.sample_and_log_prob(key)[1])
    moved = dataclasses.replace(two, backward=one.control)
    assert abs(float(moved.sample_and_log_prob(key)[1] - two.sample_and_log_prob(key)[1])) > 1e-2


# -- paths that hold still ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_has_the_density_that_it_was_drawn_with(kind):
    with jax.enable_x64(True):
        q = perturbed(KINDS[kind](gaussian(), jnp.zeros(2), steps=6))
        x, log_q = q.sample_and_log_prob(jax.random.key(1))
        again = q.path_log_prob(q.sample_path(jax.random.key(1)))
        np.testing.assert_allclose(again[0], x)
        np.testing.assert_allclose(again[1], log_q, rtol=1e-10)


def test_the_noise_of_steps_is_held_on_paths_that_hold_still():
    q = perturbed(cmcd(gaussian(), jnp.zeros(2), steps=6))
    path = q.sample_path(jax.random.key(1))
    still = eqx.filter_grad(lambda q: q.path_log_prob(path)[1])(q)
    walked = eqx.filter_grad(lambda q: q.sample_and_log_prob(jax.random.key(1))[1])(q)
    for name in ("log_step", "log_sd"):
        np.testing.assert_array_equal(getattr(still, name), 0.0)
        assert np.abs(getattr(walked, name)).max() > 1e-3
    for name in ("bridges", "reference"):
        assert max(np.abs(v).max() for v in jax.tree.leaves(getattr(still, name))) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_each_place_of_a_path_counts_as_an_evaluation(kind):
    build = lambda target, start: KINDS[kind](target, start, steps=8, width=8)
    fit = ritz.fit(gaussian(), family=build, steps=10, draws=4, progress=False)
    assert fit.info["evaluations"] == 10 * 4 * 9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_log_variance_of_cmcd_does_not_run_away(seed):
    """With noise that it could train, one seed of three ended at a loss of 1e15."""
    middles = jnp.stack(jnp.meshgrid(*2 * [jnp.array([-5.0, 0.0, 5.0])]), -1).reshape(-1, 2)
    density = lambda x: jax.nn.logsumexp(-0.5 * ((x - middles) ** 2).sum(-1) / 0.3)
    fit = ritz.fit(
        from_log_density(density, jnp.zeros(2)),
        family=lambda target, start: cmcd(target, start, 64, 4.0, "both", 32),
        objective=log_variance(128),
        init=jnp.zeros(2),
        steps=1000,
        lr=0.02,
        seed=seed,
        progress=False,
    )
    x = np.asarray(fit.sample(4000))
    near = ((x[:, None] - np.asarray(middles)) ** 2).sum(-1).argmin(1)
    assert np.bincount(near, minlength=9).min() > 0.25 * len(x) / 9


def gradients(objective, q, target, n):
    """Gradients of a loss in the control's last bias, over n keys."""
    params, rest = eqx.partition(q, eqx.is_inexact_array)
    problem = lambda p: (eqx.combine(p, rest), target, ritz.estimator.pathwise())
    slope = jax.grad(lambda p, key: objective(*problem(p), key)[0])
    bias = lambda key: slope(params, key).control.network.layers[-1].bias
    return np.asarray(jax.jit(jax.vmap(bias))(jax.random.split(jax.random.key(2), n)))


@pytest.mark.parametrize("kind", ["pis", "dis"])
def test_the_gradient_of_log_variance_is_that_of_the_reverse_divergence_of_paths(kind):
    """On average over paths of the family itself (Richter et al. 2020, proposition 1)."""
    target = gaussian()
    q = perturbed(KINDS[kind](target, jnp.zeros(2), steps=4, width=8), 0.1)
    still = gradients(log_variance(8), q, target, 4000)
    through = gradients(negative_elbo(8, "mc"), q, target, 4000)
    se = np.hypot(still.std(0), through.std(0)) / 4000**0.5
    assert (np.abs(still.mean(0) - through.mean(0)) < 4.0 * se).all()
    assert (np.abs(2.0 * still.mean(0) - through.mean(0)) > 8.0 * se).any()


def test_paths_hold_still_in_log_variance():
    """A control that fits makes the loss zero, and its gradient zero for each set of paths."""
    with jax.enable_x64(True):
        target = from_log_density(lambda x: 0.4 - 0.5 * (x**2).sum(), jnp.zeros(2))
        q = paramax.unwrap(dis(target, jnp.zeros(2), steps=4, width=8))
        loss, _ = log_variance(8)(q, target, ritz.estimator.pathwise(), jax.random.key(0))
        assert abs(float(loss)) < 1e-20
        assert np.abs(gradients(log_variance(8), q, target, 3)).max() < 1e-10
        assert np.abs(gradients(negative_elbo(8, "mc"), q, target, 3)).max() > 1e-3


# -- fits -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("objective", [None, log_variance(32)])
@pytest.mark.parametrize("kind", KINDS)
def test_it_fits_a_gaussian_and_its_evidence(kind, objective):
    target = gaussian()
    build = lambda target, start: KINDS[kind](target, start, steps=16, width=16)
    fit = ritz.fit(target, family=build, objective=objective, steps=1000, draws=32, progress=False)
    log_w = np.asarray(fit.log_weights(4000))
    assert LOG_Z - log_w.mean() < 0.25
    w = np.exp(log_w - LOG_Z)
    assert abs(w.mean() - 1.0) < 4.0 * w.std() / len(w) ** 0.5
    assert fit.khat < 0.7
    refined = fit.refine("importance")
    np.testing.assert_allclose(np.asarray(refined.sample(4000)).mean(0), MEAN, atol=0.08)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: pis(t, jnp.zeros(2), steps=1), "steps=1 arrived"),
        (lambda t: dis(t, jnp.zeros(2), scale=-1.0), "dis: scale=-1.0 arrived"),
        (lambda t: bridge(t, jnp.zeros(2), width=0), "width=0 arrived"),
        (lambda t: cmcd(t, jnp.zeros(2), control="forward"), "no control 'forward'; .*backward"),
        (lambda t: cmcd(None, jnp.zeros(2)), "give cmcd\\(target, start\\)"),
    ],
)
def test_bad_input_is_refused_in_a_line(make, said):
    with pytest.raises(RitzError, match=said) as caught:
        make(gaussian())
    assert "\n" not in str(caught.value)


def test_an_objective_of_paths_says_which_family_has_them():
    class Alone(DIS):
        capabilities = frozenset({"sample", "sample_and_log_prob", "reparameterised"})

    q = dis(gaussian(), jnp.zeros(2), steps=4)
    q = Alone(**{f.name: getattr(q, f.name) for f in dataclasses.fields(q)})
    with pytest.raises(RitzError, match="LogVariance needs a family with path, which Alone lacks"):
        ritz.fit(gaussian(), family=q, objective=log_variance(4), steps=1)


def test_a_product_with_a_controlled_path_claims_no_path_of_its_own():
    q = paramax.unwrap(pis(gaussian(), jnp.zeros(2), steps=4))
    alone = ritz.family.MeanField(jnp.zeros(1), jnp.zeros(1))
    assert "path" in ritz.family.Product((alone, alone)).capabilities
    assert "path" not in ritz.family.Product((q, alone)).capabilities


def test_first_steps_are_no_longer_than_the_target_allows():
    """Of a quadratic the largest curvature is known, in any units."""
    stiff = jnp.array([1.0, 30.0, 1000.0])
    target = ritz.target.from_log_density(lambda x: -0.5 * (stiff * x**2).sum(), jnp.zeros(3))
    for scale in (0.5, 2.0):
        steps = np.exp(np.asarray(cmcd(target, jnp.zeros(3), 8, scale).log_step))
        betas = np.arange(1, 9) / 8
        curvature = (1 - betas) + betas * scale**2 * 1000.0
        usual = np.exp(-3.2)
        expected = np.where(4.0 / curvature < usual, 2.0 / curvature, usual)
        np.testing.assert_allclose(steps, expected, rtol=1e-3)
        assert (steps * curvature < 4.0).all()  # stable, as the usual ones were not
        assert usual * curvature[-1] > 4.0
    mild = ritz.target.from_log_density(lambda x: -0.5 * (x**2).sum(), jnp.zeros(3))
    np.testing.assert_allclose(cmcd(mild, jnp.zeros(3), 8, 1.0).log_step, -3.2)
