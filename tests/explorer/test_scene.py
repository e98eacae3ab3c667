"""Facts in words, and marks in columns."""

import numpy as np

from ckptlab.explorer.scene import Fact, Mark, categories, collect
from ckptlab.widgets.palette import CYCLE


def test_boxes_are_shown_as_slices():
    assert Fact("at", "box", np.array([[0, 2, 4, 6]])).show(0) == "[0:4, 2:8]"
    assert Fact("at", "box", np.zeros((1, 0), np.int64)).show(0) == "[]"


def test_numbers_and_bytes_are_grouped():
    assert Fact("n", "count", np.array([1234567])).show(0) == "1,234,567"
    assert Fact("n", "bytes", np.array([1536])).show(0) == "1.50 KiB"


def test_places_are_told_by_axis_and_not_where_there_is_none():
    fact = Fact("at", "place", np.array([[0, 3], [-1, -1]]), ("dp", "tp"))
    assert [fact.show(0), fact.show(1)] == ["dp 0, tp 3", ""]


def test_marks_beyond_the_last_value_have_none():
    assert [Fact("n", "count", np.array([7])).show(i) for i in (0, 1)] == ["7", ""]


def test_categories_of_any_number_fit_and_keep_their_turn():
    many = np.array([-1, 0, 5, 30_239, 30_240, 1 << 40])
    kept = categories(many)
    assert kept.dtype == np.int16
    assert kept.tolist()[:4] == [-1, 0, 5, 30_239]
    assert ((kept[1:] - many[1:]) % len(CYCLE) == 0).all()


def test_marks_of_different_facts_share_columns():
    marks = collect(
        [Mark((0, 0, 1, 1), (0, 1), facts={"a": "x"}), Mark((1, 0, 1, 1), (2,), facts={"b": "y"})]
    )
    assert [[fact.show(i) for fact in marks.facts] for i in range(2)] == [["x", ""], ["", "y"]]
    assert [marks.ranks_of(i) for i in range(2)] == [(0, 1), (2,)]
