"""Ticks: round, few, inside."""

import itertools

import pytest

from ckptlab.explorer.ticks import ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.0764), (-5.07, 4.83), (0, 7), (1e-5, 3e-5), (-0.5, 1.5), (1e9, 1e9 + 3), (3, 3.1)]
)
def test_ticks_are_few_even_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert low - 1e-9 <= found[0] < found[-1] <= high * (1 + 1e-12)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) - min(steps) < 1e-9 * max(1, abs(high))


def test_spans_that_no_float_holds():
    assert ticks(-1.7e308, 1.7e308) == [-1e308, 0.0, 1e308]
    assert ticks(0, 5e-324) == [0, 5e-324]
    assert ticks(3, 3) == [3]
