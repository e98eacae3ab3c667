"""The forecast is the plan, summed; checked against marks on every stored element."""

import math

import numpy as np
from hypothesis import given, settings
from plan_cases import layouts, tensors

from ckptlab.layout import Layout
from ckptlab.metadata import ITEMSIZE, Tensor
from ckptlab.plan.forecast import forecast
from ckptlab.plan.holding import fitted, holdings
from ckptlab.plan.load import plan_load
from ckptlab.plan.metadata_of import metadata_of


@settings(max_examples=200, deadline=None)
@given(tensors(), layouts(), layouts())
def test_the_forecast_is_the_sum_of_the_plan(some, source, target):
    saved, wants, world = metadata_of(some, source), holdings(some, target), target.mesh.size
    seen, plan = forecast(saved, wants, world), plan_load(saved, wants)
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
