"""Every snippet in the documents runs, and every example in a docstring is right."""

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ritz

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_snippets_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "skeletons").symlink_to(ROOT / "skeletons")
    names = {"__name__": "snippet"}
    text = path.read_text()
    kept = list(sys.path)
    try:
        for match in BLOCK.finditer(text):
            kind, code = match.groups()
            if kind == "python":
                # Padded, so that a traceback shows the document's own line.
                padding = "\n" * text[: match.start()].count("\n") + "\n"
                exec(compile(padding + code, str(path), "exec"), names)
            else:
                run_shell(code, tmp_path)
    finally:
        sys.path[:] = kept


def run_shell(code, folder):
    """Run the `ritz` commands of a block; `make` is what runs this test."""
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "ritz":
            command = [sys.executable, "-c", "from ritz.cli import main; main()", *words[1:]]
            env = os.environ | {"XDG_CACHE_HOME": str(folder)}
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def modules():
    found = pkgutil.walk_packages(ritz.__path__, "ritz.")
    return sorted(m.name for m in found if not m.name.startswith("ritz.target.library."))


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("docs_tables")


def test_tables_of_parts_are_written_from_the_registries(tables):
    for path in tables.PAGES:
        assert tables.written(path.read_text()) == path.read_text(), "run tools/docs_tables.py"


def test_what_is_registered_comes_into_the_tables(tables, monkeypatch):
    base = importlib.import_module("ritz.estimator._base")
    monkeypatch.setattr(base, "_REGISTRY", dict(ritz.estimator.registered()))
    ritz.estimator.register("mine", lambda: ritz.estimator.score(draws=5), "all of mine")
    page = tables.written("a\n<!-- estimators -->\nold\n<!-- end of estimators -->\nb\n")
    assert page.startswith("a\n<!-- estimators -->\n| estimator | for |")
    assert page.endswith("|\n<!-- end of estimators -->\nb\n")
    assert "\n| `mine` | all of mine | log q | K | |\n" in page
    assert tables.written(page) == page
    assert "old" not in page


def test_public_names_have_docstrings():
    for name in ritz.__all__:
        assert getattr(ritz, name).__doc__, name


def test_skeleton_estimator_is_unbiased(monkeypatch):
    import jax
    import jax.numpy as jnp
    import numpy as np

    monkeypatch.syspath_prepend(str(ROOT / "skeletons"))
    from estimator import ScoreFunction
    from family import UnitNormal

    target = ritz.target.from_log_density(lambda x: -0.5 * (x @ x), jnp.zeros(2))
    q = UnitNormal(jnp.array([1.0, -2.0]))
    problem = ritz.objective.Problem(target, q, ritz.objective.negative_elbo(), ScoreFunction())
    keys = jax.random.split(jax.random.key(0), 20_000)
    grads = jax.vmap(lambda key: problem.grad(problem.params, key)[0].loc)(keys)
    se = np.asarray(grads).std(0) / 20_000**0.5
    assert (np.abs(np.asarray(grads).mean(0) - np.array([1.0, -2.0])) < 4 * se).all()
