"""Conformance: every registered solver keeps what it guarantees, and says no in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussians import gaussian, moments

import ritz
from ritz import RitzError
from ritz.solver import Laplace, registered
from ritz.target import from_log_density

SOLVERS = registered()
D = 3


def families(name):
    """The Gaussian families that a solver moves."""
    known = ("full_rank", "mean_field", "low_rank")
    moved = SOLVERS[name].build().families or known[:2]
    return [f for f in moved if f in known]


PAIRS = [(name, family) for name in SOLVERS for family in families(name)]


def off(fit, mean, covariance):
    """How far a fit is from its family's optimum on a Gaussian target, in units of sds."""
    if fit.info["family"] == "mean_field":
        covariance = np.diag(1.0 / np.diag(np.linalg.inv(covariance)))
    found, spread = moments(fit.q)
    sd = np.sqrt(np.diag(covariance))
    errors = np.abs(found - mean) / sd, np.abs(spread - covariance) / np.outer(sd, sd)
    return max(e.max() for e in errors)


def reaches(solver, family):
    """Whether it comes as near as it says, on a Gaussian of condition number 20."""
    target, mean, covariance = gaussian(D, 20.0)
    fit = ritz.fit(target, family=family, solver=solver)
    assert fit.stop_reason in ("steps", "converged")
    assert fit.message == ""
    assert fit.info["evaluations"] is None or fit.info["evaluations"] > 0
    guarantees = fit_guarantees(solver)
    exact = "exact" in guarantees and "Gaussian targets" in guarantees
    return off(fit, mean, covariance) < (1e-3 if exact else 0.5)


def fit_guarantees(solver):
    return (SOLVERS[solver].build() if isinstance(solver, str) else solver).guarantees


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_it_reaches_what_it_guarantees(name, family):
    assert reaches(name, family)


class Halfway(Laplace):
    """A wrong variant: it stops before the mode."""

    def step(self, problem, state, key, batch=None):
        new, info = super().step(problem, state, key, batch)
        lazy = new._replace(params=jax.tree.map(lambda v: v + 0.01, new.params))
        return lazy, info


def test_a_wrong_solver_is_found():
    assert not reaches(Halfway(), "full_rank")


@pytest.mark.parametrize("name", SOLVERS)
def test_it_says_what_it_needs_and_promises(name):
    solver = SOLVERS[name].build()
    assert solver.guarantees
    assert solver.needs
    assert solver.steps >= 1
    assert "\n" not in SOLVERS[name].description


class Half(ritz.family.MeanField):
    """A family that nobody registered."""


@pytest.mark.parametrize("name", [n for n in SOLVERS if SOLVERS[n].build().families])
def test_a_family_that_it_does_not_move_is_refused(name):
    q = ritz.family.Product((Half(jnp.zeros(1), jnp.zeros(1)), Half(jnp.zeros(2), jnp.zeros(2))))
    target = from_log_density(lambda x: -0.5 * x @ x, jnp.zeros(3))
    with pytest.raises(RitzError, match=r"does not move .*; use family='") as caught:
        ritz.fit(target, family=q, solver=name, steps=1)
    assert "\n" not in str(caught.value)


def on_the_host():
    """A log density whose gradient is a rule written by hand, around calls to the host."""

    def call(fn, like, *args):
        return jax.pure_callback(fn, like, *args, vmap_method="sequential")

    @jax.custom_vjp
    def density(x):
        value = lambda x: np.asarray(-0.5 * (x**2).sum(), x.dtype)
        return call(value, jax.ShapeDtypeStruct((), x.dtype), x)

    def back(x, g):
        return (call(lambda x, g: np.asarray(-x * g, x.dtype), x, x, g),)

    density.defvjp(lambda x: (density(x), x), back)
    return from_log_density(density, jnp.ones(2))


@pytest.mark.parametrize("name", [n for n in SOLVERS if "hvp_at" in SOLVERS[n].build().needs])
def test_a_target_without_second_derivatives_names_a_solver_that_works(name):
    with pytest.raises(RitzError, match=r"needs hvp_at.*solver='pathfinder'") as caught:
        ritz.fit(on_the_host(), solver=name, steps=1)
    assert "\n" not in str(caught.value)


def test_the_solver_that_is_named_works():
    fit = ritz.fit(on_the_host(), solver="pathfinder")
    assert np.abs(np.asarray(fit.q.loc)).max() < 1e-3


SEES_ALL = ["laplace", "lbfgs", "dadvi", "pathfinder"]


