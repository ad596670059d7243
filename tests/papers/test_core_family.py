"""The papers on a Gaussian solver and on matrix roots: claims, wrong variants, pictures."""

import importlib
import math

import pytest

PAPERS = ("family.fb_gvi", "core.fast_matrix_sqrt")


def load(name):
    return importlib.import_module(f"ritz.papers.{name}")


@pytest.mark.parametrize("name", PAPERS)
def test_quick_run_and_picture(name, tmp_path):
    paper = load(name)
    result = paper.run(paper.SEEDS[:1], quick=True)
    assert result.seeds == paper.SEEDS[:1]
    assert all(math.isfinite(check.value) for check in result.checks)
    path = tmp_path / "picture.png"
    paper.plot(result).savefig(path)
    assert path.stat().st_size > 10_000


def test_scalar_rule_has_the_right_root_and_a_wrong_gradient():
    """The wrong variant of fast-matrix-sqrt, without its timing."""
    paper = load("core.fast_matrix_sqrt")
    a, g = paper._matrices(0, 2)
    for root, right in ((paper.pade, True), (paper.scalar_rule, False)):
        exact, found = paper._both(paper.eigen), paper._both(lambda a, f=root: f(a, 8, 10))
        value, gradient = map(paper._error, found(a, g), exact(a, g))
        assert value < 1e-2
        assert (gradient < 1e-2) == right


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1000, 2000])
@pytest.mark.parametrize("name", PAPERS)
def test_claim_on_recorded_and_fresh_seeds(name, first):
    paper = load(name)
    result = paper.run(tuple(range(first, first + len(paper.SEEDS))))
    assert result.holds, "\n".join(map(str, result.checks))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_wrong_variant_fails_the_same_checks(name):
    paper = load(name)
    right, wrong = (paper.run(paper.SEEDS, wrong=w) for w in (False, True))
    about = lambda result: [(c.name, c.direction, c.threshold) for c in result.checks]
    assert about(right) == about(wrong)
    assert right.holds
    assert not wrong.holds
