"""Every paper that is written: its claim on recorded and fresh seeds, wrong variant and picture."""

import math

import pytest

from ritz.papers import _experiment, _rows

WRITTEN = [row.slug for row in _rows.rows() if row.file.is_file()]


def load(slug):
    return _experiment.load(_rows.find(slug))


@pytest.mark.parametrize("slug", WRITTEN)
def test_quick_run_and_picture(slug, tmp_path):
    paper = load(slug)
    result = paper.run(paper.SEEDS[:1], quick=True)
    assert result.seeds == paper.SEEDS[:1]
    assert all(math.isfinite(check.value) for check in result.checks)
    path = tmp_path / "picture.png"
    paper.plot(result).savefig(path)
    assert path.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1000, 2000])
@pytest.mark.parametrize("slug", WRITTEN)
def test_claim_on_recorded_and_fresh_seeds(slug, first):
    paper = load(slug)
    result = paper.run(tuple(range(first, first + len(paper.SEEDS))))
    assert result.holds, "\n".join(map(str, result.checks))


@pytest.mark.slow
@pytest.mark.parametrize("slug", WRITTEN)
def test_wrong_variant_fails_the_same_checks(slug):
    paper = load(slug)
    right, wrong = (paper.run(paper.SEEDS, wrong=w) for w in (False, True))
    about = lambda result: [(c.name, c.direction, c.threshold) for c in result.checks]
    assert about(right) == about(wrong)
    assert right.holds
    assert not wrong.holds
