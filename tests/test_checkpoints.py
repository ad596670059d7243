"""Nothing is lost: a fit that was interrupted goes on to the bits of one that ran through."""

import contextlib
import functools
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import time
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ritz
from ritz import RitzError
from ritz._checkpoints import Checkpoints
from ritz._fingerprint import fingerprint, program_fingerprint
from ritz.data import batches
from ritz.solver import AbstractSolver, Checkpoint, History, adam, run
from ritz.solver import _checkpoint as checkpoint_module
from ritz.solver import _run as loop

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=40)
Y = 1.0 + 2.0 * X + 0.5 * _RNG.normal(size=40)


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
    noise = numpyro.sample("noise", dist.HalfNormal(5.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, noise), obs=y)


def line_with_another_prior(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 9.0))
    noise = numpyro.sample("noise", dist.HalfNormal(5.0))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(slope * x, noise), obs=y)


class Failure(BaseException):
    """Stands for whatever ends a process between two chunks."""


@pytest.fixture
def small_chunks(monkeypatch):
    """Of three steps: failures come in the middle of runs."""
    monkeypatch.setattr(loop, "_next_size", lambda per_step, left: min(left, 3))


def break_at(*moments):
    """A callback that fails when that many steps were made, once for each moment."""
    left = list(moments)

    def callback(state, steps, info):
        if left and steps >= left[0]:
            left.pop(0)
            raise Failure

    return callback


def broken(path, model, data, at, **parts):
    """A fit that fails after so many steps, and leaves its checkpoint."""
    with pytest.raises(Failure):
        ritz.fit(
            model, data, **parts, checkpoint=path, checkpoint_every=0, callbacks=[break_at(at)]
        )


def leaves(tree):
    return [np.asarray(v) for v in jax.tree.leaves(tree) if hasattr(v, "dtype")]


def small_problem():
    target = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.ones(2))
    q = ritz.family.build("mean_field", target, jnp.ones(2))
    parts = ritz.objective.negative_elbo(), ritz.estimator.pathwise()
    return ritz.objective.Problem(target, q, *parts)


def bits(fit):
    """All that a fit says, but for seconds."""
    timing = ("compile_seconds", "run_seconds", "total_seconds", "compiled")
    told = {k: v for k, v in fit.info.items() if k not in timing}
    key = jax.random.key_data(fit.key).tolist()
    words = (told, fit.stop_reason, fit.message, key, fit.history.every, fit.correction)
    arrays = [*leaves(fit.q), *leaves(fit.target), *fit.history.columns.values()]
    draws = fit.sample(50)
    arrays += [np.asarray(v) for v in jax.tree.leaves(draws)]
    return str(words), [(v.dtype, v.shape, v.tobytes()) for v in arrays]


def outcome(call, *args, **given):
    """What a call gives, or the one line with which it is refused."""
    try:
        return call(*args, **given)
    except RitzError as error:
        (text,) = str(error).splitlines()
        return RitzError(text)


def error_of(call, *args, **given):
    """The one line with which a call is refused."""
    error = outcome(call, *args, **given)
    assert isinstance(error, RitzError)
    return str(error)


# -- the same bits --------------------------------------------------------------------------

STEPS = {
    "adam": (60, {"steps": 120}),
    "adam on a flow": (30, {"steps": 60, "family": "planar"}),
    "natural_gradient": (6, {"solver": "natural_gradient", "steps": 30}),
    "dadvi": (3, {"solver": "dadvi"}),
    "pathfinder": (6, {"solver": "pathfinder"}),
    "batch_and_match": (15, {"solver": "batch_and_match", "steps": 30}),
    "optax": (15, {"solver": optax.sgd(1e-3, momentum=0.9), "steps": 30}),
}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("name", "x64"),
    [("adam", False), ("adam", True), ("natural_gradient", True), ("dadvi", True), ("optax", False)]
    + [
        pytest.param(name, False, marks=pytest.mark.slow)
        for name in ("adam on a flow", "natural_gradient", "dadvi", "pathfinder", "batch_and_match")
    ],
)
def test_a_fit_goes_on_to_the_same_bits(name, x64, tmp_path):
    at, parts = STEPS[name]
    again = {k: v for k, v in parts.items() if not isinstance(v, str | int)}
    with jax.enable_x64(x64):
        whole = ritz.fit(line, (X, Y), **parts, seed=3)
        assert whole.info["steps"] > at
        broken(tmp_path / "run", line, (X, Y), at, **parts, seed=3)
        found = ritz.resume(tmp_path / "run", line, (X, Y), **again)
        assert bits(found) == bits(whole)
        assert bits(ritz.resume(tmp_path / "run", line, (X, Y), **again)) == bits(whole)


