"""Every paper that is written: its claim on recorded and fresh seeds, wrong variant and picture."""

import math
import os

import pytest

import ritz
from ritz.papers import _experiment, _rows

ROWS = [row for row in _rows.rows() if row.file.is_file()]
WRITTEN = [row.slug for row in ROWS]
# Short runs of the longer experiments cost as much as all the others together.
SHORT = [pytest.param(r.slug, marks=[pytest.mark.slow] * (r.compute != "S")) for r in ROWS]


def load(slug):
    return _experiment.load(_rows.find(slug))


def run(paper, seeds, **how):
    """Runs an experiment; skips the test where its data are in a folder that is not there."""
    try:
        return paper.run(seeds, **how)
    except ritz.RitzError as error:
        if os.environ.get("RITZ_DATA") or "RITZ_DATA" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("slug", SHORT)
def test_quick_run_and_picture(slug, tmp_path):
    paper = load(slug)
    result = run(paper, paper.SEEDS[:1], quick=True)
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
    result = run(paper, tuple(range(first, first + len(paper.SEEDS))))
    assert result.holds, "\n".join(map(str, result.checks))


@pytest.mark.slow
@pytest.mark.parametrize("slug", WRITTEN)
def test_wrong_variant_fails_the_same_checks(slug):
    paper = load(slug)
    right, wrong = (run(paper, paper.SEEDS, wrong=w) for w in (False, True))
    about = lambda result: [(c.name, c.direction, c.threshold) for c in result.checks]
    assert about(right) == about(wrong)
    assert right.holds
    assert not wrong.holds
