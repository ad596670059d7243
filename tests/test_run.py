"""The one loop: it runs anything with `init` and `step`, and loses nothing."""

import os
import signal
import threading
import time
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gaussians import Quadratic

from ritz import RitzError
from ritz.data import batches
from ritz.solver import AbstractSolver, History, adam, optax_solver, run

KEY = jax.random.key(0)


class Count(NamedTuple):
    params: jax.Array
    steps: jax.Array


class Host(AbstractSolver):
    """Runs on the host, with NumPy."""

    jittable = False

    def init(self, problem, key):
        return Count(np.zeros(2), np.asarray(0))

    def step(self, problem, state, key, batch=None):
        new = state.params - 0.1 * (state.params - np.asarray(problem.centre))
        loss = float(((new - np.asarray(problem.centre)) ** 2).sum())
        return Count(new, state.steps + 1), {"loss": loss}


class BreaksAt(AbstractSolver):
    """Its state is nan after a given step."""

    at: int
    where: str = eqx.field(static=True)

    def init(self, problem, key):
        return Count(jnp.zeros(2), jnp.asarray(0))

    def step(self, problem, state, key, batch=None):
        bad = jnp.where(state.steps == self.at, jnp.nan, 0.0)
        params = state.params + 1.0 + (bad if self.where == "state" else 0.0)
        loss = params.sum() + (bad if self.where == "loss" else 0.0)
        return Count(params, state.steps + 1), {"loss": loss}


PROBLEM = Quadratic(jnp.array([1.0, -2.0]))


def test_it_solves_a_problem_that_is_no_posterior():
    result = run(PROBLEM, adam(0.05, 1500), 1500, KEY)
    assert result.stop_reason == "steps"
    assert result.ok
    np.testing.assert_allclose(result.state.params, PROBLEM.centre, atol=0.02)
    assert len(result.history) == 1500


