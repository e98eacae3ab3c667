import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.plan import spans as module
from ckptlab.plan.spans import GAP, SMALL, Spans, cut, cut_one


def spans(*extents):
    made = Spans.of(*(np.array(column, np.int64) for column in zip(*extents, strict=True)))
    return list(zip(made.starts.tolist(), made.ends.tolist(), strict=True))


def test_neighbours_are_one_span():
    assert spans((0, 10), (10, 5), (20, 5)) == [(0, 25)]
    assert spans((20, 5), (0, 10)) == [(0, 25)]


def test_what_lies_far_apart_is_not():
    assert spans((0, 10), (10 + GAP, 5)) == [(0, 15 + GAP)]
    assert spans((0, 10), (11 + GAP, 5)) == [(0, 10), (11 + GAP, 16 + GAP)]


def test_long_and_empty_extents_are_left_out():
    assert spans((0, SMALL + 1), (SMALL + 1, SMALL), (7, 0)) == [(SMALL + 1, 2 * SMALL + 1)]
    assert spans((0, SMALL + 1)) == []


def test_long_spans_are_cut(monkeypatch):
    monkeypatch.setattr(module, "SPAN", 100)
    assert spans(*((i * 30, 30) for i in range(8))) == [(0, 120), (120, 210), (210, 240)]


extents = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 300)), min_size=1, max_size=30)


@given(extents)
def test_each_small_extent_lies_in_a_span_and_spans_hold_little_else(extents):
    small, gap, span = module.SMALL, module.GAP, module.SPAN
    module.SMALL, module.GAP, module.SPAN = 200, 50, 500
    try:
        made = Spans.of(*(np.array(column, np.int64) for column in zip(*extents, strict=True)))
    finally:
        module.SMALL, module.GAP, module.SPAN = small, gap, span
    wanted = np.zeros(5000, bool)
    for start, length in extents:
        if 0 < length <= 200:
            wanted[start : start + length] = True
            whole = [a <= start and start + length <= b for a, b in zip(made.starts, made.ends, strict=True)]
            assert any(whole)
    assert (np.diff(made.starts) > 0).all()
    for a, b in zip(made.starts.tolist(), made.ends.tolist(), strict=True):
        assert wanted[a]
        assert wanted[b - 1]
        assert b - a <= 500 + 200
        gaps = np.diff(np.flatnonzero(np.r_[True, wanted[a:b], True])) - 1
        assert gaps.max() <= 50


def test_bytes_are_found_in_the_span_that_holds_them_all():
    made = Spans(np.array([10, 100]), np.array([50, 200]))
    assert made.around(10, 40) == (10, 50)
    assert made.around(199, 1) == (100, 200)
    for start, length in [(9, 2), (10, 41), (50, 1), (150, 51), (0, 1), (300, 1)]:
        assert made.around(start, length) is None


def test_a_run_is_one_piece_and_columns_of_short_rows_too():
    assert cut_one((3, 8), (8, 1), 4) == (0, 96)
    assert cut_one((3, 2), (8, 1), 4) == (0, (16 + 2) * 4)
    assert cut_one((), (), 8) == (0, 8)


def test_columns_far_apart_are_fetched_row_by_row():
    row = GAP // 4
    assert cut_one((3, 8), (row + 8, 1), 4) == (0, (2 * (row + 8) + 8) * 4)
    assert cut_one((3, 8), (row + 9, 1), 4) == (1, 32)
    # Rows of planes that lie far apart: each plane by itself, its rows together.
    assert cut_one((2, 3, 8), (row * 9, 16, 1), 4) == (1, (32 + 8) * 4)
    # One row of each plane, a column of each row.
    assert cut_one((2, 3, 8), (row * 9, 2 * row, 1), 4) == (2, 32)
    assert cut_one((2, 1, 8), (row + 8, 999 * row, 1), 4) == (0, (row + 16) * 4)


@given(st.data())
def test_pieces_hold_each_wanted_element_once_and_little_else(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    whole = [n + data.draw(st.integers(0, 4)) for n in shape]
    strides = np.cumprod([1, *whole[:0:-1]])[::-1]
    gap, module.GAP = module.GAP, 6
    try:
        dims, nbytes = cut(np.array([shape]), strides[None], 1)
    finally:
        module.GAP = gap
    depth = int(dims[0])
    inner = [range(n) for n in shape[depth:]]
    there = sorted(int(np.dot(at, strides[depth:])) for at in np.ndindex(*map(len, inner)))
    assert there[0] == 0
    assert nbytes[0] == there[-1] + 1
    assert max(np.diff(there), default=1) - 1 <= 6
    starts = sorted(int(np.dot(at, strides[:depth])) for at in np.ndindex(*shape[:depth]))
    # Along the dim that was cut, the next piece is too far away to come with this one.
    if depth:
        assert min(np.diff(starts), default=99) - nbytes[0] > 6
