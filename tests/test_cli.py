"""The command line: what it prints, where, and its exit codes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ritz
from ritz import RitzError, cli
from ritz.target import library

MODEL = '''
"""A model of y."""
from pathlib import Path

import numpyro
import numpyro.distributions as dist

import neighbour


def model(y, sigma=1.0):
    mu = numpyro.sample("mu", dist.Normal(0.0, neighbour.WIDTH))
    numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def closed():
    model(3.0)


def broken():
    numpyro.sample("tau", dist.HalfNormal(1.0))
    numpyro.factor("cliff", -float("inf"))


def warns():
    import warnings

    warnings.warn("first line\\nsecond line")
    closed()


WIDTH = 3
'''
# A terminal of 80 columns without colours, and no cache but the test's own.
PLAIN = {"TERM": "dumb", "COLUMNS": "80", "NO_COLOR": "1"}


def ritz_command(*args, env=None):
    """Run the command line in this process."""
    return CliRunner().invoke(cli.app, list(map(str, args)), env=PLAIN | (env or {}))


def error_of(result, code=2):
    """The one line that a command failed with."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    """A cache on disk would outlive the test: JAX reads its place once a process."""
    monkeypatch.setattr(ritz, "enable_compilation_cache", lambda: "nowhere")


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour.py").write_text("WIDTH = 10.0\n")
    file = tmp_path / "numpy.py"  # a name that hides no other module
    file.write_text(MODEL)
    return file


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("y,other\n1.0,5\n2.0,6\n3.0,7\n")
    return file


# -- help and usage -------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), ("--help",), ("fit", "--help"), ("summary", "-h")])
def test_help_states_the_exit_codes(args):
    result = ritz_command(*args)
    assert result.exit_code == 0
    said = " ".join(result.stdout.split())
    assert " ".join(cli.EXIT_CODES.split()) in said
    assert all(code in cli.EXIT_CODES for code in ("0", "1", "2", "3", "130"))


@pytest.mark.parametrize("part", ["families", "solvers"])
def test_registered_parts_are_listed(part):
    listed = ritz_command(part).stdout.splitlines()
    parts = ritz.family if part == "families" else ritz.solver
    assert [line.split()[0] for line in listed[1:]] == list(parts.registered())
    for line, known in zip(listed[1:], parts.registered().values(), strict=True):
        assert line.endswith(known.description)
    assert f"ritz {part}" in ritz_command("fit", "--help").stdout


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (("fit",), "TARGET"),
        (("fti",), "'fti'"),
        (("fit", "eight_schools", "--step", "3"), "--step"),
        (("fit", "eight_schools", "--steps", "many"), "--steps"),
        (("fit", "eight_schools", "extra"), "extra"),
        (("summary",), "DIR"),
        (("--nope",), "--nope"),
    ],
)
def test_usage_error_is_one_line_and_says_where_help_is(args, part):
    line = error_of(ritz_command(*args))
    assert part in line
    assert "--help" in line


def test_help_and_targets_import_nothing_heavy():
    """With a bare package in place of ritz/__init__.py, so that this is about cli.py."""
    program = """
import sys, types
package = types.ModuleType("ritz")
package.__path__ = [sys.argv.pop(1)]
sys.modules["ritz"] = package
from ritz.cli import app
try:
    app(sys.argv[1:])
finally:
    heavy = {"jax", "numpy", "numpyro", "equinox", "pandas"} & set(sys.modules)
    assert not heavy, heavy
