"""Two dims of a tensor laid flat: tiles never overlap, whatever the number of dims, and facts stay exact."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.errors import LayoutError
from ckptlab.explorer.plane import met, placed, plane, sliced, ticks
from ckptlab.layout import Boxes, Layout, Mesh, Shard


def cut(shape, *mesh):
    """The boxes of a tensor cut along its first dims."""
    layout = Layout(Mesh(mesh, tuple("abcde"[: len(mesh)])), tuple(Shard(d) for d in range(len(mesh))))
    return layout.shards(shape).distinct.boxes


def painted(flat, boxes):
    """How many of the boxes that are drawn cover each element of the plane, by their rectangles."""
    rows, columns = (flat.shape[d] if d >= 0 else 1 for d in (flat.y, flat.x))
    cover = np.zeros((rows, columns), int)
    unit = np.array([flat.width / max(columns, 1), flat.height / max(rows, 1)] * 2)
    for x, y, w, h in np.rint(placed(flat, boxes.take(met(flat, boxes))) / unit).astype(int).tolist():
        cover[y : y + h, x : x + w] += 1
    return cover


@st.composite
def tensors(draw):
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=2, max_size=4)))
    mesh = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=len(shape))))
    dims = draw(st.one_of(st.none(), st.permutations(range(len(shape))).map(lambda p: (p[0], p[1]))))
    return shape, mesh, dims, tuple(draw(st.integers(0, n - 1)) for n in shape)


@given(tensors())
def test_every_element_of_the_plane_is_drawn_once(case):
    shape, mesh, dims, at = case
    boxes = cut(shape, *mesh)
    flat = plane(shape, boxes, dims, at)
    assert (painted(flat, boxes) == 1).all()
    # And each element by the very box that holds it.
    for row in met(flat, boxes).tolist():
        index = [o if d in (flat.x, flat.y) else flat.at[d] for d, o in enumerate(boxes.offsets[row])]
        inside = [
            o <= i < o + n for o, i, n in zip(boxes.offsets[row], index, boxes.shapes[row], strict=True)
        ]
        assert all(inside)


def test_dims_that_are_cut_most_are_drawn():
    assert [plane((4, 4, 4), cut((4, 4, 4), 1, 2, 2)).y, plane((4, 4, 4), cut((4, 4, 4), 1, 2, 2)).x] == [
        1,
        2,
    ]
    flat = plane((8, 1, 5), cut((8, 1, 5), 4))
    assert (flat.y, flat.x) == (0, 2)
    assert plane((), Boxes.of([], 0)).x == plane((), Boxes.of([], 0)).y == -1
    assert (plane((7,), cut((7,), 2)).y, plane((7,), cut((7,), 2)).x) == (-1, 0)


def test_a_slice_is_said_and_whether_it_matters():
    boxes = cut((4, 6, 8), 2, 2, 2)
    assert sliced(plane((4, 6, 8), boxes, (1, 2), (3, 0, 0)), boxes) == "[3, :, :]"
    boxes = cut((4, 6, 8), 1, 2, 2)
    assert sliced(plane((4, 6, 8), boxes, (1, 2)), boxes) == "[0, :, :], as at every other index"
    assert sliced(plane((6, 8), cut((6, 8), 2)), cut((6, 8), 2)) == ""


@pytest.mark.parametrize(
    ("dims", "at"), [((0, 0), ()), ((0, 3), ()), ((-1, 0), ()), (None, (0, 0, 8)), (None, (0, 0))]
)
def test_dims_and_indices_that_are_not_there_are_refused(dims, at):
    with pytest.raises(LayoutError, match=r"\[4, 6, 8\]"):
        plane((4, 6, 8), cut((4, 6, 8), 2), dims, at)


def test_a_vector_has_no_two_dims():
    with pytest.raises(LayoutError):
        plane((4,), cut((4,), 2), (0, 1))


def test_ends_are_told_before_what_is_between_them():
    flat = plane((10, 4), cut((10, 4), 4))
    down = [note.text for note in ticks(flat, cut((10, 4), 4)) if note.anchor == "end"]
    assert down == ["0", "10", "3", "6", "9"]
    many = [
        note.text
        for note in ticks(plane((64, 4), cut((64, 4), 64)), cut((64, 4), 64))
        if note.anchor == "end"
    ]
    assert many == ["0", "64"]
