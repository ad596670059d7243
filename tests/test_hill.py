"""Hill's index of a tail, by hand, and of laws whose index is known."""

import numpy as np
import pytest

import ritz
from ritz.diagnose import hill


def test_by_hand():
    index, error = hill(np.exp([2.0, 0.0, 1.0]), 2 / 3)
    assert index == pytest.approx(1.0 / 1.5)  # logs of 1 and 2 above the third
    assert error == pytest.approx(index / 2**0.5)


@pytest.mark.parametrize("df", [1.0, 2.0])
def test_of_student_t_and_not_of_a_normal(df):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        index, error = hill(np.abs(rng.standard_t(df, 1_000_000)))
        assert abs(index - df) < 4.0 * error
        assert hill(np.abs(rng.normal(size=1_000_000)))[0] > 4.0 * df


BAD = [
    ([1.0, np.nan, 2.0], 0.5),
    ([[1.0]], 0.5),
    ([1.0, 2.0], 1.5),
    ([1.0, 2.0], 0.1),
    ([-2.0, -1.0, -3.0, -4.0], 0.5),
    ([1.0] * 9, 0.5),
]


@pytest.mark.parametrize(("x", "share"), BAD)
def test_bad_input_is_told_in_a_line(x, share):
    with pytest.raises(ritz.RitzError, match="hill: ") as told:
        hill(x, share)
    assert "\n" not in str(told.value)