"""
    folder = str(Path(cli.__file__).parent)
    for args in (["targets"], ["--help"]):
        command = [sys.executable, "-c", program, folder, *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout


# -- targets and doctor ---------------------------------------------------------------------


def test_targets_lists_every_packaged_target():
    result = ritz_command("targets")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.splitlines()]
    assert listed == list(library.names())
    assert len(listed) >= 8


def test_doctor_prints_versions_and_the_places(monkeypatch, tmp_path):
    monkeypatch.setenv("RITZ_DATA", str(tmp_path / "gone"))
    result = ritz_command("doctor")
    assert result.exit_code == 0, result.output
    for part in ("python 3", "jax ", "numpyro ", "devices ", "NOT FOUND", "nowhere", "right"):
        assert part in result.stdout


def test_doctor_fails_where_the_fit_is_wrong(monkeypatch):
    monkeypatch.setattr(ritz.Fit, "sd", lambda self: np.float64(9.0))
    result = ritz_command("doctor")
    assert result.exit_code == 1
    assert "WRONG" in result.stdout


# -- fit and summary ------------------------------------------------------------------------


def test_fit_of_a_packaged_target_prints_and_saves_what_summary_reads(tmp_path):
    out = tmp_path / "deep" / "fit"
    made = ritz_command("fit", "eight_schools", "--steps", 50, "--out", out)
    assert made.exit_code == 0, made.output
    assert made.stderr == ""
    for part in ("theta[7]", "ELBO", "k-hat", "verdict", f"ritz summary {out}"):
        assert part in made.stdout
    read = ritz_command("summary", out)
    assert read.exit_code == 0
    table = lambda result: result.stdout.split("ELBO")[0]
    assert table(read) == table(made)
    assert "50 steps" in read.stdout


def test_every_option_reaches_the_fit(tmp_path):
    out = tmp_path / "fit"
    options = ("--family", "mean_field", "--steps", 7, "--lr", 0.5, "--draws", 2, "--seed", 3)
    result = ritz_command("fit", "eight_schools", *options, "--out", out)
    assert result.exit_code == 0, result.output
    found = ritz.load(out)
    packaged = library.get("eight_schools")
    same = ritz.fit(
        packaged.model, packaged.data(), family="mean_field", steps=7, lr=0.5, draws=2, seed=3
    )
    np.testing.assert_array_equal(found.draws["mu"], same.draws["mu"])
    assert found.info["family"] == "mean_field"
    assert len(found.history) == 7


def test_packaged_target_takes_data(tmp_path):
    file = tmp_path / "schools.json"
    file.write_text('{"sigma": [1.0, 2.0], "y": [0.5, 0.25], "note": "mine"}')
    result = ritz_command("fit", "eight_schools", "--data", file, "--steps", 5)
    assert result.exit_code == 0, result.output
    assert "data    y <- y (float, 2)" in result.stdout
    assert "data    not used: note" in result.stdout
    assert "theta[1]" in result.stdout
    assert "theta[2]" not in result.stdout


@pytest.mark.parametrize("suffix", ["csv", "json", "npz", "nc"])
def test_file_model_takes_data_and_prints_the_binding(model_file, tmp_path, suffix):
    file, y = tmp_path / f"rows.{suffix}", np.array([1.0, 2.0, 3.0])
    if suffix == "csv":
        file.write_text("y\n1.0\n2.0\n3.0\n")
    if suffix == "json":
        file.write_text('{"y": [1.0, 2.0, 3.0]}')
    if suffix == "npz":
        np.savez(file, y=y)
    if suffix == "nc":
        import xarray

        xarray.Dataset({"y": ("rows", y)}).to_netcdf(file, engine="h5netcdf")
    result = ritz_command("fit", f"{model_file}:model", "--data", file, "--steps", 5)
    assert result.exit_code == 0, result.output
    assert "data    y <- y (float, 3" in result.stdout
    assert "mu" in result.stdout


def test_file_model_without_arguments_needs_no_data(model_file):
    result = ritz_command("fit", f"{model_file}:closed", "--steps", 5)
    assert result.exit_code == 0, result.output
    assert sys.modules["numpy"] is np


def test_target_object_in_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import ritz\ndensity = lambda x: -0.5 * x**2\n"
        "normal = ritz.target.from_log_density(density, 0.0)\n"
    )
    assert ritz_command("fit", f"{file}:normal", "--steps", 5).exit_code == 0
    line = error_of(ritz_command("fit", f"{file}:normal", "--data", "rows.csv"))
    assert "holds its own data" in line


def test_failed_fit_prints_its_last_finite_state_and_exits_with_3(tmp_path):
    file = tmp_path / "diverges.py"
    file.write_text(
        "import jax.numpy as jnp, ritz\n"
        "density = lambda x: jnp.where(x > 0.5, jnp.nan, x)\n"
        "target = ritz.target.from_log_density(density, 0.0)\n"
    )
    out = tmp_path / "fit"
    result = ritz_command("fit", f"{file}:target", "--lr", 0.1, "--steps", 500, "--out", out)
    assert result.exit_code == 3, result.output
    assert result.stderr == ""
    assert "verdict failed" in result.stdout
    assert "is not finite" in result.stdout
    assert ritz.load(out).stop_reason == "not finite"


def test_warning_is_one_line_on_stderr(model_file):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = ritz_command("fit", f"{model_file}:warns", "--steps", 5)
    assert result.exit_code == 0, result.output
    assert set(result.stderr.splitlines()) == {"warning: first line second line"}


# -- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (("fit", "eight_school"), ["'eight_school'", "did you mean 'eight_schools'"]),
        (("fit", "nowhere.py:model"), ["'nowhere.py'", "FILE.py:MODEL", "ritz targets"]),
        (("fit", "{dir}:model"), ["no Python file", "FILE.py:MODEL"]),
        (("fit", "{file}"), ["which model", "numpy.py:model"]),
        (("fit", "{file}:"), ["which model", "numpy.py:model"]),
        (("fit", "{file}:modle"), ["'modle'", "did you mean 'model'", "closed"]),
        (("fit", "{file}:WIDTH"), ["int", "expected a model function"]),
        (("fit", "{file}:WIDTH", "--data", "{table}"), ["int", "a target"]),
        (("fit", "{file}:model"), ["needs y", "--data"]),
        (
            ("fit", "{file}:model", "--data", "{dir}/row.csv"),
            ["no file", "did you mean 'rows.csv'"],
        ),
        (("fit", "{file}:model", "--data", "{file}"), [".py", ".csv"]),
        (("fit", "{file}:broken"), ["finite", "cliff"]),
        (("fit", "eight_schools", "--data", "{table}"), ["'sigma'", "y, other"]),
        (("fit", "eight_schools", "--family", "fullrank"), ["'fullrank'", "'full_rank'"]),
        (("fit", "eight_schools", "--steps", "-1"), ["steps=-1"]),
        (("fit", "eight_schools", "--draws", "0"), ["draws=0", "from 1 up"]),
        (("fit", "eight_schools", "--lr", "0"), ["lr=0", "positive"]),
        (("fit", "eight_schools", "--out", "{file}"), ["numpy.py", "not a saved fit"]),
        (("fit", "eight_schools", "--out", "{dir}"), ["not a saved fit"]),
        (("fit", "eight_schools", "--out", "{file}/fit"), ["numpy.py", "cannot save"]),
        (("summary", "{dir}/nothing"), ["no fit at", "ritz fit --out"]),
        (("summary", "{file}"), ["no fit at", "ritz fit --out"]),
        (("summary", "{dir}"), ["no fit at", "fit.json"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args, parts, model_file, table):
    names = {"file": model_file, "dir": model_file.parent, "table": table}
    line = error_of(ritz_command(*(arg.format(**names) for arg in args)))
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("x = (", ["line 1", "SyntaxError"]),
        ("x = 1\n1 / 0\n", ["line 2", "ZeroDivisionError"]),
        ("import nowhere_at_all\n", ["line 1", "nowhere_at_all"]),
        ("raise SystemExit('no\\nmore')\n", ["line 1", "SystemExit: no more"]),
        ("\0", ["failed"]),
        ("", ["no 'model'", "it has no functions"]),
    ],
)
def test_file_that_cannot_be_imported(tmp_path, text, parts):
    file = tmp_path / "mine.py"
    file.write_text(text)
    line = error_of(ritz_command("fit", f"{file}:model"))
    for part in ("mine.py", *parts):
        assert part in line


@pytest.mark.parametrize("taken", ["file", "folder"])
def test_place_that_is_taken_is_refused_before_the_fit(monkeypatch, tmp_path, taken):
    out = tmp_path / "taken"
    if taken == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "fit.json").write_text('{"mine": 1}')
    monkeypatch.setattr(ritz, "fit", lambda *_, **__: pytest.fail("it began to fit"))
    error_of(ritz_command("fit", "eight_schools", "--out", out))


def test_answer_is_printed_even_if_it_cannot_be_saved(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = ritz_command("fit", "eight_schools", "--steps", 5, "--out", tmp_path / "fit")
    assert result.exit_code == 2
    assert "verdict" in result.stdout
    assert "No space left on device" in result.stderr


def test_unforeseen_error_is_one_line_and_exit_code_1(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(ritz, "load", fails)
    line = error_of(ritz_command("summary", "x"), code=1)
    assert line == "error: RuntimeError: two lines (--debug shows where)"


@pytest.mark.parametrize("args", [("--debug", "x"), ("x", "--debug")])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(args):
    result = ritz_command("summary", *args)
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: no fit at x")


def test_interrupt_before_the_first_step(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ritz, "fit", interrupted)
    result = ritz_command("fit", "eight_schools")
    assert result.exit_code == 130
    assert result.stderr.splitlines() == ["interrupted"]


# -- in a process of its own ----------------------------------------------------------------

# A shell starts what runs in its background with SIGINT ignored; `default_int_handler` undoes it.
# Once a fit has made steps it says so in the folder that the first argument names.
PROGRAM = """
import functools, pathlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
folder = pathlib.Path(sys.argv.pop(1))
import ritz
from ritz.cli import main
say = lambda state, steps, info: (folder / "runs").touch()
ritz.fit = functools.partial(ritz.fit, callbacks=[say])
main()
"""


@contextlib.contextmanager
def started(*args, cache):
    """The command line in a process of its own, its compiled programs kept in `cache`."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(cache.parent), *map(str, args)],
        env=os.environ | PLAIN | {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_interrupt_keeps_and_saves_the_fit_so_far(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "fit"
    args = ("fit", "eight_schools", "--steps", 10**9, "--out", out)
    with started(*args, cache=cache) as process:
        deadline = time.monotonic() + 90
        while not (tmp_path / "runs").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted after" in stderr
    assert "Traceback" not in stderr
    assert f"saved   {out}" in stdout
    found = ritz.load(out)
    assert found.stop_reason == "interrupted"
    assert 0 < found.info["steps"] < 10**9
    assert all(np.isfinite(values).all() for values in found.draws.values())
    read = ritz_command("summary", out)
    assert read.exit_code == 0
    assert "interrupted after" in read.stdout


def test_cache_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with started("fit", "eight_schools", "--steps", 5, cache=tmp_path / "file") as process:
        stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stderr) == (0, "")
    assert "verdict" in stdout


def test_warnings_of_the_cache_are_not_shown(monkeypatch):
    def load(_):
        for verb in ("reading", "writing"):
            warnings.warn(f"Error {verb} persistent compilation cache entry for 'x'", stacklevel=2)
        raise RitzError("no fit")

    monkeypatch.setattr(ritz, "load", load)
    assert error_of(ritz_command("summary", "x")) == "error: no fit"


@pytest.mark.slow
def test_damaged_cache_is_silent(tmp_path):
    said, cache = [], tmp_path / "cache"
    for _ in range(2):
        with started("fit", "eight_schools", "--steps", 5, cache=cache) as process:
            stdout, stderr = process.communicate(timeout=90)
        assert (process.returncode, stderr) == (0, "")
        said.append(stdout.split("time")[0])
        entries = list(cache.glob("ritz/xla/*-cache"))
        assert entries
        for entry in entries:
            entry.write_bytes(entry.read_bytes()[:100])
    assert said[0] == said[1]


def test_error_in_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, "-m", "ritz.cli", "fit", "nope"],
        capture_output=True, text=True, timeout=60, env=os.environ | PLAIN,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
