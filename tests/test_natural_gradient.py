"""Natural gradient: exact on Gaussian targets, invariant, safe far away, honest on bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import banana, gaussian, off

import ritz
from ritz import RitzError
from ritz.objective import iwae
from ritz.solver import natural_gradient
from ritz.target import from_log_density, library


@pytest.mark.parametrize(("d", "condition"), [(2, 1e6), (30, 1e6), (100, 1e3)])
def test_a_gaussian_is_found_in_a_few_steps(d, condition):
    with jax.enable_x64(True):
        target, mean, covariance = gaussian(d, condition)
        fit = ritz.fit(target, family="full_rank", solver=natural_gradient(), steps=4)
        assert max(off(fit, mean, covariance)) < 1e-6


def test_in_single_precision():
    target, mean, covariance = gaussian(20, 1e3)
    fit = ritz.fit(target, family="full_rank", solver=natural_gradient(), steps=6)
    assert max(off(fit, mean, covariance)) < 1e-3


def test_mean_field_has_the_optimum_of_its_own():
    with jax.enable_x64(True):
        target, mean, covariance = gaussian(5, 20.0)
        fit = ritz.fit(target, family="mean_field", solver=natural_gradient(), steps=400)
        precision = np.linalg.inv(covariance)
        np.testing.assert_allclose(fit.q.loc, mean, atol=1e-6)
        np.testing.assert_allclose(np.exp(-2 * fit.q.log_scale), np.diag(precision), 1e-6)


def test_steps_do_not_depend_on_units():
    """In other units every step is the same, if the start is."""
    with jax.enable_x64(True):
        found = []
        for scale in (1.0, 1e-3, 1e3):
            log_scale = jnp.log(jnp.array([0.5, 0.5 * scale]))
            start = ritz.family.FullRank(jnp.array([0.4, scale]), log_scale, jnp.zeros((2, 2)))
            fit = ritz.fit(banana(scale), family=start, solver=natural_gradient(0.5), steps=7)
            tril = fit.q.scale_tril / jnp.array([1.0, scale])[:, None]
            found.append(np.concatenate([fit.q.loc / np.array([1.0, scale]), tril.ravel()]))
        np.testing.assert_allclose(found[1], found[0], rtol=1e-8)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-8)


def test_real_posteriors_in_tens_of_steps():
    """No worse than ten thousand steps of Adam by more than the rule's own error."""
    model = library.get("logistic_breast_cancer")
    quick = ritz.fit(
        model.model, model.data(), family="full_rank", solver=natural_gradient(), steps=25
    )
    assert quick.history.loss[-1] - quick.history.loss[-2] <= 1e-3
    slow = ritz.fit(model.model, model.data(), family="full_rank", steps=3000)
    assert quick.elbo.value > slow.elbo.value - 0.5  # pyright: ignore


@pytest.mark.parametrize("family", ["full_rank", "mean_field"])
def test_it_ends_where_nothing_moves(family):
    """Log-gamma margins, tied together: from the end, more steps lead nowhere."""
    density = lambda x: 4.0 * x.sum() - 2.0 * jnp.exp(x).sum() - 0.5 * (x[0] + x[1] - x[2]) ** 2
    with jax.enable_x64(True):
        target = from_log_density(density, jnp.zeros(3))
        fit = ritz.fit(target, family=family, solver="natural_gradient")
        assert fit.stop_reason == "converged"
        assert fit.info["evaluations"] == 6 * fit.info["steps"] < 6 * 20
        solver = ritz.solver.natural_gradient()
        before = ritz.fit(target, family=family, solver=solver, steps=2)
        after = ritz.fit(target, family=fit.q, solver=solver, steps=9)
        move = lambda a, b: np.abs(a.q.loc - b.q.loc).max()
        assert move(fit, after) < 1e-2 < move(fit, before)


def test_where_the_density_is_not_concave():
    """From the flank of a Student t, where Newton's step leads away."""
    target = from_log_density(lambda x: -2.5 * jnp.log1p((x - 8.0) ** 2 / 4.0).sum(), jnp.zeros(3))
    fit = ritz.fit(target, family="full_rank", solver=natural_gradient(), steps=60)
    assert np.abs(np.asarray(fit.q.loc) - 8.0).max() < 1e-2
    assert (np.diff(fit.history.loss) <= 1e-4).all()


def test_points_along_turned_axes_see_what_those_along_coordinates_do_not(monkeypatch):
    """Log-gamma margins in 64 dimensions, whose best Gaussian is known: variances 1 / a.

    Along the coordinates themselves a point is eight standard deviations out in one of them.
    """
    a = 4.0
    target = from_log_density(lambda x: (a * x - jnp.exp(x)).sum(), jnp.zeros(64))
    mean, sd = np.log(a) - 0.5 / a, a**-0.5

    def errors():
        fit = ritz.fit(target, family="full_rank", solver=natural_gradient(), progress=False)
        tril = np.asarray(fit.q.scale_tril, float)
        of_mean = np.abs(np.asarray(fit.q.loc) - mean) / sd
        return of_mean.max(), np.abs(np.log((tril**2).sum(1) ** 0.5 / sd)).max()

    assert max(errors()) < 0.1
    monkeypatch.setattr("ritz.solver._natural_gradient._axes", np.eye)
    assert max(errors()) > 0.3


def test_draws_in_place_of_the_rule():
    target, mean, covariance = gaussian(3, 10.0)
    solver = natural_gradient(0.05, draws=20)
    fit = ritz.fit(target, family="full_rank", solver=solver, steps=600)
    assert max(off(fit, mean, covariance)) < 0.2


def test_a_wrong_curvature_is_found(monkeypatch):
    """With half of the pairs' differences the covariance comes out twice too large."""
    from ritz.solver import _natural_gradient as module

    right = module._expected

    def wrong(*args):
        found = right(*args)
        return found._replace(curvature=0.5 * found.curvature)

    monkeypatch.setattr(module, "_expected", wrong)
    target, mean, covariance = gaussian(4, 10.0, seed=3)
    fit = ritz.fit(target, family="full_rank", solver=natural_gradient(0.9), steps=6)
    assert off(fit, mean, covariance)[1] > 0.1


BAD = {
    "step size": (lambda: natural_gradient(1.5), "step_size=1.5 arrived, expected a number above"),
    "not a number": (lambda: natural_gradient(float("nan")), "step_size=nan arrived"),
    "draws": (lambda: natural_gradient(draws=0), "draws"),
    "objective": (
        lambda: ritz.fit(banana(1.0), objective=iwae(3), solver=natural_gradient(), steps=1),
        "minimises the negative ELBO, but the objective is",
    ),
    "family": (
        lambda: ritz.fit(
            banana(1.0),
            family=ritz.family.Product(
                tuple(ritz.family.mean_field(None, jnp.zeros(1)) for _ in "ab")
            ),
            solver=natural_gradient(),
            steps=1,
        ),
        "does not move a Product",
    ),
}


@pytest.mark.parametrize(("call", "says"), BAD.values(), ids=BAD)
def test_bad_input(call, says):
    with pytest.raises(RitzError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)
