"""The papers on a Gaussian solver and on matrix roots: claims, wrong variants, pictures."""

import importlib

import pytest

PAPERS = ("family.fb_gvi", "core.fast_matrix_sqrt")


def load(name):
    return importlib.import_module(f"ritz.papers.{name}")


@pytest.mark.parametrize("name", PAPERS)
def test_quick_run_and_picture(name, tmp_path):
    paper = load(name)
    result = paper.run(paper.SEEDS[:2], quick=True)
    assert result.seeds == paper.SEEDS[:2]
    assert all(check.value == check.value for check in result.checks)  # no NaN
    path = tmp_path / "picture.png"
    paper.plot(result).savefig(path)
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("name", PAPERS)
def test_wrong_variant_fails_even_when_quick(name):
    paper = load(name)
    right = paper.run(paper.SEEDS[:2], quick=True)
    wrong = paper.run(paper.SEEDS[:2], wrong=True, quick=True)
    about = lambda result: [(c.name, c.direction, c.threshold) for c in result.checks]
    assert about(right) == about(wrong)
    assert not wrong.holds
    failed = [w.name for r, w in zip(right.checks, wrong.checks, strict=True) if r.holds > w.holds]
    assert failed, "the wrong variant fails nothing that the method passes"


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1000, 2000])
@pytest.mark.parametrize("name", PAPERS)
def test_claim_on_recorded_and_fresh_seeds(name, first):
    paper = load(name)
    result = paper.run(tuple(range(first, first + len(paper.SEEDS))))
    assert result.holds, "\n".join(map(str, result.checks))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_wrong_variant_fails(name):
    paper = load(name)
    assert not paper.run(paper.SEEDS, wrong=True).holds
