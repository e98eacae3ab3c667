"""The forecast is the plan, summed; checked against marks on every stored element."""

import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_cases import layouts, tensors

from ckptlab.errors import CorruptError, LayoutError
from ckptlab.layout import Layout, parse_placements
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.plan import forecast as module
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import fitted, holdings, ruled
from ckptlab.plan.load import plan_load
from ckptlab.plan.metadata_of import metadata_of


@settings(max_examples=200, deadline=None)
@given(tensors(), layouts(), layouts(), st.sampled_from([0, module._DENSE]))
def test_the_forecast_is_the_sum_of_the_plan(some, source, target, dense):
    saved, wants, world = metadata_of(some, source), holdings(some, target), target.mesh.size
    with mock.patch.object(module, "_DENSE", dense):
        seen = forecast(saved, wants, world)
    plan = plan_load(saved, wants)
    matrix, reads = np.zeros((world, len(saved.files)), int), np.zeros(world, int)
    for rank, chunk, nbytes in zip(plan.rank, plan.chunk, plan.nbytes, strict=True):
        matrix[rank, saved.chunks.file[chunk]] += nbytes
        reads[rank] += 1
    assert seen.matrix.tolist() == matrix.tolist()
    assert seen.reads.tolist() == reads.tolist()
    assert seen.world == world
    assert seen.total == matrix.sum() == seen.bytes_by_rank.sum() == seen.bytes_by_file.sum()


@settings(max_examples=200, deadline=None)
@given(tensors(), layouts(), layouts())
def test_bytes_wanted_shared_and_read_by_stock(some, source, target):
    saved, world = metadata_of(some, source), target.mesh.size
    seen = forecast(saved, holdings(some, target), world)
    memory, stock, unique = np.zeros(world, int), np.zeros(world, int), 0
    for row, tensor in enumerate(some):
        size, boxes = ITEMSIZE[tensor.dtype], saved.boxes(row)
        layout = fitted(target, tensor.shape)
        shards, read = layout.shards(tensor.shape), np.zeros(tensor.shape, bool)
        for rank in range(world):
            memory[rank] += math.prod(layout.local_shape(tensor.shape, rank)) * size
            mine = shards.of(rank).boxes
            for i in range(len(mine)):
                read[mine[i].slices] = True
                # Stock reads a whole chunk for each of a rank's boxes that meets it.
                stock[rank] += sum(
                    boxes[j].numel * size for j in range(len(boxes)) if (boxes[j] & mine[i]).numel
                )
        unique += int(read.sum()) * size
    assert seen.memory.tolist() == memory.tolist() == seen.bytes_by_rank.tolist()
    assert seen.stock.tolist() == stock.tolist()
    assert seen.unique == unique
    assert seen.shared == seen.total - unique
    assert seen.amplification == 1.0
    assert seen.stock_amplification == (stock.sum() / memory.sum() if memory.sum() else 1.0)


def test_the_known_amplifications_of_stock():
    tensor = Tensor("w", "float32", (2048, 2048))

    def factor(source, target):
        saved = metadata_of([tensor], Layout.parse(*source))
        return forecast(saved, holdings([tensor], Layout.parse(*target)), 4).stock_amplification

    assert factor(("4", "Shard(0)"), ("4", "Shard(1)")) == 4.0
    assert factor(("2x2", "Replicate, Shard(0)"), ("4", "Shard(0)")) == 2.0
    assert factor(("4", "Shard(0)"), ("2x2", "Shard(0), Shard(1)")) == 2.0
    assert factor(("4", "Shard(0)"), ("4", "Shard(0)")) == 1.0