@pytest.mark.parametrize("at", [3, 40])
@pytest.mark.usefixtures("small_chunks")
def test_the_automatic_fit_of_several_runs(at, tmp_path, monkeypatch):
    whole = ritz.fit(line, (X, Y), seed=1)
    made = itertools.count()

    def callback(state, steps, info):
        if next(made) * 3 >= at:
            raise Failure

    path = tmp_path / "run"
    with pytest.raises(Failure):
        ritz.fit(line, (X, Y), seed=1, checkpoint=path, checkpoint_every=0, callbacks=[callback])
    before = len(list(path.glob("run-*.npz")))
    assert (before > 1) == (at > 3)
    assert bits(ritz.resume(path, line, (X, Y))) == bits(whole)
    assert len(list(path.glob("run-*.npz"))) > before
    # It has ended: no step is made again.
    monkeypatch.setattr(loop.Loop, "chunk", None)
    assert bits(ritz.resume(path, line, (X, Y))) == bits(whole)


def ragged():
    """Batches of several sizes, the last one short."""
    return [(X[i : i + 7], Y[i : i + 7]) for i in range(0, 40, 7)]


SOURCES = {
    "arrays": lambda: batches((X, Y), 10, seed=4),
    "an iterable": lambda: batches(ragged(), total=40),
    "a generator": lambda: batches(itertools.chain.from_iterable([ragged()] * 50), total=40),
    "a generator that ends": lambda: batches(iter(ragged() * 9), total=40),
}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("source", SOURCES)
def test_batches_go_on_at_their_place(source, tmp_path):
    whole = ritz.fit(line, SOURCES[source](), steps=60)
    broken(tmp_path / "run", line, SOURCES[source](), 30, steps=60)
    found = ritz.resume(tmp_path / "run", line, SOURCES[source]())
    assert bits(found) == bits(whole)
    assert found.stop_reason == ("data ended" if "ends" in source else "steps")
    assert bits(ritz.resume(tmp_path / "run", line, SOURCES[source]())) == bits(whole)


@pytest.mark.usefixtures("small_chunks")
def test_several_failures_in_a_row(tmp_path):
    whole = ritz.fit(line, (X, Y), steps=90)
    broken(tmp_path / "run", line, (X, Y), 10, steps=90)
    for at in (20, 40, 41, 80):
        with pytest.raises(Failure):
            ritz.resume(
                tmp_path / "run", line, (X, Y), checkpoint_every=0, callbacks=[break_at(at)]
            )
    assert bits(ritz.resume(tmp_path / "run", line, (X, Y))) == bits(whole)


def test_a_fit_is_what_it_is_without_checkpoints(tmp_path):
    plain = ritz.fit(line, (X, Y), steps=3000)
    assert bits(ritz.fit(line, (X, Y), steps=3000, checkpoint=tmp_path / "run")) == bits(plain)
    found = ritz.resume(tmp_path / "run", line, (X, Y))
    assert bits(found) == bits(plain)
    assert found.info["run_seconds"] > 0


class Mixed(NamedTuple):
    """A state of every kind of leaf."""

    params: np.ndarray
    half: jax.Array
    key: jax.Array
    scalar: np.float32
    count: int
    rate: float
    name: str
    nothing: None


class Host(AbstractSolver):
    """Runs on the host."""

    jittable = False

    def init(self, problem, key):
        half = jnp.zeros(2, jnp.bfloat16)
        return Mixed(np.zeros(2), half, key, np.float32(0.0), 0, 1.0, "host", None)

    def step(self, problem, state, key, batch=None):
        own, draw = jax.random.split(state.key)
        params = state.params + state.rate * np.asarray(jax.random.normal(draw, (2,)), float)
        new = state._replace(
            params=params,
            half=state.half + jax.random.normal(key, (2,), jnp.bfloat16),
            key=own,
            scalar=np.float32(state.scalar + params[0]),
            count=state.count + 1,
            rate=0.9 * state.rate,
        )
        return new, {"loss": float(params.sum())}