def same(a, b):
    return all(
        np.array_equal(np.asarray(x), np.asarray(y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize("split", [1, 137, 2500])
def test_two_halves_are_one_run_bit_for_bit(split):
    solver = optax_solver(optax.adam(0.01))
    whole = run(PROBLEM, solver, 4321, KEY)
    first = run(PROBLEM, solver, split, KEY)
    second = run(
        PROBLEM, solver, 4321 - split, KEY, state=first.state, start=split, history=first.history
    )
    assert second.steps == 4321
    assert same(whole.state, second.state)
    assert np.array_equal(whole.history.loss, second.history.loss)


def test_how_steps_fall_into_chunks_does_not_matter(monkeypatch):
    solver = optax_solver(optax.adam(0.01))
    whole = run(PROBLEM, solver, 500, KEY)
    monkeypatch.setattr("ritz.solver._run._next_size", lambda per_step, left: min(left, 7))
    assert same(whole.state, run(PROBLEM, solver, 500, KEY).state)


@pytest.mark.parametrize("where", ["state", "loss"])
@pytest.mark.parametrize("at", [0, 1, 9, 10, 11, 1234, 2500])
def test_a_number_that_is_not_finite_stops_the_run_at_its_step(where, at):
    with pytest.warns(RuntimeWarning, match=f"step {at} is not finite"):
        result = run(PROBLEM, BreaksAt(at, where), 3000, KEY)
    assert result.stop_reason == "not finite"
    assert not result.ok
    assert result.steps == at
    assert int(result.state.steps) == at
    np.testing.assert_array_equal(result.state.params, [at, at])
    assert len(result.history) == at
    with pytest.raises(RitzError, match=f"step {at} is not finite"):
        run(PROBLEM, BreaksAt(at, where), 3000, KEY, strict=True)


def test_a_step_that_never_breaks_is_left_alone():
    assert run(PROBLEM, BreaksAt(5000, "state"), 3000, KEY).stop_reason == "steps"


def count_compilations():
    count = [0]

    def listen(event, duration, **_):
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    return count


def test_a_second_run_of_equal_parts_compiles_nothing():
    run(PROBLEM, optax_solver(optax.adam(0.01)), 50, KEY)
    # Making these may compile, whatever ran before in this process.
    other, key = Quadratic(jnp.array([5.0, 6.0])), jax.random.key(7)
    count = count_compilations()
    result = run(other, optax_solver(optax.adam(0.01)), 2750, key)
    assert count[0] == 0
    assert not result.compiled
    # Another rate of our own Adam is data; another rate baked into Optax is another program.
    run(PROBLEM, adam(0.01, 100), 100, KEY)
    before = count[0]
    assert not run(PROBLEM, adam(0.03, 321), 321, KEY).compiled
    assert count[0] == before
    assert run(PROBLEM, optax_solver(optax.adam(0.02)), 50, KEY).compiled


def test_the_host_loop():
    result = run(PROBLEM, Host(), 100, KEY)
    assert result.steps == 100
    np.testing.assert_allclose(result.state.params, [1.0, -2.0], atol=1e-3)
    assert len(result.history) == 100


def test_callbacks_see_and_stop():
    seen = []

    def callback(state, steps, info):
        seen.append((steps, info["loss"]))
        return steps >= 1000

    result = run(PROBLEM, adam(), 100_000, KEY, callbacks=[callback])
    assert result.stop_reason == "callback"
    assert result.ok
    assert result.steps == seen[-1][0] < 100_000
    assert all(np.isfinite(loss) for _, loss in seen)


def test_a_failing_callback_costs_nothing():
    def callback(state, steps, info):
        raise KeyError("theirs")

    with pytest.warns(RuntimeWarning, match="a callback failed after 10 steps"):
        result = run(PROBLEM, adam(), 100, KEY, callbacks=[callback])
    assert result.stop_reason == "callback failed"
    assert result.steps == 10
    with pytest.raises(KeyError):
        run(PROBLEM, adam(), 100, KEY, callbacks=[callback], strict=True)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_returns_what_there_is():
    if signal.getsignal(signal.SIGINT) != signal.default_int_handler:
        pytest.skip("Ctrl-C is ignored here, as in a shell's background job")

    def interrupt():
        time.sleep(1.5)
        os.kill(os.getpid(), signal.SIGINT)

    run(PROBLEM, adam(), 20, KEY)
    thread = threading.Thread(target=interrupt)
    thread.start()
    result = run(PROBLEM, adam(0.01, 10**9), 10**9, KEY)
    thread.join()
    assert result.stop_reason == "interrupted"
    assert 0 < result.steps < 10**9
    assert np.isfinite(result.state.params).all()


def rows(n=10):
    return np.random.default_rng(0).normal([3.0, 4.0], 1.0, size=(n, 2)).astype(np.float32)


def test_batches_of_arrays():
    x = rows(100)
    result = run(PROBLEM, adam(0.1, 3000), 3000, KEY, batches=batches((x,), 10))
    np.testing.assert_allclose(result.state.params, x.mean(0), atol=0.03)


def test_batches_from_an_iterable_ragged_and_ending():
    parts = [(rows(4),), (rows(4),), (rows(2),)]
    again = run(PROBLEM, adam(), 100, KEY, batches=batches(parts, total=10))
    assert again.steps == 100
    once = run(PROBLEM, adam(), 100, KEY, batches=batches(iter(parts), total=10))
    assert once.steps == 3
    assert once.stop_reason == "data ended"
    assert once.ok
    by_hand = run(PROBLEM, adam(), 3, KEY, batches=batches(parts, total=10))
    assert same(once.state, by_hand.state)


class NeedsHessian(Host):
    needs = frozenset({"hessian"})


def test_a_solver_that_needs_more_than_the_problem_offers():
    with pytest.raises(RitzError, match="NeedsHessian needs hessian"):
        run(PROBLEM, NeedsHessian(), 10, KEY)


class Grows(Host):
    jittable = True

    def init(self, problem, key):
        return Count(jnp.zeros(2), jnp.asarray(0))

    def step(self, problem, state, key, batch=None):
        return Count(state.params[:1], state.steps), {"loss": jnp.asarray(0.0)}


class NoLoss(Grows):
    def step(self, problem, state, key, batch=None):
        return state, {"value": jnp.asarray(0.0)}


@pytest.mark.parametrize(
    ("solver", "message"),
    [(Grows(), r"float32\(2,\) into float32\(1,\)"), (NoLoss(), "expected 'loss'")],
)
def test_a_step_that_breaks_the_protocol(solver, message):
    with pytest.raises(RitzError, match=message):
        run(PROBLEM, solver, 10, KEY)


def test_history_keeps_a_bounded_number_of_records():
    history = History()
    values = np.arange(600_000, dtype=np.float32)
    for part in np.array_split(values, 601):
        history.append({"loss": part, "other": 2 * part})
    assert len(history) <= 1 << 17
    assert history.every > 1
    k = history.every
    wanted = values[: len(history) * k].reshape(-1, k).mean(axis=1)
    np.testing.assert_allclose(history.loss, wanted, rtol=1e-6)
    np.testing.assert_allclose(history["other"], 2 * wanted, rtol=1e-6)
    assert history.step[0] == k
    step, mean, se = history.windows(100)
    assert step.shape == mean.shape == se.shape


def test_windows_have_the_standard_error_of_their_mean():
    history = History()
    history.append({"loss": np.random.default_rng(0).normal(5.0, 2.0, 50_000).astype(np.float32)})
    _, mean, se = history.windows(100)
    assert abs(mean.std() / 0.2 - 1) < 0.15
    assert abs(se.mean() / 0.2 - 1) < 0.05


@pytest.mark.parametrize(
    ("show", "shown"), [(True, True), (0.5, True), (False, False), (None, False)]
)
def test_progress_is_shown_where_somebody_watches(show, shown, capsys):
    run(PROBLEM, adam(), 30, KEY, progress=show)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("steps" in captured.err) == shown


def test_progress_in_a_terminal(monkeypatch, capsys):
    import sys

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run(PROBLEM, adam(), 30, KEY)
    assert "steps" in capsys.readouterr().err


class Halving(AbstractSolver):
    """Halves a number until it is below a limit."""

    limit: float

    def init(self, problem, key):
        return Halved(jnp.asarray(1.0))

    def step(self, problem, state, key, batch=None):
        value = state.params / 2
        return Halved(value), {"loss": value, "converged": value < self.limit}


class HostHalving(Halving):
    jittable = False


class Halved(NamedTuple):
    params: jax.Array


@pytest.mark.parametrize("halving", [Halving, HostHalving])
@pytest.mark.parametrize(("limit", "steps"), [(0.3, 2), (1e-4, 14), (2.0, 1)])
def test_a_solver_that_has_converged_ends_the_run(halving, limit, steps):
    found = run(None, halving(limit), 100, jax.random.key(0))
    assert (found.stop_reason, found.steps, found.ok) == ("converged", steps, True)
    assert float(found.state.params) == 0.5**steps
    assert list(found.history.columns) == ["loss"]
    assert len(found.history) == steps
    more = run(None, halving(0.0), 20, jax.random.key(0))
    assert (more.stop_reason, more.steps) == ("steps", 20)
