"""A fit costs no more than it may."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import ritz
from ritz.cli import app
from ritz.solver import Budget
from ritz.target import library

SCALES = jnp.array([1.0, 0.1, 3.0])
TARGET = ritz.target.from_log_density(lambda x: -0.5 * ((x / SCALES) ** 2).sum(), jnp.ones(3))


def fit(**options):
    return ritz.fit(TARGET, progress=False, **options)


@pytest.mark.parametrize("solver", ["adam", "natural_gradient"])
def test_a_named_solver_stays_within_it(solver):
    found = fit(family="full_rank", solver=solver, budget={"evaluations": 1001})
    each = 4 if solver == "adam" else found.info["evaluations"] / found.info["steps"]
    if found.stop_reason == "converged":
        assert found.info["evaluations"] <= 1001
        return
    assert found.stop_reason == "budget"
    assert 1001 - each < found.info["evaluations"] <= 1001
    assert found.status == "doubtful"
    steps = found.info["steps"]
    told = f"the budget of 1,001 gradient evaluations ended after {steps} steps"
    assert found.reasons[0] == told
    assert found.sample(5).shape == (5, 3)


@pytest.mark.parametrize("solver", ["dadvi", "laplace"])
def test_where_a_step_has_no_price_it_is_overrun_by_one_at_most(solver):
    whole = fit(family="mean_field", solver=solver)
    each = whole.info["evaluations"]
    found = fit(family="mean_field", solver=solver, budget={"evaluations": 1})
    assert (found.stop_reason, found.info["steps"]) in (("budget", 1), ("converged", 1))
    assert found.info["evaluations"] <= each


@pytest.mark.parametrize("limit", [10, 100, 1000, 3000])
def test_the_default_search_stays_within_it(limit):
    whole = fit()
    found = fit(budget={"evaluations": limit})
    assert found.info["evaluations"] <= max(limit, 64)
    assert found.info["evaluations"] <= whole.info["evaluations"]
    again = fit(budget={"evaluations": limit})
    assert np.array_equal(found.sample(9), again.sample(9))
    # What was left undone, a look as well as a run, is never called converged.
    same = found.info["evaluations"] == whole.info["evaluations"]
    assert found.stop_reason == ("converged" if same else "budget")
    assert (found.status == "ok") == same
    assert np.isfinite(found.sample(9)).all()


def test_one_that_is_not_reached_changes_nothing():
    plain, limited = fit(), fit(budget={"evaluations": 1e7})
    assert np.array_equal(plain.sample(9), limited.sample(9))
    assert limited.info["evaluations"] == plain.info["evaluations"]
    assert limited.stop_reason == "converged"


class Clock:
    """Seconds that pass by one at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("options", [{}, {"family": "mean_field"}])
def test_seconds(options, monkeypatch):
    fit(**options)  # compiled
    monkeypatch.setattr(time, "perf_counter", Clock())
    found = fit(**options, budget={"seconds": 20})
    assert found.stop_reason == "budget"
    assert "the budget of 20 seconds ended after" in found.reasons[0]
    assert fit(**options, budget={"seconds": 1e9}).stop_reason == "converged"


def test_resume_goes_on_where_the_budget_ended(tmp_path):
    options = {"family": "mean_field", "steps": 1500}
    whole = fit(**options)
    part = fit(**options, checkpoint=tmp_path / "run", budget={"evaluations": 2000})
    assert (part.stop_reason, part.info["steps"]) == ("budget", 500)
    more = ritz.resume(tmp_path / "run", TARGET, progress=False, budget={"evaluations": 1000})
    assert (more.stop_reason, more.info["steps"]) == ("budget", 750)
    end = ritz.resume(tmp_path / "run", TARGET, progress=False)
    assert end.info["steps"] == 1500
    for a, b in zip(jax.tree.leaves(whole.q), jax.tree.leaves(end.q), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    "given",
    [30, "30s", {}, {"seconds": 0}, {"seconds": True}, {"minutes": 1}, {"seconds": float("nan")},
     {"seconds": 1, "evaluations": 1}, {"evaluations": -5}, {"seconds": "3"}, [3],
     {"evaluations": 10**400}],
)  # fmt: skip
def test_anything_else_is_refused_in_a_line(given):
    with pytest.raises(ritz.RitzError, match=r"^budget=.*expected a positive number") as error:
        fit(budget=given)
    assert "\n" not in str(error.value)
    with pytest.raises(ritz.RitzError):
        Budget(given)


def test_numpys_numbers_are_numbers():
    assert Budget({"evaluations": np.int64(1000)}).left == 1000.0
    assert Budget({"evaluations": np.float32(10.0)}).left == 10.0


class Dearer:
    """A solver whose steps cost one each, and ten from the eleventh on."""

    def evaluations(self, problem, state, steps):
        return float(min(steps, 10) + 10 * max(steps - 10, 0))


@pytest.mark.parametrize(("limit", "within"), [(5, 5), (10, 10), (19, 10), (20, 11), (1000, 109)])
def test_steps_that_do_not_all_cost_the_same(limit, within):
    budget = Budget({"evaluations": limit})
    assert budget.steps(Dearer(), None, None, 0.0, 0, None) == within


def test_a_hierarchy_that_is_cut_while_it_is_recentred_says_so():
    """Its last run is given up for the one before, which had converged."""
    packaged = library.get("eight_schools_centered")
    whole = ritz.fit(packaged.model, packaged.data(), progress=False)
    said = set()
    for share in (0.05, 0.1, 0.2, 0.3):
        budget = {"evaluations": share * whole.info["evaluations"]}
        found = ritz.fit(packaged.model, packaged.data(), progress=False, budget=budget)
        said.add((found.stop_reason, found.status))
    assert said == {("budget", "doubtful")}


def test_an_interrupt_between_runs_keeps_what_there_is(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ritz._automatic._missed", interrupt)
    found = fit()
    assert (found.stop_reason, found.status) == ("interrupted", "doubtful")
    assert np.isfinite(found.sample(9)).all()
    with pytest.raises(KeyboardInterrupt):
        fit(strict=True)


def test_on_the_command_line():
    run = lambda *options: CliRunner().invoke(app, ["fit", "eight_schools", *options])
    found = run("--budget", "500")
    assert found.exit_code == 0, found.output
    assert "the budget of 500 gradient evaluations ended" in found.output
    refused = run("--budget", "soon")
    assert refused.exit_code == 2
    assert "--budget soon arrived, expected seconds, such as 30s" in refused.output
