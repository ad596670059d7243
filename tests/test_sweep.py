"""Many fits: one table, resumable, in this process, in others and on Ray."""

import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import ritz
from ritz import _cells

STEPS = [1000]


def model(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(slope * x, 1.0).to_event(1), obs=y)


def wider(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 20.0))
    numpyro.sample("y", dist.Normal(slope * x, 1.0).to_event(1), obs=y)


def line(slope):
    x = np.linspace(-1.0, 1.0, 20)
    return x, slope * x


TWO = {"up": line(2.0), "down": line(-2.0)}


def files(folder):
    return {f: f.stat().st_mtime_ns for f in Path(folder).rglob("fit.json")}


def test_a_grid_over_data_sets_is_one_table(tmp_path):
    grid = {"family": ["mean_field", "full_rank"], "steps": STEPS}
    found = ritz.sweep(model, TWO, grid, directory=tmp_path)
    assert [(r["data"], r["family"]) for r in found.rows] == [
        ("up", "mean_field"),
        ("up", "full_rank"),
        ("down", "mean_field"),
        ("down", "full_rank"),
    ]
    assert {r["status"] for r in found.rows} == {"ok"}
    single = ritz.fit(model, TWO["down"], family="full_rank", steps=1000)
    assert found.rows[3]["elbo"] == single.elbo.value
    assert found.rows[3]["khat"] == pytest.approx(single.khat)
    assert found[3].mean()["slope"] == single.mean()["slope"]
    assert found[-1].predict(n=10)["y"].shape == (10, 20)
    assert list(found.table.columns)[:3] == ["data", "family", "steps"]
    assert len(found) == len(found.table) == 4
    lines = str(found).splitlines()
    assert " ".join(lines[0].split()) == "data family steps status khat elbo seconds message"
    assert lines[4].startswith("down  full_rank   1000   ok")
    assert len({line.index("ok") for line in lines[1:]}) == 1


def test_what_is_there_is_not_fitted_again(tmp_path):
    first = ritz.sweep(model, TWO, {"steps": STEPS}, directory=tmp_path)
    before = files(tmp_path)
    again = ritz.sweep(model, TWO, {"steps": STEPS, "seed": [0, 1]}, directory=tmp_path)
    assert len(before) == 2
    assert len(files(tmp_path)) == 6  # the seed was named this time
    more = ritz.sweep(model, TWO, {"steps": STEPS, "seed": [0, 1, 2]}, directory=tmp_path)
    assert len(files(tmp_path)) == 8
    assert [r for r in more.rows if r["seed"] < 2] == again.rows
    assert ritz.sweep(model, TWO, {"steps": STEPS}, directory=tmp_path).rows == first.rows
    assert before.items() <= files(tmp_path).items()


@pytest.mark.parametrize("changed", ["model", "data", "option"])
def test_what_has_changed_is_fitted_anew(tmp_path, changed):
    ritz.sweep(model, {"all": line(2.0)}, {"steps": STEPS}, directory=tmp_path)
    other = wider if changed == "model" else model
    data = line(2.1) if changed == "data" else line(2.0)
    steps = [1001] if changed == "option" else STEPS
    found = ritz.sweep(other, {"all": data}, {"steps": steps}, directory=tmp_path)
    fresh = ritz.fit(other, data, steps=steps[0])
    assert found.rows[0]["elbo"] == fresh.elbo.value
    assert len(files(tmp_path)) == 2


def test_a_global_that_the_model_reads_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "WIDTH", 1.0, raising=False)

    def reads(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, WIDTH))  # noqa: F821
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    data = {"all": (np.ones(3),)}
    one = ritz.sweep(reads, data, {"steps": STEPS}, directory=tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "WIDTH", 3.0)
    assert ritz.sweep(reads, data, {"steps": STEPS}, directory=tmp_path).rows != one.rows


def test_failures_are_rows(tmp_path):
    data = {"good": line(1.0), "short": (np.ones(3), np.ones(4))}
    grid = {"solver": ["adam", "natural_gradient", optax.sgd(10.0)], "steps": [20]}
    found = ritz.sweep(model, data, grid, directory=tmp_path)
    good, short = found.rows[:3], found.rows[3:]
    assert [r["status"] != "failed" for r in good] == [True, True, False]
    assert good[2]["solver"] == "GradientTransformationExtraArgs[2]"
    assert "not finite" in good[2]["message"]
    assert all(r["status"] == "failed" and r["path"] is None for r in short)
    assert all("'y'" in r["message"] and "\n" not in r["message"] for r in short)
    with pytest.raises(ritz.RitzError, match=r"fit 3 of the sweep was not made: .*'y'"):
        found[3]


def test_a_fit_that_raises_is_a_row_and_is_tried_again(tmp_path, monkeypatch):
    real, calls = _cells.fit, []

    def fails(*args, seed, **kwargs):
        calls.append(seed)
        if seed == 1 and len(calls) == 2:
            raise MemoryError("no room\nat all")
        return real(*args, seed=seed, **kwargs)

    monkeypatch.setattr(_cells, "fit", fails)
    ask = lambda: ritz.sweep(
        model, {"a": line(1.0)}, {"seed": [0, 1, 2], "steps": STEPS}, directory=tmp_path
    )
    assert [r["message"] for r in ask().rows] == ["", "MemoryError: no room at all", ""]
    assert [r["status"] for r in ask().rows] == ["ok"] * 3
    assert calls == [0, 1, 2, 1]


