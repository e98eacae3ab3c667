"""Boxes of a tensor seen under another shape: as few as go, and every element once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.layout import Box
from ckptlab.plan.regrid import Piece, groups, refines, without

SIZES = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@st.composite
def boxes_in(draw, shape):
    low = [draw(st.integers(0, n - 1)) for n in shape]
    return Box(tuple(low), tuple(draw(st.integers(1, n - a)) for n, a in zip(shape, low, strict=True)))


@settings(max_examples=100)
@given(st.data(), st.lists(st.integers(2, 4), min_size=1, max_size=3).map(tuple))
def test_what_is_left_of_a_box(data, shape):
    whole, taken = data.draw(boxes_in(shape)), data.draw(st.lists(boxes_in(shape), min_size=1, max_size=3))
    count = np.zeros(shape, np.int64)
    for box in without(whole, taken):
        count[(*box.slices, ...)] += 1
    wanted = np.zeros(shape, np.int64)
    wanted[(*whole.slices, ...)] = 1
    for box in taken:
        wanted[(*box.slices, ...)] = 0
    assert (count == wanted).all()


@settings(max_examples=50)
@given(SIZES, st.data())
def test_groups_hold_the_same_and_cover_all_dims(old, data):
    new = tuple(data.draw(st.permutations(old)))
    found = groups(old, new)
    assert [d for a, b, _, _ in found for d in range(a, b)] == list(range(len(old)))
    assert [d for _, _, c, d_ in found for d in range(c, d_)] == list(range(len(new)))
    assert all(math.prod(old[a:b]) == math.prod(new[c:d]) for a, b, c, d in found)


def test_what_is_left_round_a_hole_and_groups_as_small_as_go():
    assert [box.numel for box in without(Box((0, 0), (4, 4)), [Box((1, 1), (2, 2))])] == [4, 4, 2, 2]
    assert groups((2, 6, 4), (3, 4, 2, 2)) == [(0, 2, 0, 2), (2, 3, 2, 4)]


@pytest.mark.parametrize(
    ("old", "new", "fine"),
    [
        ((), (1, 1), True),
        ((4, 8), (1, 4, 1, 8), True),
        ((2, 3, 4), (6, 4), True),
        ((2, 3, 4), (2, 12), True),
        ((6, 4), (2, 12), False),
        ((6, 4), (4, 6), False),
        ((6, 4), (5, 4), False),
        ((0, 4), (0,), True),
    ],
)
def test_dims_are_merged_or_split_but_not_regrouped(old, new, fine):
    assert refines(old, new) is fine


def test_whole_rows_stay_in_one_box():
    half = Piece(Box((0, 2), (6, 4)), 0, (10, 1))
    assert half.reshaped((6, 10), (2, 3, 10)) == [Piece(Box((0, 0, 2), (2, 3, 4)), 0, (30, 10, 1))]
    assert len(half.reshaped((6, 10), (60,))) == 6
    assert Piece(Box((1, 0), (4, 10)), 0, (10, 1)).reshaped((6, 10), (60,)) == [
        Piece(Box((10,), (40,)), 0, (1,))
    ]
