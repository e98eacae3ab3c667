import contextlib
import os
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as stock
from hostile import ATTEMPTS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties as OldProperties
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from ckptlab.errors import CheckpointError, CorruptError, UnsafeError
from ckptlab.layout import Box, Boxes
from ckptlab.metadata import Chunks, Extent, Tensor, Tensors
from ckptlab.metadata import Metadata as Columns
from ckptlab.storage.dcp import data_file, read_metadata, writer
from ckptlab.storage.dcp_write import write_metadata

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")

WHERE = "/ck/.metadata"


def entry(shape, *boxes, dtype=torch.float32):
    chunks = [ChunkStorageMetadata(torch.Size(o), torch.Size(s)) for o, s in boxes]
    return TensorStorageMetadata(TensorProperties(dtype=dtype), torch.Size(shape), chunks)


def small():
    """Stock's own record of two tensors on two ranks and an object."""
    return Metadata(
        {
            "w": entry((4, 6), ((0, 0), (2, 6)), ((2, 0), (2, 6))),
            "s": entry((), ((), ()), dtype=torch.bfloat16),
            "step": BytesStorageMetadata(),
        },
        {"w": ("model", "w"), "s": ("s",), "step": ("step",)},
        {
            MetadataIndex("step"): _StorageInfo("__1_0.distcp", 100, 50),
            MetadataIndex("w", (2, 0), 1): _StorageInfo("__1_0.distcp", 150, 1600),
            MetadataIndex("w", (0, 0), 0): _StorageInfo("__0_0.distcp", 0, 1600),
            MetadataIndex("s", (), 0): _StorageInfo("__0_0.distcp", 1600, 1500),
        },
        StorageMeta("/ck", "an-id"),
        "1.0.0",
    )


def read(metadata, **options):
    return read_metadata(pickle.dumps(metadata, **options), WHERE)


def places(metadata, fqn):
    """Box, file, start and length of every chunk of a tensor."""
    row = metadata.rows[fqn]
    chunks, boxes, rows = metadata.chunks, metadata.boxes(row), metadata.chunk_rows(row)
    return [
        (boxes[i], metadata.files[chunks.file[r]], int(chunks.start[r]), int(chunks.length[r]))
        for i, r in enumerate(range(rows.start, rows.stop))
    ]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_stock_wrote(protocol):
    found = read(small(), protocol=protocol)
    assert found.tensors == (Tensor("w", "float32", (4, 6)), Tensor("s", "bfloat16", ()))
    assert places(found, "w") == [
        (Box((0, 0), (2, 6)), "__0_0.distcp", 0, 1600),
        (Box((2, 0), (2, 6)), "__1_0.distcp", 150, 1600),
    ]
    assert places(found, "s") == [(Box((), ()), "__0_0.distcp", 1600, 1500)]
    assert found.objects["step"] == Extent(found.files.index("__1_0.distcp"), 100, 50)
    assert dict(zip(found.files, found.writers, strict=True)) == {"__0_0.distcp": 0, "__1_0.distcp": 1}
    assert found.paths == {"w": ("model", "w"), "s": ("s",), "step": ("step",)}
    assert found.save_id == "an-id"


def test_what_stock_saves_now(tmp_path):
    state = {"w": torch.randn(7, 5), "deep": {"list": [torch.arange(3), 5]}, "none": torch.zeros(0)}
    stock.save(state, checkpoint_id=Path(tmp_path), no_dist=True)
    found = read_metadata((tmp_path / ".metadata").read_bytes(), WHERE)
    assert {t.fqn: (t.dtype, t.shape) for t in found.tensors} == {
        "w": ("float32", (7, 5)), "deep.list.0": ("int64", (3,)), "none": ("float32", (0,)),
    }  # fmt: skip
    assert list(found.objects) == ["deep.list.1"]
    assert found.paths["deep.list.0"] == ("deep", "list", 0)
    (_, name, start, length) = places(found, "w")[0]
    whole = (tmp_path / name).read_bytes()[start : start + length]
    (tmp_path / "one.pt").write_bytes(whole)
    assert torch.equal(torch.load(tmp_path / "one.pt"), state["w"])


