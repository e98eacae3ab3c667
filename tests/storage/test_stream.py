import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as stock
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tensors import as_bytes, made

from ckptlab.errors import CorruptError
from ckptlab.events import Trace
from ckptlab.metadata import ITEMSIZE
from ckptlab.storage import open_checkpoint
from ckptlab.storage.crc import crc32
from ckptlab.storage.local import LocalFiles
from ckptlab.storage.stream import BLOCK, Stream, blocks, cut

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental"),
]


@given(st.lists(st.integers(0, 7), max_size=4), st.integers(1, 60))
def test_boxes_in_row_major_order(shape, most):
    numbers = np.arange(math.prod(shape)).reshape(shape)
    found = list(cut(shape, most))
    assert all(box.numel <= most for box in found)
    assert [n for box in found for n in numbers[box.slices].ravel()] == numbers.ravel().tolist()
    assert len(found) <= 2 * numbers.size // most + math.prod(shape[:-1]) + 1


def test_as_few_boxes_as_can_be():
    assert len(list(cut((100, 100), 10_000))) == 1
    assert len(list(cut((100, 100), 9_999))) == 2
    assert len(list(cut((1, 1, 1000), 300))) == 4
    assert list(cut((0, 5), 3)) == []
    assert len(list(cut((), 1))) == 1


def joined(checkpoint, fqn, nbytes):
    parts = [bytes(block) for block in blocks(checkpoint, fqn, nbytes)]
    assert all(len(part) <= max(nbytes, 16) for part in parts)
    return b"".join(parts)


@pytest.mark.parametrize("nbytes", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("kind", ["dcp", "safetensors", "torch"])
def test_every_dtype_out_of_every_format(tmp_path, kind, nbytes):
    dtypes = [d for d in ITEMSIZE if kind != "safetensors" or d not in ("complex32", "complex128")]
    state = {
        d: made(d, shape, i) for i, d in enumerate(dtypes) for shape in [(), (0, 3), (5, 3)][i % 3 :][:1]
    }
    if kind == "dcp":
        stock.save(state, checkpoint_id=tmp_path / "x", no_dist=True)
    elif kind == "torch":
        torch.save(state, tmp_path / "x")
    else:
        save_file(state, tmp_path / "x")
    checkpoint = open_checkpoint(tmp_path / "x")
    for fqn, value in state.items():
        assert joined(checkpoint, fqn, nbytes) == as_bytes(value), fqn


@pytest.mark.parametrize("nbytes", [8, 40, 1000])
def test_strided_storages(tmp_path, nbytes):
    base = torch.arange(210).reshape(5, 6, 7)
    state = {"t": base.transpose(0, 2), "part": base[1:3, ::2], "expanded": base[0, 0].expand(4, 7)}
    torch.save(state, tmp_path / "m.pt")
    for fqn, value in state.items():
        assert joined(open_checkpoint(tmp_path / "m.pt"), fqn, nbytes) == as_bytes(value)


@pytest.mark.parametrize("nbytes", [4, 44, 1000])
def test_many_chunks(tmp_path, nbytes):
    whole = torch.arange(77.0).reshape(7, 11)
    for i, (rows, columns) in enumerate([((0, 3), (0, 11)), ((3, 7), (0, 4)), ((3, 7), (4, 11))]):
        told = {"w": {"saved_offsets": [rows[0], columns[0]]}}
        piece = whole[rows[0] : rows[1], columns[0] : columns[1]].contiguous()
        save_file(
            {"w": piece}, tmp_path / f"shard-{i}-m.safetensors", {"DCP_SHARDING_INFO": json.dumps(told)}
        )
    assert joined(open_checkpoint(tmp_path), "w", nbytes) == as_bytes(whole)
    os.unlink(tmp_path / "shard-1-m.safetensors")
    with pytest.raises(CorruptError, match="elements asked for; the checkpoint is incomplete"):
        joined(open_checkpoint(tmp_path), "w", nbytes)


@pytest.mark.parametrize("kind", ["dcp", "torch"])
@pytest.mark.parametrize("nbytes", [64, 1 << 20])
def test_damaged_elements_are_found(tmp_path, kind, nbytes):
    state = {"w": torch.arange(100.0).reshape(10, 10), "t": torch.arange(100.0).reshape(10, 10).T}
    if kind == "dcp":
        stock.save(state, checkpoint_id=tmp_path / "x", no_dist=True)
    else:
        torch.save(state, tmp_path / "x")
    checkpoint = open_checkpoint(tmp_path / "x")
    file = tmp_path / "x" / "__0_0.distcp" if kind == "dcp" else tmp_path / "x"
    data = bytearray(file.read_bytes())
    at = data.index(as_bytes(state["w"])) + 222
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptError, match=r"chunk Box\[0:10, 0:10\] of tensor 'w'.*crc"):
        joined(open_checkpoint(tmp_path / "x"), "w", nbytes)
    # No writer's crc tells of a file that keeps none.
    if kind == "torch":
        joined(replace(checkpoint, crcs=None), "w", nbytes)
    else:
        joined(checkpoint, "t", nbytes)


def test_blocks_of_far_files_are_larger(tmp_path):
    save_file({"w": torch.zeros(3 * BLOCK, dtype=torch.uint8)}, tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert [len(block) for block in blocks(checkpoint, "w")] == [BLOCK] * 3
    checkpoint.files.root = "far://away"
    checkpoint.files._path = lambda name: tmp_path / name
    assert [len(block) for block in blocks(checkpoint, "w")] == [3 * BLOCK]


def test_a_stream_counts_and_sums(tmp_path):
    state = {"w": torch.randn(1000, 30), "e": torch.zeros(0)}
    save_file(state, tmp_path / "m.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    events = []
    trace = Trace(progress=events.append, every=0)
    files = LocalFiles(tmp_path)
    with trace.phase("write", 120_000), files.create("out") as writer:
        out = Stream(writer, trace)
        out.put(b"ab", memoryview(b"cd"), b"")
        assert out.at == 4
        assert out.put_tensor(checkpoint, "w") == crc32(as_bytes(state["w"]))
        assert out.put_tensor(checkpoint, "e") == 0
        assert out.at == 120_004
    assert (tmp_path / "out").read_bytes() == b"abcd" + as_bytes(state["w"])
    assert [(event.done, event.total) for event in events][-1] == (120_000, 120_000)
