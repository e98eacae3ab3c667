"""Boxes: overlaps in columns against every pair tried by hand."""

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.layout import Box, Boxes, box, overlaps


def boxes(ndim):
    pair = st.tuples(
        st.tuples(*[st.integers(0, 12)] * ndim),
        st.tuples(*[st.integers(0, 6)] * ndim),
    )
    return st.lists(pair.map(lambda p: Box(*p)), max_size=12)


@pytest.mark.parametrize("few", [0, 4096], ids=["sorted", "each pair"])
@settings(max_examples=400, deadline=None)
@given(case=st.integers(1, 3).flatmap(lambda n: st.tuples(st.just(n), boxes(n), boxes(n))))
def test_overlaps_are_all_pairs_that_share_elements(few, case):
    ndim, left, right = case
    with mock.patch.object(box, "_FEW_PAIRS", few):
        found = overlaps(Boxes.of(left, ndim), Boxes.of(right, ndim))
    expected = [(i, j, a & b) for i, a in enumerate(left) for j, b in enumerate(right) if (a & b).numel]
    assert [
        (i, j, found.boxes[n])
        for n, (i, j) in enumerate(zip(found.a.tolist(), found.b.tolist(), strict=True))
    ] == expected


def test_boxes_of_scalars_meet():
    assert len(overlaps(Boxes.of([Box((), ())]), Boxes.of([Box((), ()), Box((), ())])).a) == 2


def test_a_grid_is_searched_in_little_more_than_its_size():
    rows = Boxes.of([Box((i, 0), (1, 4)) for i in range(20_000)])
    found = overlaps(rows, rows)
    assert found.a.tolist() == found.b.tolist() == list(range(20_000))


def test_a_box_counts_from_another():
    assert Box((5, 6), (2, 2)).within(Box((4, 4), (8, 8))) == Box((1, 2), (2, 2))
