"""Layouts against torch: the same local shape, offset and elements, over random meshes and shapes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.distributed.tensor import Replicate as TorchReplicate
from torch.distributed.tensor import Shard as TorchShard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard

from ckptlab.errors import LayoutError
from ckptlab.layout import Layout, Mesh, Replicate, Shard, StridedShard


def to_torch(placement):
    if isinstance(placement, StridedShard):
        return _StridedShard(placement.dim, split_factor=placement.split_factor)
    return TorchShard(placement.dim) if isinstance(placement, Shard) else TorchReplicate()


@st.composite
def cases(draw, strided=True):
    shape = tuple(draw(st.lists(st.integers(0, 13), min_size=1, max_size=3)))
    mesh = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    dims = st.integers(0, len(shape) - 1)
    kinds = [st.just(Replicate()), st.builds(Shard, dims)]
    if strided:
        kinds.append(st.builds(StridedShard, dims, st.integers(1, 4)))
    placements = tuple(draw(st.one_of(kinds)) for _ in mesh)
    return shape, Layout(Mesh(mesh), placements)


def over_tp(layout):
    """Whether one axis cuts what those after it left; torch tells uneven ones otherwise than FSDP2 cuts."""
    strided = [p for p in layout.placements if isinstance(p, StridedShard) and p.split_factor > 1]
    for axis, placement in enumerate(layout.placements):
        after = [
            n
            for n, other in zip(layout.mesh.shape[axis + 1 :], layout.placements[axis + 1 :], strict=True)
            if not isinstance(other, Replicate) and other.dim == getattr(placement, "dim", None)
        ]
        if placement in strided and placement.split_factor == math.prod(after):
            return True
    return False


@settings(max_examples=1500, deadline=None)
@given(cases())
def test_local_shape_and_offset_are_torchs(case):
    shape, layout = case
    assume(not over_tp(layout))
    theirs = [to_torch(p) for p in layout.placements]
    for rank in range(layout.mesh.size):
        where = list(layout.mesh.coordinate(rank))
        local, offset = _compute_local_shape_and_global_offset(shape, layout.mesh.shape, where, theirs)
        assert layout.local_shape(shape, rank) == tuple(local)
        assert layout.first_offset(shape, rank) == tuple(offset)


def elements_by_torch(shape, layout, rank):
    """The local tensor of `rank`, cut by the tensor split of torch's own placements, axis after axis."""
    held = torch.arange(math.prod(shape)).reshape(shape)
    for axis, placement in enumerate(layout.placements):
        if isinstance(placement, Replicate):
            continue
        parts, _ = to_torch(placement)._split_tensor(held, layout.mesh.shape[axis], with_padding=False)
        held = parts[layout.mesh.coordinate(rank)[axis]]
    return held.numpy()


@settings(max_examples=400, deadline=None)
@given(cases())
def test_boxes_hold_the_elements_of_torchs_local_tensor(case):
    shape, layout = case
    assume(not over_tp(layout))
    whole = np.arange(math.prod(shape)).reshape(shape)
    for rank in range(layout.mesh.size):
        mine = layout.shards(shape).of(rank)
        local = np.full(layout.local_shape(shape, rank), -1)
        for i in range(len(mine)):
            box = mine.boxes[i]
            corner = mine.local[i]
            local[tuple(slice(o, o + n) for o, n in zip(corner, box.shape, strict=True))] = whole[box.slices]
        expected = elements_by_torch(shape, layout, rank)
        assert local.tolist() == expected.tolist() or local.size == expected.size == 0


@settings(max_examples=200, deadline=None)
@given(cases(), st.randoms())
def test_ranks_of_a_mesh_may_stand_in_any_order(case, random):
    shape, layout = case
    ranks = list(range(10, 10 + layout.mesh.size))
    random.shuffle(ranks)
    moved = Layout(Mesh(layout.mesh.shape, ranks=tuple(ranks)), layout.placements)
    for place, rank in enumerate(ranks):
        theirs, ours = layout.shards(shape).of(place).boxes, moved.shards(shape).of(rank).boxes
        assert theirs.offsets.tolist() == ours.offsets.tolist()
        assert theirs.shapes.tolist() == ours.shapes.tolist()