def test_what_torch_2_0_wrote():
    old = small()
    del old.__dict__["storage_meta"], old.__dict__["version"]
    old.planner_data = None
    for tensor in ("w", "s"):
        fields_of = vars(old.state_dict_metadata[tensor].properties)
        old.state_dict_metadata[tensor].properties = OldProperties(**fields_of)
    indices = {}
    for index, place in old.storage_data.items():
        index.__dict__.pop("index")
        if index.offset is None:
            index.__dict__.pop("offset", None)
        place.__dict__.pop("transform_descriptors")
        indices[index] = place
    old.storage_data = indices
    data = pickle.dumps(old, protocol=2)
    assert b"sharded_tensor" in data
    assert b"transform" not in data
    found = read_metadata(data, WHERE)
    assert found.paths == {}
    assert found.save_id is None
    assert places(found, "w") == places(read(small()), "w")
    assert found.objects.keys() == {"step"}


def test_chunks_that_were_listed_twice_share_a_place():
    metadata = small()
    metadata.state_dict_metadata["w"] = entry((4, 6), ((0, 0), (2, 6)), ((2, 0), (2, 6)), ((0, 0), (2, 6)))
    found = places(read(metadata), "w")
    assert found[0] == found[2]
    assert len(found) == 3


@pytest.mark.parametrize("hint", [None, 0, 1, 7, -1, "x"])
def test_hints_that_are_wrong_do_not_matter(hint):
    metadata = small()
    for index in metadata.storage_data:
        object.__setattr__(index, "index", hint)
    assert places(read(metadata), "w") == places(read(small()), "w")