@pytest.mark.usefixtures("small_chunks")
def test_a_solver_on_the_host_and_its_kinds_of_numbers(tmp_path):
    key, file = jax.random.key(2), tmp_path / "run.npz"
    whole = run(None, Host(), 20, key)
    kept = lambda: Checkpoint(file, 0)
    with pytest.raises(Failure):
        run(None, Host(), 20, key, checkpoint=kept(), callbacks=[break_at(9)])
    found = run(None, Host(), 20, key, checkpoint=kept())
    assert jax.tree.structure(found.state) == jax.tree.structure(whole.state)
    plain = [state[:2] + state[3:6] for state in (found.state, whole.state)]
    for a, b in zip(*plain, strict=True):
        assert type(a) is type(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    np.testing.assert_array_equal(*map(jax.random.key_data, (found.state.key, whole.state.key)))
    np.testing.assert_array_equal(found.history.loss, whole.history.loss)
    for solver, steps, words in ((Host(), 21, "number of steps is 20"), (adam(), 20, "solver is")):
        problem = small_problem()
        text = error_of(run, problem, solver, steps, key, checkpoint=kept())
        assert words in text


def test_it_is_written_at_its_interval_and_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_next_size", lambda per_step, left: min(left, 5))
    plain, written = checkpoint_module.write_packed, []

    def write(file, meta, arrays):
        written.append(meta["done"])
        plain(file, meta, arrays)

    monkeypatch.setattr(checkpoint_module, "write_packed", write)
    target = small_problem(), adam(), 20, jax.random.key(0)
    run(*target, checkpoint=Checkpoint(tmp_path / "often.npz", 0))
    assert written == [5, 10, 15, 20]
    run(*target, checkpoint=Checkpoint(tmp_path / "rarely.npz"))
    assert written[4:] == [20]
    now = itertools.count(step=4)
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: next(now))
    run(*target, checkpoint=Checkpoint(tmp_path / "at times.npz", 10))
    assert written[5:] == [15, 20]


# -- wrong variants must be noticed ---------------------------------------------------------


def wrong_place(kept):
    return kept._replace(done=0, history=History())


def wrong_moments(kept):
    moments = jax.tree.map(jnp.zeros_like, kept.state.opt)
    return kept._replace(state=kept.state._replace(opt=moments))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("wrong", [None, wrong_place, wrong_moments])
def test_what_is_not_carried_is_missed(wrong, tmp_path, monkeypatch):
    whole = ritz.fit(line, (X, Y), steps=60)
    broken(tmp_path / "run", line, (X, Y), 30, steps=60)
    opened = Checkpoint.open
    if wrong is not None:
        monkeypatch.setattr(Checkpoint, "open", lambda *args: wrong(opened(*args)))
    found = ritz.resume(tmp_path / "run", line, (X, Y))
    assert all(map(np.array_equal, leaves(found.q), leaves(whole.q))) == (wrong is None)


@pytest.mark.usefixtures("small_chunks")
def test_another_key_is_refused_and_missed(tmp_path, monkeypatch):
    whole = ritz.fit(line, (X, Y), steps=60)
    broken(tmp_path / "run", line, (X, Y), 30, steps=60)
    called = Checkpoints.call
    other = lambda self, given: called(self, given) | {"seed": 1}
    monkeypatch.setattr(Checkpoints, "call", other)
    assert "of another run: its key is" in error_of(ritz.resume, tmp_path / "run", line, (X, Y))
    monkeypatch.setattr(loop, "_identity", lambda *args: {})
    found = ritz.resume(tmp_path / "run", line, (X, Y))
    assert not all(map(np.array_equal, leaves(found.q), leaves(whole.q)))


def test_batches_that_start_again_are_missed(tmp_path, monkeypatch):
    source = lambda: batches(ragged(), total=40)
    monkeypatch.setattr(loop, "_next_size", lambda per_step, left: min(left, 3))
    broken(tmp_path / "run", line, source(), 30, steps=60)
    monkeypatch.setattr(loop, "forward", lambda source, kept: None)
    assert "batch 30 was asked for" in error_of(ritz.resume, tmp_path / "run", line, source())


def test_history_does_not_depend_on_chunks():
    """Its means are rounded alike however many steps at a time arrive."""
    values = np.random.default_rng(0).normal(size=600_000).astype(np.float32)
    made = []
    for size in (1999, 2000, 777, 50_000):
        history = History()
        for i in range(0, len(values), size):
            part = values[i : i + size]
            history.append({"loss": part, "accepted": part > 0})
            if i == size * 5:  # as a checkpoint does
                history = History(history.columns, history.every, history.pending)
        assert history.steps == len(values)
        made.append((history.every, history.columns, history.pending))
    for every, columns, pending in made[1:]:
        assert every == made[0][0]
        for name in columns:
            np.testing.assert_array_equal(columns[name], made[0][1][name])
            np.testing.assert_array_equal(pending[name], made[0][2][name])


# -- what ends a process --------------------------------------------------------------------

