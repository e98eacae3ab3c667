"""Facts in words, and marks in columns."""

import numpy as np

from ckptlab.explorer.scene import Fact, Mark, collect


def test_boxes_are_shown_as_slices():
    assert Fact("at", "box", np.array([[0, 2, 4, 6]])).show(0) == "[0:4, 2:8]"
    assert Fact("at", "box", np.zeros((1, 0), np.int64)).show(0) == "[]"


def test_numbers_and_bytes_are_grouped():
    assert Fact("n", "count", np.array([1234567])).show(0) == "1,234,567"
    assert Fact("n", "bytes", np.array([1536])).show(0) == "1.50 KiB"


def test_marks_of_different_facts_share_columns():
    marks = collect(
        [Mark((0, 0, 1, 1), (0, 1), facts={"a": "x"}), Mark((1, 0, 1, 1), (2,), facts={"b": "y"})]
    )
    assert [[fact.show(i) for fact in marks.facts] for i in range(2)] == [["x", ""], ["", "y"]]
    assert [marks.ranks_of(i) for i in range(2)] == [(0, 1), (2,)]
