import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptlab.layout import Layout, Mesh, Replicate, Shard, StridedShard
from ckptlab.metadata import ChunkColumns, Metadata, Tensor
from ckptlab.storage.sidecar import read_layouts, write_layouts

HSDP = Layout(Mesh((2, 2), ("replicate", "shard")), (Replicate(), Shard(0)))
TP = Layout(Mesh((2, 3), ranks=(9, 8, 7, 1, 2, 3)), (StridedShard(0, split_factor=3), Shard(0)))


def metadata(save_id="one", layouts=None):
    shapes = {"a": (4, 4), "b": (6,), "c": (8, 2), "s": ()}
    columns = ChunkColumns().build()
    tensors = tuple(Tensor(fqn, "float32", shape) for fqn, shape in shapes.items())
    chunks = columns.__class__(
        np.zeros(5, np.int64), np.zeros(5, np.int64), columns.offsets, columns.shapes, columns.file,
        columns.start, columns.length,
    )  # fmt: skip
    return Metadata(tensors, chunks, (), (), layouts=layouts or {}, save_id=save_id)


LAYOUTS = {"a": HSDP, "b": TP, "c": HSDP}


def test_layouts_come_back():
    data = write_layouts(metadata(layouts=LAYOUTS))
    assert read_layouts(data, "one", metadata()) == LAYOUTS
    assert len(json.loads(data)["layouts"]) == 2


@pytest.mark.parametrize("save_id", ["two", None, ""])
def test_of_another_save_counts_as_none(save_id):
    assert read_layouts(write_layouts(metadata(layouts=LAYOUTS)), save_id, metadata()) == {}


def test_without_an_id_it_counts_as_none():
    assert read_layouts(write_layouts(metadata(None, LAYOUTS)), None, metadata(None)) == {}


def test_what_does_not_fit_is_left_out():
    data = write_layouts(metadata(layouts={"s": HSDP, "a": HSDP, "nobody": HSDP}))
    assert read_layouts(data, "one", metadata()) == {"a": HSDP}


def one(shape=(2,), placements="R", tensors=("a",)):
    return {
        "mesh": {"shape": shape, "axes": ["x"], "ranks": []},
        "placements": placements,
        "tensors": tensors,
    }


def test_one_is_sound():
    top = json.loads(write_layouts(metadata())) | {"layouts": [one()]}
    assert set(read_layouts(json.dumps(top).encode(), "one", metadata())) == {"a"}


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"layouts": 3},
        {"layouts": [one(shape=[0])]},
        {"layouts": [one(shape=["q"])]},
        {"layouts": [one(shape=[1 << 60])]},
        {"layouts": [one(placements="Q")]},
        {"layouts": [one(placements=7)]},
        {"layouts": [one(tensors=[[]])]},
    ],
)
def test_damaged_counts_as_none(change):
    top = json.loads(write_layouts(metadata(layouts=LAYOUTS))) | change
    assert read_layouts(json.dumps(top).encode(), "one", metadata()) == {}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"{}"])
def test_no_json_counts_as_none(data):
    assert read_layouts(data, "one", metadata()) == {}


@given(st.data())
def test_any_cut_or_flip_never_raises(data):
    whole = bytearray(write_layouts(metadata(layouts=LAYOUTS)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    read_layouts(bytes(whole), "one", metadata())
    assert read_layouts(bytes(whole[:at]), "one", metadata()) == {}