SCRIPT = """
import sys, time
import numpy as np
import jax.numpy as jnp
import ritz

def log_density(x):
    return -0.5 * (x**2).sum() - 0.1 * (x[0] - x[1]) ** 4

PARTS = {
    "named": {"steps": 600, "family": "full_rank", "draws": 2, "seed": 5},
    "automatic": {"seed": 5},
}

def target():
    return ritz.target.from_log_density(log_density, jnp.ones(3))

class Slow:
    def __init__(self, handle, seconds):
        self.handle, self.seconds = handle, seconds

    def write(self, content):
        for half in (content[: len(content) // 2], content[len(content) // 2 :]):
            self.handle.write(half)
            self.handle.flush()
            time.sleep(self.seconds)
        return len(content)

    def __getattr__(self, name):
        return getattr(self.handle, name)

if __name__ == "__main__":
    from ritz import _container
    from ritz.solver import _run

    path, parts, seconds = sys.argv[1], PARTS[sys.argv[2]], float(sys.argv[3])
    _run._next_size = lambda per_step, left: min(left, 10 if "steps" in parts else 2)
    plain = _container.write_synced
    slow = lambda file, write: plain(file, lambda handle: write(Slow(handle, seconds)))
    _container.write_synced = slow
    ready = lambda state, steps, info: print("step", steps, flush=True)
    ritz.fit(target(), **parts, checkpoint=path, checkpoint_every=0, callbacks=[ready])
"""


