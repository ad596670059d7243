"""Entropic fictitious play: exact measures, gaps and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ritz
from ritz import RitzError
from ritz.particle import FictitiousPlay, fictitious_play, finite_sum, mala

LINEAR = {"decay": 0.5, "entropy": 0.4}
NODES = [jnp.linspace(-8.0, 8.0, 641)]


def linear(n=6, seed=0, **settings):
    """h = theta x, so that the optimum is a Gaussian known in closed form."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 1.5 * x + 0.2 * rng.normal(size=n)
    return finite_sum(lambda theta, x: theta[0] * x, x, y, dim=1, **(LINEAR | settings)), x, y


def optimum(x, y, decay=0.5, entropy=0.4):
    """The Gaussian of mean m that is its own Gibbs measure, and the objective there."""
    m = (x * y).mean() / ((x**2).mean() + 2.0 * decay)
    variance = entropy / (2.0 * decay)
    risk = 0.5 * ((m * x - y) ** 2).mean() + decay * (m**2 + variance)
    return m, variance, risk - entropy * 0.5 * np.log(2.0 * np.pi * np.e * variance)


def played(problem, solver, steps, seed=0):
    return ritz.solver.run(problem, solver, steps, jax.random.key(seed), progress=False)


def test_the_optimum_of_a_quadratic_is_its_closed_form():
    problem, x, y = linear()
    m, variance, best = optimum(x, y)
    done = played(problem, fictitious_play(0.2, nodes=NODES), 100)
    masses, nodes = np.asarray(done.state.params, float), np.asarray(NODES[0], float)
    np.testing.assert_allclose(masses @ nodes, m, rtol=1e-4)
    np.testing.assert_allclose(masses @ (nodes - m) ** 2, variance, rtol=1e-4)
    last = {name: float(v[-1]) for name, v in done.history.columns.items()}
    np.testing.assert_allclose([last["loss"], last["dual"]], best, rtol=1e-4)
    assert abs(last["gap"]) < 1e-6


def test_the_gap_is_primal_less_dual_and_bounds_what_is_left():
    problem, x, y = linear()
    best = optimum(x, y)[2]
    columns = played(problem, fictitious_play(0.1, nodes=NODES), 40).history.columns
    loss, dual, gap = (np.asarray(columns[name], float) for name in ("loss", "dual", "gap"))
    np.testing.assert_allclose(gap, loss - dual, atol=3e-6)
    assert (loss - best <= gap + 3e-6).all()
    assert (dual <= best + 3e-6).all()
    assert (gap[1:] <= 0.9 * gap[:-1] + 3e-6).all()


class Summed(FictitiousPlay):
    """Sums the duals over examples where the objective averages them: wrong."""

    def step(self, problem, state, key, batch=None):
        _, info = super().step(problem, state, key)
        g = len(problem.outputs) * problem.duals(state.params @ state.table)
        gibbs = problem.gibbs(g, state.table, self.nodes, self.volume).masses
        return state._replace(params=state.params + self.rate * (gibbs - state.params)), info


def test_a_wrong_gibbs_measure_leaves_a_gap():
    problem = linear()[0]
    right = fictitious_play(0.05, nodes=NODES)
    wrong = played(problem, Summed(right.rate, right.nodes, right.volume), 200)
    assert float(wrong.history.columns["gap"][-1]) > 1e-2


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_gap_of_a_gibbs_measure_is_a_bregman_divergence(loss):
    """Primal at the Gibbs measure less dual at its duals: the log normaliser cancels."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=5), np.array([1.0, -1.0, 1.0, 1.0, -1.0])
    problem = finite_sum(lambda t, x: jnp.tanh(t[0] * x), x, y, dim=1, loss=loss, **LINEAR)
    solver = fictitious_play(1.0, nodes=NODES)
    first = solver.init(problem, jax.random.key(0))
    z = jnp.asarray(rng.normal(size=5), first.table.dtype)
    gibbs = problem.gibbs(problem.duals(z), first.table, solver.nodes, solver.volume)
    there = first._replace(params=gibbs.masses)
    primal = solver.step(problem, there, jax.random.key(0))[1]["loss"]
    exact = float(primal - problem.dual(z, gibbs.log_normaliser))
    found = float(problem.bregman(gibbs.masses @ first.table, z))
    np.testing.assert_allclose(found, exact, atol=2e-6)


def test_particles_reach_the_same_law():
    problem, x, y = linear()
    m, variance, _ = optimum(x, y)
    solver = fictitious_play(0.2, particles=2000, moves=mala(0.8), length=5)
    state = played(problem, solver, 60).state
    se = np.sqrt(variance / 2000)
    theta = np.asarray(state.params, float)[:, 0]
    # Noise of a step's particles moves the mixture, which moves the next ones.
    assert abs(theta.mean() - m) < 5.0 * se
    assert abs(theta.var() / variance - 1.0) < 5.0 * np.sqrt(2.0 / 2000)
    np.testing.assert_allclose(state.predictions, m * x, atol=5.0 * se * np.abs(x).max())
    assert state.predictions.shape == (6,)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: fictitious_play(1.5), "rate=1.5"),
        (lambda: fictitious_play(nodes=[jnp.array([0.0, 1.0, 3.0])]), "equal steps"),
        (lambda: fictitious_play(nodes=3), "list of d arrays"),
        (lambda: fictitious_play(particles=1), "particles=1"),
        (lambda: fictitious_play(moves="mala"), "ritz.particle.ula"),
        (lambda: linear(loss="hinge"), "squared"),
        (lambda: linear(loss="logistic"), "-1 and 1"),
        (lambda: linear(entropy=0.0), "entropy=0.0"),
        (lambda: finite_sum(lambda t, x: t[0] * x, [1.0], [1.0, 2.0], dim=1), r"\(n,\)"),
        (lambda: finite_sum(lambda t, x: t * x, [1.0], [1.0], dim=1), "one number"),
        (lambda: finite_sum(lambda t, x: t[0], [np.nan], [1.0], dim=1), "not finite"),
        (lambda: played(linear()[0], fictitious_play(nodes=NODES * 2), 1), "2 coordinates"),
        (lambda: played(None, fictitious_play(), 1), "finite_sum"),
    ],
)
def test_bad_input_is_refused_in_a_line(make, said):
    with pytest.raises(RitzError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
