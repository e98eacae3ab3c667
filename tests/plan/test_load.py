"""Reads carry every wanted element, once, from where the chunks hold it to where the rank wants it."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import at, dtypes, layouts, locals_of, numbered, tensors

from ckptlab.errors import CorruptError
from ckptlab.layout import Layout
from ckptlab.metadata import ITEMSIZE, ChunkColumns, Chunks, Tensor
from ckptlab.plan.holding import fitted, holdings
from ckptlab.plan.load import plan_load
from ckptlab.plan.metadata_of import metadata_of


@settings(max_examples=300, deadline=None)
@given(tensors(), layouts(), layouts())
def test_elements_flow_to_where_the_layout_says(some, source, target):
    saved = metadata_of(some, source)
    plan = plan_load(saved, holdings(some, target))
    of_each = {int(asked): (reads, t) for reads in plan.reads for t, asked in enumerate(reads.asked)}
    for position, tensor in enumerate(some):
        reads, t = of_each[position]
        row = int(reads.rows[t])
        assert (row, reads.itemsize) == (saved.rows[tensor.fqn], ITEMSIZE[tensor.dtype])
        boxes, first = saved.boxes(row), saved.chunk_rows(row).start
        assert reads.chunks[t].tolist() == (first + reads.chunk).tolist()
        whole = numbered(tensor)
        wanted = locals_of(fitted(target, tensor.shape), tensor)
        filled = {rank: np.full_like(local, -1) for rank, local in wanted.items()}
        for i in range(len(reads.rank)):
            stored = whole[boxes[int(reads.chunk[i])].slices]
            into = filled[int(reads.rank[i])][at(reads.target[i], reads.boxes[i].shape)]
            assert into.shape == reads.boxes[i].shape
            assert into.size
            assert (into == -1).all(), "an element is read twice"
            piece = stored[reads.source_box(i).slices]
            assert (piece == whole[reads.boxes[i].slices]).all()
            into[...] = piece
            assert reads.target_box(i).offset == tuple(reads.target[i])
        for rank, local in wanted.items():
            assert (filled[rank] == local).all()
        numel = [reads.boxes[i].numel for i in range(len(reads.rank))]
        assert reads.nbytes.tolist() == [n * reads.itemsize for n in numel]
    assert plan.nbytes.sum() == sum(reads.nbytes.sum() * len(reads.rows) for reads in plan.reads)
    assert len(plan) == sum(map(len, plan.reads)) == len(plan.chunk) == len(plan.rank)


@settings(max_examples=100, deadline=None)
@given(tensors(), layouts(), layouts())
def test_each_read_fills_the_wanted_box_that_it_names(some, source, target):
    wants = holdings(some, target)
    reads_of = {i: r for r in plan_load(metadata_of(some, source), wants).reads for i in r.asked.tolist()}
    for asked, want in enumerate(wants):
        reads = reads_of[asked]
        filled = np.zeros(len(want.shards), np.int64)
        for i in range(len(reads.rank)):
            row = int(reads.want[i])
            assert want.shards.rank[row] == reads.rank[i]
            assert want.shards.boxes[row] & reads.boxes[i] == reads.boxes[i]
            filled[row] += reads.boxes[i].numel
        assert filled.tolist() == want.shards.boxes.numel.tolist()


def test_tensors_of_one_shape_that_were_saved_apart_are_read_apart():
    a, b = (Tensor(fqn, "float32", (4, 4)) for fqn in "ab")
    rows, columns = (metadata_of([a, b], Layout.parse("2", f"Shard({dim})")) for dim in (0, 1))
    both = ChunkColumns()
    for saved, row in ((rows, 0), (columns, 1)):
        both.add(saved.boxes(row), [0, 1], [0, 32], [32, 32])
    saved = dataclasses.replace(rows, chunks=both.build())
    plan = plan_load(saved, holdings([a, b], Layout.parse("2", "Shard(0)")))
    assert [len(reads) for reads in plan.reads] == [2, 4]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([(4, 4), (6, 4)]), dtypes, st.booleans()), min_size=1, max_size=9))
def test_what_is_read_together_is_alike_and_nothing_is_left_out(kinds):
    """They are of one dtype in the target, and under one layout; stored in several dtypes, and cut apart."""
    layouts = [Layout.parse("2", f"Shard({dim})") for dim in (0, 1)]
    stored = [Tensor(f"t{i}", dtype, shape) for i, (shape, dtype, _) in enumerate(kinds)]
    columns = ChunkColumns()
    for tensor, (_, _, turned) in zip(stored, kinds, strict=True):
        one = metadata_of([tensor], layouts[turned])
        columns.add(one.boxes(0), [0, 1], [0, 0], one.chunks.length.tolist())
    saved = dataclasses.replace(metadata_of(stored, layouts[0]), chunks=columns.build())
    wants = holdings([tensor._replace(dtype="float32") for tensor in reversed(stored)], layouts[0])
    seen = []
    for reads in plan_load(saved, wants).reads:
        alike = {(kinds[row][1:], saved.boxes(row).shapes.tobytes()) for row in reads.rows.tolist()}
        assert len(alike) == 1
        assert reads.itemsize == ITEMSIZE[stored[reads.rows[0]].dtype]
        pairs = zip(reads.rows.tolist(), reads.asked.tolist(), strict=True)
        assert all(stored[row].fqn == wants.tensors[asked].fqn for row, asked in pairs)
        assert reads.asked.tolist() == sorted(reads.asked.tolist())
        seen += reads.asked.tolist()
    assert sorted(seen) == list(range(len(kinds)))


def with_chunk(metadata, keep):
    """The same with only these chunks of its one tensor."""
    c, ndim = metadata.chunks, len(metadata.tensors[0].shape)
    boxes = metadata.boxes(0).take(np.array(keep))
    chunks = Chunks(
        np.array([0, len(keep)]), np.array([0, len(keep) * ndim]),
        boxes.offsets.ravel(), boxes.shapes.ravel(), c.file[keep], c.start[keep], c.length[keep],
    )  # fmt: skip
    return dataclasses.replace(metadata, chunks=chunks)


@pytest.mark.parametrize(("keep", "found"), [([0, 1], "0 of the 4"), ([0, 1, 1, 2], "8 of the 4")])
def test_chunks_that_leave_a_hole_or_hold_twice_are_refused(keep, found):
    tensor = Tensor("w", "float32", (6, 2))
    saved = with_chunk(metadata_of([tensor], Layout.parse("3", "Shard(0)")), keep)
    with pytest.raises(CorruptError, match=rf"'w' \[6, 2\]: its chunks hold {found} elements"):
        plan_load(saved, holdings([tensor], Layout.parse("3", "Shard(0)")))


def test_a_hole_that_nobody_wants_is_let_be():
    tensor = Tensor("w", "float32", (6, 2))
    saved = with_chunk(metadata_of([tensor], Layout.parse("3", "Shard(0)")), [0, 1])
    (want,) = holdings([tensor], Layout.parse("3", "Shard(0)"))
    mine = want._replace(shards=want.shards.of(0))
    assert len(plan_load(saved, [mine])) == 1