def test_processes_make_the_same_fits(tmp_path):
    grid = {"steps": STEPS, "seed": [0, 1]}
    here = ritz.sweep(model, {"a": line(1.0)}, grid, directory=tmp_path / "here")
    there = ritz.sweep(model, {"a": line(1.0)}, grid, directory=tmp_path / "there", processes=2)
    for a, b in zip(here.rows, there.rows, strict=True):
        assert a["elbo"] == b["elbo"]
        assert Path(a["path"]).name == Path(b["path"]).name


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_sweep import model, line
import ritz
{guard}
    def local(x, y=None):
        return model(x, y)
    grid = {{"steps": [{steps}], "seed": list(range(6))}}
    found = ritz.sweep({model}, {{"a": line(1.0)}}, grid, directory={folder!r}, processes={n})
    print("\\n".join(row["status"] + " " + row["message"] for row in found.rows))
"""


def script(tmp_path, model, n, guard="if __name__ == '__main__':", steps=1000):
    file, folder = tmp_path / "script.py", str(tmp_path / "fits")
    tests = str(Path(__file__).parent)
    file.write_text(
        SCRIPT.format(tests=tests, guard=guard, model=model, n=n, folder=folder, steps=steps)
    )
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    return subprocess.Popen(
        [sys.executable, str(file)],
        stdout=-1,
        stderr=-1,
        text=True,
        env=env,
        start_new_session=True,
    )


def test_a_sweep_that_was_killed_goes_on(tmp_path):
    killed = script(tmp_path, "model", 1, steps=100_000)
    until = time.monotonic() + 200
    while len(files(tmp_path)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    before = files(tmp_path)
    assert 2 <= len(before) < 6
    out, err = script(tmp_path, "model", 1, steps=100_000).communicate(timeout=300)
    assert out.split() == ["ok"] * 6, err
    assert before.items() <= files(tmp_path).items()
    assert len(files(tmp_path)) == 6


def test_a_script_without_its_guard_is_told_so(tmp_path):
    _, err = script(tmp_path, "model", 2, guard="if True:").communicate(timeout=300)
    last = err.strip().splitlines()[-1]
    assert last.startswith("ritz._errors.RitzError: sweep: a process of the sweep was killed")
    assert "if __name__ == '__main__':" in last


def test_what_cannot_be_sent_is_refused(tmp_path):
    local = lambda x, y=None: model(x, y)
    with pytest.raises(ritz.RitzError, match=r"cannot be sent to another process .* processes=1"):
        ritz.sweep(local, {"a": line(1.0)}, {"seed": [0]}, directory=tmp_path, processes=2)


class Stub(types.ModuleType):
    """What a sweep uses of Ray."""

    class exceptions:
        class RayError(Exception):
            pass

    def remote(self, function):
        call = lambda *args: (function, args)
        return types.SimpleNamespace(remote=call)

    def get(self, reference):
        function, args = reference
        if b"lost" in args[0]:
            raise self.exceptions.RayError("the node\nis gone")
        return function(*args)


def test_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", Stub("ray"))
    data = {"a": line(1.0), "b": {"x": line(2.0)[0], "y": line(2.0)[1]}}
    grid = {"steps": STEPS}
    found = ritz.sweep(model, data, grid, directory=tmp_path, processes="ray")
    assert [r["status"] for r in found.rows] == ["ok", "ok"]
    lost = ritz.sweep(model, data, grid, directory=tmp_path / "lost", processes="ray")
    assert lost.rows[0]["message"] == "RayError: the node is gone"


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ritz.RitzError, match=r"pip install 'ritz\[ray\]'"):
        ritz.sweep(model, {"a": line(1.0)}, {"seed": [0]}, directory=tmp_path, processes="ray")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": line(1.0)}, "data: a tuple arrived, expected data sets by name"),
        ({"data": {"x": np.ones(3)}}, r"data\['x'\] is float64 of shape \(3,\), expected a whole"),
        ({"data": {"x": ritz.data.batches(iter([np.ones(3)]), total=3)}}, "can be read once"),
        (
            {"grid": {"famly": ["full_rank"]}},
            "'famly', which it cannot vary; did you mean 'family'",
        ),
        ({"grid": {"checkpoint": ["x"]}}, "'checkpoint', which it cannot vary"),
        ({"grid": {"family": "full_rank"}}, "expected a list of values"),
        ({"grid": {"seed": []}}, "expected a list of values"),
        ({"grid": [1]}, "grid: a list arrived"),
        ({"grid": {0: [1]}}, "grid has 0, which it cannot vary"),
        ({"data": {1: line(1.0), "1": line(2.0)}}, "two data sets have one name"),
        ({"directory": 3}, "directory: 3 arrived, expected a path"),
        ({"processes": 0}, "processes=0 arrived"),
        ({"processes": "dask"}, "processes='dask' arrived"),
        ({"directory": "/proc/none"}, "cannot make /proc/none"),
    ],
)
def test_bad_input_is_one_line(tmp_path, given, words):
    given = {"data": {"a": line(1.0)}, "directory": tmp_path} | given
    with pytest.raises(ritz.RitzError, match=words):
        ritz.sweep(model, **given)