def kill_and_resume(tmp_path, kind, cases):
    """SIGKILL at random times; how many steps the last checkpoint had, and writes that were cut."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    names = {"__name__": "script"}
    exec(compile(script.read_text(), str(script), "exec"), names)
    target, parts = names["target"](), names["PARTS"][kind]
    whole = bits(ritz.fit(target, **parts))
    rng, left = np.random.default_rng(7), []
    for case in range(cases):
        path = tmp_path / f"run-{case}"
        with subprocess.Popen(
            [sys.executable, str(script), str(path), kind, "0.0005"], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout.readline().startswith(b"step")
            time.sleep(rng.uniform(0.0, 1.5))
            child.kill()
        assert child.returncode == -9
        steps = 0
        for file in path.glob("run-*.npz"):
            with np.load(file) as content:
                steps += json.loads(content["json"].tobytes())["meta"]["done"]
        left.append((steps, len(list(path.glob("*.tmp")))))
        assert bits(ritz.resume(path, target)) == whole
        assert not list(path.glob("*.tmp"))
    return left


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigkill(tmp_path):
    assert any(steps < 600 for steps, _ in kill_and_resume(tmp_path, "named", 3))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("kind", "cases", "cut"), [("named", 30, 15), ("automatic", 10, 2)])
def test_sigkill_often_and_during_a_write(kind, cases, cut, tmp_path):
    left = kill_and_resume(tmp_path, kind, cases)
    assert len({steps for steps, _ in left}) > 4
    assert sum(drafts for _, drafts in left) >= cut, "a write was under way"


@pytest.mark.parametrize("at", ["savez", "fsync", "replace"])
@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_warns_and_the_run_goes_on(at, tmp_path, monkeypatch):
    whole = ritz.fit(line, (X, Y), steps=60)
    path, owner = tmp_path / "run", np if at == "savez" else os
    plain, full = getattr(owner, at), []

    def fails(*args, **given):
        if full:
            raise OSError(28, "No space left on device")
        return plain(*args, **given)

    monkeypatch.setattr(owner, at, fails)
    fills = lambda state, steps, info: full.append(1) if steps >= 30 else None
    with pytest.warns(RuntimeWarning, match="No space left on device; that of 30 steps is kept"):
        found = ritz.fit(
            line, (X, Y), steps=60, checkpoint=path, checkpoint_every=0, callbacks=[fills]
        )
    assert bits(found) == bits(whole)
    assert sorted(file.name for file in path.iterdir()) == ["fit.npz", "run-0.npz"]
    monkeypatch.undo()
    assert bits(ritz.resume(path, line, (X, Y))) == bits(whole)


@pytest.mark.usefixtures("small_chunks")
def test_memory_that_ends_during_a_write_warns(tmp_path, monkeypatch):
    def fails(*args, **given):
        raise MemoryError

    monkeypatch.setattr("ritz.solver._checkpoint.write_packed", fails)
    with pytest.warns(RuntimeWarning, match="MemoryError; there is none yet"):
        found = ritz.fit(line, (X, Y), steps=9, checkpoint=tmp_path / "run")
    assert found.stop_reason == "steps"


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, KeyError])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.usefixtures("small_chunks")
def test_what_a_callback_raises_costs_nothing(error, strict, tmp_path):
    whole = ritz.fit(line, (X, Y), steps=60)

    def raises(state, steps, info):
        if steps >= 30:
            raise error

    with (
        contextlib.suppress(error),
        contextlib.nullcontext()
        if strict or error is KeyboardInterrupt
        else pytest.warns(RuntimeWarning, match="a callback failed after 30 steps"),
    ):
        found = ritz.fit(
            line, (X, Y), steps=60, checkpoint=tmp_path / "run", callbacks=[raises], strict=strict
        )
        assert not strict
        assert found.info["steps"] == 30
    with np.load(tmp_path / "run" / "run-0.npz") as content:
        assert json.loads(content["json"].tobytes())["meta"]["done"] == 30
    assert bits(ritz.resume(tmp_path / "run", line, (X, Y))) == bits(whole)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.usefixtures("small_chunks")
def test_what_ends_a_chunk_leaves_the_last_checkpoint(error, tmp_path, monkeypatch):
    whole = ritz.fit(line, (X, Y), steps=60)
    plain = loop.Loop.chunk

    def chunk(self, state, done, size):
        if done >= 30:
            raise error
        return plain(self, state, done, size)

    monkeypatch.setattr(loop.Loop, "chunk", chunk)
    with contextlib.suppress(MemoryError):
        ritz.fit(line, (X, Y), steps=60, checkpoint=tmp_path / "run")
    monkeypatch.undo()
    assert bits(ritz.resume(tmp_path / "run", line, (X, Y))) == bits(whole)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.usefixtures("small_chunks")
def test_an_interrupt_between_a_state_and_its_record(x64, tmp_path, monkeypatch):
    """The state is of a later step than the record: the last file stays as it was."""
    plain = History.append

    def append(self, columns):
        if self.steps >= 30:
            raise KeyboardInterrupt
        plain(self, columns)

    with jax.enable_x64(x64):
        whole = ritz.fit(line, (X, Y), steps=60)
        monkeypatch.setattr(History, "append", append)
        ritz.fit(line, (X, Y), steps=60, checkpoint=tmp_path / "run", checkpoint_every=0)
        monkeypatch.setattr(History, "append", plain)
        assert bits(ritz.resume(tmp_path / "run", line, (X, Y))) == bits(whole)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.usefixtures("small_chunks")
def test_an_interrupt_during_a_write(late, tmp_path, monkeypatch):
    whole, plain, times = ritz.fit(line, (X, Y), steps=60), os.replace, itertools.count()

    def replace(*args):
        if next(times) < 9:
            return plain(*args)
        if late:
            plain(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):  # the second one, in the last write
        ritz.fit(line, (X, Y), steps=60, checkpoint=tmp_path / "run", checkpoint_every=0)
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*.tmp"))
    assert bits(ritz.resume(tmp_path / "run", line, (X, Y))) == bits(whole)


def test_a_callback_that_stops_a_run_ends_it(tmp_path):
    stop = lambda state, steps, info: True
    found = ritz.fit(line, (X, Y), steps=60, checkpoint=tmp_path / "run", callbacks=[stop])
    again = ritz.resume(tmp_path / "run", line, (X, Y))
    assert again.stop_reason == "callback"
    assert bits(again) == bits(found)


def test_a_number_that_is_not_finite_is_met_again(tmp_path):
    log_density = lambda x: jnp.where(x[0] > 1.5, jnp.nan, 5.0 * x[0] - 0.5 * x[1] ** 2)
    target = ritz.target.from_log_density(log_density, jnp.zeros(2))
    parts = {"steps": 400, "family": "mean_field", "lr": 0.05}
    with pytest.warns(RuntimeWarning, match="is not finite"):
        whole = ritz.fit(target, **parts, checkpoint=tmp_path / "run")
    assert whole.info["steps"] > 0
    with pytest.warns(RuntimeWarning, match="is not finite"):
        found = ritz.resume(tmp_path / "run", target)
    np.testing.assert_equal(leaves(found.q), leaves(whole.q))
    assert (found.message, found.info["steps"]) == (whole.message, whole.info["steps"])


# -- what is refused ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The directory of a fit that has made 30 of 60 steps."""
    path = tmp_path_factory.mktemp("kept") / "run"
    stop = lambda state, steps, info: (_ for _ in ()).throw(KeyError("theirs"))
    with pytest.warns(RuntimeWarning, match="callback failed"):
        ritz.fit(line, (X, Y), steps=60, family="mean_field", checkpoint=path, callbacks=[stop])
    return path