def test_fsdp_over_tp_is_one_box_a_rank_in_tp_major_order():
    layout = Layout(Mesh((2, 2), ("dp", "tp")), (StridedShard(0, 2), Shard(0)))
    rows = {r: layout.shards((8, 8)).of(r).boxes[0].slices[0] for r in range(4)}
    assert rows == {0: slice(0, 2), 1: slice(4, 6), 2: slice(2, 4), 3: slice(6, 8)}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 60), st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=2))
def test_fsdp_over_tp_cuts_what_tp_left_whatever_divides(rows, fsdp, inner):
    """As `fully_shard` does with a tensor that one or two other axes cut."""
    placements = StridedShard(0, math.prod(inner)), *(Shard(0) for _ in inner)
    layout = Layout(Mesh((fsdp, *inner)), placements)
    for rank in range(layout.mesh.size):
        at, *ats = layout.mesh.coordinate(rank)
        held = torch.arange(rows)
        for n, place in zip([*inner, fsdp], [*ats, at], strict=True):
            parts = held.chunk(n)
            held = parts[place] if place < len(parts) else held[:0]
        mine = layout.shards((rows,)).of(rank)
        assert layout.local_shape((rows,), rank) == (len(held),)
        found = [low + i for low in mine.boxes.offsets.ravel().tolist() for i in range(len(held))]
        assert found == held.tolist()


def test_a_local_shard_that_is_no_box_is_several():
    shards = Layout(Mesh((2,)), (StridedShard(0, 2),)).shards((8,))
    assert shards.rank.tolist() == [0, 0, 1, 1]
    assert shards.boxes.offsets.ravel().tolist() == [0, 4, 2, 6]
    assert shards.local.ravel().tolist() == [0, 2, 0, 2]


def test_ranks_left_empty_have_no_rows():
    layout = Layout(Mesh((4,)), (Shard(0),))
    assert layout.shards((5,)).rank.tolist() == [0, 1, 2]
    assert layout.local_shape((5,), 3) == (0,)


def test_a_scalar_is_held_by_all():
    assert Layout(Mesh((2, 2)), (Replicate(), Replicate())).replicas(()) == ((0, 1, 2, 3),)


@pytest.mark.parametrize(
    ("shape", "placement", "words"),
    [((), Shard(0), "scalar"), ((4,), Shard(1), "1 dims"), ((4, 4), Shard(-3), "dim -3")],
)
def test_a_dim_that_is_not_there_is_named(shape, placement, words):
    with pytest.raises(LayoutError, match=words):
        Layout(Mesh((2,), ("dp",)), (placement,)).shards(shape)


def test_placements_must_be_one_for_each_axis():
    with pytest.raises(LayoutError, match="2 axes"):
        Layout(Mesh((2, 2)), (Shard(0),))


@settings(max_examples=200, deadline=None)
@given(cases(), st.randoms())
def test_some_ranks_hold_what_they_hold_among_all(case, random):
    shape, layout = case
    some = random.sample(range(layout.mesh.size), random.randint(0, layout.mesh.size))
    seen = layout.shards(shape, some)
    assert list(dict.fromkeys(seen.rank.tolist())) == [
        r for r in some if layout.shards(shape).of(r).rank.size
    ]
    for rank in some:
        mine, whole = seen.of(rank), layout.shards(shape).of(rank)
        assert mine.boxes.offsets.tolist() == whole.boxes.offsets.tolist()
        assert mine.boxes.shapes.tolist() == whole.boxes.shapes.tolist()
        assert mine.local.tolist() == whole.local.tolist()


def test_a_mesh_without_a_shard_has_no_replicas():
    assert Layout(Mesh((4,)), (Shard(0),)).replicas((0, 3)) == ()
