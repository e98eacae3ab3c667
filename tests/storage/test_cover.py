"""Boxes that overlap or leave elements out, and bytes that two claim; numpy counts elements as the judge."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import layouts
from plan_cases import shapes as few

from ckptlab.layout import Box, Boxes
from ckptlab.metadata import ChunkColumns, Extent, Metadata, Tensor, Tensors
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.storage.cover import Piece, check_boxes, check_bytes, differing, gaps, many, pieces


def metadata(shape, boxes, objects=None):
    columns = ChunkColumns()
    n = len(boxes)
    columns.add(Boxes.of(boxes, len(shape)), [0] * n, [100 * i for i in range(n)], [100] * n)
    return Metadata(Tensors.of([Tensor("w", "float32", shape)]), columns.build(), ("f",), (0,), objects or {})


@settings(max_examples=200, deadline=None)
@given(layout=layouts(), shape=few)
def test_what_a_layout_makes_covers_each_element_once(layout, shape):
    if any(getattr(p, "dim", -1) >= len(shape) for p in layout.placements):
        return
    assert list(check_boxes(metadata_of([Tensor("w", "float32", shape)], layout))) == []


boxes_of_4x5 = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 4), st.integers(0, 5)).map(
        lambda t: Box(t[:2], (min(t[2], 4 - t[0]), min(t[3], 5 - t[1])))
    ),
    max_size=5,
)


@settings(max_examples=400, deadline=None)
@given(boxes=boxes_of_4x5)
def test_random_boxes_against_counted_elements(boxes):
    counted = np.zeros((4, 5), int)
    for box in set(boxes):
        counted[box.slices] += 1
    found = list(check_boxes(metadata((4, 5), boxes)))
    if counted.max() > 1:
        assert [f.what for f in found] == ["overlap"]
    elif counted.min() == 0:
        assert [f.what for f in found] == ["hole"]
        assert found[0].keys == ("w",)
    else:
        assert found == []


@pytest.mark.parametrize(
    ("shape", "boxes", "words"),
    [
        ((4, 6), [Box((0, 0), (2, 6))], "tensor 'w' [4, 6] has no chunk for Box[2:4, 0:6]"),
        ((4,), [], "has no chunk for Box[0:4]"),
        ((), [], "has no chunk for Box[]"),
        ((4,), [Box((0,), (3,)), Box((2,), (2,))], "Box[0:3] and Box[2:4], which overlap in Box[2:3]"),
    ],
)
def test_the_place_is_named(shape, boxes, words):
    [found] = check_boxes(metadata(shape, boxes))
    assert words in found.detail


@pytest.mark.parametrize("shape", [(), (0, 3), (2,)])
def test_scalars_replicas_and_tensors_without_elements(shape):
    whole = Box((0,) * len(shape), shape)
    assert list(check_boxes(metadata(shape, [whole, whole]))) == []


def test_pieces_in_the_order_of_bytes():
    found = pieces(metadata((4,), [Box((2,), (2,)), Box((0,), (2,))], {"step": Extent(0, 50, 10)}))
    assert [str(p) for p in found] == [
        "chunk Box[2:4] of tensor 'w', bytes 0 to 100",
        "object 'step', bytes 50 to 60",
        "chunk Box[0:2] of tensor 'w', bytes 100 to 200",
    ]
    assert many(found) == "2 chunks and 1 object"
    assert many(found[1:2]) == "1 object"


def test_a_place_that_old_torch_lists_twice_is_one_piece():
    both = metadata((4,), [Box((0,), (0,)), Box((0,), (4,))])
    same = dataclasses.replace(both.chunks, start=np.zeros(2, np.int64))
    [piece] = pieces(dataclasses.replace(both, chunks=same))
    assert piece.box == Box((0,), (4,))


def at(start, end, file=0, key="w"):
    return Piece(file, start, end - start, key)


def test_bytes_that_two_claim():
    assert list(check_bytes([at(0, 10), at(10, 20), at(5, 20, file=1)], ["f", "g"])) == []
    [first] = check_bytes([at(0, 10), at(5, 8, key="v"), at(10, 11)], ["f"])
    assert first.detail == "f: object 'w', bytes 0 to 10 and object 'v', bytes 5 to 8 lie over each other"
    assert (first.file, first.keys) == ("f", ("w", "v"))
    assert len(list(check_bytes([at(0, 10), at(2, 3), at(9, 12)], ["f"]))) == 2
    assert len(list(check_bytes([at(0, 10), at(10, 20), at(15, 16)], ["f"]))) == 1


def test_what_two_say_differently():
    low, high = Box((0,), (2,)), Box((2,), (2,))
    one = metadata((4,), [high, low], {"step": Extent(0, 50, 10)})
    assert differing(one, metadata((4,), [high, low], {"step": Extent(0, 50, 10)})) == ()
    assert differing(one, metadata((4,), [low, high], {"step": Extent(0, 50, 11)})) == ("w", "step")
    assert differing(one, dataclasses.replace(one, tensors=Tensors.of([Tensor("w", "int32", (4,))]))) == (
        "w",
    )
    assert differing(one, dataclasses.replace(one, files=("g",))) == ("w", "step")
    assert differing(one, metadata((4,), [high, low])) == ("step",)


def test_gaps():
    found = [at(4, 10), at(8, 9), at(12, 20), at(0, 5, file=1)]
    assert list(gaps(found, [25, 5, 3, None])) == [(0, 0, 4), (0, 10, 12), (0, 20, 25), (2, 0, 3)]