def contents(folder):
    return {str(file): file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize(
    ("model", "data", "given", "words"),
    [
        (line_with_another_prior, (X, Y), {}, "another model"),
        (line, (X[:30], Y[:30]), {}, r"other data: args\[0\] is float32\[40\] there and"),
        (line, (X, Y + 1.0), {}, r"other data: args\[1\] is float32\[40\] of other values"),
        (line, (X, Y), {"family": "full_rank"}, "with family='mean_field'; leave it out"),
        (line, (X, Y), {"objective": ritz.objective.iwae(3)}, "an object of type .*leave it out"),
        (line, (X, Y), {"checkpoint_every": -1}, "checkpoint_every=-1 arrived"),
        (line, (X,), {}, "but the model has 42 dimensions"),
    ],
)
def test_what_differs_is_named(kept, model, data, given, words):
    before = contents(kept)
    with pytest.raises(RitzError, match=words) as caught:
        ritz.resume(kept, model, data, **given)
    assert len(str(caught.value).splitlines()) == 1
    assert contents(kept) == before


def test_another_precision_or_other_sites(kept):
    with jax.enable_x64(True):
        text = error_of(ritz.resume, kept, line, (X, Y))
    assert "is in float32, but JAX computes in float64 now" in text
    other = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.ones(5))
    assert "2 dimensions in 2 sites (slope, noise), but the model has 5" in error_of(
        ritz.resume, kept, other
    )


def test_other_batches(tmp_path):
    path = tmp_path / "run"
    ritz.fit(line, batches((X, Y), 10), steps=20, checkpoint=path)
    assert "batches.size is 10 there and 5 here" in error_of(
        ritz.resume, path, line, batches((X, Y), 5)
    )
    assert "batches.seed" in error_of(ritz.resume, path, line, batches((X, Y), 10, seed=1))
    assert "other data" in error_of(ritz.resume, path, line, (X, Y))


@pytest.mark.usefixtures("small_chunks")
def test_other_batches_of_an_iterable(tmp_path):
    parts, path = ragged(), tmp_path / "run"
    broken(path, line, batches(parts, total=40), 30, steps=60)
    for other in ([*parts[:4], parts[5], parts[4]], [*parts[:4], (X[:7], Y[:7]), *parts[5:]]):
        assert "differ from those of the first 30 steps" in error_of(
            ritz.resume, path, line, batches(other, total=40)
        )
    assert "the batches end after 6 steps" in error_of(
        ritz.resume, path, line, batches(iter(parts), total=40)
    )
    first = [(X[:7], Y[:7] + 1.0), *parts[1:]]
    assert "other data" in error_of(ritz.resume, path, line, batches(first, total=40))


def test_objects_are_given_again(tmp_path):
    path = tmp_path / "run"

    def loss(q, target):
        x = ritz.objective.sample(q)
        return -(target.log_density(x) - q.log_prob(x))

    def other(q, target):
        x = ritz.objective.sample(q)
        return -(target.log_density(x) - 1.1 * q.log_prob(x))

    init = {"slope": 1.0}
    parts = {"objective": loss, "init": init, "solver": optax.adam(0.01)}
    whole = ritz.fit(line, (X, Y), steps=20, **parts, checkpoint=path)
    again = {"objective": loss, "solver": optax.adam(0.01)}
    assert bits(ritz.resume(path, line, (X, Y), **again)) == bits(whole)
    without = {k: v for k, v in again.items() if k != "objective"}
    text = error_of(ritz.resume, path, line, (X, Y), **without)
    assert "was given objective, the function loss" in text
    assert "objective=..." in text
    text = error_of(ritz.resume, path, line, (X, Y), **again | {"objective": other})
    assert "objective=the function other arrived" in text
    text = error_of(ritz.resume, path, line, (X, Y), **again | {"solver": optax.adam(0.02)})
    assert "solver=" in text
    assert "given another" in text


def scaled(factor, shift=0.0):
    return lambda x: factor * x + shift


class Slotted:
    __slots__ = ("value",)

    def __repr__(self):
        return f"<Slotted at {hex(id(self))}>"


def test_fingerprints_tell_values_apart():
    loop_of_itself = []
    loop_of_itself.append(loop_of_itself)
    different = [
        0, 0.0, False, None, "0", b"0", [0], (0,), {0}, {"a": 0}, {"a": 1}, np.zeros(1),
        np.zeros(1, np.float32), np.zeros((1, 1)), jnp.ones(1), jax.random.key(0),
        jax.random.key(1), np.array(["a"], object), np.array(["b"], object),
        scaled(1.0), scaled(2.0), scaled(1.0, 1.0), lambda x: x, lambda x, y=1: x,
        jax.jit(scaled(1.0)), functools.partial(scaled, 1.0), functools.partial(scaled, 2.0),
        [].append, "a".join, len,
        dict, np, Slotted, Slotted(), adam(), adam(0.1), adam(0.1, 5), ritz.solver.dadvi(10),
        ritz.solver.dadvi(12), optax.sgd(0.1), optax.sgd(0.2), loop_of_itself, line,
    ]  # fmt: skip
    told = [fingerprint(value) for value in different]
    assert len(set(told)) == len(told)
    assert fingerprint(Slotted()) == fingerprint(Slotted())
    assert fingerprint(optax.sgd(0.1)) == fingerprint(optax.sgd(0.1))
    assert fingerprint({"a": 1, "b": {3, 1, 2}}) == fingerprint({"b": {2, 3, 1}, "a": 1})


