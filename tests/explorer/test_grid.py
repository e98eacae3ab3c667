"""Where the ranks of a mesh stand: nested, apart, and framed only where nobody else is between."""

import numpy as np
import pytest

from ckptlab.explorer.grid import CELL, GAP, grid


def cells(*shape, host=None):
    place = np.stack(np.unravel_index(np.arange(np.prod(shape)), shape), 1)
    return grid(shape, place, host), place


@pytest.mark.parametrize(
    "shape", [(1,), (8,), (1024,), (2, 3), (4, 256), (256, 4), (2, 3, 4), (2, 3, 2, 2), (64, 2, 2)]
)
def test_no_two_cells_overlap_and_all_are_within(shape):
    found, _ = cells(*shape)
    assert (found.spot >= 0).all()
    assert (found.spot + CELL <= [found.width, found.height]).all()
    order = np.lexsort((found.spot[:, 0], found.spot[:, 1]))
    x, y = found.spot[order].T
    same_row = np.diff(y) == 0
    assert (np.diff(x)[same_row] >= CELL + GAP - 1e-9).all()
    assert (np.diff(y)[~same_row] >= CELL + GAP - 1e-9).all()
    assert len(set(zip(found.column.tolist(), found.row.tolist(), strict=True))) == len(found.spot)


def test_the_last_axis_lies_along_x_and_a_third_repeats_the_grid_further_apart():
    found, place = cells(2, 2, 3)
    x, y = found.spot.T
    for axis, moves in ((2, x), (1, y)):
        step = [moves[place[:, axis] == i].min() for i in range(2)]
        assert step[1] > step[0]
    blocks = [x[place[:, 0] == i] for i in range(2)]
    assert blocks[1].min() - blocks[0].max() - CELL > GAP  # wider than between neighbours
    assert set(y[place[:, 0] == 0]) == set(y[place[:, 0] == 1])


def test_four_axes_keep_their_order_along_both_ways():
    found, place = cells(2, 2, 2, 2)
    for way, outer, inner in ((0, 1, 3), (1, 0, 2)):
        key = place[:, outer] * 2 + place[:, inner]
        order = np.argsort(key, kind="stable")
        assert (np.diff(found.spot[order, way]) >= 0).all()


@pytest.mark.parametrize("shape", [(1024,), (16384,), (4, 256), (256, 4)])
def test_a_long_axis_is_broken_into_lines(shape):
    found, _ = cells(*shape)
    assert 1 / 3 < found.width / found.height < 3
    assert min(found.line) < max(shape)


@pytest.mark.parametrize("shape", [(8,), (16,), (16, 64), (128, 128), (2, 4)])
def test_a_short_axis_and_a_fair_pair_are_not(shape):
    assert cells(*shape)[0].line == shape


def test_a_frame_is_given_where_nobody_else_is_between():
    found, _ = cells(2, 3)
    assert found.framed(np.array([0, 3])) is not None  # a column
    assert found.framed(np.array([1, 2])) is not None
    assert found.framed(np.array([0, 2])) is None
    assert found.framed(np.array([0, 4])) is None
    x, y, w, h = found.framed(np.arange(6))
    np.testing.assert_allclose([x, y, w, h], [0.1, 0.1, 3 * CELL + 2 * GAP, 2 * CELL + GAP])


def test_hosts_stand_apart_where_they_have_columns_or_rows_to_themselves():
    near, apart = cells(2, 4)[0], cells(2, 4, host=np.arange(8) // 4)[0]
    assert apart.height > near.height
    assert apart.width == near.width
    both = cells(2, 4, host=np.array([0, 0, 1, 1, 2, 2, 3, 3]))[0]
    assert both.width > near.width
    assert both.height > near.height
    mixed = cells(2, 4, host=np.array([0, 1, 0, 1, 1, 0, 1, 0]))[0]
    assert (mixed.width, mixed.height) == (near.width, near.height)
