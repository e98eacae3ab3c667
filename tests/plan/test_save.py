"""Every element is written once, by one who holds it, and the ranks share the work."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import layouts, tensors

from ckptlab.errors import LayoutError
from ckptlab.layout import Box, Boxes, Layout, Shards
from ckptlab.metadata import ITEMSIZE, Metadata, Tensor
from ckptlab.plan.holding import Holding, fitted, holdings
from ckptlab.plan.save import plan_save


@settings(max_examples=200, deadline=None)
@given(tensors(), layouts())
def test_every_element_is_written_once_by_one_who_holds_it(some, layout):
    plan = plan_save(holdings(some, layout), layout.mesh.size)
    assert list(plan.tensors) == some
    assert sorted(row for writes in plan.writes for row in writes.rows.tolist()) == list(range(len(some)))
    written = np.zeros(layout.mesh.size, np.int64)
    for writes in plan.writes:
        for row, writer in zip(writes.rows.tolist(), writes.writer.tolist(), strict=True):
            tensor = some[row]
            assert tensor.dtype == writes.dtype
            count = np.zeros(tensor.shape, int)
            shards = fitted(layout, tensor.shape).shards(tensor.shape)
            for i, rank in enumerate(writer):
                mine = shards.of(rank).boxes
                assert writes.boxes[i] in [mine[j] for j in range(len(mine))]
                count[writes.boxes[i].slices] += 1
                written[rank] += writes.boxes[i].numel * ITEMSIZE[tensor.dtype]
            assert (count == 1).all()
    assert plan.bytes_by_rank.tolist() == written.tolist()


@settings(max_examples=200, deadline=None)
@given(tensors(most=8), layouts())
def test_chunks_stand_one_behind_the_other_in_their_writers_files(some, layout):
    plan = plan_save(holdings(some, layout), layout.mesh.size)
    chunks, end = plan.chunks(lambda dtype, shape: 100 + math.prod(shape) * ITEMSIZE[dtype])
    saved = Metadata(plan.tensors, chunks, (), ())
    for writes in plan.writes:
        for row, writer in zip(writes.rows.tolist(), writes.writer.tolist(), strict=True):
            rows, boxes = saved.chunk_rows(row), saved.boxes(row)
            assert chunks.file[rows].tolist() == writer
            assert [boxes[i] for i in range(len(boxes))] == [writes.boxes[i] for i in range(len(writer))]
            lengths = 100 + boxes.numel * ITEMSIZE[writes.dtype]
            assert chunks.length[rows].tolist() == lengths.tolist()
    for rank in range(layout.mesh.size):
        mine = chunks.file == rank
        order = np.argsort(chunks.start[mine])
        stops = (chunks.start + chunks.length)[mine][order].tolist()
        assert chunks.start[mine][order].tolist() == [0, *stops][:-1]
        assert end[rank] == [0, *stops][-1]


@settings(max_examples=200, deadline=None)
@given(tensors(most=8), layouts(strided=False))
def test_no_rank_writes_more_than_its_share_and_one_chunk(some, layout):
    """In each group of replicas: within one chunk of what the busiest must write at the least."""
    some = [t for t in some if fitted(layout, t.shape) == layout]
    plan = plan_save(holdings(some, layout), layout.mesh.size)
    share: dict[tuple[int, ...], list[int]] = {}
    for tensor in some:
        shards = layout.shards(tensor.shape)
        for ranks in layout.replicas(tensor.shape):
            boxes = shards.of(ranks[0]).boxes
            share.setdefault(ranks, []).extend((boxes.numel * ITEMSIZE[tensor.dtype]).tolist())
    for ranks, chunks in share.items():
        least = max(math.ceil(sum(chunks) / len(ranks)), *chunks)
        assert max(plan.bytes_by_rank[list(ranks)]) <= least + max(chunks)
    assert plan.bytes_by_rank.sum() == sum(sum(chunks) for chunks in share.values())


def test_equal_replicas_are_shared_out_evenly():
    hsdp = Layout.parse("replicate=2,shard=2", "Replicate, Shard(0)")
    some = [Tensor(f"t{i}", "float32", (4, 4)) for i in range(6)]
    assert plan_save(holdings(some, hsdp), 4).bytes_by_rank.tolist() == [96] * 4


def test_whether_there_are_replicas():
    some = [Tensor("t", "float32", (4, 4))]
    for placements, replicated in (("Shard(0), Shard(1)", False), ("Replicate, Shard(0)", True)):
        held = holdings(some, Layout.parse("2x2", placements))
        assert plan_save(held, 4).replicated is replicated


def test_large_replicas_are_given_out_first():
    copies = Layout.parse("2", "Replicate")
    some = [Tensor("small", "uint8", (1,)), Tensor("other", "uint8", (1,)), Tensor("large", "uint8", (2,))]
    assert plan_save(holdings(some, copies), 2).bytes_by_rank.tolist() == [2, 2]


@settings(deadline=None)
@given(layouts(), st.integers(1, 3))
def test_the_same_input_gives_the_same_plan(layout, size):
    some = [Tensor("a", "float32", (size, 5)), Tensor("b", "int64", (7,))]
    one, two = (plan_save(holdings(some, layout), layout.mesh.size) for _ in range(2))
    for a, b in zip(one.writes, two.writes, strict=True):
        assert a.writer.tolist() == b.writer.tolist()
        assert a.boxes.offsets.tolist() == b.boxes.offsets.tolist()


def held(shape, *boxes):
    """A tensor of which rank i holds box i."""
    all_boxes = Boxes.of([Box(*box) for box in boxes])
    ranks = np.arange(len(boxes))
    return [
        Holding(Tensor("w", "float32", shape), Shards(ranks, all_boxes, np.zeros_like(all_boxes.offsets)))
    ]


def test_boxes_that_overlap_are_refused():
    with pytest.raises(LayoutError, match=r"'w'.*Box\[0:3\] and Box\[2:4\] overlap"):
        plan_save(held((4,), ((0,), (3,)), ((2,), (2,))), 2)


def test_elements_that_nobody_holds_are_refused():
    with pytest.raises(LayoutError, match=r"'w' \[4\].*hold 3 of its 4 elements"):
        plan_save(held((4,), ((0,), (2,)), ((3,), (1,))), 2)