@settings(max_examples=200, deadline=None)
@given(tensors(), layouts(), layouts())
def test_ranks_that_want_the_same_are_one_group(some, source, target):
    world = target.mesh.size + 1
    wants = holdings(some, target)
    seen = forecast(metadata_of(some, source), wants, world)
    held = []
    for rank in range(world):
        mine = [want.shards.of(rank).boxes for want in wants]
        held.append([(sorted(map(repr, (b[i] for i in range(len(b)))))) for b in mine])
    told = {}
    for rank, group in enumerate(seen.group.tolist()):
        assert told.setdefault(group, held[rank]) == held[rank]
    distinct = [boxes for i, boxes in enumerate(held) if boxes not in held[:i]]
    assert [told[group] for group in range(len(seen.table))] == distinct
    assert seen.members.sum() == world
    assert seen.empty.tolist() == [rank for rank in range(world) if not any(held[rank])]


@settings(max_examples=100, deadline=None)
@given(tensors(), layouts(), layouts())
def test_the_largest_read_and_the_largest_chunk(some, source, target):
    saved, wants, world = metadata_of(some, source), holdings(some, target), target.mesh.size
    seen, plan = forecast(saved, wants, world), plan_load(saved, wants)
    largest, whole = np.zeros(world, int), np.zeros(world, int)
    for rank, chunk, nbytes in zip(plan.rank, plan.chunk, plan.nbytes, strict=True):
        largest[rank] = max(largest[rank], nbytes)
        whole[rank] = max(whole[rank], saved.chunks.length[chunk])
    assert seen.largest.tolist() == largest.tolist()
    assert seen.whole.tolist() == whole.tolist()
    assert seen.peak.tolist() == (seen.memory + largest).tolist()
    assert seen.stock_peak.tolist() == (seen.memory + whole).tolist()


@settings(max_examples=100, deadline=None)
@given(tensors(), layouts(), layouts())
def test_one_rank_alone_is_foretold_as_among_all(some, source, target):
    saved, world = metadata_of(some, source), target.mesh.size
    seen = forecast(saved, holdings(some, target), world)
    for rank in range(world):
        alone = forecast(saved, holdings(some, target, [rank]), world)
        assert alone.matrix[rank].tolist() == seen.matrix[rank].tolist()
        assert alone.total == seen.bytes_by_rank[rank]
        assert (alone.reads[rank], alone.memory[rank]) == (seen.reads[rank], seen.memory[rank])


def test_each_key_goes_by_the_first_rule_that_it_fits():
    some = [Tensor(f"m.{name}", "float32", (8, 4)) for name in ("wq", "wo", "norm")]
    rows = Layout.parse("dp=2, tp=2", "Shard(0), Replicate")
    columns, copies = parse_placements("Shard(0), Shard(1)"), parse_placements("Replicate, Replicate")
    chosen = ruled([t.fqn for t in some], rows, [("m.w*", columns), ("*q", copies)])
    assert {fqn: layout.placements for fqn, layout in chosen.items()} == {
        "m.wq": columns,
        "m.wo": columns,
        "m.norm": rows.placements,
    }
    seen = forecast(metadata_of(some, Layout.parse("2", "Shard(0)")), holdings(some, chosen), 4)
    assert seen.memory.tolist() == [32 + 32 + 64] * 4
    with pytest.raises(LayoutError, match=r"'\*.norn'.*did you mean 'm.norm'"):
        ruled([t.fqn for t in some], rows, [("*.norn", copies)])
    with pytest.raises(LayoutError, match="2 axes"):
        ruled([t.fqn for t in some], rows, [("*", copies[:1])])


def test_what_is_missing_is_an_error_that_names_it():
    tensor = Tensor("w", "float32", (8, 4))
    saved = metadata_of([tensor], Layout.parse("4", "Shard(0)"))
    first = np.array([0, 3])
    short = replace(saved, chunks=replace(saved.chunks, first=first))
    with pytest.raises(
        CorruptError, match=r"'w'.* hold 0 of the 8 elements of Box\[6:8, 0:4\], which rank 3"
    ):
        forecast(short, holdings([tensor], Layout.parse("4", "Shard(0)")), 4)