def test_places_of_what_is_not_listed_do_not_matter():
    metadata = small()
    metadata.storage_data[MetadataIndex("gone", (0,), 0)] = _StorageInfo("__0_0.distcp", 0, 1)
    assert len(read(metadata).chunks) == 3


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_any_columns_come_back(data):
    """Tensors cut into a grid, in any number of files, through stock's objects and back."""
    entries, storage, want = {}, {}, {}
    for number in range(data.draw(st.integers(0, 5))):
        cut = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3)))
        shape = tuple(n * data.draw(st.integers(1, 300)) for n in cut)
        step = tuple(n // c for n, c in zip(shape, cut, strict=True))
        boxes = [(tuple(i * s for i, s in zip(at, step, strict=True)), step) for at in np.ndindex(cut)]
        fqn = f"t{number}"
        entries[fqn] = entry(shape, *boxes)
        want[fqn] = []
        for i, (offset, _) in enumerate(boxes):
            place = f"__{data.draw(st.integers(0, 9))}_0.distcp", data.draw(st.integers(0, 2**62)), 7 + i
            storage[MetadataIndex(fqn, offset, i)] = _StorageInfo(*place)
            want[fqn].append((Box(offset, step), *place))
    shuffled = data.draw(st.permutations(list(storage)))
    found = read(Metadata(entries, {}, {index: storage[index] for index in shuffled}))
    assert {fqn: places(found, fqn) for fqn in entries} == want
    again = read_metadata(write_metadata(found, "x"), WHERE)
    assert {fqn: places(again, fqn) for fqn in entries} == want


# ---------------------------------------------------------------- claims that are checked


def chunk(metadata, number=0):
    return metadata.state_dict_metadata["w"].chunks[number]


def place(metadata, fqn="w"):
    return next(p for i, p in metadata.storage_data.items() if i.fqn == fqn)


def on_chunk(field, value, number=0):
    return lambda metadata: setattr(chunk(metadata, number), field, value)


def on_entry(field, value):
    return lambda metadata: setattr(metadata.state_dict_metadata["w"], field, value)


def on_place(field, value, fqn="w"):
    return lambda metadata: setattr(place(metadata, fqn), field, value)


def dropped(*index):
    return lambda metadata: metadata.storage_data.pop(MetadataIndex(*index))


CLAIMS = {
    "chunk outside": (on_chunk("offsets", (3, 0), 1), r"'w' .*\[2, 6\] at \[3, 0\]"),
    "chunk too large": (on_chunk("sizes", (2, 7)), r"'w' .*\[2, 7\] at \[0, 0\]"),
    "negative offset": (on_chunk("offsets", (-1, 0)), r"'w' .*at \[-1, 0\]"),
    "negative size": (on_chunk("sizes", (2, -6)), r"'w' .*\[2, -6\]"),
    "wraps round": (on_chunk("sizes", (2**63 - 1, 6), 1), r"'w' .*9223372036854775807"),
    "too wide for a number": (on_chunk("sizes", (2**63, 6)), "damaged"),
    "fractions": (on_chunk("sizes", (2.0, 6)), "damaged"),
    "other dims": (on_chunk("sizes", (2,)), r"'w' .*does not fit its shape \[4, 6\]"),
    "no chunk list": (on_entry("chunks", None), "'w' has no list of chunks"),
    "chunk of another kind": (lambda m: m.state_dict_metadata["w"].chunks.append(m), "'w' has a chunk"),
    "negative shape": (on_entry("size", (4, -6)), r"'w' has the shape \(4, -6\)"),
    "absurd shape": (on_entry("size", (2**40, 2**40)), "'w' .*larger than any"),
    "absurd dim": (on_entry("size", (2**80, 0)), "'w' has the shape"),
    "no shape": (on_entry("size", "many"), "'w' has the shape many"),
    "negative start": (on_place("offset", -1), "'w' lies at byte -1"),
    "negative length": (on_place("length", -5), "'w' lies at byte 150, -5 bytes"),
    "end beyond all": (on_place("offset", 2**63 - 5), "'w' lies at byte"),
    "start no number": (on_place("offset", "0"), "'w' lies at byte '0'"),
    "object's start": (on_place("offset", -1, "step"), "'step' lies at byte -1"),
    "file outside": (on_place("relative_path", "../../x"), r"'w': names the file '\.\./\.\./x'"),
    "file absolute": (on_place("relative_path", "/etc/passwd"), "'/etc/passwd'"),
    "file no name": (on_place("relative_path", 7), "damaged"),
    "chunk nowhere": (dropped("w", (2, 0)), r"'w' has a chunk at \[2, 0\] with no"),
    "scalar nowhere": (dropped("s", ()), r"'s' has a chunk at \[\] with no"),
    "object nowhere": (dropped("step"), "'step' has no place"),
    "no places": (lambda m: setattr(m, "storage_data", None), "has no storage_data"),
    "no entries": (lambda m: setattr(m, "state_dict_metadata", []), "has no state_dict_metadata"),
    "odd entry": (lambda m: m.state_dict_metadata.update(q=3), "'q' is a int"),
    "odd name": (lambda m: m.state_dict_metadata.update({3: BytesStorageMetadata()}), "names something by 3"),
    "odd place": (lambda m: m.storage_data.update({MetadataIndex("w"): 3}), "has int for a place"),
    "odd index": (lambda m: m.storage_data.update({"w": _StorageInfo("f", 0, 1)}), "for a place"),
    "no dtype": (on_entry("properties", 3), "'w' has no dtype"),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims_that_cannot_be(claim):
    metadata = small()
    change, message = CLAIMS[claim]
    change(metadata)
    with pytest.raises(CorruptError, match=rf"^/ck/\.metadata: .*{message}"):
        read(metadata)


def test_what_is_not_supported_is_told():
    metadata = small()
    place(metadata).transform_descriptors = ["zstd"]
    with pytest.raises(CheckpointError, match=r"'w' is stored through \['zstd'\], a transform that is not"):
        read(metadata)
    metadata = small()
    metadata.state_dict_metadata["w"].properties.dtype = torch.qint8
    with pytest.raises(CheckpointError, match="'w' is qint8, a dtype that is not supported") as caught:
        read(metadata)
    assert caught.value.problems == ("w",)


@pytest.mark.parametrize("value", [None, 3, {}, [1]])
def test_another_pickle(value):
    with pytest.raises(CorruptError, match="not what a checkpoint says of itself"):
        read_metadata(pickle.dumps(value), WHERE)


def test_another_planners_data_is_left_alone():
    metadata = small()
    metadata.planner_data = ["mine"]
    assert read(metadata).paths == {}
    metadata.planner_data = {"w": ("model", "w"), "s": 3, 4: ("x",), "step": (("deep",),)}
    assert read(metadata).paths == {"w": ("model", "w")}


# ---------------------------------------------------------------- damage and malice


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_every_attempt_is_refused(attempt, tmp_path):
    canary = str(tmp_path / "canary")
    with pytest.raises(UnsafeError, match=r"/ck/\.metadata"):
        read_metadata(ATTEMPTS[attempt](canary), WHERE)
    assert not os.path.exists(canary)


class Runs:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


HIDING = {
    "a place": lambda m, bad: setattr(place(m), "relative_path", bad),
    "a start": lambda m, bad: setattr(place(m), "offset", bad),
    "an index": lambda m, bad: object.__setattr__(next(iter(m.storage_data)), "index", bad),
    "a planner's data": lambda m, bad: setattr(m, "planner_data", {"w": bad}),
    "the storage's": lambda m, bad: setattr(m.storage_meta, "modules", [bad]),
    "a dim": lambda m, bad: setattr(chunk(m), "offsets", (0, bad)),
    "an unknown field": lambda m, bad: setattr(m, "more", bad),
}


@pytest.mark.parametrize("place_of_it", HIDING)
def test_wherever_it_hides(place_of_it, tmp_path):
    metadata, canary = small(), tmp_path / "canary"
    HIDING[place_of_it](metadata, Runs(canary))
    with pytest.raises(UnsafeError, match=r"asks for posix\.system"):
        read(metadata)
    assert not canary.exists()


WHOLE = pickle.dumps(small())


def test_every_cut():
    for at in range(len(WHOLE)):
        with pytest.raises((CorruptError, UnsafeError)):
            read_metadata(WHOLE[:at], WHERE)


@given(st.data())
@settings(deadline=None, max_examples=1000)
def test_damage_raises_nothing_but_our_errors(data):
    whole = bytearray(data.draw(st.sampled_from([WHOLE, write_metadata(read(small()), "x")])))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CheckpointError):
        found = read_metadata(bytes(whole), WHERE)
        assert isinstance(found, Columns)
        assert all(len(found.boxes(row)) >= 0 for row in range(len(found.tensors)))


# ---------------------------------------------------------------- size


def test_half_a_million_chunks_are_a_few_arrays():
    tensors, cut = 500, 1000
    names = tuple(f"layers.{i}.weight" for i in range(tensors))
    offsets = np.stack([np.arange(cut) * 7, np.zeros(cut, np.int64)], 1)
    many = tensors * cut
    columns = Chunks(
        np.arange(tensors + 1) * cut,
        np.zeros(tensors, np.int64),
        offsets.ravel(),
        np.tile(np.array([7, 64]), cut),
        (np.arange(many) % cut).astype(np.int32),
        np.arange(many) * 1500,
        np.full(many, 1500),
    )
    files = tuple(data_file(rank, 0, "") for rank in range(cut))
    every = Tensors.of(Tensor(name, "bfloat16", (cut * 7, 64)) for name in names)
    made = Columns(every, columns, files, tuple(range(cut)))
    found = read_metadata(write_metadata(made, "x"), WHERE)
    assert len(found.chunks) == 500_000
    assert isinstance(found.boxes(3), Boxes)
    held = 0
    for field in fields(Chunks):
        column = getattr(found.chunks, field.name)
        assert np.array_equal(column, getattr(columns, field.name))
        assert column.base is None
        held += column.nbytes
    boxes = cut * (2 * 8 + 2 * 8)
    assert held == 500_000 * (4 + 8 + 8) + boxes + (2 * tensors + 1) * 8, (
        "tensors cut alike share their boxes"
    )


# ---------------------------------------------------------------- names


def test_names_of_data_files():
    assert data_file(3, 1, "") == "__3_1.distcp"
    assert data_file(3, 1, "ab12") == "__3_1_ab12.distcp"


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("__0_0.distcp", 0), ("__12_3.distcp", 12), ("__12_3_ab-c.distcp", 12), ("sub/__5_0.distcp", 5),
        ("model.safetensors", -1), ("__x_0.distcp", -1), ("a__1_0.distcp", -1), ("__1_0.distcp.tmp", -1),
        ("__" + "9" * 5000 + "_0.distcp", -1),
    ],
)  # fmt: skip
def test_the_writer_by_the_name(name, rank):
    assert writer(name) == rank
