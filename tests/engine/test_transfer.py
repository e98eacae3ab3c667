"""The copies: any box of any chunk into any memory, each byte counted."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from engine_ops import stock_save
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab import open_checkpoint, save
from ckptlab.engine.transfer import Source, chunk_buffers, memory_of, on_cpu
from ckptlab.errors import CorruptError
from ckptlab.events import Trace
from ckptlab.layout import Box, Boxes, Shards
from ckptlab.metadata import Tensor
from ckptlab.plan.holding import Holding
from ckptlab.plan.load import plan_load
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.template import template

SHAPE = (4, 3, 5)
WHOLE = torch.arange(60, dtype=torch.int16).reshape(SHAPE)
SAVED = {
    "contiguous": WHOLE,
    "turned": WHOLE.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "spread": torch.stack([WHOLE, WHOLE], -1)[..., 0],
    "repeated": torch.arange(5, dtype=torch.int16).expand(SHAPE),
}


def save_by_hand(state, path):
    """A chunk is whatever `torch.save` makes of a view into a larger storage, as other writers leave it."""
    save({"w": torch.zeros(SHAPE, dtype=torch.int16)}, path)
    metadata = open_checkpoint(path).metadata
    larger = torch.cat([torch.full((1, *SHAPE), -9, dtype=torch.int16), state["w"][None]])
    torch.save(larger[1], path / metadata.files[0])
    length = np.array([(path / metadata.files[0]).stat().st_size])
    metadata = dataclasses.replace(metadata, chunks=dataclasses.replace(metadata.chunks, length=length))
    (path / ".metadata").write_bytes(write_metadata(metadata, str(path)))


SAVERS = {"ours": save, "stock": stock_save, "hand": save_by_hand}


@pytest.fixture(scope="module", params=itertools.product(SAVERS, SAVED), ids="-".join)
def stored(request, tmp_path_factory):
    """A checkpoint of one tensor as memory held it, and the tensor."""
    saver, kind = request.param
    path = tmp_path_factory.mktemp("stored")
    SAVERS[saver]({"w": SAVED[kind]}, path)
    return open_checkpoint(path), SAVED[kind]


@st.composite
def boxes(draw):
    low = [draw(st.integers(0, n - 1)) for n in SHAPE]
    high = [draw(st.integers(a + 1, n)) for a, n in zip(low, SHAPE, strict=True)]
    return Box(tuple(low), tuple(b - a for a, b in zip(low, high, strict=True)))


def targets(shape):
    """Memory of this shape: plain, turned, with gaps, and of another dtype."""
    yield torch.full(shape, -1, dtype=torch.int16)
    yield torch.full(shape[::-1], -1, dtype=torch.int16).permute(2, 1, 0)
    yield torch.full((*shape, 2), -1, dtype=torch.int16)[..., 1]
    yield torch.full(shape, -1, dtype=torch.float64)


def read(checkpoint, box, into, verify=False):
    corner = np.zeros((1, 3), np.int64)
    want = Holding(Tensor("w", "int16", SHAPE), Shards(np.zeros(1, int), Boxes.of([box]), corner))
    (reads,) = plan_load(checkpoint.metadata, [want]).reads
    with Source(checkpoint, Trace()) as source:
        source.find(reads)
        source.read(reads, 0, into, verify)
    return source.counts


@settings(max_examples=40, deadline=None)
@given(box=boxes())
def test_any_box_into_any_memory(stored, box):
    checkpoint, whole = stored
    for into in targets(box.shape):
        counts = read(checkpoint, box, into)
        assert torch.equal(into.to(torch.int16), whole[box.slices])
        assert (counts.nbytes, counts.reads) == (box.numel * 2, 1)


def test_a_whole_chunk_is_checked_and_a_part_when_asked(tmp_path):
    save({"w": WHOLE}, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    everything, part = Box((0, 0, 0), SHAPE), Box((0, 0, 0), (1, 3, 5))
    assert read(checkpoint, everything, torch.zeros(SHAPE, dtype=torch.int16)).checked == 1
    assert read(checkpoint, part, torch.zeros(1, 3, 5, dtype=torch.int16)).checked == 0
    assert read(checkpoint, part, torch.zeros(1, 3, 5, dtype=torch.int16), verify=True).checked == 1

    file = tmp_path / checkpoint.metadata.files[0]
    data = bytearray(file.read_bytes())
    data[len(template("int16", SHAPE).before) + 119] ^= 0x80
    file.write_bytes(data)
    read(open_checkpoint(tmp_path), part, torch.zeros(1, 3, 5, dtype=torch.int16))
    for box, verify in ((everything, False), (part, True)):
        with pytest.raises(CorruptError, match=r"tensor 'w'.*__0_0.distcp.* crc .* is damaged"):
            read(open_checkpoint(tmp_path), box, torch.zeros(box.shape, dtype=torch.int16), verify)


def test_a_crc_of_zero_was_never_computed(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        stock_save({"w": WHOLE}, tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    into = torch.zeros(SHAPE, dtype=torch.int16)
    assert read(open_checkpoint(tmp_path), Box((0, 0, 0), SHAPE), into).checked == 1
    assert torch.equal(into, WHOLE)


def test_a_chunk_on_its_way_to_a_file_is_what_torch_would_load(tmp_path):
    frame = template("int16", SHAPE)
    (tmp_path / "chunk").write_bytes(b"".join(chunk_buffers(frame.before, WHOLE, frame.after)))
    assert torch.equal(torch.load(tmp_path / "chunk", weights_only=True), WHOLE)
    assert (tmp_path / "chunk").stat().st_size == frame.length


def test_memory_is_shared_not_copied():
    tensor = torch.zeros(2, 2, dtype=torch.bfloat16)
    memory_of(tensor)[0] = 0x80
    assert tensor.view(torch.int16)[0, 0] == 0x80
    assert on_cpu(tensor).data_ptr() == tensor.data_ptr()
    assert on_cpu(tensor.t()).is_contiguous()
    assert memory_of(torch.tensor(1.0)).nbytes == 4
