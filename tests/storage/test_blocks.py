"""Blocks of stored tensors: together they are what numpy's own indexing gives, each element once."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from saved import HSDP

from ckptlab import Layout, save
from ckptlab.errors import CorruptError, SliceError
from ckptlab.metadata import Tensor
from ckptlab.plan.metadata_of import metadata_of
from ckptlab.storage import open_checkpoint
from ckptlab.storage.blocks import blocks
from ckptlab.storage.index import typed_index
from ckptlab.storage.stored import StoredTensor


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "checkpoint"
    state = {
        "w": torch.arange(7 * 5 * 3, dtype=torch.int32).reshape(7, 5, 3),
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
    }
    save(state, path, no_dist=True)
    return open_checkpoint(path)


class Cut:
    """A tensor in memory as if it were stored in the chunks of a layout."""

    def __init__(self, layout, array):
        tensor = Tensor("w", str(array.dtype), array.shape)
        self.metadata, self.array, self.asked = metadata_of([tensor], layout), array, []
        self.path, self.payloads, self.values, self.crcs, self.files = "memory", None, None, None, None

    def tensor(self):
        cut = self

        class Kept(StoredTensor):
            def fill(self, bits, ranges):
                cut.asked.append(ranges)
                bits[...] = cut.array[np.ix_(*ranges)]

        return Kept(self, 0)


def put_together(tensor, index, most):
    """An array of the tensor's shape with what came, and how often each element came."""
    found, times = np.zeros(tensor.shape, np.int64), np.zeros(tensor.shape, int)
    for block in blocks(tensor, index, most):
        assert block.values.nbytes <= most
        there = np.ix_(*block.ranges)
        found[there], times[there] = block.values, times[there] + 1
    return found, times


PARTS = ["", "...", "[1:6:2, ::-2]", "-1", ":, :, 1", "[6:2]", "2:5, 1, 0:3:2"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("most", [4, 12, 20, 100, 1 << 20])
def test_blocks_are_the_part_each_element_once(saved, part, most):
    index = typed_index(part)
    whole = saved["w"].numpy()
    wanted = np.zeros(whole.shape, int)
    wanted[index] = 1
    found, times = put_together(saved["w"], index, most)
    np.testing.assert_array_equal(times, wanted)
    np.testing.assert_array_equal(found, whole * wanted)


@pytest.mark.parametrize(
    "layout", [HSDP, Layout.parse("a=3, b=2", "Shard(1), Shard(0)"), Layout.parse("4", "Shard(2)")]
)
def test_no_block_crosses_a_chunk_and_they_come_as_they_lie(layout):
    cut = Cut(layout, np.arange(7 * 5 * 3).reshape(7, 5, 3))
    found, times = put_together(cut.tensor(), ..., 64)
    np.testing.assert_array_equal(found, cut.array)
    assert (times == 1).all()
    boxes = cut.metadata.boxes(0)
    of = []
    for ranges in cut.asked:
        low = tuple(r.start for r in ranges)
        (home,) = [
            i
            for i in range(len(boxes))
            if all(o <= x < e for o, x, e in zip(boxes[i].offset, low, boxes[i].stop, strict=True))
        ]
        assert all(r[-1] < end for r, end in zip(ranges, boxes[home].stop, strict=True))
        of.append(home)
    chunks = cut.metadata.chunks
    places = [(int(chunks.file[i]), int(chunks.start[i])) for i, _ in itertools.groupby(of)]
    assert places == sorted(places)


def test_scalars_and_empty_tensors(saved):
    (only,) = blocks(saved["scalar"])
    assert only.ranges == ()
    assert only.values.shape == ()
    assert float(only.values) == 2.5
    assert list(blocks(saved["empty"])) == []


def test_what_is_stored_nowhere_is_said_before_the_first_block(saved):
    chunks = saved.metadata.chunks
    shapes = chunks.shapes.copy()
    row = saved.metadata.rows["w"]
    shapes[chunks.corner[row]] -= 1
    torn = dataclasses.replace(
        saved, metadata=dataclasses.replace(saved.metadata, chunks=dataclasses.replace(chunks, shapes=shapes))
    )
    with pytest.raises(CorruptError, match="hold 90 of the 105"):
        next(blocks(torn["w"]))


def test_a_part_that_there_is_not_is_refused(saved):
    with pytest.raises(SliceError, match="has 3 dims, and the index has 4 parts"):
        next(blocks(saved["w"], typed_index("1,2,3,4")))
