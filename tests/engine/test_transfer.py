"""The copies: any box of any chunk into any memory, each byte counted."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from engine_ops import stock_save
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab import load, open_checkpoint, save
from ckptlab.engine.counts import Lost
from ckptlab.engine.held import Cut, Held, HeldTensors
from ckptlab.engine.transfer import Source
from ckptlab.errors import CorruptError
from ckptlab.events import Trace
from ckptlab.layout import Box, Boxes, Shards
from ckptlab.metadata import Tensor
from ckptlab.plan.holding import Holding
from ckptlab.plan.load import plan_load
from ckptlab.storage.dcp_write import write_metadata
from ckptlab.storage.sidecar import sidecar_file
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
    (path / sidecar_file(metadata.save_id)).unlink()


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
    cut = Cut(want.tensor.dtype, want.tensor.shape, want.shards, want.shards)
    plan = plan_load(checkpoint.metadata, [want])
    with Source(checkpoint, Trace()) as source:
        source.find(plan.reads[0])
        source.fill(plan, HeldTensors.of([Held("w", cut, (into,))]), verify)
    return source.counts


@settings(max_examples=40, deadline=None)
@given(box=boxes())
def test_any_box_into_any_memory(stored, box):
    checkpoint, whole = stored
    for into in targets(box.shape):
        counts = read(checkpoint, box, into)
        assert torch.equal(into.to(torch.int16), whole[box.slices])
        assert (counts.nbytes, counts.reads) == (box.numel * 2, 1)


@pytest.mark.parametrize("count", [4, 12])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("verify", [False, True])
@settings(max_examples=25, deadline=None)
@given(box=boxes(), foreign=st.integers(0, 11))
def test_tensors_that_are_alike_go_each_into_its_own_memory(
    tmp_path_factory, count, threads, verify, box, foreign
):
    """Whole, in runs, in boxes, many small ones, and one that another writer wrapped: in one load."""
    path = tmp_path_factory.mktemp("alike")
    state = {f"w{i}": WHOLE + 100 * i for i in range(count)}
    if foreign < count:
        state[f"w{foreign}"] = state[f"w{foreign}"].permute(2, 1, 0).contiguous().permute(2, 1, 0)
    stock_save(state, path)
    memory = [list(targets(box.shape))[i % 4] for i in range(count)]
    checkpoint = open_checkpoint(path)
    corner = np.zeros((1, 3), np.int64)
    shards = Shards(np.zeros(1, int), Boxes.of([box]), corner)
    cut = Cut("int16", SHAPE, shards, shards)
    plan = plan_load(checkpoint.metadata, [Holding(Tensor(key, "int16", SHAPE), shards) for key in state])
    held = HeldTensors.of([Held(key, cut, (one,)) for key, one in zip(state, memory, strict=True)])
    with Source(checkpoint, Trace()) as source:
        source.find(plan.reads[0])
        source.fill(plan, held, verify, threads)
    for (key, whole), one in zip(state.items(), memory, strict=True):
        assert torch.equal(one.to(torch.int16), whole[box.slices]), key
    assert (source.counts.nbytes, source.counts.reads) == (count * box.numel * 2, count)
    assert source.counts.checked == (count if verify or box.shape == SHAPE else 0)


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


def test_a_crc_of_ours_that_was_lost_is_noticed_wherever_the_elements_go(tmp_path):
    """As a hole in the file would: not what stock means by zero."""
    save({"w": WHOLE}, tmp_path)
    checkpoint, known = open_checkpoint(tmp_path), template("int16", SHAPE)
    file = tmp_path / checkpoint.metadata.files[0]
    data = bytearray(file.read_bytes())
    data[known.crc_at : known.crc_at + 4] = bytes(4)
    file.write_bytes(data)
    whole = Box((0, 0, 0), SHAPE)
    for into in (torch.zeros(SHAPE[::-1], dtype=torch.int16).permute(2, 1, 0), torch.zeros(SHAPE)):
        with pytest.raises(CorruptError, match="is damaged"):
            read(open_checkpoint(tmp_path), whole, into)


def test_a_crc_of_zero_was_never_computed(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        stock_save({"w": WHOLE}, tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    into = torch.zeros(SHAPE, dtype=torch.int16)
    assert read(open_checkpoint(tmp_path), Box((0, 0, 0), SHAPE), into).checked == 0
    assert torch.equal(into, WHOLE)


@pytest.mark.parametrize("kind", ["even", "uneven", "foreign", "damaged", "narrow"])
def test_many_small_tensors_are_read_together(tmp_path, kind):
    """Chunks one behind the other, with others between them, in another wrapping, damaged, converted."""
    small = {f"w{i}": torch.arange(6.0).reshape(2, 3) + 10 * i for i in range(9)}
    state = {**small, "large": torch.ones(100)}
    if kind == "uneven":
        state = {
            key: value
            for i in range(9)
            for key, value in ((f"x{i}", torch.ones(i + 1)), (f"w{i}", small[f"w{i}"]))
        }
    if kind == "foreign":
        state["w4"] = small["w4"].t().contiguous().t()
    (stock_save if kind in ("uneven", "foreign") else save)(state, tmp_path)
    if kind == "damaged":
        chunks = open_checkpoint(tmp_path).metadata.chunks
        file = tmp_path / "__0_0.distcp"
        data = bytearray(file.read_bytes())
        data[int(chunks.start[4]) + len(template("float32", (2, 3)).before) + 1] ^= 1
        file.write_bytes(data)
    dtype = torch.float64 if kind == "narrow" else torch.float32
    target = {key: torch.full((2, 3), -1, dtype=dtype) for key in small}
    if kind == "damaged":
        with pytest.raises(CorruptError, match=r"tensor 'w4'.* crc"):
            load(target, tmp_path)
        return
    report = load(target, tmp_path, dtype="widen")
    for key, value in target.items():
        assert torch.equal(value.float(), small[key])
    assert (report.nbytes, report.reads) == (9 * 24, 9)


def test_what_is_lost_adds_up():
    assert Lost(1, 4, 2.0) + Lost(2, 4, 3.0) == Lost(3, 8, 3.0)
    assert math.isnan((Lost(1, 4, float("nan")) + Lost(2, 4, 3.0)).largest)
    assert math.isnan((Lost(1, 4, 3.0) + Lost(2, 4, float("nan"))).largest)
    assert str(Lost(1000, 2000, 0.5)) == "1,000 of 2,000 elements changed, by 0.5 at most"
    assert str(Lost(0, 2000, 0.0)) == "none of 2,000 elements changed"
