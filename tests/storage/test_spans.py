import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.storage import spans as module
from ckptlab.storage.spans import GAP, SMALL, Kept, Spans


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


def test_a_thing_is_fetched_once_whoever_asks():
    kept, fetched, go = Kept(), [], threading.Event()

    def fetch():
        fetched.append(1)
        assert go.wait(60)
        return b"it"

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(kept.get, "key", fetch) for _ in range(4)]
        go.set()
        assert [one.result(60) for one in asked] == [b"it"] * 4
    assert len(fetched) == 1
    kept.clear()
    assert kept.get("key", lambda: b"new") == b"new"


def test_a_failure_is_raised_and_not_kept():
    kept = Kept()

    def fail():
        raise ValueError("the cause")

    for _ in range(2):
        with pytest.raises(ValueError, match="the cause"):
            kept.get("key", fail)
    assert kept.get("key", lambda: b"it") == b"it"


def test_what_was_not_asked_for_the_longest_goes_first(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 10)
    kept, fetched = Kept(), []

    def get(key, nbytes=4):
        kept.get(key, lambda: fetched.append(key) or bytes(nbytes))

    for key in "abacab":
        get(key)
    assert fetched == ["a", "b", "c", "b"]
    get("large", 100)
    get("large", 100)
    assert fetched[-1] == "large"
    assert fetched.count("large") == 1