def test_fingerprints_of_programs_tell_constants_apart():
    x = jnp.ones(3)
    programs = [scaled(1.0), scaled(2.0), scaled(np.ones(3)), scaled(np.arange(3.0)), jnp.sum]
    told = [program_fingerprint(program, x) for program in programs]
    assert len(set(told)) == len(told)
    assert program_fingerprint(jnp.sum, x) != program_fingerprint(jnp.sum, jnp.ones(4))


def test_a_place_that_is_taken(kept, tmp_path):
    before = contents(kept)
    text = error_of(ritz.fit, line, (X, Y), steps=60, family="mean_field", checkpoint=kept)
    assert "holds the checkpoint of another fit" in text
    assert "ritz.resume" in text
    assert contents(kept) == before
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path):
        text = error_of(ritz.fit, line, (X, Y), steps=60, checkpoint=place)
        assert "is no empty directory" in text
    assert "expected the path" in error_of(ritz.fit, line, (X, Y), checkpoint=3)
    assert "no checkpoint at" in error_of(ritz.resume, tmp_path / "nowhere", line, (X, Y))
    assert "no checkpoint at" in error_of(ritz.resume, tmp_path / "file", line, (X, Y))
    every = error_of(ritz.fit, line, (X, Y), checkpoint=tmp_path / "a", checkpoint_every="x")
    assert "checkpoint_every='x' arrived" in every


def test_a_fit_that_made_no_step_leaves_its_place_free(tmp_path):
    path = tmp_path / "run"
    flat = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.ones(2))
    objective = ritz.objective.iwae(3)
    error_of(ritz.fit, flat, solver="dadvi", objective=objective, checkpoint=path)
    ritz.fit(flat, steps=10, checkpoint=path)
    assert ritz.resume(path, flat).info["steps"] == 10


def test_files_of_two_fits_are_not_mixed(kept, tmp_path):
    path = tmp_path / "run"
    ritz.fit(line, (X, Y), steps=60, family="mean_field", checkpoint=path)
    shutil.copy(kept / "run-0.npz", path / "run-0.npz")
    assert "is the checkpoint of another run: its fit is" in error_of(
        ritz.resume, path, line, (X, Y)
    )


def test_another_version_warns(kept, tmp_path, monkeypatch):
    path = tmp_path / "run"
    shutil.copytree(kept, path)
    monkeypatch.setattr("ritz.solver._checkpoint.versions", lambda: {"ritz": "9", "jax": "8"})
    with pytest.warns(RuntimeWarning, match="this is ritz 9, jax 8: the run goes on"):
        assert ritz.resume(path, line, (X, Y)).info["steps"] == 60


# -- damaged files --------------------------------------------------------------------------


def damage(original, rng, case):
    """Bytes that were flipped, cut, repeated, zeroed or made up."""
    broken = bytearray(original)
    at = int(rng.integers(len(broken)))
    if case % 8 < 4:
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(len(broken))
            broken[place] ^= 1 << rng.integers(8)
    elif case % 8 == 4:
        del broken[at:]
    elif case % 8 == 5:
        del broken[at : at + int(rng.integers(1, 64))]
    elif case % 8 == 6:
        broken[at : at + 32] = bytes(len(broken[at : at + 32]))
    else:
        broken[at:at] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(broken)