@pytest.mark.parametrize("name", SEES_ALL)
def test_batches_are_refused(name):
    import numpyro
    import numpyro.distributions as dist

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        with numpyro.plate("rows", 40, subsample_size=len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    data = ritz.data.batches({"y": np.arange(40.0)}, size=10)
    with pytest.raises(RitzError, match=r"data arrive in batches; use ritz.solver.adam"):
        ritz.fit(model, data, solver=name, steps=1)


EXACT = [
    ("natural_gradient", "full_rank", 50),
    ("natural_gradient", "mean_field", 50),
    ("batch_and_match", "full_rank", 50),
    ("laplace", "full_rank", 50),
    ("laplace", "mean_field", 50),
    ("lbfgs", "full_rank", 3000),
    ("dadvi", "full_rank", 50),
    ("dadvi", "mean_field", 100),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "steps"), EXACT)
@pytest.mark.parametrize(("d", "condition"), [(2, 1e6), (20, 1e6), (100, 1e6), (100, 10.0)])
def test_gaussians_are_exact_in_double_precision(name, family, steps, d, condition):
    """Of d up to 100 and condition numbers up to a million, to a millionth."""
    with jax.enable_x64(True):
        target, mean, covariance = gaussian(d, condition)
        fit = ritz.fit(target, family=family, solver=name, steps=steps)
        check_exact(fit, name, mean, covariance, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family", "steps"), EXACT)
@pytest.mark.parametrize(("d", "condition"), [(2, 1e3), (20, 1e3), (100, 1e3)])
def test_gaussians_in_single_precision(name, family, steps, d, condition):
    target, mean, covariance = gaussian(d, condition)
    fit = ritz.fit(target, family=family, solver=name, steps=steps)
    check_exact(fit, name, mean, covariance, 1e-3)


def check_exact(fit, name, mean, covariance, tolerance):
    if (name, fit.info["family"]) == ("dadvi", "mean_field"):
        # Its variances are those of the draws where there are fewer pairs than dimensions.
        sd = np.sqrt(np.diag(covariance))
        found = ritz.diagnose.linear_response(fit)
        assert np.abs(np.asarray(fit.q.loc, float) - mean).max() / sd.min() < tolerance / sd.min()
        assert (np.abs(np.asarray(fit.q.loc, float) - mean) / sd).max() < tolerance
        assert (np.abs(found.cov - covariance) / np.outer(sd, sd)).max() < tolerance
    else:
        assert off(fit, mean, covariance) < tolerance


@pytest.mark.parametrize("name", ["laplace", "lbfgs", "natural_gradient"])
def test_low_rank_is_exact_where_the_target_is_of_that_rank(name):
    """In units far apart; with a rank too low the mean is right and the covariance is not."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        scale, factor = 10.0 ** rng.uniform(-2, 2, 8), 2.0 * rng.normal(size=(8, 2))
        covariance = np.outer(scale, scale) * (np.eye(8) + factor @ factor.T)
        mean, precision = jnp.asarray(3.0 * scale), jnp.asarray(np.linalg.inv(covariance))
        target = from_log_density(
            lambda x: -0.5 * (x - mean) @ precision @ (x - mean), jnp.zeros(8)
        )
        errors = {}
        for rank in (1, 2):
            family = lambda t, s, rank=rank: ritz.family.low_rank(t, s, rank=rank)
            fit = ritz.fit(target, family=family, solver=name, steps=300)
            found, spread = moments(fit.q)
            sd = np.sqrt(np.diag(covariance))
            assert (np.abs(found - mean) / sd).max() < 1e-6
            errors[rank] = (np.abs(spread - covariance) / np.outer(sd, sd)).max()
        assert errors[2] < 1e-3 < 0.05 < errors[1]


def rescaled(scale):
    """A target that is not Gaussian, in other units, and a start that is the same in all."""
    unit = jnp.array([1.0, scale, 1.0 / scale])
    # Log-gamma margins that are tied together.
    density = lambda x: 4.0 * x.sum() - 2.0 * jnp.exp(x).sum() - 0.5 * (x[0] + x[1] - x[2]) ** 2
    target = from_log_density(lambda x: density(x / unit), jnp.zeros(3))
    loc, log_scale = jnp.array([0.5, -0.2, 0.1]) * unit, jnp.log(0.3 * unit)
    starts = {
        "full_rank": ritz.family.FullRank(loc, log_scale, jnp.zeros((3, 3))),
        "mean_field": ritz.family.MeanField(loc, log_scale),
    }
    return target, starts, np.asarray(unit)


INVARIANT = [
    (n, f) for n, f in PAIRS if f != "low_rank" and "any units" in SOLVERS[n].build().guarantees
]


@pytest.mark.parametrize(("name", "family"), INVARIANT)
def test_units_do_not_matter(name, family):
    with jax.enable_x64(True):
        found = []
        for scale in (1.0, 1e-3, 1e3):
            target, starts, unit = rescaled(scale)
            fit = ritz.fit(target, family=starts[family], solver=name, steps=6)
            mean, covariance = moments(fit.q)
            found.append(np.concatenate([mean / unit, (covariance / np.outer(unit, unit)).ravel()]))
        np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-6, atol=1e-9)
