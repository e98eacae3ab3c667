"""Indexes as numpy has them: numpy is the judge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import SliceError
from ckptlab.storage.index import parse_index, typed_index, within


@pytest.mark.parametrize(
    "index",
    [
        (),
        ...,
        2,
        -1,
        np.int64(2),
        (..., 3),
        (1, ..., -2),
        (slice(3, 3), 1),
        slice(None, None, -1),
        slice(-100, 100, 7),
        (slice(5, 1, -2), ..., slice(1, None)),
        (slice(None), 0, slice(None, None, 2**70)),
    ],
    ids=str,
)
def test_ranges_rise_and_their_product_is_turned_to_what_was_asked(index):
    whole = np.arange(6 * 3 * 4).reshape(6, 3, 4)
    ranges, view = parse_index(index, whole.shape, "w")
    assert all(r.step > 0 for r in ranges)
    assert np.array_equal(whole[np.ix_(*ranges)][view], whole[index])


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 5), st.integers(0, 9), st.integers(0, 9))
def test_the_part_of_a_range_within_bounds(start, count, step, low, size):
    r = range(start, start + count * step, step)
    part = within(r, low, low + size)
    inside = [i for i, at in enumerate(r) if low <= at < low + size]
    assert inside == (list(range(part.start, part.stop)) if part.start < part.stop else [])


def test_a_scalar_has_no_dim_to_index():
    assert parse_index((), (), "s") == ([], ())
    with pytest.raises(SliceError, match="'s' has 0 dims, and the index has 1 parts"):
        parse_index(0, (), "s")


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("", ()),
        ("[]", ()),
        (" [10:20, ::3] ", (slice(10, 20), slice(None, None, 3))),
        ("-1", (-1,)),
        ("3, ...", (3, ...)),
        (":, 5:1:-2", (slice(None), slice(5, 1, -2))),
        ("[4,]", (4,)),
    ],
)
def test_an_index_is_read_as_it_is_typed(text, index):
    assert typed_index(text) == index


@pytest.mark.parametrize("text", ["x", "[1:2", "1;2", "1:2:3:4", "1.5", "__import__('os')", "1,,2", ":-"])
def test_what_is_no_index_is_refused(text):
    with pytest.raises(SliceError, match="is no part of a tensor"):
        typed_index(text)