def ends(original, rng, case):
    """Damage to names, headers and the directory, which are at a file's ends."""
    cut = min(400, len(original) // 2)
    if case % 2:
        return damage(original[:cut], rng, 0) + original[cut:]
    return original[:-cut] + damage(original[-cut:], rng, 0)


def fuzz(file, read, cases, seed=0):
    """Damage a file in many ways: each read gives what it gave, or one line."""
    rng, original, expected = np.random.default_rng(seed), file.read_bytes(), read()
    refused = 0
    for case in range(cases):
        file.write_bytes((damage if case % 3 else ends)(original, rng, case))
        found = outcome(read)
        if isinstance(found, RitzError):
            assert str(file.parent) in str(found)
            refused += 1
        else:
            assert found == expected
    file.write_bytes(original)
    assert read() == expected
    assert refused > 0.7 * cases


def small_run(file):
    """A run whose checkpoint is a few kilobytes."""
    return run(small_problem(), adam(), 12, jax.random.key(0), checkpoint=Checkpoint(file))


def test_a_damaged_state_is_refused_or_whole(tmp_path):
    file = tmp_path / "run.npz"
    result = small_run(file)
    identity = loop._identity(adam(), 12, jax.random.key(0))

    def read():
        found = Checkpoint(file).open(identity, result.state)
        arrays = [*leaves(found.state), *found.history.columns.values()]
        return found.done, found.stop, [(v.dtype, v.shape, v.tobytes()) for v in arrays]

    fuzz(file, read, 1500)


def test_a_header_that_claims_less_than_there_is(tmp_path):
    """NumPy would read the first ten records, and never see that the checksum is another."""
    file = tmp_path / "run.npz"
    result = small_run(file)
    file.write_bytes(file.read_bytes().replace(b"'shape': (12,)", b"'shape': (10,)"))
    identity = loop._identity(adam(), 12, jax.random.key(0))
    assert "does not have its checksum" in error_of(Checkpoint(file).open, identity, result.state)


def test_a_damaged_call_is_refused_or_whole(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "run")
    read = lambda: str(Checkpoints(tmp_path / "run", 0, resumed=True)._found)
    fuzz(tmp_path / "run" / "fit.npz", read, 1000)


@pytest.mark.parametrize("name", ["fit.npz", "run-0.npz"])
def test_a_damaged_directory_is_refused_or_whole(kept, tmp_path, name):
    shutil.copytree(kept, tmp_path / "run")
    original, whole = (tmp_path / "run" / name).read_bytes(), None

    def read():
        shutil.rmtree(tmp_path / "run")
        shutil.copytree(kept, tmp_path / "run")
        (tmp_path / "run" / name).write_bytes(now[0])
        return bits(ritz.resume(tmp_path / "run", line, (X, Y)))

    now = [original]
    whole = read()
    rng = np.random.default_rng(1)
    for case in range(8):
        now[0] = damage(original, rng, case)
        with contextlib.suppress(RitzError):
            assert read() == whole


def test_a_damaged_saved_fit_is_refused_or_whole(tmp_path):
    target = ritz.target.from_log_density(lambda x: -(x**2).sum(), jnp.ones(2))
    path = ritz.fit(target, steps=10, family="mean_field").save(tmp_path / "fit")
    (arrays,) = path.glob("*.npz")

    def read():
        found = ritz.load(path)
        text = (str(found.info), found.stop_reason, found.message, found.correction)
        held = [*leaves(found.q), *found.draws.values(), *found.history.columns.values()]
        return text, [(v.dtype, v.shape, v.tobytes()) for v in held]

    fuzz(path / "fit.json", read, 1000)
    fuzz(arrays, read, 1000)


def test_nothing_is_unpickled(kept, tmp_path):
    path, bait = tmp_path / "run", tmp_path / "executed"

    class Bait:
        def __reduce__(self):
            return (open, (str(bait), "w"))

    for name in ("fit.npz", "run-0.npz"):
        shutil.copytree(kept, path)
        content = dict(np.load(path / name))
        np.savez(path / name, **content | {"a0": np.array([Bait()], dtype=object)})
        assert name in error_of(ritz.resume, path, line, (X, Y))
        (path / name).write_bytes(pickle.dumps(Bait()))
        assert name in error_of(ritz.resume, path, line, (X, Y))
        shutil.rmtree(path)
    assert not bait.exists()


def told(file):
    with np.load(file) as content:
        return json.loads(content["json"].tobytes()), dict(content)


def places(value, before=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in items:
        yield (*before, key)
        if isinstance(entry, dict | list):
            yield from places(entry, (*before, key))


def test_values_of_every_kind_at_every_place_give_one_line(kept, tmp_path):
    """A file with right checksums may still have been made up by somebody."""
    kinds = [None, True, -1, 10**30, 1.5, float("nan"), "x", [], [1], {}, {"a": 1}]
    path = tmp_path / "run"
    shutil.copytree(kept, path)
    file = tmp_path / "small.npz"
    result = small_run(file)
    identity = loop._identity(adam(), 12, jax.random.key(0))
    opened = lambda: Checkpoint(file).open(identity, result.state)
    called = lambda: Checkpoints(path, 0, resumed=True).call({})
    for where, read in ((path / "fit.npz", called), (file, opened)):
        text, content = told(where)
        for place in list(places(text)):
            for value in kinds:
                changed = json.loads(json.dumps(text))
                at = changed
                for key in place[:-1]:
                    at = at[key]
                at[place[-1]] = value
                raw = np.frombuffer(json.dumps(changed).encode(), np.uint8)
                np.savez(where, **content | {"json": raw})
                with warnings.catch_warnings(action="ignore"):  # of other versions
                    outcome(read)
