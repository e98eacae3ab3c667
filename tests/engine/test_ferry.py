"""Bytes through one small piece of memory, tried on the CPU: each part in the place of the last."""

import numpy as np
import pytest
import torch
from crosswise_ops import DTYPES, full
from seed_ops import same

import ckptlab
from ckptlab import open_checkpoint
from ckptlab.engine import ferry, transfer, writing
from ckptlab.engine.held import Cut, Held, HeldTensors
from ckptlab.errors import CorruptError
from ckptlab.events import Trace
from ckptlab.layout import Box, Boxes, Shards
from ckptlab.plan.holding import Holding
from ckptlab.plan.load import plan_load
from ckptlab.storage.crc import crc32

PART = 1 << 13


def state():
    return {
        "big": full("big", (70, 33)),
        "odd": full("odd", (50_001,), "int8"),
        "turned": full("turned", (40, 60)).t(),
        "steps": full("steps", (40, 60))[:, ::2],
        "small": full("small", (3,)),
        "none": full("none", (0, 4)),
        "one": full("one", ()),
        "wide": full("wide", (2, 3000)),
    }


@pytest.fixture
def passed(monkeypatch):
    """Parts are small and their memory is not pinned; gives each piece of it."""
    pieces = []

    def pinned():
        pieces.append(torch.full((PART,), 0xEE, dtype=torch.uint8))
        return pieces[-1]

    monkeypatch.setattr(ferry, "PART", PART)
    monkeypatch.setattr(ferry, "_pinned", pinned)
    return pieces


@pytest.fixture
def as_on_a_gpu(passed, monkeypatch):
    """All that is loaded goes part after part, as it does to a GPU."""
    monkeypatch.setattr(transfer, "_direct", lambda *_: False)
    monkeypatch.setattr(transfer.Source, "_parted", lambda _, into, box: bool(box.shape and box.numel))
    return passed


def wrong(found):
    return [name for name, value in state().items() if not same(value, found[name])]


def blank():
    target = {name: torch.zeros_like(value) for name, value in state().items()}
    return {**target, "turned": torch.zeros(40, 60).t(), "steps": torch.zeros(40, 60)[:, ::2]}


def test_what_is_saved_part_after_part_is_what_was_there(tmp_path, passed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writing, "fetched", ferry.parts)
        patch.setattr(writing, "_ready", lambda piece: piece)
        ckptlab.save(state(), tmp_path, threads=1)
    assert len(passed) == len(state()) - 1  # nothing is written of "none"
    target = blank()
    ckptlab.load(target, tmp_path, verify=True)
    assert wrong(target) == []


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("verify", [False, True])
def test_what_is_loaded_part_after_part_is_what_was_saved(tmp_path, as_on_a_gpu, verify, threads):
    ckptlab.save(state(), tmp_path)
    target = blank()
    report = ckptlab.load(target, tmp_path, threads=threads, verify=verify)
    assert len(as_on_a_gpu) == 5  # all but "none", "one", and "wide", of which a row is too large
    assert report.nbytes == sum(value.nbytes for value in state().values())
    assert wrong(target) == []


def test_elements_of_another_dtype_are_converted_part_after_part(tmp_path, as_on_a_gpu):
    whole = full("w", (300, 30), "bfloat16")
    ckptlab.save({"w": whole}, tmp_path)
    target = {"w": torch.zeros(300, 30)}
    ckptlab.load(target, tmp_path, dtype="widen")
    assert same(target["w"], whole.float())
    assert len(as_on_a_gpu) == 1


@pytest.mark.parametrize("rows", [(0, 1000), (3, 990), (5, 6)])
@pytest.mark.parametrize("columns", [(0, 40), (7, 31), (3, 4)])
@pytest.mark.parametrize("turned", [False, True])
def test_any_box_of_a_chunk_lands_where_it_belongs(tmp_path, as_on_a_gpu, rows, columns, turned):
    whole = full("w", (1000, 40), "int16")
    whole = whole.t().contiguous().t() if turned else whole
    ckptlab.save({"w": whole}, tmp_path)
    box = Box((rows[0], columns[0]), (rows[1] - rows[0], columns[1] - columns[0]))
    into = torch.zeros(box.shape, dtype=torch.int16)
    counts = fill(tmp_path, box, into)
    assert torch.equal(into, whole[box.slices])
    assert (counts.nbytes, counts.reads) == (into.nbytes, 1)


def test_a_bit_that_flipped_is_noticed_in_any_part(tmp_path, as_on_a_gpu):
    ckptlab.save({"w": full("w", (1000, 40), "int16")}, tmp_path)
    file = tmp_path / open_checkpoint(tmp_path).metadata.files[0]
    good = file.read_bytes()
    for at in (1000, 5 * PART, 1000 * 40 * 2 - 100):
        file.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(CorruptError, match="is damaged"):
            ckptlab.load({"w": torch.zeros(1000, 40, dtype=torch.int16)}, tmp_path)


def fill(path, box, into):
    """Load one box, as a rank with such a shard does; what was counted."""
    checkpoint = open_checkpoint(path)
    shards = Shards(np.zeros(1, int), Boxes.of([box]), np.zeros((1, 2), np.int64))
    want = Holding(checkpoint.metadata.tensors[0], shards)
    cut = Cut(want.tensor.dtype, want.tensor.shape, want.shards, want.shards)
    plan = plan_load(checkpoint.metadata, [want])
    with transfer.Source(checkpoint, Trace()) as source:
        source.find(plan.reads[0])
        source.fill(plan, HeldTensors.of([Held("w", cut, (into,))]))
    return source.counts


def test_crcs_part_after_part_are_those_of_the_whole(passed):
    for dtype in DTYPES:
        tensor, crc = full("crc", (377, 91), dtype), 0
        for memory in ferry.parts(tensor):
            crc = crc32(memory, crc)
        assert crc == ferry.crc_of(tensor)
    assert len(passed) == len(DTYPES)
