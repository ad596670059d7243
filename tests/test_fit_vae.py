"""`ritz fit-vae`: a table or an array in, a model, latents and a verdict out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ritz import cli
from ritz.latent import VAE, mlp

X = np.random.default_rng(0).normal(size=(200, 2)) @ np.ones((2, 4)) * 50.0 + 1e4
X = X + np.random.default_rng(1).normal(size=X.shape)


def run(*args: Any) -> Any:
    return CliRunner().invoke(cli.app, ["fit-vae", *map(str, args)], env={"TERM": "dumb"})


@pytest.fixture
def files(tmp_path: Path) -> Path:
    np.savetxt(tmp_path / "x.csv", X, delimiter=",", header="a,b,c,d", comments="")
    np.savez(tmp_path / "x.npz", rows=X, labels=np.arange(200))
    return tmp_path


def test_a_table_becomes_latents_and_a_model_that_comes_back(files: Path) -> None:
    out = files / "out"
    done = run(files / "x.csv", "--latent", 2, "--hidden", 8, "--epochs", 3, "--out", out)
    assert done.exit_code == 0, done.output
    assert "200 rows of shape (4,)" in done.stdout
    assert "units are active" in done.stdout
    z = np.loadtxt(out / "latents.csv", delimiter=",", skiprows=1)
    again = VAE(2, encoder=mlp(8), decoder=mlp(8)).restore(out / "vae.ritz")
    np.testing.assert_allclose(again.encode(X), z, rtol=1e-5)


BAD = {
    "likelihood": (("x.csv", "--likelihood", "gausian"), "did you mean 'gaussian'"),
    "range": (("x.csv", "--likelihood", "bernoulli"), "expected 0 to 1"),
    "latent": (("x.csv", "--latent", "0"), "--latent '0' arrived"),
    "hidden": (("x.csv", "--hidden", "a,b"), "--hidden 'a,b' arrived"),
    "file": (("y.csv",), "there is no file"),
    "choose": (("x.npz",), "choose one with --array"),
    "array": (("x.npz", "--array", "row"), "has no array 'row'"),
    "vector": (("x.npz", "--array", "labels"), "expected rows"),
    "table": (("x.csv", "--array", "a"), "is a table"),
    "out": (("x.csv", "--out", "x.csv"), "is a file; name a directory"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2(name: str, files: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(files)
    args, told = BAD[name]
    done = run(*args)
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line
