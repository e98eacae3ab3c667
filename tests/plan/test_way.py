"""Ways of stored elements into targets, against numpy's own answer."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transforms import numbers, random_case

from ckptlab.errors import LayoutError
from ckptlab.layout import Layout, Mesh, Replicate, Shard, StridedShard
from ckptlab.plan.transform import Part
from ckptlab.plan.way import carried, way

LAYOUTS = [
    Layout(Mesh((4,)), (Shard(0),)),
    Layout(Mesh((4,)), (Replicate(),)),
    Layout(Mesh((2, 2)), (Shard(0), Shard(1))),
    Layout(Mesh((2, 2)), (Shard(1), Shard(1))),
    Layout(Mesh((2, 2)), (Replicate(), StridedShard(0, 2))),
]


def any_layout(random, shape):
    layout = random.choice(LAYOUTS)
    fits = [isinstance(p, Replicate) or p.dim < len(shape) for p in layout.placements]
    return Layout(
        layout.mesh, tuple(p if ok else Replicate() for p, ok in zip(layout.placements, fits, strict=True))
    )


def any_memory(random, shape):
    """Room for an array of this shape, its dims in any order in memory, with gaps or not; and the array."""
    order = random.sample(range(len(shape)), len(shape))
    room = np.full([shape[d] + random.randint(0, 1) for d in order], -9, np.float32)
    turned = room.transpose([order.index(d) for d in range(len(shape))])
    return room, turned[(*(slice(0, n) for n in shape), ...)]


def places(shards):
    """Where each shard lies in the local array, and in the whole."""
    for i in range(len(shards)):
        corner, shape = shards.local[i].tolist(), shards.boxes.shapes[i].tolist()
        yield tuple(slice(a, a + n) for a, n in zip(corner, shape, strict=True)), shards.boxes[i].slices


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_any_part_of_any_shard_is_what_numpy_says(seed):
    random = Random(seed)
    case = random_case(random)
    stored, before = numbers(case.stored), numbers(case.target, -10_000)
    wanted = case.applied(stored, before)
    path, layout = way(case.part, case.stored, case.target), any_layout(random, case.target)
    for rank in range(4):
        shards = layout.shards(case.target).of(rank)
        room, local = any_memory(random, layout.local_shape(case.target, rank))
        for here, there in places(shards):
            local[here] = before[there]
        moved = carried(path, shards, (tuple(n // 4 for n in local.strides),) * len(shards))
        for i, strides in enumerate(moved.strides):
            box = moved.shards.boxes[i]
            view = np.ndarray(box.shape, np.float32, room, 4 * int(moved.start[i]), [4 * n for n in strides])
            view[...] = stored[box.slices]
        assert all((local[here] == wanted[there]).all() for here, there in places(shards))


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_what_a_part_fills_is_what_numpy_says(seed):
    case = random_case(Random(seed))
    wanted = case.applied(numbers(case.stored), np.zeros(case.target, np.float32))
    filled = np.zeros(case.target)
    for box in way(case.part, case.stored, case.target).filled:
        filled[box.slices] += 1
    assert (filled == (wanted > 0)).all()


def test_a_plain_way_is_told_from_others():
    assert way(Part("s"), (4, 4), (4, 4)).plain
    assert way(Part("s", stored=((0, 4), (0, 4)), dims=(0, 1)), (4, 4), (4, 4)).plain
    assert not way(Part("s", dims=(1, 0)), (4, 4), (4, 4)).plain
    assert not way(Part("s", stored=((0, 2), (0, 4))), (4, 4), (2, 4)).plain
    assert not way(Part("s"), (), (1,)).plain


def test_a_turned_square_is_not_taken_for_another_order_of_dims():
    assert (
        carried(way(Part("s", dims=(1, 0)), (3, 3), (3, 3)), LAYOUTS[1].shards((3, 3)), ((3, 1),) * 4).strides
        == ((1, 3),) * 4
    )


@pytest.mark.parametrize(
    ("part", "stored", "target", "why"),
    [
        (Part("s", shape=(5, 5)), (4, 6), (5, 5), "4 x 6 cannot be seen as 5 x 5"),
        (Part("s", dims=(0, 1)), (8,), (8,), r"dims \(0, 1\) are not those of 8"),
        (Part("s", stored=((0, 5), (0, 6))), (4, 6), (5, 6), r"stored=\[0:5, 0:6\] is not within 4 x 6"),
        (Part("s", into=((0, 4), (1, 7))), (4, 6), (4, 6), r"into=\[0:4, 1:7\] is not within 4 x 6"),
        (Part("s", stored=((0, 4),)), (4, 6), (4, 6), r"4 elements do not go into 4 x 6 \(24 elements\)"),
        (Part("s"), (4, 6), (6, 4), r"makes no 6 x 4 of 4 x 6; dims=\(1, 0\) swaps them"),
        (Part("s"), (4, 6), (3, 8), "merging or splitting dims makes no 3 x 8 of 4 x 6"),
    ],
)
def test_a_part_that_cannot_be_is_refused_with_the_reason(part, stored, target, why):
    with pytest.raises(LayoutError, match=why):
        way(part, stored, target)


def test_a_shard_that_would_be_far_too_many_boxes_is_refused():
    path = way(Part("s"), (1 << 20,), (1 << 17, 8))
    columns = Layout(Mesh((4,)), (Shard(1),)).shards((1 << 17, 8))
    with pytest.raises(LayoutError, match="131072 of them, more than 65536"):
        carried(path, columns, ((2, 1),) * 4)
    rows = Layout(Mesh((4,)), (Shard(0),)).shards((1 << 17, 8))
    assert len(carried(path, rows, ((8, 1),) * 4).row) == 4
